//! Making packets.

use portcullis_protocol::esp::Layout;
use ring::aead::{Aad, LessSafeKey};
use thiserror::Error;

use super::{
    ALIGNMENT, HEADER_BYTES, IV_BYTES, NEXT_HEADER, Spi, TAG_BYTES, TRAILER_BYTES,
    TRANSPORT_HEADER, key, nonce,
};
use crate::signalling::keys::DirectionKey;

/// Seals the packets of one direction.
pub struct Sealer {
    key: LessSafeKey,
    salt: [u8; 4],
    spi: Spi,
    layout: Layout,
    sent: u32,
}

/// Why a packet was not made.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SealError {
    /// All sequence numbers are used; the keys must not be used any longer (RFC 4303 section 3.3.3).
    #[error("all sequence numbers of this direction are used")]
    Exhausted,
    /// The cipher refused the length.
    #[error("the payload is too long for the cipher")]
    TooLong,
}

impl Sealer {
    /// A sealer for packets to the receiver that chose `spi`.
    #[must_use]
    pub fn new(material: &DirectionKey, spi: Spi, layout: Layout) -> Self {
        Self {
            key: key(material),
            salt: material.salt(),
            spi,
            layout,
            sent: 0,
        }
    }

    /// Replaces the content of `out` with the next packet.
    ///
    /// # Errors
    /// See [`SealError`]; `out` then holds nothing of use.
    pub fn seal(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        let sequence = self.sent.checked_add(1).ok_or(SealError::Exhausted)?;
        let iv = u64::from(sequence).to_be_bytes();
        let mut header = [0; HEADER_BYTES];
        let (front, back) = header.split_at_mut(4);
        front.copy_from_slice(&self.spi.get().to_be_bytes());
        back.copy_from_slice(&sequence.to_be_bytes());

        out.clear();
        match self.layout {
            Layout::WithTransportHeader => out.extend_from_slice(&TRANSPORT_HEADER),
            Layout::Bare => {}
        }
        out.extend_from_slice(&header);
        out.extend_from_slice(&iv);
        let start = out.len();
        out.extend_from_slice(payload);
        pad(out, payload.len());
        let text = out.get_mut(start..).unwrap_or_default();
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(self.salt, iv), Aad::from(header), text)
            .map_err(|_| SealError::TooLong)?;
        out.extend_from_slice(tag.as_ref());
        self.sent = sequence;
        Ok(())
    }

    /// Packets sealed so far, which is also the last sequence number used.
    #[must_use]
    pub fn sent(&self) -> u32 {
        self.sent
    }

    #[cfg(test)]
    pub(super) fn skip_to(&mut self, sent: u32) {
        self.sent = sent;
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer")
            .field("spi", &self.spi)
            .field("sent", &self.sent)
            .finish_non_exhaustive()
    }
}

fn pad(out: &mut Vec<u8>, payload: usize) {
    let padding = (ALIGNMENT - (payload + TRAILER_BYTES) % ALIGNMENT) % ALIGNMENT;
    let mut count = 0;
    for value in (1_u8..).take(padding) {
        out.push(value);
        count = value;
    }
    out.push(count);
    out.push(NEXT_HEADER);
}

const _: () = assert!(HEADER_BYTES + IV_BYTES + TAG_BYTES == 32);
