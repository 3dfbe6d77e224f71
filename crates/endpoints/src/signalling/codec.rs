//! Length-prefixed JSON, in and out.

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use super::{AgentMessage, ClientMessage};

/// Largest message in bytes, length prefix not counted. Real ones stay under 2 KiB, of which the connect-tag may take half.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024;

const PREFIX_BYTES: usize = 4;

/// Bytes that are not a message. Nothing that follows on the connection can be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadSignallingError {
    /// The length prefix names more than [`MAX_MESSAGE_BYTES`].
    #[error("a signalling message of {announced} bytes is longer than {MAX_MESSAGE_BYTES} bytes")]
    TooLong {
        /// The announced length.
        announced: u32,
    },
    /// Not a message this side expects.
    #[error("a signalling message does not have the expected form")]
    Malformed(#[source] serde_json::Error),
}

/// Cuts a byte stream into messages.
///
/// Feed it with [`Decoder::extend`], then call [`Decoder::next`] until it returns `None`. Holds at most one message more
/// than the caller feeds at a time. Wiped on drop, since a message may hold a connect-tag.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Zeroizing<Vec<u8>>,
}

impl Decoder {
    /// Takes bytes from the connection.
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.buffer.capacity() < self.buffer.len() + bytes.len() {
            // Growing in place would leave an unwiped copy behind.
            let mut larger = Zeroizing::new(Vec::with_capacity(
                (self.buffer.len() + bytes.len()).max(MAX_MESSAGE_BYTES + PREFIX_BYTES),
            ));
            larger.extend_from_slice(&self.buffer);
            self.buffer = larger;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, if it is here. After an error the connection is of no further use.
    ///
    /// # Errors
    /// See [`ReadSignallingError`].
    #[expect(
        clippy::should_implement_trait,
        reason = "which type comes next is the caller's choice, call by call"
    )]
    pub fn next<M: DeserializeOwned>(&mut self) -> Result<Option<M>, ReadSignallingError> {
        let Some((prefix, rest)) = self.buffer.split_first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let announced = u32::from_be_bytes(*prefix);
        let length = usize::try_from(announced).unwrap_or(usize::MAX);
        if length > MAX_MESSAGE_BYTES {
            return Err(ReadSignallingError::TooLong { announced });
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(body).map_err(ReadSignallingError::Malformed)?;
        self.consume(PREFIX_BYTES + length);
        Ok(Some(message))
    }

    fn consume(&mut self, count: usize) {
        let kept = self.buffer.len().saturating_sub(count);
        self.buffer.rotate_left(count);
        if let Some(spent) = self.buffer.get_mut(kept..) {
            spent.zeroize();
        }
        self.buffer.truncate(kept);
    }
}

/// Writes one message with its length in front. Wiped on drop.
///
/// A message longer than [`MAX_MESSAGE_BYTES`], which no message of this crate is, would be refused by the other end.
#[must_use]
pub fn encode<M: Serialize>(message: &M) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(4096));
    out.extend_from_slice(&[0; PREFIX_BYTES]);
    // Writing our own plain structs into a vector has no way to fail; an empty body would be refused by the other end.
    let _ = serde_json::to_writer(&mut *out, message);
    let length = u32::try_from(out.len() - PREFIX_BYTES).unwrap_or(u32::MAX);
    if let Some(prefix) = out.first_chunk_mut::<PREFIX_BYTES>() {
        *prefix = length.to_be_bytes();
    }
    out
}

/// Fuzz entry: any bytes, in any cut, must be read or refused without a panic, and what is read must survive rewriting.
pub fn fuzz_signalling(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else {
        return;
    };
    let step = usize::from(*cut).max(1);
    drain::<ClientMessage>(stream, step);
    drain::<AgentMessage>(stream, step);
}

fn drain<M: Serialize + DeserializeOwned>(stream: &[u8], step: usize) {
    let mut decoder = Decoder::default();
    for piece in stream.chunks(step) {
        decoder.extend(piece);
        loop {
            match decoder.next::<M>() {
                Ok(Some(message)) => {
                    let written = encode(&message);
                    let mut again = Decoder::default();
                    again.extend(&written);
                    let reread = again.next::<M>();
                    assert!(
                        matches!(&reread, Ok(Some(reread)) if *encode(reread) == *written),
                        "a message changed when written and read again"
                    );
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::*;
    use crate::{
        flow::Received,
        load::Load,
        signalling::{
            Accepted, Bye, ByeReason, Cipher, Connect, License, RefusalReason, Refused, Stop,
            Stopped,
        },
    };

    fn connect() -> ClientMessage {
        ClientMessage::Connect(Connect {
            session_id: 0x2000_0000_0000_0001,
            connect_tag: "SCS1+/abc==".into(),
            client_spi: 0x8000_0001,
            transport_header: true,
            ciphers: vec![Cipher::Aes256Gcm, Cipher::Aes128Gcm],
            mtu: 1200,
            load: Load::default(),
        })
    }

    fn read_one<M: DeserializeOwned>(bytes: &[u8]) -> Result<Option<M>, ReadSignallingError> {
        let mut decoder = Decoder::default();
        decoder.extend(bytes);
        decoder.next()
    }

    #[test]
    fn a_connect_message_survives_the_wire() {
        let written = encode(&connect());
        let Ok(Some(ClientMessage::Connect(read))) = read_one(&written) else {
            panic!("not read back");
        };
        assert_eq!(read.session_id, 0x2000_0000_0000_0001);
        assert_eq!(read.connect_tag.expose_secret(), "SCS1+/abc==");
        assert_eq!(read.ciphers, [Cipher::Aes256Gcm, Cipher::Aes128Gcm]);
        assert_eq!(read.load, Load::default());
    }

    #[test]
    fn every_agent_message_survives_the_wire() {
        for message in [
            AgentMessage::Accepted(Accepted {
                agent_spi: 7,
                cipher: Cipher::Aes128Gcm,
                transport_header: false,
                mtu: 500,
                license: License::NotConfigured,
                license_ms: 0,
                desktop: "desk".into(),
            }),
            AgentMessage::Refused(Refused {
                reason: RefusalReason::NoSuchSession,
            }),
            AgentMessage::Stopped(Stopped {
                sent: 1,
                received: Received {
                    packets: 2,
                    ..Received::default()
                },
                dropped_unknown_spi: 3,
            }),
            AgentMessage::Bye(Bye {
                reason: ByeReason::TakenOver,
            }),
        ] {
            let written = encode(&message);
            let read: AgentMessage = read_one(&written).unwrap().unwrap();
            assert_eq!(*encode(&read), *written);
        }
    }

    #[test]
    fn the_documented_form_is_what_goes_over_the_wire() {
        let written = encode(&ClientMessage::Stop(Stop { sent: 12 }));
        assert_eq!(&written[..], b"\0\0\0\x14{\"stop\":{\"sent\":12}}");
    }

    #[test]
    fn unknown_fields_and_messages_are_refused() {
        for body in [
            r#"{"stop":{"sent":1,"more":2}}"#,
            r#"{"halt":{}}"#,
            r#"{"stop":{"sent":-1}}"#,
            "",
            "null",
        ] {
            let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
            bytes.extend_from_slice(body.as_bytes());
            assert!(
                matches!(
                    read_one::<ClientMessage>(&bytes),
                    Err(ReadSignallingError::Malformed(_))
                ),
                "{body}"
            );
        }
    }

    #[test]
    fn too_long_is_refused_from_the_prefix_alone() {
        let announced = u32::try_from(MAX_MESSAGE_BYTES + 1).unwrap();
        assert!(matches!(
            read_one::<ClientMessage>(&announced.to_be_bytes()),
            Err(ReadSignallingError::TooLong { announced: 16_385 })
        ));
    }

    #[test]
    fn debug_shows_no_connect_tag() {
        assert!(!format!("{:?}", connect()).contains("SCS1"));
    }

    proptest! {
        #[test]
        fn any_cut_of_the_stream_gives_the_same_messages(step in 1_usize..80, count in 1_usize..6) {
            let mut stream = Vec::new();
            for sent in 0..count {
                stream.extend_from_slice(&encode(&connect()));
                stream.extend_from_slice(&encode(&ClientMessage::Stop(Stop { sent: sent as u64 })));
            }
            let mut decoder = Decoder::default();
            let mut stops = Vec::new();
            let mut connects = 0;
            for piece in stream.chunks(step) {
                decoder.extend(piece);
                while let Some(message) = decoder.next::<ClientMessage>().unwrap() {
                    match message {
                        ClientMessage::Connect(_) => connects += 1,
                        ClientMessage::Stop(stop) => stops.push(stop.sent),
                        ClientMessage::Bye(_) => unreachable!(),
                    }
                }
            }
            prop_assert_eq!(connects, count);
            prop_assert_eq!(stops, (0..count as u64).collect::<Vec<_>>());
        }

        #[test]
        fn no_bytes_make_the_reader_panic(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz_signalling(&data);
        }

        #[test]
        fn no_body_behind_a_true_prefix_makes_the_reader_panic(body in "\\PC{0,200}", step in 1_u8..) {
            let mut data = vec![step];
            data.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
            data.extend_from_slice(body.as_bytes());
            fuzz_signalling(&data);
        }
    }
}
