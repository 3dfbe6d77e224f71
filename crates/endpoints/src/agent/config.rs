//! What an agent is told when it starts, and what it tells while it runs.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use portcullis_https::{Identity, Trust};
use portcullis_protocol::{
    agent::PORT as CONTROL_PORT, broker::SessionId, license_path::LicensePath,
};
use secrecy::SecretString;
use serde::{Serialize, Serializer};

use crate::{
    flow::{DEFAULT_MTU, Received},
    signalling::{Cipher, License},
};

/// Port of session signalling (TCP) and of the flow (UDP).
pub const DATA_PORT: u16 = 4172;
/// How long a session waits for its client: the documented life of a connect-tag.
pub const RESERVATION: Duration = Duration::from_secs(60);
/// How long a session whose TCP connection broke keeps its seat and its licence, for the same user to take over.
pub const GRACE: Duration = Duration::from_secs(15);
/// How long an agent waits for UDP from its client before it ends the session, as real software agents do.
pub const IDLE: Duration = Duration::from_secs(60);

/// How an agent behaves.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Where Connection Managers reach the agent (TCP, normally 60443). Port 0 picks a free one.
    pub control_listen: SocketAddr,
    /// Where clients and gateways reach it (TCP and UDP, normally 4172). Port 0 picks one that is free for both. On a
    /// host with several addresses name one, since UDP answers leave from the address the system picks.
    pub data_listen: SocketAddr,
    /// The address told to Connection Managers; by default `data_listen`'s, or, when that is unspecified, the one the
    /// Connection Manager reached the agent at.
    pub advertised: Option<IpAddr>,
    /// The desktop's host name, which is also the server name clients put into TLS on TCP 4172.
    pub hostname: String,
    /// Gives each session a server name of its own, `s<number>.<hostname>`, so that a gateway can tell many sessions of
    /// one client and one agent apart. For benches.
    pub unique_sni: bool,
    /// Certificate and key of both TLS servers; by default self-signed and made at start, as real agents do.
    pub identity: Option<Identity>,
    /// User names and passwords that may log on. `None` accepts any name and password that are not empty: a reference
    /// agent has no accounts of its own. Names are compared without domain and without regard to case.
    pub users: Option<Vec<(String, SecretString)>>,
    /// Sessions at a time. A desktop has one.
    pub max_sessions: usize,
    /// Ciphers the agent agrees to.
    pub ciphers: Vec<Cipher>,
    /// Whether the agent agrees to the clear four-octet transport header, as real ones do by default.
    pub transport_header: bool,
    /// Largest IP packet, headers included, in bytes.
    pub mtu: u16,
    /// Where licences come from.
    pub license: LicensePolicy,
    /// How long a launched session waits for its client.
    pub reservation: Duration,
    /// See [`GRACE`].
    pub grace: Duration,
    /// See [`IDLE`].
    pub idle: Duration,
    /// Misbehaviour, for tests of the other side.
    pub faults: Faults,
}

impl Default for AgentConfig {
    /// A desktop called `reference-desktop` on all IPv4 addresses and the documented ports, which trusts nobody's licence
    /// server but those of the operating system's authorities.
    fn default() -> Self {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Self {
            control_listen: (any, CONTROL_PORT).into(),
            data_listen: (any, DATA_PORT).into(),
            advertised: None,
            hostname: "reference-desktop".to_owned(),
            unique_sni: false,
            identity: None,
            users: None,
            max_sessions: 1,
            ciphers: vec![Cipher::Aes128Gcm, Cipher::Aes256Gcm],
            transport_header: true,
            mtu: DEFAULT_MTU,
            license: LicensePolicy {
                trust: Trust::System,
                addresses: None,
                require: false,
            },
            reservation: RESERVATION,
            grace: GRACE,
            idle: IDLE,
            faults: Faults::default(),
        }
    }
}

/// Where licences come from.
#[derive(Clone, Debug)]
pub struct LicensePolicy {
    /// Which licence servers to believe.
    pub trust: Trust,
    /// Servers to ask instead of those a Connection Manager names in `license-path`.
    pub addresses: Option<Vec<LicensePath>>,
    /// Refuses a launch when no server is named at all; otherwise the session runs without a licence and says so. A
    /// server that is named and has no licence to give always means a refusal.
    pub require: bool,
}

/// Misbehaviour on demand.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Waits so long before it looks at a launch request.
    pub launch_delay: Option<Duration>,
    /// Answers launch requests wrongly.
    pub launch_reply: Option<LaunchFault>,
    /// Does not listen on TCP 4172.
    pub refuse_signalling: bool,
    /// Accepts TCP 4172 connections and then says nothing.
    pub mute_signalling: bool,
    /// Throws away every UDP packet.
    pub deaf_udp: bool,
}

/// A wrong answer to a launch request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaunchFault {
    /// Status 200 with octets that are not XML.
    Garbage,
    /// Status 200 with the first half of a successful answer.
    Truncated,
    /// Status 404.
    NotFound,
    /// Status 500.
    ServerError,
    /// A failure id nobody knows, without a reason.
    UnknownFailure,
    /// A successful answer, but `successful` in lower case, which must count as success.
    LowerCase,
}

/// Where a running agent listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentAddresses {
    /// TCP, for Connection Managers.
    pub control: SocketAddr,
    /// TCP and UDP, for clients and gateways.
    pub data: SocketAddr,
}

/// What happened, in order, to those who listen. Its JSON form writes session numbers as decimal text, as the wire does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AgentEvent {
    /// A Connection Manager had a session prepared.
    Launched {
        /// The session.
        #[serde(serialize_with = "decimal")]
        session: SessionId,
        /// The client's session log id, as it came.
        log_id: String,
        /// The user, as written.
        user: String,
    },
    /// A Connection Manager was refused.
    LaunchRefused {
        /// Why.
        reason: LaunchRefusal,
    },
    /// A licence was leased for a session.
    LicenseAcquired {
        /// The session.
        #[serde(serialize_with = "decimal")]
        session: SessionId,
        /// Host and port of the licence server.
        server: String,
        /// How long it took.
        #[serde(rename = "took_ms", serialize_with = "milliseconds")]
        took: Duration,
    },
    /// A session's licence was given back, or left to expire when the server could not be told, or lost.
    LicenseReturned {
        /// The session.
        #[serde(serialize_with = "decimal")]
        session: SessionId,
    },
    /// A client claimed its session.
    Connected {
        /// The session.
        #[serde(serialize_with = "decimal")]
        session: SessionId,
        /// The TCP peer: a client, or a gateway on its behalf.
        peer: SocketAddr,
        /// The server name in its TLS, when it sent one.
        server_name: Option<String>,
        /// The agreed cipher.
        cipher: Cipher,
    },
    /// The first authentic UDP packet of a session came.
    FlowOpened {
        /// The session.
        #[serde(serialize_with = "decimal")]
        session: SessionId,
        /// The UDP peer: a client, or a gateway on its behalf.
        peer: SocketAddr,
    },
    /// A TCP 4172 connection was refused.
    ConnectionRefused {
        /// The TCP peer.
        peer: SocketAddr,
    },
    /// A session is over. Its seat is free; its licence is on its way back.
    Ended {
        /// The session.
        #[serde(serialize_with = "decimal")]
        session: SessionId,
        /// Why.
        reason: EndReason,
        /// What it carried; all zero when no client ever claimed it.
        traffic: Traffic,
    },
}

/// Why a launch was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LaunchRefusal {
    /// The user name or password is wrong.
    UserAuth,
    /// Another session runs.
    AnotherSession,
    /// No licence.
    NoLicense,
    /// The agent is shutting down.
    ShuttingDown,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// The client said good-bye.
    Bye,
    /// No client claimed it in time.
    Unclaimed,
    /// The TCP connection broke and nobody came back.
    Disconnected,
    /// Nothing came over UDP for too long.
    Idle,
    /// The same user started another session after leaving this one.
    TakenOver,
    /// The licence was lost and no other was to be had.
    LicenseLost,
    /// The client broke the rules of session signalling.
    ProtocolError,
    /// The session could not be prepared after all.
    NotPrepared,
    /// The agent was stopped.
    ShuttingDown,
}

/// What a session carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// UDP packets sent to the client.
    pub sent: u64,
    /// What reached the agent.
    pub received: Received,
}

/// Figures of a running agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentStats {
    /// Sessions being prepared or waiting for their client.
    pub reserved: usize,
    /// Sessions with a client.
    pub connected: usize,
    /// Sessions whose client went away without a good-bye.
    pub disconnected: usize,
    /// Licences held.
    pub leases: u64,
    /// Successful launches since the start.
    pub launched: u64,
    /// Refused launches since the start.
    pub launches_refused: u64,
    /// Refused or broken-off TCP 4172 connections since the start.
    pub connections_refused: u64,
    /// UDP packets sent since the start.
    pub packets_sent: u64,
    /// UDP packets with a known SPI received since the start, authentic or not.
    pub packets_received: u64,
    /// UDP packets dropped because their SPI is unknown.
    pub dropped_unknown_spi: u64,
    /// UDP packets dropped because they were not authentic, too old or seen before, over sessions that have ended.
    pub dropped_rejected: u64,
}

/// What the `accepted` message says of the licence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LicenseState {
    pub(crate) license: License,
    pub(crate) took: Duration,
}

fn decimal<S: Serializer>(session: &SessionId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&session.0)
}

fn milliseconds<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(took.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_flat_json_with_session_numbers_as_text() {
        let event = AgentEvent::LicenseAcquired {
            session: SessionId(0x2000_0000_0000_0001),
            server: "192.0.2.1:7071".to_owned(),
            took: Duration::from_millis(12),
        };
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"event":"license-acquired","session":"2305843009213693953","server":"192.0.2.1:7071","took_ms":12}"#
        );
        let event = AgentEvent::LaunchRefused {
            reason: LaunchRefusal::NoLicense,
        };
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"event":"launch-refused","reason":"no-license"}"#
        );
    }
}
