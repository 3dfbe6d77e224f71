//! The gateway without its sockets: grants, admission, sessions and the way of each datagram.
//!
//! A [`Gateway`] does no input or output and reads no clock. Its driver hands in what happened with [`Gateway::authorize`] and
//! the `handle_*` methods, each with the current time, and does what they return. After any of them it takes
//! [`Gateway::poll_event`] until there is none, and calls [`Gateway::handle_timeout`] when [`Gateway::poll_timeout`] has come.
//!
//! invariant: a datagram is relayed only for a session that was admitted, and only between its client's address (the one its
//! control connection comes from) and its agent's.
//! invariant: sessions and pending grants together never exceed [`Limits::max_sessions`], and every table shrinks with them.

mod address_policy;
mod admission;
mod counters;
mod datagram;
mod flow;
mod grant;
mod limits;
mod preflight;
mod quality;
mod rebind;
mod session;
mod sessions;
mod timers;
mod trial;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use portcullis_protocol::{LogId, client_hello::ServerName};

pub use address_policy::AddressPolicy;
pub use admission::{Admission, AdmissionRefusal};
pub use counters::{Counters, Reason, Tally};
pub use datagram::{DropReason, Forward, UpstreamSocket, Verdict};
pub use flow::{Flow, Flows};
pub use grant::{
    AgentEndpoint, GrantId, GrantRefusal, GrantRequest, Granted, StandingGrant, StandingGrantTaken,
};
pub use limits::{
    DEFAULT_GRANT_WINDOW, DEFAULT_MAX_PENDING_GRANTS, DEFAULT_MAX_SESSIONS,
    DEFAULT_TCP_CLOSED_GRACE, DEFAULT_UDP_IDLE, Limits,
};
pub use preflight::UdpVerdict;
pub use quality::{Qualities, Quality, SequenceCounts, SequenceTotals};
pub use session::{EndReason, SessionKey, SessionView, TcpState};

use grant::{AdmissionKey, Fate, Grant, Grants};
use limits::after;
use sessions::Sessions;
use timers::{Timer, Timers};
use trial::{MAX_CANDIDATES, Trial};

/// Which port datagrams to agents come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamPorts {
    /// One for all sessions. What comes back is told apart by the agent's address, so an agent has one session at a time: a new
    /// one ends the old.
    Shared,
    /// One for each session.
    PerSession,
}

/// What a gateway is set up with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where clients reach this gateway; the first of a client's address family is handed to it.
    pub public_addresses: Vec<IpAddr>,
    /// The port clients connect to, TCP and UDP alike.
    pub public_port: u16,
    /// Which port datagrams to agents come from.
    pub upstream: UpstreamPorts,
    /// Limits in time and number.
    pub limits: Limits,
}

/// Something the driver has to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A grant's client did not come in time.
    GrantExpired {
        /// The grant.
        grant: GrantId,
        /// The session log id.
        log_id: LogId,
        /// The client that did not come.
        client: IpAddr,
    },
    /// A session is over: close its connections and sockets.
    SessionEnded {
        /// The session.
        key: SessionKey,
        /// The session log id.
        log_id: LogId,
        /// Why.
        reason: EndReason,
        /// How long it was.
        lasted: Duration,
        /// What was relayed.
        totals: Flows,
        /// How well it had come in.
        quality: Box<Qualities>,
        /// Whether its datagrams made the whole way.
        udp: UdpVerdict,
    },
}

/// The gateway's state.
#[derive(Debug)]
pub struct Gateway {
    settings: Settings,
    draining: bool,
    grants: Grants,
    sessions: Sessions,
    trials: HashMap<IpAddr, Trial>,
    timers: Timers,
    events: VecDeque<Event>,
    counters: Counters,
    /// The sequence counts of sessions that have ended.
    ended_sequences: SequenceTotals,
    /// The sendings of the last answer test, so that a verdict need not carry them.
    offers: Vec<Forward>,
}

impl Gateway {
    /// A gateway without grants or sessions.
    #[must_use]
    pub fn new(mut settings: Settings) -> Self {
        for address in &mut settings.public_addresses {
            *address = address.to_canonical();
        }
        Self {
            settings,
            draining: false,
            grants: Grants::default(),
            sessions: Sessions::default(),
            trials: HashMap::new(),
            timers: Timers::default(),
            events: VecDeque::new(),
            counters: Counters::default(),
            ended_sequences: SequenceTotals::default(),
            offers: Vec::with_capacity(MAX_CANDIDATES),
        }
    }

    /// Grants a client one connection to an agent. The same request again (same client, server name and agent) replaces a grant
    /// that is still pending, and starts its time anew.
    ///
    /// # Errors
    /// See [`GrantRefusal`].
    pub fn authorize(
        &mut self,
        request: GrantRequest,
        now: Instant,
    ) -> Result<Granted, GrantRefusal> {
        let outcome = self.grant(request, now);
        match &outcome {
            Ok(_) => self.counters.granted += 1,
            Err(refusal) => self.counters.grants_refused.add(refusal),
        }
        outcome
    }

    /// Adds a grant that stays: every control connection it names makes a session of its own, as long as the gateway runs.
    ///
    /// # Errors
    /// [`StandingGrantTaken`] when one for the same client network and server name is there already.
    pub fn add_standing_grant(
        &mut self,
        mut grant: StandingGrant,
    ) -> Result<GrantId, StandingGrantTaken> {
        grant.client = grant.client.trunc();
        grant.agent.ip = grant.agent.ip.to_canonical();
        self.grants.insert_standing(grant)
    }

    fn grant(&mut self, mut request: GrantRequest, now: Instant) -> Result<Granted, GrantRefusal> {
        request.client = request.client.to_canonical();
        request.agent.ip = request.agent.ip.to_canonical();
        if self.draining {
            return Err(GrantRefusal::Draining);
        }
        let address = self
            .settings
            .public_addresses
            .iter()
            .find(|address| address.is_ipv4() == request.client.is_ipv4())
            .copied()
            .ok_or(GrantRefusal::AddressFamily)?;
        let key = self.admission_key(request.client, request.server_name.as_ref());
        if self
            .grants
            .get(&key)
            .is_some_and(|grant| grant.expires <= now)
        {
            self.expire_grant(&key, now);
        }
        if let Some(pending) = self.grants.get(&key) {
            if pending.request.agent != request.agent {
                return Err(GrantRefusal::Ambiguous);
            }
        } else {
            let limits = &self.settings.limits;
            if self.grants.len() >= limits.max_pending_grants
                || self.grants.len() + self.sessions.len() >= limits.max_sessions
            {
                return Err(GrantRefusal::Full);
            }
        }
        self.settle_returns(&key, &request, now)?;

        if let Some(replaced) = self.grants.remove(&key) {
            self.timers
                .disarm(replaced.expires, Timer::Grant(replaced.id));
        }
        let id = self.grants.next_id();
        let expires = after(now, self.settings.limits.grant_window);
        self.timers.arm(expires, Timer::Grant(id));
        self.grants.insert(
            key,
            Grant {
                id,
                request,
                expires,
            },
        );
        Ok(Granted {
            grant: id,
            address,
            port: self.settings.public_port,
            expires_in: self.settings.limits.grant_window,
        })
    }

    /// Looks at the sessions under a key to whose agent a client could still return while a grant for another agent is wanted. A
    /// user who asks for another desktop has given up the return; another user's return must be waited for.
    fn settle_returns(
        &mut self,
        key: &AdmissionKey,
        request: &GrantRequest,
        now: Instant,
    ) -> Result<(), GrantRefusal> {
        let mut given_up = Vec::new();
        for session in self.sessions.admitted_as(key) {
            if session.agent == request.agent {
                continue;
            }
            if session.user == request.user {
                given_up.push(session.key);
            } else if session
                .reattach_until(&self.settings.limits)
                .is_some_and(|until| until > now)
            {
                return Err(GrantRefusal::Ambiguous);
            }
        }
        for key in given_up {
            if let Some(session) = self.sessions.get_mut(key) {
                session.may_reattach = false;
                self.rearm(key);
            }
        }
        Ok(())
    }

    /// Ends a session at once. False when there is none under this key. Take events afterwards.
    pub fn end_session(&mut self, key: SessionKey, reason: EndReason, now: Instant) -> bool {
        self.end(key, reason, now)
    }

    /// Ends every session and withdraws every grant. Take events afterwards.
    pub fn end_all(&mut self, reason: EndReason, now: Instant) {
        while let Some(grant) = self.grants.first() {
            self.expire_grant(&grant, now);
        }
        for key in self.sessions.keys() {
            self.end(key, reason, now);
        }
    }

    /// Stops or resumes taking new grants. Grants already given stay good.
    pub fn set_draining(&mut self, draining: bool) {
        self.draining = draining;
    }

    /// Whether new grants are refused.
    #[must_use]
    pub const fn is_draining(&self) -> bool {
        self.draining
    }

    /// When [`Gateway::handle_timeout`] is to be called next; `None` when nothing waits. Ask again after every other call.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timers = self.timers.next();
        match (timers, self.grants.next_forget()) {
            (Some(timer), Some(forget)) => Some(timer.min(forget)),
            (timer, forget) => timer.or(forget),
        }
    }

    /// Does what time has brought about. Take events afterwards.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, timer)) = self.timers.pop_due(now) {
            match timer {
                Timer::Grant(id) => {
                    if let Some(key) = self.grants.key_of(id).cloned() {
                        self.expire_grant(&key, now);
                    }
                }
                Timer::Session(key) => self.check_session(key, now),
                Timer::Trial(address) => {
                    // Popped already; put back so that settling finds it as it was.
                    self.timers.arm(at, timer);
                    self.settle_trial(address, now);
                }
            }
        }
        self.grants.forget_due(now);
    }

    /// The next event, oldest first. Take them all after every call that says so.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What was counted so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What the sequence numbers of all sessions have said so far, ended ones included. Looks at every session.
    #[must_use]
    pub fn sequence_totals(&self) -> SequenceTotals {
        let mut totals = self.ended_sequences;
        for meters in self.sessions.meters() {
            totals.add(&meters.read());
        }
        totals
    }

    /// Sessions now.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Pending grants now.
    #[must_use]
    pub fn pending_count(&self) -> usize {
        self.grants.len()
    }

    /// Every session, oldest first.
    #[must_use]
    pub fn sessions(&self, now: Instant) -> Vec<SessionView> {
        self.sessions
            .keys()
            .into_iter()
            .filter_map(|key| self.sessions.get(key))
            .map(|session| session.view(now))
            .collect()
    }

    /// The key a control connection is matched on. A server name that is one of our own public addresses counts as none.
    fn admission_key(&self, client: IpAddr, server_name: Option<&ServerName>) -> AdmissionKey {
        let is_ours = |name: &ServerName| {
            let literal = name.as_str().trim_start_matches('[').trim_end_matches(']');
            literal
                .parse::<IpAddr>()
                .is_ok_and(|ip| self.settings.public_addresses.contains(&ip.to_canonical()))
        };
        let server_name = server_name.filter(|name| !is_ours(name)).cloned();
        let policy = self.settings.limits.client_address;
        AdmissionKey {
            client: policy.matched(client, server_name.is_some()),
            server_name,
        }
    }

    fn expire_grant(&mut self, key: &AdmissionKey, now: Instant) {
        let Some(grant) = self.grants.remove(key) else {
            return;
        };
        self.timers.disarm(grant.expires, Timer::Grant(grant.id));
        self.grants.remember(key.clone(), Fate::Expired, now);
        self.counters.grants_expired += 1;
        self.events.push_back(Event::GrantExpired {
            grant: grant.id,
            log_id: grant.request.log_id,
            client: grant.request.client,
        });
    }

    /// Ends a session whose deadline has come, or sets its timer anew: datagrams move the deadline without touching the timer.
    fn check_session(&mut self, key: SessionKey, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let (deadline, reason) = session.deadline(&self.settings.limits);
        if deadline <= now {
            self.end(key, reason, now);
        } else {
            session.armed = deadline;
            self.timers.arm(deadline, Timer::Session(key));
        }
    }

    /// Brings a session's timer forward when its deadline has moved nearer.
    fn rearm(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let (deadline, _) = session.deadline(&self.settings.limits);
        if deadline < session.armed {
            self.timers.disarm(session.armed, Timer::Session(key));
            session.armed = deadline;
            self.timers.arm(deadline, Timer::Session(key));
        }
    }

    fn end(&mut self, key: SessionKey, reason: EndReason, now: Instant) -> bool {
        let Some(session) = self.sessions.remove(key) else {
            return false;
        };
        self.timers.disarm(session.armed, Timer::Session(key));
        self.counters.ended.add(&reason);
        let quality = session.meters.read().settled();
        self.ended_sequences.add(&quality);
        let udp = session.udp_verdict(now);
        self.counters.udp_verdicts.add(&udp);
        self.grants.remember(session.admission, Fate::Used, now);
        self.events.push_back(Event::SessionEnded {
            key,
            log_id: session.log_id,
            reason,
            lasted: now.saturating_duration_since(session.started),
            totals: session.flows,
            quality: Box::new(quality),
            udp,
        });
        true
    }

    /// Moves the trial of an address on to where it should be by now.
    fn settle_trial(&mut self, address: IpAddr, now: Instant) {
        while self
            .trials
            .get(&address)
            .is_some_and(|trial| trial.until <= now)
        {
            let next = self.drop_trial(address).and_then(Trial::step);
            if let Some(trial) = next {
                self.timers.arm(trial.until, Timer::Trial(address));
                self.trials.insert(address, trial);
            }
        }
    }

    fn drop_trial(&mut self, address: IpAddr) -> Option<Trial> {
        let trial = self.trials.remove(&address)?;
        self.timers.disarm(trial.until, Timer::Trial(address));
        Some(trial)
    }

    /// Checks that all tables agree with each other, and returns the number of entries in them all.
    #[cfg(test)]
    fn checked_entries(&self) -> usize {
        let timers = self.grants.len() + self.sessions.len() + self.trials.len();
        assert_eq!(self.timers.len(), timers);
        self.grants.checked_entries()
            + self.sessions.checked_entries()
            + self.trials.len()
            + self.timers.len()
    }
}

/// An IPv4 address that came over an IPv6 socket, as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => {
            SocketAddr::new(v6.ip().to_canonical(), v6.port())
        }
        SocketAddr::V4(_) | SocketAddr::V6(_) => address,
    }
}
