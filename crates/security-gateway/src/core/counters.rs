//! What the node has done so far, counted by reason.

use std::{fmt, marker::PhantomData};

use super::{
    admission::AdmissionRefusal, datagram::DropReason, flow::Flows, grant::GrantRefusal,
    preflight::UdpVerdict, session::EndReason,
};

/// A closed list of reasons, each with a stable label for metrics.
pub trait Reason {
    /// The labels, in the order of [`Reason::index`].
    const LABELS: &'static [&'static str];

    /// The position of this reason's label.
    fn index(&self) -> usize;

    /// This reason's label: lower case, words joined by underscores.
    fn label(&self) -> &'static str {
        Self::LABELS.get(self.index()).copied().unwrap_or("other")
    }
}

/// One count per reason.
#[derive(Clone)]
pub struct Tally<R> {
    counts: Vec<u64>,
    reasons: PhantomData<R>,
}

impl<R: Reason> Tally<R> {
    /// Counts one.
    pub(crate) fn add(&mut self, reason: &R) {
        if let Some(count) = self.counts.get_mut(reason.index()) {
            *count += 1;
        }
    }

    /// How often `reason` was counted.
    #[must_use]
    pub fn count(&self, reason: &R) -> u64 {
        self.counts.get(reason.index()).copied().unwrap_or(0)
    }

    /// Every label with its count, in the order of the labels.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        R::LABELS.iter().copied().zip(self.counts.iter().copied())
    }

    /// All counts together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}

impl<R: Reason> Default for Tally<R> {
    fn default() -> Self {
        Self {
            counts: vec![0; R::LABELS.len()],
            reasons: PhantomData,
        }
    }
}

impl<R: Reason> fmt::Debug for Tally<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Everything a gateway counts since it started.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Grants given.
    pub granted: u64,
    /// Grants whose client did not come in time.
    pub grants_expired: u64,
    /// Grants refused.
    pub grants_refused: Tally<GrantRefusal>,
    /// Sessions started by a TCP connection.
    pub admitted: u64,
    /// TCP connections that took up a session again.
    pub reattached: u64,
    /// TCP connections refused after their ClientHello was read.
    pub admissions_refused: Tally<AdmissionRefusal>,
    /// Connections to agents that failed.
    pub agents_unreachable: u64,
    /// Sessions ended.
    pub ended: Tally<EndReason>,
    /// Sessions ended, by whether their datagrams had made the whole way.
    pub udp_verdicts: Tally<UdpVerdict>,
    /// Datagrams relayed.
    pub forwarded: Flows,
    /// Copies of datagrams sent to agents to learn which of them answers.
    pub offered: u64,
    /// Client addresses bound to a session.
    pub bound: u64,
    /// Sessions whose client's port changed on the way and that went on from the new one.
    pub rebound: u64,
    /// Datagrams dropped.
    pub dropped: Tally<DropReason>,
}
