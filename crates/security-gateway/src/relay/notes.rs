//! What the shell itself counts, and how often it may speak of it.

use std::{
    fmt, io,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use portcullis_protocol::client_hello::ReadClientHelloError;

use crate::core::Reason;

/// Refusals logged in one [`LOG_WINDOW`]; a port scan must not fill the disk. All of them are counted.
const LOGGED_A_WINDOW: u32 = 20;
/// The time over which log lines are limited.
const LOG_WINDOW: Duration = Duration::from_secs(1);

/// Why a connection was closed before its ClientHello could be matched with a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EarlyClose {
    /// Too many connections wait for admission.
    TooMany,
    /// Too many of them are from this address.
    TooManyFromAddress,
    /// The ClientHello did not come in time.
    TimedOut,
    /// The client closed first.
    Gone,
    /// What came is no ClientHello.
    NotTls(ReadClientHelloError),
}

impl Reason for EarlyClose {
    const LABELS: &'static [&'static str] = &[
        "too_many",
        "too_many_from_address",
        "client_hello_timed_out",
        "client_gone",
        "no_client_hello",
    ];

    fn index(&self) -> usize {
        match self {
            Self::TooMany => 0,
            Self::TooManyFromAddress => 1,
            Self::TimedOut => 2,
            Self::Gone => 3,
            Self::NotTls(_) => 4,
        }
    }
}

impl fmt::Display for EarlyClose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany => f.write_str("too many connections wait for admission"),
            Self::TooManyFromAddress => {
                f.write_str("too many connections of this address wait for admission")
            }
            Self::TimedOut => f.write_str("no complete ClientHello came in time"),
            Self::Gone => f.write_str("the client closed before its ClientHello was complete"),
            Self::NotTls(error) => error.fmt(f),
        }
    }
}

/// Why a datagram could not be sent or received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketTrouble {
    /// The send buffer is full.
    Full,
    /// The other end answered that nothing listens there.
    Refused,
    /// No route to the other end.
    Unreachable,
    /// A firewall on this host forbids it.
    Denied,
    /// It would have to be fragmented.
    TooLong,
    /// Anything else.
    Other,
}

impl SocketTrouble {
    pub(crate) fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS) => Self::Full,
            Some(libc::ECONNREFUSED) => Self::Refused,
            Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENETDOWN | libc::EHOSTDOWN) => {
                Self::Unreachable
            }
            Some(libc::EPERM | libc::EACCES) => Self::Denied,
            Some(libc::EMSGSIZE) => Self::TooLong,
            Some(_) | None => Self::Other,
        }
    }
}

impl Reason for SocketTrouble {
    const LABELS: &'static [&'static str] = &[
        "buffer_full",
        "refused",
        "unreachable",
        "denied",
        "too_long",
        "other",
    ];

    fn index(&self) -> usize {
        *self as usize
    }
}

/// One count per socket trouble, raised without a lock.
#[derive(Debug, Default)]
pub(crate) struct Troubles([AtomicU64; 6]);

impl Troubles {
    pub(crate) fn add(&self, error: &io::Error) {
        if let Some(count) = self.0.get(SocketTrouble::of(error).index()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Every label with its count.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        SocketTrouble::LABELS
            .iter()
            .copied()
            .zip(self.0.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}

/// Lets through a bounded number of log lines, and says how many it kept back.
#[derive(Debug, Default)]
pub(crate) struct LogBudget {
    window: Option<Instant>,
    logged: u32,
    kept_back: u64,
}

impl LogBudget {
    /// Whether a line may be logged now; if so, how many were kept back since the last one.
    pub(crate) fn take(&mut self, now: Instant) -> Option<u64> {
        let over = self
            .window
            .is_none_or(|since| now.saturating_duration_since(since) >= LOG_WINDOW);
        if over {
            self.window = Some(now);
            self.logged = 0;
        }
        if self.logged >= LOGGED_A_WINDOW {
            self.kept_back += 1;
            return None;
        }
        self.logged += 1;
        Some(std::mem::take(&mut self.kept_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_is_cut_and_counted() {
        let start = Instant::now();
        let mut budget = LogBudget::default();
        let logged = (0..100).filter(|_| budget.take(start).is_some()).count();
        assert_eq!(logged, 20);
        assert_eq!(budget.take(start + LOG_WINDOW), Some(80));
        assert_eq!(budget.take(start + LOG_WINDOW), Some(0));
    }

    #[test]
    fn socket_troubles_are_told_apart() {
        let troubles = Troubles::default();
        for errno in [
            libc::EAGAIN,
            libc::ECONNREFUSED,
            libc::ENETUNREACH,
            libc::EPERM,
            libc::EMSGSIZE,
            libc::EIO,
        ] {
            troubles.add(&io::Error::from_raw_os_error(errno));
        }
        let counts: Vec<_> = troubles.counts().collect();
        assert_eq!(
            counts,
            [
                ("buffer_full", 1),
                ("refused", 1),
                ("unreachable", 1),
                ("denied", 1),
                ("too_long", 1),
                ("other", 1)
            ]
        );
    }
}
