//! Relaying of datagrams: by the source they come from, once that is bound to a session.

use std::{net::SocketAddr, time::Instant};

use portcullis_protocol::esp;

use super::{
    Gateway, canonical,
    counters::Reason,
    session::{Binding, SessionKey},
    timers::Timer,
    trial::{Trial, Turn},
};

/// One sending of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The session it belongs to, whose upstream socket carries it towards the agent.
    pub session: SessionKey,
    /// Where it goes: the session's agent, or its client.
    pub to: SocketAddr,
}

/// What to do with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Send it on.
    Forward(Forward),
    /// Send it on to each of these: an answer test, or an agent's datagram to the old and the new source of a client.
    Offer(&'a [Forward]),
    /// Drop it, without any reply.
    Drop(DropReason),
}

impl Verdict<'_> {
    /// The sendings this asks for.
    #[must_use]
    pub fn forwards(&self) -> &[Forward] {
        match self {
            Self::Forward(forward) => std::slice::from_ref(forward),
            Self::Offer(forwards) => forwards,
            Self::Drop(_) => &[],
        }
    }
}

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// Shorter than any PCoIP packet.
    TooShort,
    /// Longer than a packet that crosses Ethernet whole.
    TooLong,
    /// The source's address has no session: a stranger, or a client ahead of its control connection.
    UnknownSource,
    /// The source's address has sessions, but each has its source, or no control connection.
    NoneWaiting,
    /// Another source of the same address is being tested.
    Contended,
    /// Enough of this source was offered, and no agent has answered yet.
    OfferSpent,
    /// No agent answered this source a moment ago.
    Unanswered,
    /// Not from the agent of any session.
    UnknownAgent,
    /// From an agent whose client has sent nothing yet.
    NoClientYet,
}

impl Reason for DropReason {
    const LABELS: &'static [&'static str] = &[
        "too_short",
        "too_long",
        "unknown_source",
        "none_waiting",
        "contended",
        "offer_spent",
        "unanswered",
        "unknown_agent",
        "no_client_yet",
    ];

    fn index(&self) -> usize {
        *self as usize
    }
}

/// Which upstream socket a datagram from an agent came in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamSocket {
    /// The one all sessions share.
    Shared,
    /// A session's own.
    Of(SessionKey),
}

impl Gateway {
    /// Decides on a datagram from the client side. Neither allocates nor arms a timer for a bound source.
    pub fn handle_client_datagram(
        &mut self,
        from: SocketAddr,
        payload: &[u8],
        now: Instant,
    ) -> Verdict<'_> {
        let from = canonical(from);
        if let Err(reason) = check_size(payload) {
            return self.dropped(reason);
        }
        if let Some(session) = self.sessions.bound(&from) {
            if session.rebind.is_some() {
                let key = session.key;
                return self.handle_rebinding_client(key, from, payload, now);
            }
            session.flows.up.record(payload.len(), now);
            session.meters.up.record(payload, now);
            let forward = Forward {
                session: session.key,
                to: session.agent.udp(),
            };
            if session.meters.up.spi() != session.client_spi {
                self.sessions.learn_spi(forward.session);
            }
            self.counters.forwarded.up.record(payload.len(), now);
            return Verdict::Forward(forward);
        }
        self.handle_unbound_source(from, payload, now)
    }

    /// Decides on a datagram from the agent side. While a session is being rebound its client has two sources, and the verdict is an
    /// offer to both.
    pub fn handle_agent_datagram(
        &mut self,
        socket: UpstreamSocket,
        from: SocketAddr,
        payload: &[u8],
        now: Instant,
    ) -> Verdict<'_> {
        let from = canonical(from);
        if let Err(reason) = check_size(payload) {
            return self.dropped(reason);
        }
        let key = match socket {
            UpstreamSocket::Shared => self.sessions.of_agent(&from),
            UpstreamSocket::Of(key) => Some(key),
        };
        let Some(session) = key.and_then(|key| self.sessions.get_mut(key)) else {
            return self.dropped(DropReason::UnknownAgent);
        };
        if session.agent.udp() != from {
            return self.dropped(DropReason::UnknownAgent);
        }
        let (key, client) = (session.key, session.client());
        let to = match &mut session.binding {
            Some(binding) => {
                let to = binding.source;
                if !binding.confirmed {
                    binding.confirmed = true;
                    self.sessions.refresh(key);
                }
                to
            }
            None => match self.decide_trial(key, client, now) {
                Some(source) => source,
                None => return self.dropped(DropReason::NoClientYet),
            },
        };
        if let Some(session) = self.sessions.get_mut(key) {
            session.flows.down.record(payload.len(), now);
            session.meters.down.record(payload, now);
            if session.rebind.is_some() {
                self.counters.forwarded.down.record(payload.len(), now);
                return self.handle_rebinding_agent(key, to, now);
            }
        }
        self.counters.forwarded.down.record(payload.len(), now);
        Verdict::Forward(Forward { session: key, to })
    }

    /// Binds a new source where there is one session it can belong to, and tests it where there are several.
    #[cold]
    pub(super) fn handle_unbound_source(
        &mut self,
        from: SocketAddr,
        payload: &[u8],
        now: Instant,
    ) -> Verdict<'_> {
        let address = from.ip();
        if let Some(key) = self.begin_rebind(from, payload, now) {
            return self.handle_rebinding_client(key, from, payload, now);
        }
        self.settle_trial(address, now);
        let turn = self
            .trials
            .get_mut(&address)
            .map_or(Turn::Free, |trial| trial.turn(from));
        match turn {
            Turn::Offer => return self.offer(from, now),
            Turn::Spent => return self.dropped(DropReason::OfferSpent),
            Turn::Wait => return self.dropped(DropReason::Contended),
            Turn::Rest | Turn::Free => {}
        }
        let candidates = self.sessions.candidates(address, now);
        match candidates.as_slice() {
            [] if self.sessions.any_of(address) => self.dropped(DropReason::NoneWaiting),
            [] => self.dropped(DropReason::UnknownSource),
            [only] => {
                let key = *only;
                self.bind(key, from, false, now);
                self.forward_up(key, payload, now)
            }
            [..] if turn == Turn::Rest => self.dropped(DropReason::Unanswered),
            [..] => {
                self.drop_trial(address);
                let trial = Trial::new(from, candidates, now);
                self.timers.arm(trial.until, Timer::Trial(address));
                self.trials.insert(address, trial);
                if let Some(trial) = self.trials.get_mut(&address) {
                    trial.turn(from);
                }
                self.offer(from, now)
            }
        }
    }

    fn forward_up(&mut self, key: SessionKey, payload: &[u8], now: Instant) -> Verdict<'_> {
        if let Some(session) = self.sessions.get_mut(key) {
            session.meters.up.record(payload, now);
        }
        self.relay_up(key, payload, now)
    }

    /// Forwards a datagram of a client that has been measured.
    pub(super) fn relay_up(
        &mut self,
        key: SessionKey,
        payload: &[u8],
        now: Instant,
    ) -> Verdict<'_> {
        let Some(session) = self.sessions.get_mut(key) else {
            return self.dropped(DropReason::UnknownSource);
        };
        session.flows.up.record(payload.len(), now);
        let to = session.agent.udp();
        self.counters.forwarded.up.record(payload.len(), now);
        Verdict::Forward(Forward { session: key, to })
    }

    /// Offers the datagram of a source under test to the agents of the sessions that still wait for theirs.
    fn offer(&mut self, from: SocketAddr, now: Instant) -> Verdict<'_> {
        self.offers.clear();
        if let Some(trial) = self.trials.get(&from.ip()) {
            for key in trial.candidates.as_slice() {
                if !self.sessions.is_waiting(from.ip(), *key) {
                    continue;
                }
                let Some(session) = self.sessions.get_mut(*key) else {
                    continue;
                };
                // So that a client whose keys no agent knows is not reported as one whose network blocks UDP.
                session.udp_came.get_or_insert(now);
                self.offers.push(Forward {
                    session: *key,
                    to: session.agent.udp(),
                });
            }
        }
        if self.offers.is_empty() {
            return self.dropped(DropReason::NoneWaiting);
        }
        self.counters.offered += self.offers.len() as u64;
        Verdict::Offer(&self.offers)
    }

    /// Binds the source under test at a client's address to the session whose agent has just answered.
    fn decide_trial(
        &mut self,
        key: SessionKey,
        client: std::net::IpAddr,
        now: Instant,
    ) -> Option<SocketAddr> {
        let trial = self.trials.get(&client)?;
        if !trial.is_decided_by(key, now) || !self.sessions.is_waiting(client, key) {
            return None;
        }
        let source = trial.source;
        self.drop_trial(client);
        self.bind(key, source, true, now);
        Some(source)
    }

    fn bind(&mut self, key: SessionKey, source: SocketAddr, confirmed: bool, now: Instant) {
        let binding = Binding {
            source,
            since: now,
            confirmed,
        };
        self.sessions.bind(key, binding);
        self.counters.bound += 1;
    }

    fn dropped(&mut self, reason: DropReason) -> Verdict<'_> {
        self.counters.dropped.add(&reason);
        Verdict::Drop(reason)
    }
}

fn check_size(payload: &[u8]) -> Result<(), DropReason> {
    if payload.len() < esp::MIN_BYTES {
        Err(DropReason::TooShort)
    } else if payload.len() > esp::MAX_BYTES {
        Err(DropReason::TooLong)
    } else {
        Ok(())
    }
}
