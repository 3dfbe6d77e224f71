//! What a generated datagram carries: whose it is, which of its flow, and when it left.

/// Bytes a datagram must have for the stamp.
pub const STAMP_BYTES: usize = 20;

/// The first bytes of a datagram. They read as the ESP header of the session's association and direction, so that a relay that
/// follows sequence numbers has them to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Session and direction.
    pub(super) flow: u32,
    /// Rising by one a datagram of the flow.
    pub(super) sequence: u32,
    /// Nanoseconds since the generator started.
    pub(super) left: u64,
}

/// Tells a stamp from other bytes.
const MARK: u32 = 0x504f_5254;

impl Stamp {
    /// Writes the stamp over the start of a datagram of at least [`STAMP_BYTES`].
    pub(super) fn write(self, datagram: &mut [u8]) {
        let [f0, f1, f2, f3] = self.flow.to_be_bytes();
        let [s0, s1, s2, s3] = self.sequence.to_be_bytes();
        let [l0, l1, l2, l3, l4, l5, l6, l7] = self.left.to_be_bytes();
        let [m0, m1, m2, m3] = MARK.to_be_bytes();
        let bytes: [u8; STAMP_BYTES] = [
            f0, f1, f2, f3, s0, s1, s2, s3, l0, l1, l2, l3, l4, l5, l6, l7, m0, m1, m2, m3,
        ];
        if let Some(start) = datagram.first_chunk_mut() {
            *start = bytes;
        }
    }

    /// Reads a stamp; `None` when these are other bytes.
    pub(super) fn read(datagram: &[u8]) -> Option<Self> {
        let (flow, rest) = datagram.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (left, rest) = rest.split_first_chunk()?;
        let (mark, _) = rest.split_first_chunk()?;
        (u32::from_be_bytes(*mark) == MARK).then_some(Self {
            flow: u32::from_be_bytes(*flow),
            sequence: u32::from_be_bytes(*sequence),
            left: u64::from_be_bytes(*left),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_written_and_other_bytes_are_none() {
        let stamp = Stamp {
            flow: 7,
            sequence: u32::MAX,
            left: 123_456_789,
        };
        let mut datagram = [0xaa; 64];
        stamp.write(&mut datagram);
        assert_eq!(Stamp::read(&datagram), Some(stamp));
        assert_eq!(datagram.get(STAMP_BYTES), Some(&0xaa));
        assert_eq!(Stamp::read(&[0xaa; 64]), None);
        assert_eq!(Stamp::read(datagram.get(..STAMP_BYTES - 1).unwrap()), None);
    }
}
