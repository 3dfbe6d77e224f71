//! Session signalling inside TLS on TCP 4172, as the reference agent and client speak it.
//!
//! What the vendor's ends say to each other there is not public, so these messages are an invention of this project and
//! work only between its own two ends. A gateway that passes TLS through never sees them. Each message is a JSON object
//! behind its length as a 32-bit big-endian number; a [`Decoder`] takes bytes as they come.
//!
//! The conversation: the client sends [`Connect`], the agent answers [`Accepted`] or [`Refused`]. Both then derive the
//! keys of the UDP flow from the TLS session ([`keys`]). Before it leaves, the client sends [`Stop`] and the agent
//! answers [`Stopped`], so that both know what the other sent and loss can be counted honestly. Either side may send
//! [`Bye`] at any time.

mod codec;
pub mod keys;
mod stream;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};

pub use codec::{Decoder, MAX_MESSAGE_BYTES, ReadSignallingError, encode, fuzz_signalling};
pub(crate) use stream::MessageStream;
pub use stream::ReceiveError;

use crate::{flow::Received, load::Load};

/// A cipher of the UDP flow, under the names the vendor documents. Salsa20 is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cipher {
    /// AES-128-GCM with a 16-byte tag.
    #[serde(rename = "AES-128-GCM")]
    Aes128Gcm,
    /// AES-256-GCM with a 16-byte tag.
    #[serde(rename = "AES-256-GCM")]
    Aes256Gcm,
}

impl Cipher {
    /// Key length in bytes.
    #[must_use]
    pub const fn key_bytes(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm => 32,
        }
    }
}

/// What a client says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientMessage {
    /// First message of a connection.
    Connect(Connect),
    /// The client sends no more UDP.
    Stop(Stop),
    /// The session is over.
    Bye(Bye),
}

/// What an agent says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentMessage {
    /// The session is open; UDP may start.
    Accepted(Accepted),
    /// There is no session; the agent closes the connection.
    Refused(Refused),
    /// The agent sends no more UDP.
    Stopped(Stopped),
    /// The session is over.
    Bye(Bye),
}

/// Claims a prepared session and proposes its terms.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connect {
    /// The session, as the broker's target named it.
    pub session_id: u64,
    /// The secret that goes with it; good for one use.
    #[serde(serialize_with = "expose")]
    pub connect_tag: SecretString,
    /// SPI of packets to the client.
    pub client_spi: u32,
    /// Whether the client wants the four clear octets in front of ESP.
    pub transport_header: bool,
    /// Ciphers in the client's order of preference.
    pub ciphers: Vec<Cipher>,
    /// Largest IP packet, headers included, in bytes (500 to 1500); the lower of both ends' values holds.
    pub mtu: u16,
    /// The traffic the client asks for.
    pub load: Load,
}

/// Terms of an open session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// SPI of packets to the agent.
    pub agent_spi: u32,
    /// The cipher of both directions.
    pub cipher: Cipher,
    /// Whether both directions carry the transport header.
    pub transport_header: bool,
    /// Largest IP packet, headers included, in bytes.
    pub mtu: u16,
    /// The licence this session runs under.
    pub license: License,
    /// How long the agent took to acquire the licence, in milliseconds; zero when none is configured.
    pub license_ms: u32,
    /// The desktop's host name.
    pub desktop: String,
}

/// Whether a session holds a licence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum License {
    /// Leased from a licence server.
    Leased,
    /// The agent has no licence server and does not insist on one.
    NotConfigured,
}

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// The reason.
    pub reason: RefusalReason,
}

/// Why an agent refuses a connection. Deliberately coarse: a stranger learns nothing about which sessions exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalReason {
    /// No session waits under this number and tag: unknown, wrong, used before, or expired.
    NoSuchSession,
    /// No cipher in common.
    NoCommonCipher,
    /// A value of the proposal is out of range.
    InvalidProposal,
}

/// The client's last word before it stops sending UDP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// UDP packets the client sent, all told.
    pub sent: u64,
}

/// The agent's account of the UDP flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stopped {
    /// UDP packets the agent sent, all told.
    pub sent: u64,
    /// What reached the agent.
    pub received: Received,
    /// Packets with an SPI the agent does not know, over all its sessions since it started.
    pub dropped_unknown_spi: u64,
}

/// Ends a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bye {
    /// Why.
    pub reason: ByeReason,
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ByeReason {
    /// The user, or the program that plays the user, is done.
    Done,
    /// Nothing came over UDP for too long.
    Idle,
    /// The same user connected anew.
    TakenOver,
    /// The licence was lost.
    LicenseLost,
    /// This end shuts down.
    ShuttingDown,
    /// The other end broke the rules of this protocol.
    ProtocolError,
}

fn expose<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}
