//! The name of a lease, which is also the right to renew it and to give it back.

use std::fmt;

/// 128 random bits naming one lease. Whoever knows them can end the lease, so [`fmt::Debug`] and logs show a prefix only.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId([u8; Self::BYTES]);

impl LeaseId {
    /// Length in bytes; beyond guessing within any lease's life.
    pub const BYTES: usize = 16;
    /// Length of the text form in characters.
    const DIGITS: usize = Self::BYTES * 2;

    /// Wraps bytes that must come from the operating system's random source.
    #[must_use]
    pub const fn from_random(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// A fresh id from the operating system's random source.
    ///
    /// # Errors
    /// When that source fails.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; Self::BYTES];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// Reads the text form: 32 lower-case hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != Self::DIGITS {
            return None;
        }
        let mut bytes = [0; Self::BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            for &digit in pair {
                let value = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return None,
                };
                *byte = (*byte << 4) | value;
            }
        }
        Some(Self(bytes))
    }

    /// The text form in full, for the holder alone.
    #[must_use]
    pub fn expose(&self) -> String {
        hexadecimal(&self.0)
    }

    /// Eight digits that tell leases apart in logs without giving the right away.
    #[must_use]
    pub fn tag(&self) -> String {
        hexadecimal(&self.0[..4])
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseId({}..)", self.tag())
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    use fmt::Write as _;

    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_form_reads_back(bytes: [u8; LeaseId::BYTES]) {
            let id = LeaseId::from_random(bytes);
            prop_assert_eq!(id.expose().len(), LeaseId::DIGITS);
            prop_assert_eq!(LeaseId::parse(&id.expose()), Some(id));
        }

        #[test]
        fn anything_else_is_no_id(text in "\\PC{0,40}") {
            prop_assume!(text.len() != LeaseId::DIGITS || text.bytes().any(|b| !matches!(b, b'0'..=b'9' | b'a'..=b'f')));
            prop_assert_eq!(LeaseId::parse(&text), None);
        }
    }

    #[test]
    fn debug_shows_a_prefix_only() {
        let id = LeaseId::from_random([0xab; LeaseId::BYTES]);
        assert_eq!(format!("{id:?}"), "LeaseId(abababab..)");
    }
}
