//! Admission of control connections.
//!
//! A connection is matched on the server name of its ClientHello (case-insensitively) and on its client address (exactly, unless
//! [`AddressPolicy`](super::AddressPolicy) says otherwise):
//!
//! - A grant with a server name admits only a ClientHello with that name.
//! - A grant without one admits a ClientHello without a name, or with one of the gateway's own public addresses as its name: a
//!   client that was told no name may send the address it dials.
//! - A grant is good for one live connection within its window. A second connection beside a live one is refused. Once the
//!   first has closed, the client may come back to the same session until the grant's window and the grace after the closing
//!   are both over.
//! - Where a connection could belong to two agents, it is refused, never guessed.
//! - A standing grant is asked last. It admits any number of connections, each as a session of its own to which nobody comes back.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use portcullis_protocol::{LogId, client_hello::ServerName};
use thiserror::Error;

use super::{
    Gateway, UpstreamPorts, canonical,
    counters::Reason,
    grant::{AdmissionKey, AgentEndpoint, Fate, Grant, GrantRequest},
    limits::after,
    session::{EndReason, Session, SessionKey, Tcp},
};
use crate::core::{flow::Flows, quality::Meters};

/// A control connection that may be relayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The session it belongs to.
    pub session: SessionKey,
    /// Where to connect it, and where the session's datagrams go.
    pub agent: AgentEndpoint,
    /// The session log id.
    pub log_id: LogId,
    /// Whether the session existed before, and the client came back to it.
    pub reattached: bool,
}

/// Why a control connection may not be relayed. For logs and counters: the client only sees its connection close.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AdmissionRefusal {
    /// Nothing is known of this client under any name, nor of this name under any address.
    #[error("no grant names this client")]
    NoGrant,
    /// The client came too late.
    #[error("the grant expired before the client came")]
    Expired,
    /// The grant has its live connection, or its session is over.
    #[error("the grant has been used already")]
    AlreadyUsed,
    /// The client is expected, under another name.
    #[error("the client sent another server name than the grant's")]
    WrongServerName {
        /// The name it is expected to send.
        granted: Option<ServerName>,
    },
    /// The name is expected, from another client.
    #[error(
        "the connection came from {came}, but the grant is for client address {granted}; a balancer in front of the Connection \
         Manager that hides addresses, or a NAT with several of them, would do that"
    )]
    WrongClientAddress {
        /// The address the Connection Manager saw.
        granted: IpAddr,
        /// The address the gateway saw.
        came: IpAddr,
    },
    /// The connection could belong to either of two agents.
    #[error("the connection could belong to more than one agent")]
    Ambiguous,
    /// A standing grant names the client, but there is no room for another session.
    #[error("the gateway has reached its limit of sessions")]
    Full,
    /// A standing grant names the client, but the gateway takes no new sessions.
    #[error("the gateway is draining and takes no new sessions")]
    Draining,
}

impl Reason for AdmissionRefusal {
    const LABELS: &'static [&'static str] = &[
        "no_grant",
        "expired",
        "already_used",
        "wrong_server_name",
        "wrong_client_address",
        "ambiguous",
        "full",
        "draining",
    ];

    fn index(&self) -> usize {
        match self {
            Self::NoGrant => 0,
            Self::Expired => 1,
            Self::AlreadyUsed => 2,
            Self::WrongServerName { .. } => 3,
            Self::WrongClientAddress { .. } => 4,
            Self::Ambiguous => 5,
            Self::Full => 6,
            Self::Draining => 7,
        }
    }
}

/// Who may come under an admission key.
struct Claims<'a> {
    pending: Option<&'a Grant>,
    /// The newest session a client may come back to.
    returning: Option<&'a Session>,
    /// Whether a session under the key has its connection.
    live: bool,
    /// Whether these claims are for different agents.
    contested: bool,
}

impl Gateway {
    /// Decides on a control connection whose ClientHello has been read.
    ///
    /// Once admitted, connect to the agent and report with [`Gateway::handle_agent_connected`] or
    /// [`Gateway::handle_agent_unreachable`], and report the end of the connection, exactly once, with
    /// [`Gateway::handle_tcp_closed`]. Take events afterwards: an admission may end an older session of the same agent.
    ///
    /// # Errors
    /// See [`AdmissionRefusal`].
    pub fn handle_client_hello(
        &mut self,
        client: SocketAddr,
        server_name: Option<&ServerName>,
        now: Instant,
    ) -> Result<Admission, AdmissionRefusal> {
        let client = canonical(client);
        let key = self.admission_key(client.ip(), server_name);
        if self
            .grants
            .get(&key)
            .is_some_and(|grant| grant.expires <= now)
        {
            self.expire_grant(&key, now);
        }
        let outcome = self.admit(client, key, now);
        match &outcome {
            Ok(admission) if admission.reattached => self.counters.reattached += 1,
            Ok(_) => self.counters.admitted += 1,
            Err(refusal) => self.counters.admissions_refused.add(refusal),
        }
        outcome
    }

    /// Notes that the agent of a session took its control connection.
    pub fn handle_agent_connected(&mut self, session: SessionKey, now: Instant) {
        if let Some(session) = self.sessions.get_mut(session)
            && matches!(session.tcp, Tcp::Connecting { .. })
        {
            session.tcp = Tcp::Live { since: now };
        }
    }

    /// Notes that the agent of a session could not be connected to, and that the client's connection was closed for it. The
    /// client may try again as after any closing.
    pub fn handle_agent_unreachable(&mut self, session: SessionKey, now: Instant) {
        if self.close_tcp(session, true, now) {
            self.counters.agents_unreachable += 1;
        }
    }

    /// Notes that the control connection of a session is over, at both ends.
    pub fn handle_tcp_closed(&mut self, session: SessionKey, now: Instant) {
        self.close_tcp(session, false, now);
    }

    fn close_tcp(&mut self, key: SessionKey, unreachable: bool, now: Instant) -> bool {
        let Some(session) = self.sessions.get_mut(key) else {
            return false;
        };
        if !session.tcp.is_open() {
            return false;
        }
        session.close_tcp(unreachable, now);
        self.sessions.refresh(key);
        self.rearm(key);
        true
    }

    fn admit(
        &mut self,
        client: SocketAddr,
        key: AdmissionKey,
        now: Instant,
    ) -> Result<Admission, AdmissionRefusal> {
        let claims = self.claims(&key, now);
        if claims.contested {
            return Err(AdmissionRefusal::Ambiguous);
        }
        if claims.pending.is_some() {
            if let Some(grant) = self.grants.remove(&key) {
                return Ok(self.start_session(client, key, grant, now));
            }
        } else if let Some(session) = claims.returning {
            let session = session.key;
            if let Some(admission) = self.reattach(client, session, now) {
                return Ok(admission);
            }
        } else if let Some((id, standing)) = self.grants.standing(&key) {
            let grant = Grant {
                id: *id,
                request: GrantRequest {
                    log_id: standing.log_id,
                    client: key.client,
                    server_name: key.server_name.clone(),
                    agent: standing.agent,
                    user: String::new(),
                    desktop: standing.desktop.clone(),
                },
                expires: now,
            };
            return self.admit_standing(client, key, grant, now);
        } else if claims.live {
            return Err(AdmissionRefusal::AlreadyUsed);
        }
        Err(self.why_refused(client.ip(), &key))
    }

    /// Starts a session of a standing grant, if there is room for one.
    fn admit_standing(
        &mut self,
        client: SocketAddr,
        key: AdmissionKey,
        mut grant: Grant,
        now: Instant,
    ) -> Result<Admission, AdmissionRefusal> {
        if self.draining {
            return Err(AdmissionRefusal::Draining);
        }
        if self.grants.len() + self.sessions.len() >= self.settings.limits.max_sessions {
            return Err(AdmissionRefusal::Full);
        }
        grant.request.log_id = grant.request.log_id.nth(self.sessions.started());
        let admission = self.start_session(client, key, grant, now);
        if let Some(session) = self.sessions.get_mut(admission.session) {
            session.may_reattach = false;
        }
        Ok(admission)
    }

    fn claims<'a>(&'a self, key: &'a AdmissionKey, now: Instant) -> Claims<'a> {
        let pending = self.grants.get(key);
        let mut claims = Claims {
            pending,
            returning: None,
            live: false,
            contested: false,
        };
        let mut agent = pending.map(|grant| grant.request.agent);
        for session in self.sessions.admitted_as(key) {
            if session.tcp.is_open() {
                claims.live = true;
            } else if session
                .reattach_until(&self.settings.limits)
                .is_some_and(|until| until > now)
            {
                claims.contested |= agent.is_some_and(|agent| agent != session.agent);
                agent = Some(session.agent);
                claims.returning = Some(session);
            }
        }
        claims
    }

    fn start_session(
        &mut self,
        client: SocketAddr,
        admission: AdmissionKey,
        grant: Grant,
        now: Instant,
    ) -> Admission {
        self.timers
            .disarm(grant.expires, super::timers::Timer::Grant(grant.id));
        let agent = grant.request.agent;
        let shared = self.settings.upstream == UpstreamPorts::Shared;
        if shared && let Some(older) = self.sessions.of_agent(&agent.udp()) {
            self.end(older, EndReason::Superseded, now);
        }
        let key = self.sessions.next_key();
        let log_id = grant.request.log_id;
        let session = Session {
            key,
            grant: grant.id,
            log_id,
            admission,
            agent,
            user: grant.request.user,
            desktop: grant.request.desktop,
            tcp_client: client,
            grant_expires: grant.expires,
            started: now,
            tcp: Tcp::Connecting { since: now },
            binding: None,
            stood: Duration::ZERO,
            udp_came: None,
            flows: Flows::default(),
            meters: Meters::default(),
            client_spi: None,
            rebind: None,
            may_reattach: true,
            armed: after(now, self.settings.limits.udp_idle),
        };
        self.timers
            .arm(session.armed, super::timers::Timer::Session(key));
        self.sessions.insert(session, shared);
        self.rearm(key);
        Admission {
            session: key,
            agent,
            log_id,
            reattached: false,
        }
    }

    fn reattach(&mut self, client: SocketAddr, key: SessionKey, now: Instant) -> Option<Admission> {
        // The client may come with a new UDP socket too; if it kept the old one, its next datagram binds it again.
        self.sessions.unbind(key);
        self.sessions.set_client(key, client);
        let session = self.sessions.get_mut(key)?;
        session.tcp = Tcp::Connecting { since: now };
        // The ends agree anew on keys and on the transport header.
        session.meters.up.restart();
        session.meters.down.restart();
        let admission = Admission {
            session: key,
            agent: session.agent,
            log_id: session.log_id,
            reattached: true,
        };
        self.sessions.refresh(key);
        self.rearm(key);
        Some(admission)
    }

    fn why_refused(&self, came: IpAddr, key: &AdmissionKey) -> AdmissionRefusal {
        match self.grants.fate(key) {
            Some(Fate::Expired) => return AdmissionRefusal::Expired,
            Some(Fate::Used) => return AdmissionRefusal::AlreadyUsed,
            None => {}
        }
        if let Some(expected) = self.grants.of_client(key.client) {
            return AdmissionRefusal::WrongServerName {
                granted: expected.server_name.clone(),
            };
        }
        match self.grants.client_under(key.server_name.as_ref()) {
            Some(granted) => AdmissionRefusal::WrongClientAddress { granted, came },
            None => AdmissionRefusal::NoGrant,
        }
    }
}
