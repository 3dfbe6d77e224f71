//! The agent's end of the UDP flow: waits for the invite, answers it, then streams.

use std::{collections::VecDeque, net::SocketAddr, time::Instant};

use super::{Channel, Received, Terms, stamp};
use crate::{
    esp::Spi,
    load::{Downstream, Load, Pacer},
    payload::Payload,
    signalling::keys::SessionKeys,
};

/// Answers waiting to be sent. A client that asks faster than the agent sends gets fewer answers, not more memory.
const MAX_ANSWERS: usize = 64;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct AgentFlow {
    channel: Channel,
    load: Load,
    start: Instant,
    peer: Option<SocketAddr>,
    answers: VecDeque<Payload>,
    stream: Stream,
    stopped: bool,
}

#[derive(Debug)]
enum Stream {
    Silent,
    Frames {
        pacer: Pacer,
        frame: u32,
        /// Payload bytes of one frame.
        bytes: usize,
        /// Payload bytes of the current frame still to be sent.
        left: usize,
    },
    Packets {
        pacer: Pacer,
        bytes: usize,
    },
}

impl AgentFlow {
    pub(crate) fn new(
        terms: Terms,
        keys: &SessionKeys,
        client: Spi,
        agent: Spi,
        load: Load,
        now: Instant,
    ) -> Self {
        Self {
            channel: Channel::new(terms, (&keys.to_client, client), (&keys.to_agent, agent)),
            load,
            start: now,
            peer: None,
            answers: VecDeque::new(),
            stream: Stream::Silent,
            stopped: false,
        }
    }

    /// Takes a datagram. Returns whether it opened the flow, which the first authentic invite does.
    pub(crate) fn handle_datagram(
        &mut self,
        datagram: &mut [u8],
        from: SocketAddr,
        now: Instant,
    ) -> bool {
        let Some((payload, newest)) = self.channel.open(datagram, now) else {
            return false;
        };
        let opens = self.peer.is_none() && matches!(payload, Payload::Invite { .. });
        if opens {
            self.stream = Stream::new(self.load, self.channel.payload_bytes, now);
        }
        // The client's address may change under it (NAT); only what is authentic and newest moves it.
        if opens || (self.peer.is_some() && newest) {
            self.peer = Some(from);
        }
        let answer = match payload {
            Payload::Invite { stamp } => Some(Payload::InviteAnswer { stamp }),
            Payload::Ping { stamp } => Some(Payload::Pong { stamp }),
            Payload::InviteAnswer { .. }
            | Payload::Display { .. }
            | Payload::Input { .. }
            | Payload::Pong { .. }
            | Payload::Keepalive => None,
        };
        if let Some(answer) = answer
            && self.peer.is_some()
            && self.answers.len() < MAX_ANSWERS
        {
            self.answers.push_back(answer);
        }
        opens
    }

    /// Writes the next packet that is due into `out` and says where it goes. Call until it yields nothing.
    pub(crate) fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<SocketAddr> {
        let peer = self.peer?;
        if self.stopped || self.channel.exhausted {
            return None;
        }
        let (payload, bytes) = self.due(now)?;
        self.channel.seal(payload, bytes, now, out).then_some(peer)
    }

    /// When to call [`AgentFlow::poll_transmit`] again, short of another datagram.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.peer?;
        if self.stopped || self.channel.exhausted {
            return None;
        }
        let stream = match &self.stream {
            Stream::Silent => None,
            Stream::Frames { pacer, .. } | Stream::Packets { pacer, .. } => Some(pacer.next()),
        };
        [stream, self.channel.keepalive_at()]
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

    /// When the last authentic packet came, or when the flow was made.
    pub(crate) fn last_heard(&self) -> Instant {
        self.channel.last_received.unwrap_or(self.start)
    }

    fn due(&mut self, now: Instant) -> Option<(Payload, usize)> {
        if let Some(answer) = self.answers.pop_front() {
            return Some((answer, 0));
        }
        let stamp = stamp(self.start, now);
        match &mut self.stream {
            Stream::Silent => {}
            Stream::Frames {
                pacer,
                frame,
                bytes,
                left,
            } => {
                if *left == 0 && pacer.take(now) {
                    *frame = frame.wrapping_add(1);
                    *left = *bytes;
                }
                if *left > 0 {
                    let piece = (*left).min(self.channel.payload_bytes);
                    *left -= piece;
                    let payload = Payload::Display {
                        stamp,
                        frame: *frame,
                        last: *left == 0,
                    };
                    return Some((payload, piece));
                }
            }
            Stream::Packets { pacer, bytes } => {
                if pacer.take(now) {
                    let payload = Payload::Display {
                        stamp,
                        frame: self.channel.sealer.sent(),
                        last: true,
                    };
                    return Some((payload, *bytes));
                }
            }
        }
        self.channel
            .keepalive_at()
            .filter(|at| now >= *at)
            .map(|_| (Payload::Keepalive, 0))
    }
}

impl Stream {
    fn new(load: Load, payload_bytes: usize, now: Instant) -> Self {
        let stream = match load.down {
            Downstream::Silent => None,
            Downstream::Display(display) => {
                Pacer::per_second(display.fps.into(), now).map(|pacer| {
                    let bits = u64::from(display.kbps) * 1000 / u64::from(display.fps);
                    Self::Frames {
                        pacer,
                        frame: 0,
                        bytes: usize::try_from(bits / 8).unwrap_or(usize::MAX),
                        left: 0,
                    }
                })
            }
            Downstream::Packets(packets) => {
                Pacer::per_second(packets.pps, now).map(|pacer| Self::Packets {
                    pacer,
                    bytes: usize::from(packets.bytes).min(payload_bytes),
                })
            }
        };
        stream.unwrap_or(Self::Silent)
    }
}
