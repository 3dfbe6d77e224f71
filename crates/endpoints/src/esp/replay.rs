//! Which sequence numbers were seen (RFC 4303 section 3.4.3; a ring of words as in RFC 6479).

/// How many sequence numbers behind the highest are still accepted.
pub const WINDOW: u32 = 1024;

const BITS: u32 = u64::BITS;
/// One word more than the window, so that advancing never clears a bit that is still inside it.
const WORDS: usize = 17;

/// The receiver's memory of sequence numbers.
///
/// Ask [`ReplayWindow::check`] before decrypting, tell [`ReplayWindow::commit`] once the packet proved authentic.
#[derive(Clone, Debug, Default)]
pub struct ReplayWindow {
    highest: u32,
    words: [u64; WORDS],
}

/// How a sequence number stands to those seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Higher than any before.
    Ahead,
    /// Lower than the highest, but not seen yet.
    Late,
    /// Seen before.
    Duplicate,
    /// Too far behind to know, or zero, which no sender uses.
    TooOld,
}

impl ReplayWindow {
    /// Judges a sequence number without remembering it.
    #[must_use]
    pub fn check(&self, sequence: u32) -> Arrival {
        if sequence > self.highest {
            return Arrival::Ahead;
        }
        if sequence == 0 || self.highest - sequence >= WINDOW {
            return Arrival::TooOld;
        }
        let (word, bit) = place(sequence);
        match self.words.get(word) {
            Some(word) if word & bit == 0 => Arrival::Late,
            Some(_) | None => Arrival::Duplicate,
        }
    }

    /// Remembers a sequence number; those too old to matter are ignored.
    pub fn commit(&mut self, sequence: u32) {
        if self.check(sequence) == Arrival::TooOld {
            return;
        }
        if sequence > self.highest {
            let from = self.highest / BITS;
            let to = sequence / BITS;
            for block in (from + 1..=to).take(WORDS) {
                if let Some(word) = self.words.get_mut(block as usize % WORDS) {
                    *word = 0;
                }
            }
            self.highest = sequence;
        }
        let (word, bit) = place(sequence);
        if let Some(word) = self.words.get_mut(word) {
            *word |= bit;
        }
    }

    /// The highest sequence number remembered, zero before the first.
    #[must_use]
    pub fn highest(&self) -> u32 {
        self.highest
    }
}

fn place(sequence: u32) -> (usize, u64) {
    ((sequence / BITS) as usize % WORDS, 1 << (sequence % BITS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn zero_is_never_accepted() {
        let mut window = ReplayWindow::default();
        assert_eq!(window.check(0), Arrival::TooOld);
        window.commit(0);
        assert_eq!(window.highest(), 0);
    }

    #[test]
    fn the_edge_of_the_window_is_1024_behind() {
        let mut window = ReplayWindow::default();
        window.commit(5000);
        assert_eq!(window.check(5000 - 1023), Arrival::Late);
        assert_eq!(window.check(5000 - 1024), Arrival::TooOld);
    }

    #[test]
    fn the_last_number_is_reachable() {
        let mut window = ReplayWindow::default();
        window.commit(u32::MAX - 1);
        assert_eq!(window.check(u32::MAX), Arrival::Ahead);
        window.commit(u32::MAX);
        assert_eq!(window.check(u32::MAX), Arrival::Duplicate);
        assert_eq!(window.check(u32::MAX - 2), Arrival::Late);
        assert_eq!(window.check(1), Arrival::TooOld);
    }

    proptest! {
        /// The ring of words agrees with a plain set of everything ever seen.
        #[test]
        fn agrees_with_a_plain_set(steps in proptest::collection::vec((0_u32..4, 0_u32..1500), 1..400)) {
            let mut window = ReplayWindow::default();
            let mut seen = BTreeSet::new();
            let mut highest = 0_u32;
            for (kind, by) in steps {
                let sequence = if kind == 0 {
                    highest.saturating_sub(by)
                } else {
                    highest + by / (kind * kind)
                };
                let expected = if sequence == 0 || highest >= sequence + WINDOW {
                    Arrival::TooOld
                } else if seen.contains(&sequence) {
                    Arrival::Duplicate
                } else if sequence > highest {
                    Arrival::Ahead
                } else {
                    Arrival::Late
                };
                prop_assert_eq!(window.check(sequence), expected);
                window.commit(sequence);
                if expected != Arrival::TooOld {
                    seen.insert(sequence);
                    highest = highest.max(sequence);
                }
                prop_assert_eq!(window.highest(), highest);
            }
        }
    }
}
