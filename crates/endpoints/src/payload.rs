//! What ESP packets carry between our own two ends.
//!
//! The vendor's payloads are encrypted and not public; these stand in for them: the client speaks first with an invite,
//! the agent streams display data, the client sends input. One type octet, then fields in big-endian order, then filler
//! that brings a packet to the size of real ones. Times are microseconds on the sender's own clock; a receiver only ever
//! sends them back, so the two clocks need not agree.

use thiserror::Error;

/// One payload, filler not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Client: the first packet of the flow, repeated until answered.
    Invite {
        /// The client's time of sending.
        stamp: u64,
    },
    /// Agent: answers an invite.
    InviteAnswer {
        /// The invite's stamp.
        stamp: u64,
    },
    /// Agent: a piece of a frame.
    Display {
        /// The agent's time of sending.
        stamp: u64,
        /// Which frame.
        frame: u32,
        /// Whether this is the frame's last piece.
        last: bool,
    },
    /// Client: an input event.
    Input {
        /// The client's time of sending.
        stamp: u64,
        /// Which event.
        event: u32,
    },
    /// Client: asks for a [`Payload::Pong`].
    Ping {
        /// The client's time of sending.
        stamp: u64,
    },
    /// Agent: answers a ping.
    Pong {
        /// The ping's stamp.
        stamp: u64,
    },
    /// Either: nothing else was sent for a second.
    Keepalive,
}

/// Octets that are not a payload.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the payload has an unknown type or is too short for it")]
pub struct InvalidPayload;

/// Octets of the longest payload without filler.
pub const MAX_BARE_BYTES: usize = 14;

impl Payload {
    /// Reads a payload; what follows its fields is filler.
    ///
    /// # Errors
    /// See [`InvalidPayload`].
    pub fn parse(octets: &[u8]) -> Result<Self, InvalidPayload> {
        let (kind, rest) = octets.split_first().ok_or(InvalidPayload)?;
        let mut fields = Fields(rest);
        Ok(match kind {
            1 => Self::Invite {
                stamp: fields.u64()?,
            },
            2 => Self::InviteAnswer {
                stamp: fields.u64()?,
            },
            3 => Self::Display {
                stamp: fields.u64()?,
                frame: fields.u32()?,
                last: fields.flag()?,
            },
            4 => Self::Input {
                stamp: fields.u64()?,
                event: fields.u32()?,
            },
            5 => Self::Ping {
                stamp: fields.u64()?,
            },
            6 => Self::Pong {
                stamp: fields.u64()?,
            },
            7 => Self::Keepalive,
            _ => return Err(InvalidPayload),
        })
    }

    /// Replaces the content of `out` with this payload, filled up with zeros to `bytes`.
    pub fn write(self, bytes: usize, out: &mut Vec<u8>) {
        out.clear();
        match self {
            Self::Invite { stamp } => {
                out.push(1);
                out.extend_from_slice(&stamp.to_be_bytes());
            }
            Self::InviteAnswer { stamp } => {
                out.push(2);
                out.extend_from_slice(&stamp.to_be_bytes());
            }
            Self::Display { stamp, frame, last } => {
                out.push(3);
                out.extend_from_slice(&stamp.to_be_bytes());
                out.extend_from_slice(&frame.to_be_bytes());
                out.push(last.into());
            }
            Self::Input { stamp, event } => {
                out.push(4);
                out.extend_from_slice(&stamp.to_be_bytes());
                out.extend_from_slice(&event.to_be_bytes());
            }
            Self::Ping { stamp } => {
                out.push(5);
                out.extend_from_slice(&stamp.to_be_bytes());
            }
            Self::Pong { stamp } => {
                out.push(6);
                out.extend_from_slice(&stamp.to_be_bytes());
            }
            Self::Keepalive => out.push(7),
        }
        out.resize(bytes.max(out.len()), 0);
    }
}

/// Reads fields off the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], InvalidPayload> {
        let (field, rest) = self.0.split_first_chunk().ok_or(InvalidPayload)?;
        self.0 = rest;
        Ok(*field)
    }

    fn u64(&mut self) -> Result<u64, InvalidPayload> {
        self.take().map(u64::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, InvalidPayload> {
        self.take().map(u32::from_be_bytes)
    }

    fn flag(&mut self) -> Result<bool, InvalidPayload> {
        match self.take()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [_] => Err(InvalidPayload),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payloads() -> impl Strategy<Value = Payload> {
        (0_u8..7, any::<u64>(), any::<u32>(), any::<bool>()).prop_map(
            |(kind, stamp, number, last)| match kind {
                0 => Payload::Invite { stamp },
                1 => Payload::InviteAnswer { stamp },
                2 => Payload::Display {
                    stamp,
                    frame: number,
                    last,
                },
                3 => Payload::Input {
                    stamp,
                    event: number,
                },
                4 => Payload::Ping { stamp },
                5 => Payload::Pong { stamp },
                _ => Payload::Keepalive,
            },
        )
    }

    #[test]
    fn unknown_types_and_short_fields_are_refused() {
        for octets in [&[][..], &[0], &[8], &[1, 2, 3], &[3; 13]] {
            assert_eq!(Payload::parse(octets), Err(InvalidPayload), "{octets:?}");
        }
    }

    proptest! {
        #[test]
        fn every_payload_survives_with_any_filler(payload in payloads(), bytes in 0_usize..1200) {
            let mut out = Vec::new();
            payload.write(bytes, &mut out);
            prop_assert!(out.len() == bytes || (bytes < out.len() && out.len() <= MAX_BARE_BYTES));
            prop_assert_eq!(Payload::parse(&out), Ok(payload));
        }

        #[test]
        fn no_octets_make_the_reader_panic(octets in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Payload::parse(&octets);
        }
    }
}
