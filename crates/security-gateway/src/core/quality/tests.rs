//! The meter against links that lose, delay and double.

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
