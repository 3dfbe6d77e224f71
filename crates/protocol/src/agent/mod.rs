//! The PCoIP agent protocol: `pcoip-agent` documents on TCP 60443, by which a Connection Manager prepares a desktop.

use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::broker::{ConnectTag, Rest, SessionId};

/// Path of the agent protocol.
pub const PATH: &str = "/pcoip-agent/xml";
/// TCP port agents listen on for Connection Managers.
pub const PORT: u16 = 60443;

/// Asks an agent to prepare a session.
#[derive(Clone, Debug)]
pub struct LaunchSession {
    /// `session-type`, `UNSPECIFIED`
    pub session_type: String,
    /// `ip-address` of the agent
    pub ip_address: String,
    /// `hostname` of the agent
    pub hostname: String,
    /// `logon`
    pub logon: Logon,
    /// `client-mac`; may be empty
    pub client_mac: String,
    /// `client-ip`; may be empty
    pub client_ip: String,
    /// `client-name`
    pub client_name: String,
    /// `license-path`; may be empty
    pub license_path: String,
    /// `session-log-id`; may be empty, so kept as text
    pub session_log_id: String,
    /// `time-zone-windows`
    pub time_zone_windows: Option<String>,
    /// Everything else.
    pub rest: Rest,
}

/// `logon method="windows-password"`. `Debug` never shows the password.
#[derive(Clone, Debug)]
pub struct Logon {
    /// `@method`; `windows-password` for every operating system
    pub method: String,
    /// `username`
    pub username: String,
    /// `password`
    pub password: SecretString,
    /// `domain`
    pub domain: String,
    /// Everything else.
    pub rest: Rest,
}

/// Answer to [`LaunchSession`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchSessionResp {
    /// `result-id`
    pub result: LaunchResultId,
    /// `fail-reason`
    pub fail_reason: Option<String>,
    /// `session-info`, on success
    pub session_info: Option<SessionInfo>,
    /// Everything else.
    pub rest: Rest,
}

/// Result ids of a launch; compared without regard to case.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LaunchResultId {
    /// `SUCCESSFUL`
    Successful,
    /// `FAILED_USER_AUTH`
    UserAuth,
    /// `FAILED_ANOTHER_SESSION_STARTED`
    AnotherSessionStarted,
    /// Any other, as received. Ours says `FAILED_NO_LICENSE`: anything that contains `LICENSE` is a licence failure.
    Other(String),
}

/// What the client needs to reach the prepared session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// `ip-address`
    pub ip_address: String,
    /// `sni`
    pub sni: String,
    /// `port`
    pub port: u16,
    /// `session-id`
    pub session_id: SessionId,
    /// `session-tag`, which becomes the client's connect-tag
    pub session_tag: ConnectTag,
    /// Everything else.
    pub rest: Rest,
}

/// A document of the agent protocol (`pcoip-agent version="1.0"`).
#[derive(Clone, Debug)]
pub enum Message {
    /// `launch-session`
    LaunchSession(LaunchSession),
    /// `launch-session-resp`
    LaunchSessionResp(LaunchSessionResp),
}

impl Message {
    /// Reads a document.
    ///
    /// # Errors
    /// See [`crate::broker::ParseMessageError`].
    pub fn parse(document: &[u8]) -> Result<Self, crate::broker::ParseMessageError> {
        let _ = document;
        todo!()
    }

    /// Writes the document.
    #[must_use]
    pub fn to_document(&self) -> Zeroizing<Vec<u8>> {
        todo!()
    }
}
