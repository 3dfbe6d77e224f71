//! The limits of a gateway: how long things may last, and how many there may be.

use std::time::{Duration, Instant};

use super::address_policy::AddressPolicy;

/// How long a grant waits for its client, by default: as long as a connect tag is usable.
pub const DEFAULT_GRANT_WINDOW: Duration = Duration::from_secs(60);
/// Silence in both directions after which a session is over, by default. Longer than the 60 s after which agents and
/// software clients themselves give up, so that the gateway is never the first to do so.
pub const DEFAULT_UDP_IDLE: Duration = Duration::from_secs(75);
/// How long UDP is still relayed after the TCP connection closed, by default.
pub const DEFAULT_TCP_CLOSED_GRACE: Duration = Duration::from_secs(15);
/// Sessions and pending grants together, by default.
pub const DEFAULT_MAX_SESSIONS: usize = 16_384;
/// Pending grants, by default: a minute's worth of log-ins at about 70 a second.
pub const DEFAULT_MAX_PENDING_GRANTS: usize = 4_096;

/// Limits in time and number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a grant waits for its client's TCP connection, and how long after the grant that client may reconnect.
    pub grant_window: Duration,
    /// How long a session lives without a datagram in either direction.
    pub udp_idle: Duration,
    /// How long a session outlives its TCP connection.
    pub tcp_closed_grace: Duration,
    /// How long a session may last in all; `None` sets no end.
    pub session: Option<Duration>,
    /// Sessions, pending grants included, since each of them may become one.
    pub max_sessions: usize,
    /// Grants whose client has not come yet.
    pub max_pending_grants: usize,
    /// From which address a control connection may come. Datagrams come from the same address as it, whatever the policy.
    pub client_address: AddressPolicy,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            grant_window: DEFAULT_GRANT_WINDOW,
            udp_idle: DEFAULT_UDP_IDLE,
            tcp_closed_grace: DEFAULT_TCP_CLOSED_GRACE,
            session: None,
            max_sessions: DEFAULT_MAX_SESSIONS,
            max_pending_grants: DEFAULT_MAX_PENDING_GRANTS,
            client_address: AddressPolicy::default(),
        }
    }
}

/// `start` plus `duration`; ten years on when the sum cannot be represented, which nothing here outlives.
pub(crate) fn after(start: Instant, duration: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
    start
        .checked_add(duration)
        .unwrap_or_else(|| start.checked_add(FAR).unwrap_or(start))
}
