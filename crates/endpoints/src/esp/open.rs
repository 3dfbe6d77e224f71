//! Reading packets.

use portcullis_protocol::esp::{self as wire, Layout};
use ring::aead::{Aad, LessSafeKey};
use thiserror::Error;

use super::{
    ALIGNMENT, Arrival, HEADER_BYTES, IV_BYTES, NEXT_HEADER, ReplayWindow, Spi, TAG_BYTES, key,
    nonce, transport_header_bytes,
};
use crate::{
    payload::Payload,
    signalling::{
        Cipher,
        keys::{DirectionKey, SessionKeys},
    },
};

/// Opens the packets of one direction.
pub struct Opener {
    key: LessSafeKey,
    salt: [u8; 4],
    spi: Spi,
    layout: Layout,
    window: ReplayWindow,
}

/// A packet that proved authentic.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened<'a> {
    /// Its sequence number.
    pub sequence: u32,
    /// Whether a higher sequence number came before it.
    pub late: bool,
    /// What it carries.
    pub payload: &'a [u8],
}

/// Why a packet was dropped. Nobody is told over the network.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// Too short, or not a whole number of words.
    #[error("the packet is too short or of an odd length")]
    Malformed,
    /// Meant for another receiver, or nobody.
    #[error("the packet carries another security parameters index")]
    UnknownSpi,
    /// Seen before.
    #[error("the packet is a duplicate")]
    Duplicate,
    /// Too far behind the newest to tell whether it was seen before.
    #[error("the packet is too old")]
    TooOld,
    /// Not sealed with our key, or changed on the way.
    #[error("the packet is not authentic")]
    NotAuthentic,
    /// Authentic, but its trailer or padding is wrong.
    #[error("the packet's padding is wrong")]
    Trailer,
}

impl Opener {
    /// An opener for packets to us, who chose `spi`.
    #[must_use]
    pub fn new(material: &DirectionKey, spi: Spi, layout: Layout) -> Self {
        Self {
            key: key(material),
            salt: material.salt(),
            spi,
            layout,
            window: ReplayWindow::default(),
        }
    }

    /// Checks and decrypts a UDP payload in place. Only an authentic packet changes the replay window.
    ///
    /// # Errors
    /// See [`OpenError`]; `datagram` then holds nothing of use.
    pub fn open<'a>(&mut self, datagram: &'a mut [u8]) -> Result<Opened<'a>, OpenError> {
        let header = wire::header(datagram, self.layout).ok_or(OpenError::Malformed)?;
        if header.spi != self.spi.get() {
            return Err(OpenError::UnknownSpi);
        }
        let arrival = self.window.check(header.sequence);
        match arrival {
            Arrival::Ahead | Arrival::Late => {}
            Arrival::Duplicate => return Err(OpenError::Duplicate),
            Arrival::TooOld => return Err(OpenError::TooOld),
        }
        let (_, packet) = datagram
            .split_at_mut_checked(transport_header_bytes(self.layout))
            .ok_or(OpenError::Malformed)?;
        let (clear, rest) = packet
            .split_first_chunk_mut::<HEADER_BYTES>()
            .ok_or(OpenError::Malformed)?;
        let (iv, sealed) = rest
            .split_first_chunk_mut::<IV_BYTES>()
            .ok_or(OpenError::Malformed)?;
        if sealed.len() < TAG_BYTES + ALIGNMENT || !sealed.len().is_multiple_of(ALIGNMENT) {
            return Err(OpenError::Malformed);
        }
        let text = self
            .key
            .open_in_place(nonce(self.salt, *iv), Aad::from(*clear), sealed)
            .map_err(|_| OpenError::NotAuthentic)?;
        self.window.commit(header.sequence);
        Ok(Opened {
            sequence: header.sequence,
            late: arrival == Arrival::Late,
            payload: unpad(text).ok_or(OpenError::Trailer)?,
        })
    }

    /// The highest sequence number seen: at least so many packets were sent.
    #[must_use]
    pub fn highest(&self) -> u32 {
        self.window.highest()
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener")
            .field("spi", &self.spi)
            .field("highest", &self.window.highest())
            .finish_non_exhaustive()
    }
}

fn unpad(text: &[u8]) -> Option<&[u8]> {
    let (padded, [count, next_header]) = text.split_last_chunk::<2>()?;
    let payload = padded.len().checked_sub(usize::from(*count))?;
    let (payload, padding) = padded.split_at_checked(payload)?;
    let honest = padding.iter().copied().eq(1..=*count);
    (*next_header == NEXT_HEADER && honest).then_some(payload)
}

/// Fuzz entry: no datagram may make the opener or the payload reader panic. The first byte chooses layout and cipher; an
/// odd second byte has the rest sealed first, so that the fuzzer gets past the authentication.
pub fn fuzz_esp(data: &[u8]) {
    let Some(([choice, seal], data)) = data.split_first_chunk::<2>() else {
        return;
    };
    let layout = if choice & 1 == 0 {
        Layout::WithTransportHeader
    } else {
        Layout::Bare
    };
    let cipher = if choice & 2 == 0 {
        Cipher::Aes128Gcm
    } else {
        Cipher::Aes256Gcm
    };
    let spi = Spi::from_random(0x2000);
    let keys = SessionKeys::danger_fixed(cipher, 7);
    let mut opener = Opener::new(&keys.to_agent, spi, layout);
    let mut datagram = data.to_vec();
    if seal & 1 == 1 {
        let mut sealer = super::Sealer::new(&keys.to_agent, spi, layout);
        let sealed = sealer.seal(data, &mut datagram);
        assert_eq!(sealed, Ok(()), "a short payload was not sealed");
    }
    let opened = opener.open(&mut datagram);
    if seal & 1 == 1 {
        assert_eq!(
            opened.as_ref().map(|opened| opened.payload),
            Ok(data),
            "a sealed payload was not opened"
        );
    }
    if let Ok(opened) = opened {
        let _ = Payload::parse(opened.payload);
    }
}
