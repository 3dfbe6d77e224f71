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
//! The state has a fixed size, nothing is allocated, and a datagram in order costs a handful of instructions.

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

    pub(crate) fn read(&self) -> Quality {
        let mut quality = Quality {
            layout: self.proven,
            counts: self.earlier,
            ..Quality::default()
        };
        if let Some(layout) = self.proven {
            let track = match layout {
                Layout::WithTransportHeader => &self.headed,
                Layout::Bare => &self.bare,
            };
            quality.counts.add(&track.counts);
            quality.missing = track.missing();
            quality.jitter = track.spacing.jitter();
        }
        quality
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
        let gap = nanoseconds(now.saturating_duration_since(last));
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

/// A gap in nanoseconds; an hour at most, so that sixteen of them can be added up without care.
fn nanoseconds(gap: Duration) -> u64 {
    const HOUR: u64 = 3_600_000_000_000;
    u64::try_from(gap.as_nanos()).unwrap_or(HOUR).min(HOUR)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const LAYOUTS: [Layout; 2] = [Layout::WithTransportHeader, Layout::Bare];

    /// A packet as it is on the wire; the payload after the header is the same for every packet but for a number, as with counted IVs.
    fn packet(layout: Layout, spi: u32, sequence: u32) -> Vec<u8> {
        let mut packet = match layout {
            Layout::WithTransportHeader => vec![0x80, 0, 0, 1],
            Layout::Bare => Vec::new(),
        };
        packet.extend(spi.to_be_bytes());
        packet.extend(sequence.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend(sequence.to_be_bytes());
        packet
    }

    fn measured(layout: Layout, arrivals: impl IntoIterator<Item = (u32, u32)>) -> Quality {
        let mut meter = Meter::default();
        let now = Instant::now();
        for (spi, sequence) in arrivals {
            meter.record(&packet(layout, spi, sequence), now);
        }
        meter.read()
    }

    /// What a link does to one packet.
    #[derive(Clone, Copy, Debug)]
    struct Fate {
        /// When each copy comes, in packets after its sending; none when it is lost.
        copies: [Option<u32>; 2],
    }

    fn fate() -> impl Strategy<Value = Fate> {
        let delay = || prop_oneof![6 => Just(0_u32), 2 => 0..4_u32, 1 => 0..100_u32];
        prop_oneof![
            6 => delay().prop_map(|first| Fate { copies: [Some(first), None] }),
            2 => Just(Fate { copies: [None, None] }),
            1 => (delay(), delay()).prop_map(|(first, second)| Fate { copies: [Some(first), Some(second)] }),
        ]
    }

    /// The indexes of the packets in the order of arrival.
    fn arrivals(fates: &[Fate]) -> Vec<u32> {
        let mut arrivals: Vec<(u32, u32)> = (0..)
            .zip(fates)
            .flat_map(|(index, fate)| {
                let copies = fate.copies.into_iter().flatten();
                copies.map(move |delay| (index + delay, index))
            })
            .collect();
        arrivals.sort_unstable();
        arrivals.into_iter().map(|(_, index)| index).collect()
    }

    /// The counts by their definitions, with all the memory in the world.
    fn defined(arrivals: &[u32]) -> SequenceCounts {
        let mut seen = BTreeSet::new();
        let mut counts = SequenceCounts::default();
        for index in arrivals {
            let newest = seen.last().copied();
            if !seen.insert(*index) {
                counts.duplicated += 1;
                continue;
            }
            counts.received += 1;
            counts.reordered += u64::from(newest > Some(*index));
        }
        if let (Some(first), Some(last)) = (seen.first(), seen.last()) {
            counts.lost = u64::from(last - first) + 1 - counts.received;
        }
        counts
    }

    proptest! {
        #[test]
        fn what_a_link_does_is_what_is_measured(
            fates in prop::collection::vec(fate(), 400..900),
            first in prop_oneof![Just(1_u32), any::<u32>(), (0..400_u32).prop_map(|before| u32::MAX - before)],
            spi in 256..u32::MAX,
            layout in prop::sample::select(&LAYOUTS[..]),
        ) {
            let arrivals = arrivals(&fates);
            let sequences = arrivals.iter().map(|index| (spi, first.wrapping_add(*index)));
            let quality = measured(layout, sequences).settled();
            prop_assert_eq!(quality.layout, Some(layout));
            prop_assert_eq!(quality.counts, defined(&arrivals));
        }

        #[test]
        fn nothing_that_comes_breaks_the_counts(
            payloads in prop::collection::vec(
                (prop::collection::vec(0..4_u8, 12), prop::collection::vec(any::<u8>(), 0..8)),
                0..300,
            ),
        ) {
            let mut meter = Meter::default();
            let mut last = meter.read().settled().counts;
            for (number, (mut payload, rest)) in payloads.into_iter().enumerate() {
                payload.extend(rest);
                meter.record(&payload, Instant::now());
                if number % 50 == 49 {
                    meter.restart();
                }
                let counts = meter.read().counts;
                prop_assert!(counts.received >= last.received);
                prop_assert!(counts.lost >= last.lost);
                last = counts;
            }
        }
    }

    #[test]
    fn one_in_a_hundred_lost_reads_one_percent() {
        for layout in LAYOUTS {
            let sent = (1..=100_000_u32).filter(|sequence| sequence % 100 != 50);
            let quality = measured(layout, sent.map(|sequence| (0xabcd, sequence)));
            assert_eq!(quality.counts.lost + quality.missing, 1_000);
            assert!((quality.loss() - 0.01).abs() < 0.000_1, "{quality:?}");
            assert_eq!(quality.settled().counts.received, 99_000);
        }
    }

    #[test]
    fn swapped_neighbours_are_reordered_and_not_lost() {
        let swapped = (1..=1_000_u32).map(|sequence| match sequence % 10 {
            4 => sequence + 1,
            5 => sequence - 1,
            _ => sequence,
        });
        let quality = measured(Layout::Bare, swapped.map(|sequence| (9, sequence)));
        let expected = SequenceCounts {
            received: 1_000,
            reordered: 100,
            ..SequenceCounts::default()
        };
        assert_eq!(quality.settled().counts, expected);
    }

    #[test]
    fn what_comes_after_its_window_is_late_and_stays_lost() {
        let sequences = (1..=300_u32).filter(|sequence| *sequence != 100);
        let sequences = sequences.chain([100, 173, 172]);
        let quality = measured(Layout::Bare, sequences.map(|sequence| (9, sequence)));
        let expected = SequenceCounts {
            received: 299,
            lost: 1,
            duplicated: 1,
            late: 2,
            ..SequenceCounts::default()
        };
        assert_eq!((quality.counts, quality.missing), (expected, 0));
    }

    #[test]
    fn new_keys_begin_a_new_stream_and_stragglers_of_the_old_are_counted() {
        for layout in LAYOUTS {
            let old = (1..=50_u32)
                .filter(|sequence| ![20, 48, 49].contains(sequence))
                .map(|sequence| (700, sequence));
            let mingled = [(701, 1), (700, 49), (701, 2), (700, 51), (701, 4)];
            let new = (5..=60).map(|sequence| (701, sequence));
            let newer = (1..=10).map(|sequence| (9_000, sequence));
            let arrivals = old.chain(mingled).chain(new).chain(newer);
            let quality = measured(layout, arrivals).settled();
            let expected = SequenceCounts {
                received: 49 + 59 + 10,
                lost: 2 + 1,
                reordered: 1,
                ..SequenceCounts::default()
            };
            assert_eq!((quality.layout, quality.counts), (Some(layout), expected));
        }
    }

    #[test]
    fn a_step_too_long_to_be_a_gap_is_no_loss_unless_the_sender_stays_there() {
        let far = 5_000_000;
        let stray = (1..=100_u32).chain([far]).chain(101..=200);
        let quality = measured(Layout::Bare, stray.map(|sequence| (9, sequence)));
        assert_eq!((quality.counts.received, quality.counts.late), (200, 1));
        assert_eq!(quality.settled().counts.lost, 0);

        let moved = (1..=100_u32).chain(far..far + 100);
        let quality = measured(Layout::Bare, moved.map(|sequence| (9, sequence)));
        assert_eq!((quality.counts.received, quality.counts.late), (169, 31));
        assert_eq!(quality.settled().counts.lost, 0);
    }

    #[test]
    fn an_outage_is_counted_in_full() {
        let sequences = (1..=100_u32).chain(400_000..400_100);
        let quality = measured(
            Layout::WithTransportHeader,
            sequences.map(|sequence| (9, sequence)),
        );
        assert_eq!(quality.settled().counts.lost, 399_899);
    }

    #[test]
    fn no_reading_is_taken_before_it_has_proven_itself() {
        let same = measured(Layout::Bare, [(9, 1); 50]);
        assert_eq!(same, Quality::default());
        let few = measured(Layout::Bare, (1..=4).map(|sequence| (9, sequence)));
        assert_eq!(few, Quality::default());
        let enough = measured(Layout::Bare, (1..=5).map(|sequence| (9, sequence)));
        assert_eq!(enough.layout, Some(Layout::Bare));
        assert_eq!(enough.counts.received, 5);
    }

    #[test]
    fn a_restart_keeps_totals_and_takes_the_other_layout() {
        let mut meter = Meter::default();
        let now = Instant::now();
        for sequence in (1..=100).filter(|sequence| *sequence != 99) {
            meter.record(&packet(Layout::Bare, 9, sequence), now);
        }
        meter.restart();
        for sequence in 1..=10 {
            meter.record(&packet(Layout::WithTransportHeader, 9, sequence), now);
        }
        let quality = meter.read();
        assert_eq!(quality.layout, Some(Layout::WithTransportHeader));
        let expected = SequenceCounts {
            received: 109,
            lost: 1,
            ..SequenceCounts::default()
        };
        assert_eq!(quality.counts, expected);
    }

    #[test]
    fn jitter_is_the_unevenness_of_arrival_alone() {
        let millis = Duration::from_millis;
        let run = |gap: &dyn Fn(u32) -> Duration, lost: &dyn Fn(u32) -> bool| {
            let mut meter = Meter::default();
            let mut now = Instant::now();
            for sequence in 1..=1_000 {
                now += gap(sequence);
                if !lost(sequence) {
                    meter.record(&packet(Layout::Bare, 9, sequence), now);
                }
            }
            meter.read().jitter.expect("measured")
        };
        let even = |_| millis(10);
        assert_eq!(run(&even, &|_| false), Duration::ZERO);
        assert_eq!(run(&even, &|sequence| sequence % 7 == 0), Duration::ZERO);
        // Gaps of 5 and 15 ms in turn differ by 10 ms each time.
        let uneven = |sequence: u32| millis(if sequence.is_multiple_of(2) { 5 } else { 15 });
        let jitter = run(&uneven, &|_| false);
        assert!(
            jitter.abs_diff(millis(10)) < Duration::from_micros(1),
            "{jitter:?}"
        );
    }

    #[test]
    fn a_meter_is_small() {
        // Two a session, which is to stay within a few kilobytes with everything else.
        assert!(size_of::<Meter>() <= 512, "{}", size_of::<Meter>());
    }
}
