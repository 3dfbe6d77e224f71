//! The client's end of the UDP flow: invites until answered, then sends input and measures.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::{Channel, Received, Terms, stamp};
use crate::{
    esp::Spi,
    load::{Load, Pacer},
    payload::Payload,
    signalling::keys::SessionKeys,
};

/// Round trips measured per second.
const PINGS_PER_SECOND: u32 = 10;
/// Longest round trip told apart, in microseconds: a minute.
const MAX_RTT_MICROS: u64 = 60_000_000;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct ClientFlow {
    channel: Channel,
    load: Load,
    start: Instant,
    invite_every: Duration,
    next_invite: Instant,
    invites: u32,
    open: Option<Open>,
    round_trips: Histogram<u64>,
    frames: u64,
    stopped: bool,
}

#[derive(Debug)]
struct Open {
    input: Option<Pacer>,
    events: u32,
    pings: Option<Pacer>,
}

impl ClientFlow {
    pub(crate) fn new(
        terms: Terms,
        keys: &SessionKeys,
        client: Spi,
        agent: Spi,
        load: Load,
        invite_every: Duration,
        now: Instant,
    ) -> Self {
        #[expect(
            clippy::expect_used,
            reason = "bounds and precision are constants within the histogram's own limits"
        )]
        let round_trips =
            Histogram::new_with_bounds(1, MAX_RTT_MICROS, 2).expect("constant bounds");
        Self {
            channel: Channel::new(terms, (&keys.to_agent, agent), (&keys.to_client, client)),
            load,
            start: now,
            invite_every,
            next_invite: now,
            invites: 0,
            open: None,
            round_trips,
            frames: 0,
            stopped: false,
        }
    }

    /// Takes a datagram. Returns whether it opened the flow, which the first answer to an invite does.
    pub(crate) fn handle_datagram(&mut self, datagram: &mut [u8], now: Instant) -> bool {
        let Some((payload, _)) = self.channel.open(datagram, now) else {
            return false;
        };
        match payload {
            Payload::InviteAnswer { stamp } => {
                self.measure(stamp, now);
                if self.open.is_some() {
                    return false;
                }
                self.open = Some(Open {
                    input: Pacer::per_second(self.load.up.pps, now),
                    events: 0,
                    pings: Pacer::per_second(PINGS_PER_SECOND, now),
                });
                return true;
            }
            Payload::Pong { stamp } => self.measure(stamp, now),
            Payload::Display { last, .. } => self.frames += u64::from(last),
            Payload::Invite { .. }
            | Payload::Input { .. }
            | Payload::Ping { .. }
            | Payload::Keepalive => {}
        }
        false
    }

    /// Writes the next packet that is due into `out`; `false` when there is none. Call until then.
    pub(crate) fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        if self.stopped || self.channel.exhausted {
            return false;
        }
        self.due(now)
            .is_some_and(|(payload, bytes)| self.channel.seal(payload, bytes, now, out))
    }

    /// When to call [`ClientFlow::poll_transmit`] again, short of another datagram.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        if self.stopped || self.channel.exhausted {
            return None;
        }
        let Some(open) = &self.open else {
            return Some(self.next_invite);
        };
        [
            open.input.as_ref().map(Pacer::next),
            open.pings.as_ref().map(Pacer::next),
            self.channel.keepalive_at(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Sends nothing from now on. Returns how many packets were sent.
    pub(crate) fn stop(&mut self) -> u64 {
        self.stopped = true;
        self.sent()
    }

    pub(crate) fn sent(&self) -> u64 {
        self.channel.sealer.sent().into()
    }

    pub(crate) fn received(&self) -> Received {
        self.channel.received
    }

    /// At least so many packets the agent sent, whatever it says.
    pub(crate) fn highest_sequence(&self) -> u64 {
        self.channel.opener.highest().into()
    }

    /// Invites sent.
    pub(crate) fn invites(&self) -> u32 {
        self.invites
    }

    /// Frames whose last piece came.
    pub(crate) fn frames(&self) -> u64 {
        self.frames
    }

    /// Round trips in microseconds.
    pub(crate) fn round_trips(&self) -> &Histogram<u64> {
        &self.round_trips
    }

    /// When the last authentic packet came, or when the flow was made.
    pub(crate) fn last_heard(&self) -> Instant {
        self.channel.last_received.unwrap_or(self.start)
    }

    fn measure(&mut self, sent: u64, now: Instant) {
        if let Some(micros) = stamp(self.start, now).checked_sub(sent) {
            self.round_trips.saturating_record(micros.max(1));
        }
    }

    fn due(&mut self, now: Instant) -> Option<(Payload, usize)> {
        let stamp = stamp(self.start, now);
        let Some(open) = &mut self.open else {
            if now < self.next_invite {
                return None;
            }
            self.next_invite = now + self.invite_every;
            self.invites += 1;
            return Some((Payload::Invite { stamp }, 0));
        };
        if open.pings.as_mut().is_some_and(|pacer| pacer.take(now)) {
            return Some((Payload::Ping { stamp }, 0));
        }
        if open.input.as_mut().is_some_and(|pacer| pacer.take(now)) {
            open.events = open.events.wrapping_add(1);
            let payload = Payload::Input {
                stamp,
                event: open.events,
            };
            return Some((payload, self.load.up.bytes.into()));
        }
        self.channel
            .keepalive_at()
            .filter(|at| now >= *at)
            .map(|_| (Payload::Keepalive, 0))
    }
}
