//! Rebinding: a client whose datagrams come from another port all of a sudden, because a NAT on its way has changed the mapping.
//!
//! A new source of the client's address takes the session over when it goes on where the client was: with the SPI the client
//! uses, and a sequence number a little ahead. Both stand in clear, so somebody behind the same NAT could forge them. Therefore
//! the old source is kept at first: what the agent sends goes to both, and any fresh datagram from the old source calls the
//! change off. It stands once the new source alone has been sending for a while and the agent has gone on answering. Another
//! address never takes a session over.
//!
//! What is left to a forger behind the same NAT who reads the client's datagrams and keeps them away for as long: to end the
//! session. He gains nothing to read, for the agent answers in cipher and drops what he sends.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Gateway, Verdict, datagram::Forward, quality::Meter, session::SessionKey};

/// How long the old source must be silent while the agent sends. It is taken that a client to which its agent sends reports back
/// more often than this.
const PROBATION: Duration = Duration::from_secs(2);
/// How long a change may take before it is called off; then the next datagram of the new source starts another.
const GIVE_UP: Duration = Duration::from_secs(6);
/// Datagrams the new source, and the agent, must have sent meanwhile: more than what was under way already.
const ENOUGH: u32 = 4;

/// A change of source that does not stand yet.
#[derive(Debug)]
pub(crate) struct Rebind {
    pub(crate) source: SocketAddr,
    since: Instant,
    sent: u32,
    answered: u32,
    /// What the session's meter becomes if the change stands. Kept apart, so that a forger does not move the session's own.
    meter: Meter,
}

impl Rebind {
    pub(crate) const fn new(source: SocketAddr, meter: Meter, now: Instant) -> Self {
        Self {
            source,
            since: now,
            sent: 0,
            answered: 0,
            meter,
        }
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= GIVE_UP
    }

    fn stands(&self, now: Instant) -> bool {
        self.sent >= ENOUGH
            && self.answered >= ENOUGH
            && now.saturating_duration_since(self.since) >= PROBATION
    }

    /// The meter, once the change stands.
    pub(crate) fn into_meter(self) -> Meter {
        self.meter
    }
}

impl Gateway {
    /// Starts a change of source if this datagram goes on where a session of its address was.
    pub(super) fn begin_rebind(
        &mut self,
        from: SocketAddr,
        payload: &[u8],
        now: Instant,
    ) -> Option<SessionKey> {
        let key = self.sessions.continued_by(from.ip(), payload)?;
        let session = self.sessions.get_mut(key)?;
        if session
            .rebind
            .as_ref()
            .is_some_and(|rebind| !rebind.is_over(now))
        {
            return None;
        }
        let meter = session.meters.up.clone();
        self.sessions
            .begin_rebind(key, Rebind::new(from, meter, now));
        Some(key)
    }

    /// Decides on a datagram from the old or the new source of a session that is being rebound.
    #[cold]
    pub(super) fn handle_rebinding_client(
        &mut self,
        key: SessionKey,
        from: SocketAddr,
        payload: &[u8],
        now: Instant,
    ) -> Verdict<'_> {
        let Some(session) = self.sessions.get_mut(key) else {
            return self.handle_unbound_source(from, payload, now);
        };
        let meters = &mut session.meters;
        match &mut session.rebind {
            Some(rebind) if rebind.source == from => {
                if rebind.is_over(now) {
                    self.sessions.drop_rebind(key);
                    return self.handle_unbound_source(from, payload, now);
                }
                rebind.sent = rebind.sent.saturating_add(1);
                rebind.meter.record(payload, now);
                if rebind.stands(now) {
                    self.sessions.finish_rebind(key, now);
                    self.counters.rebound += 1;
                }
            }
            Some(rebind) if meters.up.is_behind(payload) => {
                // A straggler, sent before the change.
                rebind.meter.record(payload, now);
                meters.up.record(payload, now);
            }
            Some(_) | None => {
                meters.up.record(payload, now);
                self.sessions.drop_rebind(key);
            }
        }
        self.relay_up(key, payload, now)
    }

    /// Decides on a datagram from the agent of a session that is being rebound.
    #[cold]
    pub(super) fn handle_rebinding_agent(
        &mut self,
        key: SessionKey,
        old: SocketAddr,
        now: Instant,
    ) -> Verdict<'_> {
        let to_old = Forward {
            session: key,
            to: old,
        };
        let rebind = self
            .sessions
            .get_mut(key)
            .and_then(|session| session.rebind.as_mut())
            .filter(|rebind| !rebind.is_over(now));
        let Some(rebind) = rebind else {
            self.sessions.drop_rebind(key);
            return Verdict::Forward(to_old);
        };
        rebind.answered = rebind.answered.saturating_add(1);
        let to_new = Forward {
            session: key,
            to: rebind.source,
        };
        self.offers.clear();
        self.offers.extend([to_old, to_new]);
        Verdict::Offer(&self.offers)
    }
}
