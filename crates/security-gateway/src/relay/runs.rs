//! Putting datagrams that follow each other on one way together, so that the kernel can take them as one.

use std::net::{IpAddr, SocketAddr};

use super::sys::{MAX_RUN_BYTES, MAX_SEGMENTS, Piece, Run};
use crate::core::SessionKey;

/// The way of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// Whose it is.
    pub(super) session: SessionKey,
    /// Where it goes.
    pub(super) to: SocketAddr,
    /// The local address it leaves from; the route's when `None`.
    pub(super) local: Option<IpAddr>,
    /// Traffic class: DSCP and ECN.
    pub(super) tos: u8,
}

/// The sendings of one batch, in order.
#[derive(Debug)]
pub(super) struct Runs {
    /// One for each of `runs`.
    sessions: Vec<SessionKey>,
    runs: Vec<Run>,
    pieces: Vec<Piece>,
    /// The way of the last run, and what it has room for, unless nothing can be added to it.
    open: Option<Open>,
    connected: bool,
    together: bool,
}

#[derive(Debug)]
struct Open {
    way: Way,
    bytes: usize,
}

impl Runs {
    /// Room for as many datagrams before memory has to be found. With `together` false each is a run of its own.
    pub(super) fn new(room: usize, connected: bool, together: bool) -> Self {
        Self {
            sessions: Vec::with_capacity(room),
            runs: Vec::with_capacity(room),
            pieces: Vec::with_capacity(room),
            open: None,
            connected,
            together,
        }
    }

    pub(super) fn clear(&mut self) {
        self.sessions.clear();
        self.runs.clear();
        self.pieces.clear();
        self.open = None;
    }

    /// Makes each datagram a run of its own from now on.
    pub(super) fn keep_apart(&mut self) {
        self.together = false;
        self.open = None;
    }

    /// Adds a datagram: that part of the buffer.
    pub(super) fn add(&mut self, way: Way, piece: Piece) {
        if self.extend(&way, piece) {
            return;
        }
        // Longer than any datagram there is: it would be refused anyway, and is not split.
        let segment = u16::try_from(piece.length).ok();
        self.open = (segment.is_some() && self.together).then_some(Open {
            way,
            bytes: piece.length,
        });
        self.sessions.push(way.session);
        self.pieces.push(piece);
        self.runs.push(Run {
            to: (!self.connected).then_some(way.to),
            ipv4: way.to.is_ipv4(),
            local: way.local,
            tos: way.tos,
            segment: segment.unwrap_or(u16::MAX),
            segments: 1,
            pieces: 1,
        });
    }

    fn extend(&mut self, way: &Way, piece: Piece) -> bool {
        let (Some(open), Some(run), Some(last)) =
            (&mut self.open, self.runs.last_mut(), self.pieces.last_mut())
        else {
            return false;
        };
        let segment = usize::from(run.segment);
        let fits = open.way == *way
            && (1..=segment).contains(&piece.length)
            && run.segments < MAX_SEGMENTS
            && open.bytes + piece.length <= MAX_RUN_BYTES;
        if !fits {
            return false;
        }
        run.segments += 1;
        open.bytes += piece.length;
        if last.start + last.length == piece.start {
            last.length += piece.length;
        } else {
            self.pieces.push(piece);
            run.pieces += 1;
        }
        if piece.length < segment {
            self.open = None;
        }
        true
    }

    /// The runs, in order.
    pub(super) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The sessions of the runs.
    pub(super) fn sessions(&self) -> &[SessionKey] {
        &self.sessions
    }

    /// The pieces of all runs.
    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }
}

/// The datagrams of a run, each as its one piece.
pub(super) fn taken_apart<'a>(run: &Run, pieces: &'a [Piece]) -> impl Iterator<Item = Piece> + 'a {
    let segment = usize::from(run.segment).max(1);
    pieces.iter().take(run.pieces).flat_map(move |piece| {
        let end = piece.start + piece.length;
        (piece.start..end).step_by(segment).map(move |start| Piece {
            start,
            length: segment.min(end - start),
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn way(number: u8) -> Way {
        Way {
            session: SessionKey::from_raw(number.into()),
            to: SocketAddr::from(([192, 0, 2, number], 4172)),
            local: None,
            tos: 0,
        }
    }

    fn add_all(runs: &mut Runs, datagrams: &[(u8, usize, bool)]) -> Vec<(u8, Piece)> {
        let mut start = 0;
        let mut added = Vec::new();
        for (number, length, gap) in datagrams {
            start += usize::from(*gap);
            let piece = Piece {
                start,
                length: *length,
            };
            start += length;
            runs.add(way(*number), piece);
            added.push((*number, piece));
        }
        added
    }

    /// What would leave, datagram by datagram.
    fn leaving(runs: &Runs) -> Vec<(u8, Piece)> {
        let mut pieces = runs.pieces();
        let mut leaving = Vec::new();
        for run in runs.runs() {
            let Some(SocketAddr::V4(to)) = run.to else {
                panic!("not where it was to go");
            };
            let own = taken_apart(run, pieces).map(|piece| (to.ip().octets()[3], piece));
            leaving.extend(own);
            pieces = &pieces[run.pieces..];
        }
        assert!(pieces.is_empty());
        leaving
    }

    #[test]
    fn equal_datagrams_of_one_way_go_together_and_a_shorter_one_ends_them() {
        let mut runs = Runs::new(8, false, true);
        let datagrams = [
            (1, 1200, false),
            (1, 1200, false),
            (1, 700, true),
            (1, 700, false),
            (2, 700, false),
            (2, 900, false),
        ];
        add_all(&mut runs, &datagrams);
        let shape: Vec<_> = runs
            .runs()
            .iter()
            .map(|run| (run.segment, run.segments, run.pieces))
            .collect();
        assert_eq!(shape, [(1200, 3, 2), (700, 1, 1), (700, 1, 1), (900, 1, 1)]);
    }

    #[test]
    fn another_class_or_local_address_is_another_way() {
        let mut runs = Runs::new(8, false, true);
        let local = Some(IpAddr::from([192, 0, 2, 1]));
        let ways = [way(1), Way { tos: 8, ..way(1) }, Way { local, ..way(1) }];
        for (index, way) in ways.into_iter().enumerate() {
            let start = index * 100;
            runs.add(way, Piece { start, length: 100 });
        }
        assert_eq!(runs.runs().len(), 3);
    }

    proptest! {
        #[test]
        fn every_datagram_leaves_whole_in_order_and_within_bounds(
            datagrams in prop::collection::vec((1_u8..4, prop::sample::select(vec![12, 100, 1200, 1472]), any::<bool>()), 0..200),
            together in any::<bool>(),
        ) {
            let mut runs = Runs::new(8, false, together);
            let added = add_all(&mut runs, &datagrams);
            prop_assert_eq!(leaving(&runs), added);
            prop_assert_eq!(runs.sessions().len(), runs.runs().len());
            for run in runs.runs() {
                prop_assert!(run.segments <= MAX_SEGMENTS);
                prop_assert!(run.segments * usize::from(run.segment) <= MAX_RUN_BYTES + usize::from(run.segment));
                prop_assert!(together || run.segments == 1);
            }
        }
    }
}
