//! Keys of the UDP flow, taken from the TLS session so that they never travel.
//!
//! Both ends call the TLS exporter (RFC 5705, RFC 8446 section 7.5) with the same label and a context that names the
//! session and both SPIs. Only the two ends of the TLS connection can do so: a gateway that passes TLS through has no
//! keys, and one that terminates TLS would break the flow.

use std::fmt;

use zeroize::Zeroizing;

use super::Cipher;
use crate::esp::Spi;

/// Exporter label.
pub const LABEL: &[u8] = b"EXPORTER-portcullis-esp";

const SALT_BYTES: usize = 4;
const MAX_KEY_BYTES: usize = 32;

/// Which session's keys are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyContext {
    /// The session.
    pub session_id: u64,
    /// SPI of packets to the client.
    pub client_spi: Spi,
    /// SPI of packets to the agent.
    pub agent_spi: Spi,
}

impl KeyContext {
    fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.session_id.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.client_spi.get().to_be_bytes());
        bytes[12..].copy_from_slice(&self.agent_spi.get().to_be_bytes());
        bytes
    }
}

/// Key and salt of one direction. Wiped on drop, never printed.
#[derive(Clone)]
pub struct DirectionKey {
    cipher: Cipher,
    key: Zeroizing<[u8; MAX_KEY_BYTES]>,
    salt: [u8; SALT_BYTES],
}

impl DirectionKey {
    fn from_slice(cipher: Cipher, material: &[u8]) -> Option<Self> {
        let (key, salt) = material.split_at_checked(cipher.key_bytes())?;
        let mut whole = Zeroizing::new([0; MAX_KEY_BYTES]);
        whole.get_mut(..key.len())?.copy_from_slice(key);
        Some(Self {
            cipher,
            key: whole,
            salt: salt.try_into().ok()?,
        })
    }

    /// The cipher the key is for.
    #[must_use]
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    pub(crate) fn key(&self) -> &[u8] {
        let (key, _) = self.key.split_at(self.cipher.key_bytes());
        key
    }

    pub(crate) fn salt(&self) -> [u8; SALT_BYTES] {
        self.salt
    }
}

impl fmt::Debug for DirectionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectionKey")
            .field("cipher", &self.cipher)
            .finish_non_exhaustive()
    }
}

/// Keys of both directions.
#[derive(Clone, Debug)]
pub struct SessionKeys {
    /// From client to agent.
    pub to_agent: DirectionKey,
    /// From agent to client.
    pub to_client: DirectionKey,
}

impl SessionKeys {
    /// Derives the keys through `export(output, label, context)`, the TLS exporter of an established connection.
    ///
    /// # Errors
    /// Whatever the exporter returns; rustls refuses before the handshake is complete.
    pub fn derive(
        cipher: Cipher,
        context: KeyContext,
        export: impl FnOnce(&mut [u8], &[u8], &[u8]) -> Result<(), rustls::Error>,
    ) -> Result<Self, rustls::Error> {
        let each = cipher.key_bytes() + SALT_BYTES;
        let mut material = Zeroizing::new([0; 2 * (MAX_KEY_BYTES + SALT_BYTES)]);
        let (used, _) = material.split_at_mut(2 * each);
        export(used, LABEL, &context.bytes())?;
        let (to_agent, to_client) = used.split_at(each);
        let lengths = || rustls::Error::General("key material of an unexpected length".into());
        Ok(Self {
            to_agent: DirectionKey::from_slice(cipher, to_agent).ok_or_else(lengths)?,
            to_client: DirectionKey::from_slice(cipher, to_client).ok_or_else(lengths)?,
        })
    }

    /// Keys made from a pattern, for tests and fuzzing. They protect nothing.
    pub(crate) fn danger_fixed(cipher: Cipher, seed: u8) -> Self {
        let direction = |tweak: u8| DirectionKey {
            cipher,
            key: Zeroizing::new([seed ^ tweak; MAX_KEY_BYTES]),
            salt: [seed, tweak, 0, 1],
        };
        Self {
            to_agent: direction(0x0f),
            to_client: direction(0xf0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> KeyContext {
        KeyContext {
            session_id: 0x2000_0000_0000_0001,
            client_spi: Spi::new(0x1_0000).unwrap(),
            agent_spi: Spi::new(0x2_0000).unwrap(),
        }
    }

    #[test]
    fn the_exporter_is_asked_for_this_session_and_split_by_direction() {
        let keys = SessionKeys::derive(Cipher::Aes128Gcm, context(), |out, label, context| {
            assert_eq!(label, b"EXPORTER-portcullis-esp");
            assert_eq!(context, [0x20, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 2, 0, 0]);
            assert_eq!(out.len(), 2 * (16 + 4));
            for (value, byte) in (0..).zip(out) {
                *byte = value;
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(keys.to_agent.key(), (0..16).collect::<Vec<u8>>());
        assert_eq!(keys.to_agent.salt(), [16, 17, 18, 19]);
        assert_eq!(keys.to_client.key(), (20..36).collect::<Vec<u8>>());
        assert_eq!(keys.to_client.salt(), [36, 37, 38, 39]);
    }

    #[test]
    fn debug_shows_no_key() {
        let keys = SessionKeys::danger_fixed(Cipher::Aes256Gcm, 0x5a);
        assert_eq!(
            format!("{:?}", keys.to_agent),
            "DirectionKey { cipher: Aes256Gcm, .. }"
        );
    }
}
