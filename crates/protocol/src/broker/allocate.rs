//! `allocate-resource` and its answer.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use super::{
    AllocResultId, Outcome, ParseMessageError, Rest,
    fields::{Composer, Fields, plain_fields},
};
use crate::{decimal::decimal, xml::Element};

/// The user's choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllocateResource {
    /// `resource-id`
    pub resource_id: String,
    /// `protocol`
    pub protocol: Option<String>,
    /// `client-info`
    pub client_info: Option<AllocateClientInfo>,
    /// Everything else.
    pub rest: Rest,
}

/// `client-info` of an allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllocateClientInfo {
    /// `ip-address` the client believes it has; never trusted
    pub ip_address: Option<String>,
    /// `mac-address`
    pub mac_address: Option<String>,
    /// Everything else.
    pub rest: Rest,
}

/// Answer to [`AllocateResource`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocateResourceResp {
    /// `result`
    pub result: Outcome<AllocResultId>,
    /// Where to connect; only on success.
    pub target: Option<Target>,
    /// `resource-id`
    pub resource_id: Option<String>,
    /// `protocol`
    pub protocol: Option<String>,
    /// Everything else.
    pub rest: Rest,
}

/// Where and how the client reaches its desktop. From a broker that does not launch itself, only the address is present:
/// an empty `port`, `session-id` or `connect-tag` counts as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// `ip-address`: the agent, or the Security Gateway's public address. Text, since a broker may name a host.
    pub ip_address: Option<String>,
    /// `hostname`
    pub hostname: Option<String>,
    /// `sni`: the server name of the client's TLS on TCP 4172
    pub sni: Option<String>,
    /// `port`, for TCP and UDP
    pub port: Option<u16>,
    /// `session-id`
    pub session_id: Option<SessionId>,
    /// `connect-tag`
    pub connect_tag: Option<ConnectTag>,
    /// Everything else.
    pub rest: Rest,
}

/// An agent's session number: unsigned 64-bit, written in decimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// The opaque secret that admits one client to one session; at most 1024 printable ASCII bytes. `Debug` hides it.
#[derive(Clone)]
pub struct ConnectTag(SecretString);

impl ConnectTag {
    /// Largest tag in bytes.
    pub const MAX_BYTES: usize = 1024;

    /// Checks length and alphabet; `None` when either is off.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.len() <= Self::MAX_BYTES;
        (fits && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| Self(text.into()))
    }

    /// The tag in the clear.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for ConnectTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectTag(..)")
    }
}

impl PartialEq for ConnectTag {
    /// Compares in constant time for tags of equal length.
    fn eq(&self, other: &Self) -> bool {
        self.expose()
            .as_bytes()
            .ct_eq(other.expose().as_bytes())
            .into()
    }
}

impl Eq for ConnectTag {}

plain_fields!(AllocateClientInfo {
    ip_address: "ip-address",
    mac_address: "mac-address",
});

impl AllocateResource {
    pub(super) fn read(element: Element) -> Result<Self, ParseMessageError> {
        let mut fields = Fields::open(element, "")?;
        let resource_id = fields.required_bounded_text("resource-id")?;
        let protocol = fields.text("protocol")?;
        let client_info = match fields.element("client-info")? {
            Some(element) => Some(AllocateClientInfo::read(element, fields.path())?),
            None => None,
        };
        Ok(Self {
            resource_id,
            protocol,
            client_info,
            rest: fields.rest(),
        })
    }

    pub(super) fn write(&self) -> Element {
        Composer::new("allocate-resource", &self.rest)
            .text("resource-id", &self.resource_id)
            .optional("protocol", self.protocol.as_deref())
            .optional_element(
                self.client_info
                    .as_ref()
                    .map(|info| info.write("client-info")),
            )
            .finish()
    }
}

impl AllocateResourceResp {
    pub(super) fn read(element: Element) -> Result<Self, ParseMessageError> {
        let mut fields = Fields::open(element, "")?;
        let result = Outcome::read_in(&mut fields)?;
        let target = match fields.element("target")? {
            Some(element) => Some(Target::read(element, fields.path())?),
            None => None,
        };
        Ok(Self {
            result,
            target,
            resource_id: fields.bounded_text("resource-id")?,
            protocol: fields.text("protocol")?,
            rest: fields.rest(),
        })
    }

    pub(super) fn write(&self) -> Element {
        Composer::new("allocate-resource-resp", &self.rest)
            .element(self.result.write())
            .optional_element(self.target.as_ref().map(Target::write))
            .optional("resource-id", self.resource_id.as_deref())
            .optional("protocol", self.protocol.as_deref())
            .finish()
    }
}

impl Target {
    fn read(element: Element, parent: &str) -> Result<Self, ParseMessageError> {
        let mut fields = Fields::open(element, parent)?;
        Ok(Self {
            ip_address: fields.text("ip-address")?,
            hostname: fields.text("hostname")?,
            sni: fields.text("sni")?,
            port: read_port(&mut fields)?,
            session_id: read_session_id(&mut fields)?,
            connect_tag: read_tag(&mut fields, "connect-tag")?,
            rest: fields.rest(),
        })
    }

    fn write(&self) -> Element {
        let port = self.port.map(|port| port.to_string());
        let session_id = self.session_id.map(|id| id.to_string());
        Composer::new("target", &self.rest)
            .optional("ip-address", self.ip_address.as_deref())
            .optional("hostname", self.hostname.as_deref())
            .optional("sni", self.sni.as_deref())
            .optional("port", port.as_deref())
            .optional("session-id", session_id.as_deref())
            .optional(
                "connect-tag",
                self.connect_tag.as_ref().map(ConnectTag::expose),
            )
            .finish()
    }
}

/// Takes a `port` out, 1 to 65535.
pub(crate) fn read_port(fields: &mut Fields) -> Result<Option<u16>, ParseMessageError> {
    fields.converted("port", "not a port number", |text| {
        decimal(text).filter(|port| *port != 0)
    })
}

/// Takes a `session-id` out.
pub(crate) fn read_session_id(fields: &mut Fields) -> Result<Option<SessionId>, ParseMessageError> {
    fields.converted(
        "session-id",
        "not an unsigned 64-bit decimal number",
        |text| decimal(text).map(SessionId),
    )
}

/// Takes a connect tag out, under the name it has in this protocol.
pub(crate) fn read_tag(
    fields: &mut Fields,
    name: &str,
) -> Result<Option<ConnectTag>, ParseMessageError> {
    fields.converted(
        name,
        "not 1 to 1024 printable ASCII characters",
        ConnectTag::new,
    )
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
