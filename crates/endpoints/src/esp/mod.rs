//! ESP in UDP as PCoIP uses it: AES-GCM after RFC 4106, an anti-replay window after RFC 4303.
//!
//! One packet, all numbers big-endian:
//!
//! ```text
//! [transport header, 4, optional][SPI, 4][sequence, 4][IV, 8][ciphertext][tag, 16]
//! ```
//!
//! The SPI is the receiver's choice and differs per direction. The sequence number starts at 1 and rises by one a packet.
//! The nonce is the direction's 4-byte salt followed by the IV, which repeats the sequence number, so that no nonce is
//! used twice under one key. SPI and sequence number are authenticated, the transport header is not. The plain text ends
//! with the padding, pad length and next header of RFC 4303; the next header is 253, "for experiments" (RFC 3692),
//! because what the vendor's ends carry inside is not public.

mod open;
mod replay;
mod seal;

use std::num::NonZeroU32;

use portcullis_protocol::esp::{Layout, TRANSPORT_HEADER_BYTES};

pub use open::{OpenError, Opened, Opener, fuzz_esp};
pub use replay::{Arrival, ReplayWindow, WINDOW};
pub use seal::{SealError, Sealer};

/// Bytes of SPI and sequence number, which are also the additional authenticated data.
const HEADER_BYTES: usize = 8;
const IV_BYTES: usize = 8;
const TAG_BYTES: usize = 16;
/// Pad length and next header.
const TRAILER_BYTES: usize = 2;
/// The plain text with its trailer fills a multiple of four bytes (RFC 4303 section 2.4).
const ALIGNMENT: usize = 4;
/// "Use for experimentation and testing" (RFC 3692).
const NEXT_HEADER: u8 = 253;

/// What our ends write into the transport header, whose bit layout is not public. Receivers ignore it, gateways forward it.
pub const TRANSPORT_HEADER: [u8; TRANSPORT_HEADER_BYTES] = [0x01, 0, 0, 0];

/// A security parameters index above 255, since lower ones are reserved (RFC 4303 section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Spi(NonZeroU32);

impl Spi {
    /// Takes a number; `None` when it is reserved.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) if number.get() > 255 => Some(Self(number)),
            Some(_) | None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// Makes an SPI of random bits; those that are reserved are moved out of the reserved range.
    #[must_use]
    pub const fn from_random(bits: u32) -> Self {
        match Self::new(bits) {
            Some(spi) => spi,
            None => match Self::new(bits | 0x8000_0000) {
                Some(spi) => spi,
                None => Self(NonZeroU32::MAX),
            },
        }
    }
}

/// The most payload that fits into a UDP payload of `udp_bytes`, zero when nothing does.
#[must_use]
pub const fn payload_room(udp_bytes: usize, layout: Layout) -> usize {
    let overhead = transport_header_bytes(layout) + HEADER_BYTES + IV_BYTES + TAG_BYTES;
    let room = udp_bytes.saturating_sub(overhead);
    (room - room % ALIGNMENT).saturating_sub(TRAILER_BYTES)
}

const fn transport_header_bytes(layout: Layout) -> usize {
    match layout {
        Layout::WithTransportHeader => TRANSPORT_HEADER_BYTES,
        Layout::Bare => 0,
    }
}

fn key(material: &crate::signalling::keys::DirectionKey) -> ring::aead::LessSafeKey {
    use crate::signalling::Cipher;
    let algorithm = match material.cipher() {
        Cipher::Aes128Gcm => &ring::aead::AES_128_GCM,
        Cipher::Aes256Gcm => &ring::aead::AES_256_GCM,
    };
    #[expect(
        clippy::expect_used,
        reason = "the key is cut to the cipher's length by construction"
    )]
    let key = ring::aead::UnboundKey::new(algorithm, material.key())
        .expect("a key of the algorithm's own length");
    ring::aead::LessSafeKey::new(key)
}

fn nonce(salt: [u8; 4], iv: [u8; IV_BYTES]) -> ring::aead::Nonce {
    let mut nonce = [0; ring::aead::NONCE_LEN];
    let (front, back) = nonce.split_at_mut(salt.len());
    front.copy_from_slice(&salt);
    back.copy_from_slice(&iv);
    ring::aead::Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests;
