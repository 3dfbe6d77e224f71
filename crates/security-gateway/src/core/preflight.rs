//! The UDP pre-flight verdict: whether a session's datagrams make the whole way, and if not, which side is silent.

use std::{fmt, time::Duration};

use super::counters::Reason;

/// How long the control connection stands, or the client's datagrams come, before silence means something. A client sends its
/// first datagram some 40 ms after its control connection, and repeats itself until it gives up after 32 s; so 5 s are many tries
/// on a slow line, and leave an administrator on the telephone most of the time to see the verdict while it can still be seen.
pub(crate) const SILENCE: Duration = Duration::from_secs(5);

/// What has become of a session's datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UdpVerdict {
    /// One side has not spoken yet, but has not had the time either.
    TooSoon,
    /// The control connection stood, but no datagram ever came from the client: its side blocks UDP.
    ClientSilent,
    /// Datagrams came from the client, but the agent never answered: it does not listen, UDP is blocked between the gateway and
    /// it, or it does not know the client's keys.
    AgentSilent,
    /// Datagrams went both ways.
    BothWays,
}

impl Reason for UdpVerdict {
    const LABELS: &'static [&'static str] =
        &["too_soon", "client_silent", "agent_silent", "both_ways"];

    fn index(&self) -> usize {
        *self as usize
    }
}

impl fmt::Display for UdpVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooSoon => "it is too soon to say whether datagrams pass",
            Self::ClientSilent => {
                "the client's TCP connection came, but its datagrams never did, so something on the client's side blocks UDP"
            }
            Self::AgentSilent => {
                "datagrams came from the client, but the agent never answered, so it does not listen, knows other keys, or something between the gateway and it blocks UDP"
            }
            Self::BothWays => "datagrams pass both ways",
        })
    }
}
