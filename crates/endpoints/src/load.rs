//! How much traffic a session carries, and when each packet is due.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Most kilobits a second an agent sends to one client: the vendor's documented default ceiling.
pub const MAX_KBPS: u32 = 900_000;
/// Most packets a second either end sends: what [`MAX_KBPS`] comes to in full packets, rounded up.
pub const MAX_PPS: u32 = 100_000;
/// Most frames a second.
pub const MAX_FPS: u16 = 240;

/// Traffic of one session, as the client asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// From agent to client.
    pub down: Downstream,
    /// From client to agent.
    pub up: Upstream,
}

/// From agent to client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Downstream {
    /// Nothing but answers and keepalives.
    Silent,
    /// A burst of full packets for each frame, as a display sends them.
    Display(DisplayLoad),
    /// Evenly spaced packets of one size.
    Packets(PacketLoad),
}

/// Bursts, one a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DisplayLoad {
    /// Kilobits of payload a second.
    pub kbps: u32,
    /// Frames a second.
    pub fps: u16,
}

/// Evenly spaced packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PacketLoad {
    /// Packets a second.
    pub pps: u32,
    /// Bytes of payload in each; cut to what fits a packet.
    pub bytes: u16,
}

/// From client to agent: input events, or nothing when `pps` is zero.
pub type Upstream = PacketLoad;

impl Default for Load {
    /// A busy screen and a busy hand: 10 Mbit/s in 30 frames a second down, 60 small packets a second up.
    fn default() -> Self {
        Self {
            down: Downstream::Display(DisplayLoad {
                kbps: 10_000,
                fps: 30,
            }),
            up: PacketLoad { pps: 60, bytes: 48 },
        }
    }
}

impl Load {
    /// No traffic but what keeps the session alive.
    pub const SILENT: Self = Self {
        down: Downstream::Silent,
        up: PacketLoad { pps: 0, bytes: 0 },
    };

    /// Whether every rate is within [`MAX_KBPS`], [`MAX_PPS`] and [`MAX_FPS`].
    #[must_use]
    pub fn is_within_limits(&self) -> bool {
        let down = match self.down {
            Downstream::Silent => true,
            Downstream::Display(load) => load.kbps <= MAX_KBPS && (1..=MAX_FPS).contains(&load.fps),
            Downstream::Packets(load) => load.pps <= MAX_PPS,
        };
        down && self.up.pps <= MAX_PPS
    }
}

/// How far a pacer may lag behind before it gives up catching up: longer gaps (a suspended machine) are not made good.
const MAX_LAG: Duration = Duration::from_millis(100);

/// Says when the next event of a steady rate is due.
///
/// Call [`Pacer::take`] until it returns `false`, then again at [`Pacer::next`].
#[derive(Clone, Debug)]
pub(crate) struct Pacer {
    period: Duration,
    next: Instant,
}

impl Pacer {
    /// A pacer whose first event is due at once; `None` when the rate is zero.
    pub(crate) fn per_second(rate: u32, now: Instant) -> Option<Self> {
        let period = Duration::from_secs(1).checked_div(rate)?;
        Some(Self { period, next: now })
    }

    /// Whether an event is due, which is then counted as done.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        if now.duration_since(self.next) > MAX_LAG {
            self.next = now;
        }
        self.next += self.period;
        true
    }

    /// When the next event is due.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pacer_keeps_its_rate_however_seldom_it_is_asked() {
        let start = Instant::now();
        let mut pacer = Pacer::per_second(1000, start).unwrap();
        let mut events = 0;
        for step in 0..=20 {
            let now = start + Duration::from_millis(step * 50);
            while pacer.take(now) {
                events += 1;
            }
            assert!(pacer.next() > now);
        }
        assert_eq!(events, 1001);
    }

    #[test]
    fn a_long_gap_is_not_made_good() {
        let start = Instant::now();
        let mut pacer = Pacer::per_second(100, start).unwrap();
        assert!(pacer.take(start));
        let later = start + Duration::from_secs(3600);
        assert!(pacer.take(later));
        assert!(!pacer.take(later));
    }

    #[test]
    fn a_rate_of_zero_has_no_pacer() {
        assert!(Pacer::per_second(0, Instant::now()).is_none());
    }

    #[test]
    fn loads_out_of_range_are_told_apart() {
        assert!(Load::default().is_within_limits());
        assert!(Load::SILENT.is_within_limits());
        let display = |kbps, fps| Load {
            down: Downstream::Display(DisplayLoad { kbps, fps }),
            ..Load::SILENT
        };
        assert!(display(MAX_KBPS, MAX_FPS).is_within_limits());
        assert!(!display(MAX_KBPS + 1, 30).is_within_limits());
        assert!(!display(10, 0).is_within_limits());
        assert!(!display(10, MAX_FPS + 1).is_within_limits());
        let up = Load {
            up: PacketLoad {
                pps: MAX_PPS + 1,
                bytes: 1,
            },
            ..Load::SILENT
        };
        assert!(!up.is_within_limits());
    }
}
