//! Deadlines in order of time.

use std::{collections::BTreeSet, net::IpAddr, time::Instant};

use super::{grant::GrantId, session::SessionKey};

/// What a deadline belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A pending grant expires.
    Grant(GrantId),
    /// A session may have reached one of its limits.
    Session(SessionKey),
    /// An answer test, or the rest after one, ends.
    Trial(IpAddr),
}

/// An ordered set of deadlines. The owner of a deadline remembers when it is armed and removes it when it goes, so the set is
/// no longer than the tables it serves.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    armed: BTreeSet<(Instant, Timer)>,
}

impl Timers {
    pub(crate) fn arm(&mut self, at: Instant, timer: Timer) {
        self.armed.insert((at, timer));
    }

    pub(crate) fn disarm(&mut self, at: Instant, timer: Timer) {
        self.armed.remove(&(at, timer));
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.armed.first().map(|(at, _)| *at)
    }

    /// Takes the earliest deadline out if it has come.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<(Instant, Timer)> {
        if self.next()? > now {
            return None;
        }
        self.armed.pop_first()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.armed.len()
    }
}
