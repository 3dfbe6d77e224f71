//! Both ends of the UDP flow as machines without sockets or clocks.
//!
//! The shell hands every datagram to `handle_datagram`, sends what `poll_transmit` yields until it yields nothing, and
//! comes back at `poll_timeout` or after the next datagram, whichever is first.

mod agent;
mod client;

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use portcullis_protocol::esp::Layout;
use serde::{Deserialize, Serialize};

pub(crate) use agent::AgentFlow;
pub(crate) use client::ClientFlow;

use crate::{
    esp::{OpenError, Opener, SealError, Sealer, Spi, payload_room},
    payload::Payload,
    signalling::keys::DirectionKey,
};

/// An end that has sent nothing for so long sends a keepalive; peers start to worry after three seconds.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// Smallest and largest IP packet a session may be set to, in bytes; the vendor documents this range.
pub const MTU_RANGE: std::ops::RangeInclusive<u16> = 500..=1500;
/// The vendor's default for the largest IP packet, in bytes. Leaves 1172 bytes of UDP payload over IPv4.
pub const DEFAULT_MTU: u16 = 1200;

/// What reached one end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Received {
    /// Authentic packets, each counted once.
    pub packets: u64,
    /// UDP payload bytes of those.
    pub bytes: u64,
    /// Those that came after a higher sequence number.
    pub late: u64,
    /// Packets dropped because they were seen before.
    pub duplicated: u64,
    /// Packets dropped because they were not authentic, or not packets at all.
    pub rejected: u64,
}

/// What both ends agreed on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) layout: Layout,
    /// Largest UDP payload.
    pub(crate) udp_bytes: usize,
}

impl Terms {
    /// Terms for IP packets of `mtu` bytes to `peer`, whose address family decides what the headers take.
    pub(crate) fn new(transport_header: bool, mtu: u16, peer: IpAddr) -> Self {
        let headers = match peer {
            IpAddr::V4(_) => 20 + 8,
            IpAddr::V6(_) => 40 + 8,
        };
        Self {
            layout: if transport_header {
                Layout::WithTransportHeader
            } else {
                Layout::Bare
            },
            udp_bytes: usize::from(mtu).saturating_sub(headers),
        }
    }
}

/// One end's sealing, opening and counting.
#[derive(Debug)]
struct Channel {
    sealer: Sealer,
    opener: Opener,
    payload_bytes: usize,
    received: Received,
    last_sent: Option<Instant>,
    last_received: Option<Instant>,
    exhausted: bool,
    plain: Vec<u8>,
}

impl Channel {
    fn new(terms: Terms, outgoing: (&DirectionKey, Spi), incoming: (&DirectionKey, Spi)) -> Self {
        Self {
            sealer: Sealer::new(outgoing.0, outgoing.1, terms.layout),
            opener: Opener::new(incoming.0, incoming.1, terms.layout),
            payload_bytes: payload_room(terms.udp_bytes, terms.layout),
            received: Received::default(),
            last_sent: None,
            last_received: None,
            exhausted: false,
            plain: Vec::with_capacity(terms.udp_bytes),
        }
    }

    /// Opens a datagram and counts it. Returns its payload and whether it is the newest so far.
    fn open(&mut self, datagram: &mut [u8], now: Instant) -> Option<(Payload, bool)> {
        let bytes = datagram.len() as u64;
        match self.opener.open(datagram) {
            Ok(opened) => {
                self.received.packets += 1;
                self.received.bytes += bytes;
                self.received.late += u64::from(opened.late);
                self.last_received = Some(now);
                let newest = !opened.late;
                Payload::parse(opened.payload)
                    .ok()
                    .map(|payload| (payload, newest))
            }
            Err(OpenError::Duplicate) => {
                self.received.duplicated += 1;
                None
            }
            Err(
                OpenError::TooOld
                | OpenError::Malformed
                | OpenError::UnknownSpi
                | OpenError::NotAuthentic
                | OpenError::Trailer,
            ) => {
                self.received.rejected += 1;
                None
            }
        }
    }

    /// Seals `payload`, filled up to `bytes` but never beyond what fits. `false` when the sequence numbers are used up.
    fn seal(&mut self, payload: Payload, bytes: usize, now: Instant, out: &mut Vec<u8>) -> bool {
        payload.write(bytes.min(self.payload_bytes), &mut self.plain);
        match self.sealer.seal(&self.plain, out) {
            Ok(()) => {
                self.last_sent = Some(now);
                true
            }
            Err(SealError::Exhausted | SealError::TooLong) => {
                self.exhausted = true;
                false
            }
        }
    }

    /// When a keepalive is due; `None` before the first packet.
    fn keepalive_at(&self) -> Option<Instant> {
        self.last_sent.map(|last| last + KEEPALIVE)
    }
}

/// Microseconds since `start`, for payload stamps.
fn stamp(start: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(start).as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
