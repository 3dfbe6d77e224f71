//! One session: a client that was admitted, its agent, and when it ends.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use portcullis_protocol::LogId;

use super::{
    counters::Reason,
    flow::Flows,
    grant::{AdmissionKey, AgentEndpoint, GrantId},
    limits::{Limits, after},
    preflight::{SILENCE, UdpVerdict},
    quality::{Meters, Qualities},
    rebind::Rebind,
};

/// Names a session, in the order of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(pub(crate) u64);

impl SessionKey {
    /// The key as a number, for the control link.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Takes a key from the control link.
    #[must_use]
    pub const fn from_raw(key: u64) -> Self {
        Self(key)
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// The TCP connection closed, and the client did not come back in time.
    TcpClosed,
    /// The agent took no TCP connection, and the client did not try again.
    AgentUnreachable,
    /// No datagram went either way for too long.
    Idle,
    /// The TCP connection stood, but no datagram ever came from the client: its side blocks UDP.
    UdpNeverCame,
    /// Datagrams came from the client, but the agent never answered one.
    AgentNeverAnswered,
    /// The absolute limit was reached.
    TimeLimit,
    /// A newer session took the same agent.
    Superseded,
    /// An administrator ended it.
    Administrator,
    /// The gateway stopped.
    Shutdown,
}

impl Reason for EndReason {
    const LABELS: &'static [&'static str] = &[
        "tcp_closed",
        "agent_unreachable",
        "idle",
        "udp_never_came",
        "agent_never_answered",
        "time_limit",
        "superseded",
        "administrator",
        "shutdown",
    ];

    fn index(&self) -> usize {
        *self as usize
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TcpClosed => "the control connection closed",
            Self::AgentUnreachable => "the agent took no connection on its TCP port",
            Self::Idle => "no datagram came from either end for too long",
            Self::UdpNeverCame => {
                "no datagram ever came from the client, so something on its side blocks UDP"
            }
            Self::AgentNeverAnswered => {
                "the agent never answered the client's datagrams, so it does not listen, knows other keys, or something between the gateway and it blocks UDP"
            }
            Self::TimeLimit => "the limit on a session's length was reached",
            Self::Superseded => "a newer session took the same agent",
            Self::Administrator => "an administrator ended it",
            Self::Shutdown => "the gateway stopped",
        })
    }
}

/// The state of a session's control connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tcp {
    /// The client is connected, the agent not yet.
    Connecting { since: Instant },
    /// Both are connected.
    Live { since: Instant },
    /// No connection.
    Closed { at: Instant, unreachable: bool },
}

impl Tcp {
    pub(crate) const fn is_open(self) -> bool {
        match self {
            Self::Connecting { .. } | Self::Live { .. } => true,
            Self::Closed { .. } => false,
        }
    }

    /// When this state was entered.
    const fn since(self) -> Instant {
        match self {
            Self::Connecting { since } | Self::Live { since } => since,
            Self::Closed { at, .. } => at,
        }
    }
}

/// The client's end of a session's UDP path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) source: SocketAddr,
    pub(crate) since: Instant,
    /// Whether the agent has sent anything since, which it does only to a peer that holds the keys.
    pub(crate) confirmed: bool,
}

/// A session as the core keeps it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) key: SessionKey,
    pub(crate) grant: GrantId,
    pub(crate) log_id: LogId,
    pub(crate) admission: AdmissionKey,
    pub(crate) agent: AgentEndpoint,
    pub(crate) user: String,
    pub(crate) desktop: String,
    pub(crate) tcp_client: SocketAddr,
    pub(crate) grant_expires: Instant,
    pub(crate) started: Instant,
    pub(crate) tcp: Tcp,
    pub(crate) binding: Option<Binding>,
    /// The longest that a control connection stood at both ends, the present one apart.
    pub(crate) stood: Duration,
    /// When the first datagram came from the client.
    pub(crate) udp_came: Option<Instant>,
    pub(crate) flows: Flows,
    pub(crate) meters: Meters,
    /// The SPI the client is found under.
    pub(crate) client_spi: Option<u32>,
    /// A change of source that does not stand yet. Apart from the session, since few sessions ever have one.
    pub(crate) rebind: Option<Box<Rebind>>,
    /// False once the same user was granted another agent under the same name and address: a connection that comes then is for that one.
    pub(crate) may_reattach: bool,
    /// When this session's timer fires; never later than its deadline.
    pub(crate) armed: Instant,
}

impl Session {
    /// The address whose datagrams may be this session's.
    pub(crate) const fn client(&self) -> IpAddr {
        self.tcp_client.ip()
    }

    /// Whether a new source may be bound: the control connection stands, and no datagram from the agent has confirmed a source.
    pub(crate) fn awaits_source(&self) -> bool {
        self.tcp.is_open() && !self.binding.is_some_and(|binding| binding.confirmed)
    }

    /// Until when a client that lost its control connection may come back; `None` while it has one, or may not. Before the agent has
    /// ever answered over UDP, the client has the grant's whole window for another try, for clients retry; a session that stood has
    /// the grace, so that one that ended well does not linger for most of a minute.
    pub(crate) fn reattach_until(&self, limits: &Limits) -> Option<Instant> {
        match self.tcp {
            Tcp::Closed { at, .. } if self.may_reattach => {
                let grace = after(at, limits.tcp_closed_grace);
                let stood = self.flows.down.packets > 0;
                Some(if stood {
                    grace
                } else {
                    grace.max(self.grant_expires)
                })
            }
            Tcp::Closed { .. } | Tcp::Connecting { .. } | Tcp::Live { .. } => None,
        }
    }

    /// Notes that the control connection is over.
    pub(crate) fn close_tcp(&mut self, unreachable: bool, now: Instant) {
        self.stood = self.longest_stood(now);
        self.tcp = Tcp::Closed {
            at: now,
            unreachable,
        };
    }

    fn longest_stood(&self, now: Instant) -> Duration {
        match self.tcp {
            Tcp::Live { since } => self.stood.max(now.saturating_duration_since(since)),
            Tcp::Connecting { .. } | Tcp::Closed { .. } => self.stood,
        }
    }

    /// Whether datagrams make the whole way, as far as can be said by now.
    pub(crate) fn udp_verdict(&self, now: Instant) -> UdpVerdict {
        if self.flows.down.packets > 0 {
            return UdpVerdict::BothWays;
        }
        match self.udp_came {
            Some(since) if now.saturating_duration_since(since) >= SILENCE => {
                UdpVerdict::AgentSilent
            }
            None if self.longest_stood(now) >= SILENCE => UdpVerdict::ClientSilent,
            Some(_) | None => UdpVerdict::TooSoon,
        }
    }

    /// When the session ends if nothing further happens, and why.
    pub(crate) fn deadline(&self, limits: &Limits) -> (Instant, EndReason) {
        let active = self
            .flows
            .last_seen()
            .map_or(self.tcp.since(), |seen| seen.max(self.tcp.since()));
        let idle = if self.udp_came.is_none() {
            EndReason::UdpNeverCame
        } else if self.flows.down.packets == 0 {
            EndReason::AgentNeverAnswered
        } else {
            EndReason::Idle
        };
        let mut deadline = (after(active, limits.udp_idle), idle);
        if let Tcp::Closed { at, unreachable } = self.tcp {
            let reason = if unreachable {
                EndReason::AgentUnreachable
            } else {
                EndReason::TcpClosed
            };
            let until = self
                .reattach_until(limits)
                .unwrap_or_else(|| after(at, limits.tcp_closed_grace));
            // This long the client was promised that it may come back, datagrams or not.
            deadline = (until, reason);
        }
        if let Some(limit) = limits.session {
            let end = after(self.started, limit);
            if end < deadline.0 {
                deadline = (end, EndReason::TimeLimit);
            }
        }
        deadline
    }
}

/// Whether a session's control connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpState {
    /// The client is connected; the agent is being connected to.
    Connecting,
    /// Client and agent are connected.
    Live,
    /// Closed; the client may come back for a while.
    Closed,
}

/// A session as shown to administrators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Names the session.
    pub key: SessionKey,
    /// The grant it came from.
    pub grant: GrantId,
    /// The session log id.
    pub log_id: LogId,
    /// The client's end of the control connection, now or last.
    pub client: SocketAddr,
    /// The client's end of the UDP path, once known.
    pub udp_client: Option<SocketAddr>,
    /// The agent.
    pub agent: AgentEndpoint,
    /// Who it is for.
    pub user: String,
    /// What the user calls the desktop.
    pub desktop: String,
    /// The control connection.
    pub tcp: TcpState,
    /// How long ago it was admitted.
    pub age: Duration,
    /// How long ago a datagram was last relayed.
    pub idle: Option<Duration>,
    /// What was relayed.
    pub flows: Flows,
    /// How well it had come in.
    pub quality: Qualities,
    /// Whether datagrams make the whole way.
    pub udp: UdpVerdict,
}

impl Session {
    pub(crate) fn view(&self, now: Instant) -> SessionView {
        SessionView {
            key: self.key,
            grant: self.grant,
            log_id: self.log_id,
            client: self.tcp_client,
            udp_client: self.binding.map(|binding| binding.source),
            agent: self.agent,
            user: self.user.clone(),
            desktop: self.desktop.clone(),
            tcp: match self.tcp {
                Tcp::Connecting { .. } => TcpState::Connecting,
                Tcp::Live { .. } => TcpState::Live,
                Tcp::Closed { .. } => TcpState::Closed,
            },
            age: now.saturating_duration_since(self.started),
            idle: self
                .flows
                .last_seen()
                .map(|seen| now.saturating_duration_since(seen)),
            flows: self.flows,
            quality: self.meters.read(),
            udp: self.udp_verdict(now),
        }
    }
}
