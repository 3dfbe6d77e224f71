//! The quality of what comes in, read from the sequence numbers of ESP: what was lost, reordered, duplicated, and how evenly it
//! came.
//!
//! A gateway measures the way *to itself*: upwards the client's leg, downwards the agent's. What is lost after the gateway has
//! sent it on shows in no number that comes by.
//!
//! Whether the PCoIP transport header stands before the ESP header is agreed inside TLS, so both readings are counted at first.
//! One proves itself when its SPI stays and its sequence number rises by small steps; from then on it is the only one. Read in
//! the wrong place, the numbers do not behave so: either the "SPI" is a sequence number, new with every datagram, or the "sequence
//! number" is an SPI, which stands still. The first datagrams are counted under both readings, so none is missed.
//!
//! The state has a fixed size, nothing is allocated, and a datagram in order costs less than 200 instructions.

use std::time::{Duration, Instant};

use portcullis_protocol::esp::{self, Header, Layout};

/// Numbers behind the newest one that are still waited for. A receiver's own replay window is of this order (RFC 4303, section
/// 3.4.3, asks for 32 at least and suggests 64), so what comes later is of no use to it either.
const WINDOW: u32 = u128::BITS;
/// The largest step ahead that is taken for loss: half a minute of 30 000 datagrams a second. A longer one is no credible gap.
const MAX_GAP: u32 = 1 << 20;
/// The largest step ahead that speaks for a reading.
const SMALL_STEP: u32 = 64;
/// Small steps that prove a reading. One or two could be a new SPI that happens to follow the old one.
const PROOF: u8 = 4;
/// How far ahead a datagram may be and still go on where the last one was: what an interrupted client sends in half a minute and
/// more, and a one in 65 536 chance for a guess.
const NEAR: u32 = 1 << 16;
/// Datagrams in a row that fit nowhere near the newest number, after which the sender has begun to count anew.
const ASTRAY: u8 = 32;

/// Datagrams of one direction, by what their sequence numbers say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SequenceCounts {
    /// Numbers that came, each counted once.
    pub received: u64,
    /// Numbers that did not come while they were waited for, which is until 128 newer ones have passed.
    pub lost: u64,
    /// Received ones that came after a newer one.
    pub reordered: u64,
    /// Numbers that came again.
    pub duplicated: u64,
    /// Datagrams too far from the newest number to say whether they came for the first time. Their numbers stay counted as lost.
    pub late: u64,
}

impl SequenceCounts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.lost += other.lost;
        self.reordered += other.reordered;
        self.duplicated += other.duplicated;
        self.late += other.late;
    }
}

/// The sequence counts of a node, both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SequenceTotals {
    /// From clients to the gateway.
    pub up: SequenceCounts,
    /// From agents to the gateway.
    pub down: SequenceCounts,
}

impl SequenceTotals {
    pub(crate) fn add(&mut self, session: &Qualities) {
        self.up.add(&session.up.counts);
        self.down.add(&session.down.counts);
    }
}

/// How well the datagrams of one direction of a session came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quality {
    /// Where the ESP header was found to stand; while `None`, nothing but earlier connections of the session is counted.
    pub layout: Option<Layout>,
    /// What the sequence numbers say.
    pub counts: SequenceCounts,
    /// Numbers that have not come and are still waited for.
    pub missing: u64,
    /// How unevenly datagrams come: the running mean of the difference between one gap and the next, with RFC 3550's weight of
    /// 1/16. Without the sender's timestamps its own unevenness is contained in it, so it is the network's jitter only for a
    /// steady sender, and an upper bound of it otherwise. Only gaps between neighbours in sequence are compared, so that loss
    /// and reordering do not show here. No finer than the driver's clock, which is read once for a batch.
    pub jitter: Option<Duration>,
}

impl Quality {
    /// Lost ones among all that were sent, from 0 to 1; 0 while nothing is known.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "a share needs no more than 53 bits"
    )]
    pub fn loss(&self) -> f64 {
        let sent = self.counts.received + self.counts.lost;
        if sent == 0 {
            0.0
        } else {
            self.counts.lost as f64 / sent as f64
        }
    }

    /// The same with nothing waited for any more: what is missing is lost.
    #[must_use]
    pub(crate) const fn settled(mut self) -> Self {
        self.counts.lost += self.missing;
        self.missing = 0;
        self
    }
}

/// Both directions of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Qualities {
    /// From the client to the gateway.
    pub up: Quality,
    /// From the agent to the gateway.
    pub down: Quality,
}

impl Qualities {
    /// The same at the end of the session: what is missing is lost.
    #[must_use]
    pub(crate) const fn settled(self) -> Self {
        Self {
            up: self.up.settled(),
            down: self.down.settled(),
        }
    }
}

/// Measures both directions of a session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meters {
    pub(crate) up: Meter,
    pub(crate) down: Meter,
}

impl Meters {
    pub(crate) fn read(&self) -> Qualities {
        Qualities {
            up: self.up.read(),
            down: self.down.read(),
        }
    }
}

/// Measures one direction of a session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter {
    proven: Option<Layout>,
    headed: Track,
    bare: Track,
    /// What was counted before the last [`Meter::restart`].
    earlier: SequenceCounts,
}

impl Meter {
    /// Counts a datagram. To be called once for each, in the order of arrival.
    #[inline]
    pub(crate) fn record(&mut self, payload: &[u8], now: Instant) {
        match self.proven {
            Some(layout) => {
                if let Some(header) = esp::header(payload, layout) {
                    self.track_mut(layout).record(header, now);
                }
            }
            None => self.try_both(payload, now),
        }
    }

    /// Begins anew with a peer that may have agreed on another layout and other keys. Totals stay.
    pub(crate) fn restart(&mut self) {
        let counts = self.read().settled().counts;
        *self = Self {
            earlier: counts,
            ..Self::default()
        };
    }

    /// The SPI in use, once the reading is proven.
    #[inline]
    pub(crate) fn spi(&self) -> Option<u32> {
        let stream = self.track(self.proven?).stream.as_ref()?;
        Some(stream.spi)
    }

    /// Whether a datagram goes on where the last one was: the same SPI, and a sequence number a little ahead.
    pub(crate) fn is_continued_by(&self, payload: &[u8]) -> bool {
        self.step_to(payload)
            .is_some_and(|step| (1..=NEAR).contains(&step))
    }

    /// Whether a datagram was sent before the newest that came.
    pub(crate) fn is_behind(&self, payload: &[u8]) -> bool {
        self.step_to(payload)
            .is_some_and(|step| step == 0 || step > u32::MAX / 2)
    }

    /// How far ahead of the newest number a datagram is, modulo 2^32; `None` for another SPI.
    fn step_to(&self, payload: &[u8]) -> Option<u32> {
        let layout = self.proven?;
        let header = esp::header(payload, layout)?;
        let stream = self.track(layout).stream.as_ref()?;
        (stream.spi == header.spi).then(|| header.sequence.wrapping_sub(stream.newest))
    }

    pub(crate) fn read(&self) -> Quality {
        let mut quality = Quality {
            layout: self.proven,
            counts: self.earlier,
            ..Quality::default()
        };
        if let Some(layout) = self.proven {
            let track = self.track(layout);
            quality.counts.add(&track.counts);
            quality.missing = track.missing();
            quality.jitter = track.spacing.jitter();
        }
        quality
    }

    const fn track(&self, layout: Layout) -> &Track {
        match layout {
            Layout::WithTransportHeader => &self.headed,
            Layout::Bare => &self.bare,
        }
    }

    const fn track_mut(&mut self, layout: Layout) -> &mut Track {
        match layout {
            Layout::WithTransportHeader => &mut self.headed,
            Layout::Bare => &mut self.bare,
        }
    }

    #[cold]
    fn try_both(&mut self, payload: &[u8], now: Instant) {
        for layout in [Layout::WithTransportHeader, Layout::Bare] {
            let Some(header) = esp::header(payload, layout) else {
                continue;
            };
            let track = self.track_mut(layout);
            track.record(header, now);
            if track.small_steps >= PROOF {
                self.proven = Some(layout);
                return;
            }
        }
    }
}

/// One reading of a direction. Around a change of keys datagrams of the old and the new SPI may mingle, so two streams are kept.
#[derive(Clone, Debug, Default)]
struct Track {
    stream: Option<Stream>,
    other: Option<Stream>,
    spacing: Spacing,
    small_steps: u8,
    counts: SequenceCounts,
}

impl Track {
    #[inline]
    fn record(&mut self, header: Header, now: Instant) {
        let Some(stream) = self
            .stream
            .as_mut()
            .filter(|stream| stream.spi == header.spi)
        else {
            self.turn_to(header, now);
            return;
        };
        match stream.place(header.sequence) {
            Place::Ahead { step, lost } => {
                self.counts.received += 1;
                self.counts.lost += u64::from(lost);
                self.spacing.record(step, now);
                if step <= SMALL_STEP {
                    self.small_steps = self.small_steps.saturating_add(1);
                }
            }
            Place::Filled => {
                self.counts.received += 1;
                self.counts.reordered += 1;
            }
            Place::Again => self.counts.duplicated += 1,
            Place::Astray => self.counts.late += 1,
            Place::Anew { lost } => {
                self.counts.received += 1;
                self.counts.lost += u64::from(lost);
                self.spacing.interrupt(now);
            }
        }
    }

    /// Goes on with the stream of another SPI: the one before, or a new one in the place of the one before.
    #[cold]
    fn turn_to(&mut self, header: Header, now: Instant) {
        std::mem::swap(&mut self.stream, &mut self.other);
        self.spacing.interrupt(now);
        if self
            .stream
            .as_ref()
            .is_some_and(|stream| stream.spi == header.spi)
        {
            self.record(header, now);
            return;
        }
        if let Some(over) = self.stream.replace(Stream::new(header)) {
            self.counts.lost += u64::from(over.missing());
        }
        self.small_steps = 0;
        self.counts.received += 1;
    }

    fn missing(&self) -> u64 {
        let of = |stream: &Option<Stream>| stream.as_ref().map_or(0, Stream::missing);
        u64::from(of(&self.stream)) + u64::from(of(&self.other))
    }
}

/// The sequence numbers of one SPI. They are compared modulo 2^32, so a counter that wraps goes on.
#[derive(Clone, Debug)]
struct Stream {
    spi: u32,
    newest: u32,
    /// How many numbers are looked at: the newest and those before it, [`WINDOW`] at most. None older than the first that came.
    depth: u32,
    /// Bit n tells whether the number n before the newest came. Bits from `depth` on are clear.
    came: u128,
    /// Datagrams in a row that were astray.
    astray: u8,
}

/// What a sequence number is to its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The newest by `step`; `lost` older ones are given up.
    Ahead { step: u32, lost: u32 },
    /// One that was waited for.
    Filled,
    /// One that had come.
    Again,
    /// Nowhere near.
    Astray,
    /// The first after the sender began to count anew; `lost` are given up.
    Anew { lost: u32 },
}

impl Stream {
    const fn new(first: Header) -> Self {
        Self {
            spi: first.spi,
            newest: first.sequence,
            depth: 1,
            came: 1,
            astray: 0,
        }
    }

    #[inline]
    fn place(&mut self, sequence: u32) -> Place {
        let step = sequence.wrapping_sub(self.newest);
        if (1..=MAX_GAP).contains(&step) {
            self.astray = 0;
            self.newest = sequence;
            let lost = self.advance(step);
            return Place::Ahead { step, lost };
        }
        let behind = self.newest.wrapping_sub(sequence);
        if behind < WINDOW {
            self.astray = 0;
            let bit = 1_u128 << behind;
            if self.came & bit != 0 {
                return Place::Again;
            }
            self.came |= bit;
            self.depth = self.depth.max(behind + 1);
            return Place::Filled;
        }
        self.astray += 1;
        if self.astray < ASTRAY {
            return Place::Astray;
        }
        let lost = self.missing();
        *self = Self::new(Header {
            spi: self.spi,
            sequence,
        });
        Place::Anew { lost }
    }

    /// Moves the window on, and returns how many numbers left it without having come.
    #[inline]
    const fn advance(&mut self, step: u32) -> u32 {
        if step == 1 && self.depth == WINDOW {
            // What nearly every datagram does.
            let lost = self.came >> (WINDOW - 1) == 0;
            self.came = (self.came << 1) | 1;
            return lost as u32;
        }
        let span = self.depth + step;
        let leaving = span.saturating_sub(WINDOW);
        let lost = if leaving == 0 {
            0
        } else if leaving <= self.depth {
            // The oldest `leaving` of those looked at; at least one is, so the shift is less than the width.
            leaving - (self.came >> (self.depth - leaving)).count_ones()
        } else {
            leaving - self.came.count_ones()
        };
        self.came = if step < WINDOW {
            (self.came << step) | 1
        } else {
            1
        };
        self.depth = span - leaving;
        lost
    }

    const fn missing(&self) -> u32 {
        self.depth - self.came.count_ones()
    }
}

/// How evenly datagrams come.
#[derive(Clone, Copy, Debug, Default)]
struct Spacing {
    last: Option<Instant>,
    /// The gap before the last datagram, in nanoseconds, if that was a neighbour's.
    gap: Option<u64>,
    /// Sixteen times the mean difference, in nanoseconds, in the integer form of RFC 3550, appendix A.8.
    scaled: Option<u64>,
}

impl Spacing {
    /// Takes the arrival of a number `step` newer than the newest before it.
    #[inline]
    fn record(&mut self, step: u32, now: Instant) {
        let Some(last) = self.last.filter(|_| step == 1) else {
            self.interrupt(now);
            return;
        };
        // Within a batch the clock stands, and the subtraction would be a third of the cost of a datagram here.
        let gap = if now == last {
            0
        } else {
            nanoseconds(now.saturating_duration_since(last))
        };
        if let Some(before) = self.gap {
            let difference = gap.abs_diff(before);
            let scaled = self.scaled.unwrap_or(0);
            let decayed = scaled - ((scaled + 8) >> 4).min(scaled);
            self.scaled = Some(decayed.saturating_add(difference));
        }
        self.gap = Some(gap);
        self.last = Some(now);
    }

    /// Takes an arrival that has no neighbour.
    const fn interrupt(&mut self, now: Instant) {
        self.gap = None;
        self.last = Some(now);
    }

    fn jitter(&self) -> Option<Duration> {
        self.scaled.map(|scaled| Duration::from_nanos(scaled >> 4))
    }
}

/// A gap in nanoseconds. Whole seconds are counted up to an hour, so that sixteen gaps can be added up without care.
fn nanoseconds(gap: Duration) -> u64 {
    gap.as_secs().min(3_600) * 1_000_000_000 + u64::from(gap.subsec_nanos())
}

#[cfg(test)]
mod tests;
