//! The PCoIP agent protocol: `pcoip-agent` documents on TCP 60443, by which a Connection Manager prepares a desktop.

use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{
    broker::{
        ConnectTag, ParseMessageError, Rest, SessionId, Version,
        fields::{Composer, Fields},
        read_port, read_session_id, read_tag, result_ids, shortened, sole_message, take_version,
    },
    xml::{self, Element, Limits, REREAD_LIMITS},
};

/// Path of the agent protocol.
pub const PATH: &str = "/pcoip-agent/xml";
/// TCP port agents listen on for Connection Managers.
pub const PORT: u16 = 60443;
/// The version of the agent protocol, 1.0.
pub const VERSION: Version = Version { major: 1, minor: 0 };
/// The logon method for agents of every operating system.
pub const WINDOWS_PASSWORD: &str = "windows-password";
/// The one session type seen.
pub const UNSPECIFIED: &str = "UNSPECIFIED";
/// Root element of every document.
const ROOT: &str = "pcoip-agent";

/// Asks an agent to prepare a session.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// `session-info`, on success; an empty element counts as none
    pub session_info: Option<SessionInfo>,
    /// Everything else.
    pub rest: Rest,
}

result_ids!(
    /// Result ids of a launch; compared without regard to case.
    LaunchResultId {
        Successful = "SUCCESSFUL",
        UserAuth = "FAILED_USER_AUTH",
        AnotherSessionStarted = "FAILED_ANOTHER_SESSION_STARTED",
    }
    /// Any other, as received. Ours says `FAILED_NO_LICENSE`: anything that contains `LICENSE` is a licence failure.
    Other
);

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// `launch-session`
    LaunchSession(LaunchSession),
    /// `launch-session-resp`
    LaunchSessionResp(LaunchSessionResp),
}

impl Message {
    /// Reads a document. Nothing relays these documents, so an unknown message is an error, and unknown attributes of the
    /// root are dropped.
    ///
    /// # Errors
    /// See [`ParseMessageError`].
    pub fn parse(document: &[u8]) -> Result<Self, ParseMessageError> {
        xml::parse(document, &Limits::default())?.try_into()
    }

    /// Writes the document.
    #[must_use]
    pub fn to_document(&self) -> Zeroizing<Vec<u8>> {
        Element::from(self).to_document()
    }

    /// The message's element name, for logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::LaunchSession(_) => "launch-session",
            Self::LaunchSessionResp(_) => "launch-session-resp",
        }
    }
}

impl TryFrom<Element> for Message {
    type Error = ParseMessageError;

    fn try_from(mut root: Element) -> Result<Self, ParseMessageError> {
        if root.name != ROOT {
            return Err(ParseMessageError::Root {
                found: shortened(&root.name),
                expected: ROOT,
            });
        }
        if take_version(&mut root)?.major != VERSION.major {
            return Err(ParseMessageError::Version);
        }
        let message = sole_message(&mut root)?;
        match message.name.as_str() {
            "launch-session" => LaunchSession::read(message).map(Self::LaunchSession),
            "launch-session-resp" => LaunchSessionResp::read(message).map(Self::LaunchSessionResp),
            other => Err(ParseMessageError::UnknownMessage {
                found: shortened(other),
            }),
        }
    }
}

impl From<&Message> for Element {
    fn from(message: &Message) -> Self {
        let child = match message {
            Message::LaunchSession(launch) => launch.write(),
            Message::LaunchSessionResp(answer) => answer.write(),
        };
        Self::new(ROOT)
            .attribute("version", VERSION.to_string())
            .child(child)
    }
}

impl LaunchSession {
    fn read(element: Element) -> Result<Self, ParseMessageError> {
        let mut fields = Fields::open(element, "")?;
        let mut text = |name| fields.text(name).map(Option::unwrap_or_default);
        let session_type = text("session-type")?;
        let ip_address = text("ip-address")?;
        let hostname = text("hostname")?;
        let client_mac = text("client-mac")?;
        let client_ip = text("client-ip")?;
        let client_name = text("client-name")?;
        let license_path = text("license-path")?;
        let session_log_id = text("session-log-id")?;
        let logon = Logon::read(fields.required("logon")?, fields.path())?;
        Ok(Self {
            session_type,
            ip_address,
            hostname,
            logon,
            client_mac,
            client_ip,
            client_name,
            license_path,
            session_log_id,
            time_zone_windows: fields.text("time-zone-windows")?,
            rest: fields.rest(),
        })
    }

    fn write(&self) -> Element {
        Composer::new("launch-session", &self.rest)
            .text("session-type", &self.session_type)
            .text("ip-address", &self.ip_address)
            .text("hostname", &self.hostname)
            .element(self.logon.write())
            .text("client-mac", &self.client_mac)
            .text("client-ip", &self.client_ip)
            .text("client-name", &self.client_name)
            .text("license-path", &self.license_path)
            .text("session-log-id", &self.session_log_id)
            .optional("time-zone-windows", self.time_zone_windows.as_deref())
            .finish()
    }
}

impl PartialEq for Logon {
    /// Compares the password in constant time.
    fn eq(&self, other: &Self) -> bool {
        let password: bool = self
            .password
            .expose_secret()
            .as_bytes()
            .ct_eq(other.password.expose_secret().as_bytes())
            .into();
        password
            && self.method == other.method
            && self.username == other.username
            && self.domain == other.domain
            && self.rest == other.rest
    }
}

impl Eq for Logon {}

impl Logon {
    fn read(element: Element, parent: &str) -> Result<Self, ParseMessageError> {
        let mut fields = Fields::open(element, parent)?;
        Ok(Self {
            method: fields
                .attribute("method")
                .ok_or_else(|| fields.missing("@method"))?,
            username: fields.required_bounded_text("username")?,
            password: fields.required_secret("password")?,
            domain: fields.bounded_text("domain")?.unwrap_or_default(),
            rest: fields.rest(),
        })
    }

    fn write(&self) -> Element {
        Composer::new("logon", &self.rest)
            .attribute("method", Some(&self.method))
            .text("username", &self.username)
            .text("password", self.password.expose_secret())
            .text("domain", &self.domain)
            .finish()
    }
}

impl LaunchSessionResp {
    fn read(element: Element) -> Result<Self, ParseMessageError> {
        let mut fields = Fields::open(element, "")?;
        let result = fields.required_text("result-id")?.into();
        let fail_reason = fields.text("fail-reason")?;
        fields.discard_blank("session-info");
        let session_info = match fields.element("session-info")? {
            Some(element) => Some(SessionInfo::read(element, fields.path())?),
            None => None,
        };
        Ok(Self {
            result,
            fail_reason,
            session_info,
            rest: fields.rest(),
        })
    }

    fn write(&self) -> Element {
        Composer::new("launch-session-resp", &self.rest)
            .text("result-id", self.result.as_str())
            .optional("fail-reason", self.fail_reason.as_deref())
            .optional_element(self.session_info.as_ref().map(SessionInfo::write))
            .finish()
    }
}

impl LaunchResultId {
    /// Whether the agent could not get a licence: no such id is documented, so any that contains `LICENSE` counts.
    #[must_use]
    pub fn is_license_failure(&self) -> bool {
        match self {
            Self::Other(text) => text.to_ascii_uppercase().contains("LICENSE"),
            Self::Successful | Self::UserAuth | Self::AnotherSessionStarted => false,
        }
    }
}

impl SessionInfo {
    fn read(element: Element, parent: &str) -> Result<Self, ParseMessageError> {
        let mut fields = Fields::open(element, parent)?;
        Ok(Self {
            ip_address: fields.required_text("ip-address")?,
            sni: fields.required_text("sni")?,
            port: read_port(&mut fields)?.ok_or_else(|| fields.missing("port"))?,
            session_id: read_session_id(&mut fields)?
                .ok_or_else(|| fields.missing("session-id"))?,
            session_tag: read_tag(&mut fields, "session-tag")?
                .ok_or_else(|| fields.missing("session-tag"))?,
            rest: fields.rest(),
        })
    }

    fn write(&self) -> Element {
        Composer::new("session-info", &self.rest)
            .text("ip-address", &self.ip_address)
            .text("sni", &self.sni)
            .text("port", &self.port.to_string())
            .text("session-id", &self.session_id.to_string())
            .text("session-tag", self.session_tag.expose())
            .finish()
    }
}

/// Fuzz entry: a message that is read, is written so that it reads the same.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    if let Ok(message) = Message::parse(data) {
        let again = xml::parse(&message.to_document(), &REREAD_LIMITS);
        let again = again
            .map_err(ParseMessageError::from)
            .and_then(Message::try_from);
        assert_eq!(again, Ok(message));
    }
}

#[cfg(test)]
mod tests;
