//! The answer test: which of several sessions behind one client address a new UDP source belongs to.
//!
//! The gateway holds no keys, but the agents do. The first datagrams of the source are offered to the agent of every session
//! it could belong to; the agent that shares its keys answers, the others drop what does not authenticate. One source of an
//! address is tested at a time, since an agent's answer does not say which source it answers.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{limits::after, session::SessionKey};

/// Sessions one source is offered to.
pub(crate) const MAX_CANDIDATES: usize = 8;
/// Datagrams of one source that are offered. What an agent cannot authenticate costs it a little time each, so they are few.
pub(crate) const MAX_OFFERED: u8 = 16;
/// How long an answer is waited for.
pub(crate) const TRIAL: Duration = Duration::from_secs(3);
/// How long a source that no agent answered stands back, so that others of its address get their turn.
pub(crate) const REST: Duration = Duration::from_secs(3);

/// A few sessions, in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidates {
    keys: [SessionKey; MAX_CANDIDATES],
    len: usize,
}

impl Default for Candidates {
    fn default() -> Self {
        Self {
            keys: [SessionKey(0); MAX_CANDIDATES],
            len: 0,
        }
    }
}

impl Candidates {
    /// Adds one; false when there is no room for another after it.
    pub(crate) fn push(&mut self, key: SessionKey) -> bool {
        if let Some(slot) = self.keys.get_mut(self.len) {
            *slot = key;
            self.len += 1;
        }
        self.len < MAX_CANDIDATES
    }

    pub(crate) fn as_slice(&self) -> &[SessionKey] {
        self.keys.get(..self.len).unwrap_or_default()
    }
}

/// The test of one source, or its rest after it.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) source: SocketAddr,
    pub(crate) candidates: Candidates,
    phase: Phase,
    pub(crate) until: Instant,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Offering { offered: u8 },
    Resting,
}

/// What is to be done with a datagram while a trial of its address stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Offer it.
    Offer,
    /// It is of the tested source, and enough was offered.
    Spent,
    /// Another source is being tested.
    Wait,
    /// It is of the source that just failed, which stands back.
    Rest,
    /// No test is under way.
    Free,
}

impl Trial {
    pub(crate) fn new(source: SocketAddr, candidates: Candidates, now: Instant) -> Self {
        Self {
            source,
            candidates,
            phase: Phase::Offering { offered: 0 },
            until: after(now, TRIAL),
        }
    }

    /// What is to be done with a datagram from `source`.
    pub(crate) fn turn(&mut self, source: SocketAddr) -> Turn {
        match &mut self.phase {
            Phase::Offering { .. } if self.source != source => Turn::Wait,
            Phase::Offering { offered } if *offered < MAX_OFFERED => {
                *offered += 1;
                Turn::Offer
            }
            Phase::Offering { .. } => Turn::Spent,
            Phase::Resting if self.source == source => Turn::Rest,
            Phase::Resting => Turn::Free,
        }
    }

    /// Whether an answer of this session's agent decides the trial.
    pub(crate) fn is_decided_by(&self, session: SessionKey, now: Instant) -> bool {
        matches!(self.phase, Phase::Offering { .. })
            && now < self.until
            && self.candidates.as_slice().contains(&session)
    }

    /// Goes on to what follows once `until` has come; `None` when nothing does.
    pub(crate) fn step(self) -> Option<Self> {
        match self.phase {
            Phase::Offering { .. } => Some(Self {
                phase: Phase::Resting,
                until: after(self.until, REST),
                ..self
            }),
            Phase::Resting => None,
        }
    }
}
