//! What went one way.

use std::time::Instant;

/// Datagrams relayed in one direction: of one session, or of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Datagrams.
    pub packets: u64,
    /// Their UDP payloads together, in bytes.
    pub bytes: u64,
    /// When the last one came.
    pub last_seen: Option<Instant>,
}

impl Flow {
    /// Counts one datagram.
    pub(crate) fn record(&mut self, bytes: usize, now: Instant) {
        self.packets += 1;
        self.bytes += bytes as u64;
        // Tasks read the clock before they take the lock, so `now` may run back by a moment.
        self.last_seen = self.last_seen.max(Some(now));
    }
}

/// Both directions of a session, or of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flows {
    /// From clients to agents.
    pub up: Flow,
    /// From agents to clients.
    pub down: Flow,
}

impl Flows {
    /// When a datagram last went either way.
    #[must_use]
    pub fn last_seen(&self) -> Option<Instant> {
        self.up.last_seen.max(self.down.last_seen)
    }
}
