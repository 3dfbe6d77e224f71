//! The PCoIP broker protocol: `pcoip-client` documents between client, Connection Manager and broker.
//!
//! A document is an [`Envelope`] around exactly one message. Known children become fields; unknown attributes and
//! children stay in each message's [`Rest`] and are written back where they stood, so that what a newer client and broker
//! tell each other survives the relay.

use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::xml::{Element, ParseXmlError};

/// Path of the broker protocol on every server that speaks it.
pub const PATH: &str = "/pcoip-broker/xml";
/// The only protocol version seen in public.
pub const VERSION: &str = "2.1";
/// Product name of the probe a client sends before its real hello.
pub const PROBE_PRODUCT: &str = "QueryBrokerClient";
/// The one protocol desktops are offered with.
pub const PCOIP: &str = "PCOIP";

/// Unknown attributes and children of one element, with the places they stood at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    /// Unknown attributes, in order.
    pub attributes: Vec<(String, String)>,
    /// Unknown children, each with its index among the element's children.
    pub children: Vec<(usize, Element)>,
}

/// Name of the root element: `pcoip-client` everywhere, `pcoip-broker` on some Connection Manager to broker legs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Root {
    /// `pcoip-client`
    #[default]
    Client,
    /// `pcoip-broker`
    Broker,
}

/// A protocol version such as `2.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Before the dot.
    pub major: u16,
    /// After the dot.
    pub minor: u16,
}

impl Version {
    /// 2.1, the version this implementation speaks.
    pub const CURRENT: Self = Self { major: 2, minor: 1 };
}

/// One document: root, version, one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<M> {
    /// Root element's name.
    pub root: Root,
    /// Root's `version`. A reply echoes the request's when it is at most 2.1, and says 2.1 otherwise.
    pub version: Version,
    /// Root's other attributes.
    pub rest: Rest,
    /// The message.
    pub message: M,
}

/// What a client (or a Connection Manager on its behalf) asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `hello`
    Hello(Hello),
    /// `authenticate`
    Authenticate(Authenticate),
    /// `get-resource-list`
    GetResourceList(GetResourceList),
    /// `allocate-resource`
    AllocateResource(AllocateResource),
    /// `bye`
    Bye(Bye),
    /// Any other well-formed message, kept whole.
    Unknown(Element),
}

/// What a broker (or a Connection Manager on its behalf) answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// `hello-resp`
    Hello(HelloResp),
    /// `authenticate-resp`
    Authenticate(AuthenticateResp),
    /// `get-resource-list-resp`
    GetResourceList(GetResourceListResp),
    /// `allocate-resource-resp`
    AllocateResource(AllocateResourceResp),
    /// `bye-resp`
    Bye(ByeResp),
    /// Any other well-formed message, kept whole.
    Unknown(Element),
}

/// Greeting of a client; the first message of every session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Who greets.
    pub client_info: ClientInfo,
    /// Capabilities (`caps/cap`); `None` when the element is absent, as in the probe.
    pub caps: Option<Vec<String>>,
    /// The server as the client addressed it (`server-address`).
    pub server_address: Option<ServerAddress>,
    /// The Connection Manager on the way to a broker (`pcm-info`).
    pub pcm_info: Option<ProductInfo>,
    /// Everything else.
    pub rest: Rest,
}

/// `client-info` of a hello. Fields are `None` when absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientInfo {
    /// `product-name`; [`PROBE_PRODUCT`] for the probe.
    pub product_name: Option<String>,
    /// `product-version`
    pub product_version: Option<String>,
    /// `platform`
    pub platform: Option<String>,
    /// `locale`, such as `en_US`
    pub locale: Option<String>,
    /// `hostname`
    pub hostname: Option<String>,
    /// `serial-number`
    pub serial_number: Option<String>,
    /// `device-name`
    pub device_name: Option<String>,
    /// `pcoip-unique-id`
    pub pcoip_unique_id: Option<String>,
    /// Everything else.
    pub rest: Rest,
}

/// `server-address` of a hello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerAddress {
    /// `ip-address` the client resolved; kept as text, since it is only relayed.
    pub ip_address: Option<String>,
    /// `hostname`
    pub hostname: Option<String>,
    /// Everything else.
    pub rest: Rest,
}

/// Who a server is: `broker-info` and `pcm-info`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProductInfo {
    /// `product-name`
    pub product_name: Option<String>,
    /// `product-version`
    pub product_version: Option<String>,
    /// `platform`
    pub platform: Option<String>,
    /// `locale`
    pub locale: Option<String>,
    /// `ip-address`
    pub ip_address: Option<String>,
    /// `hostname`
    pub hostname: Option<String>,
    /// Everything else.
    pub rest: Rest,
}

/// Answer to [`Hello`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HelloResp {
    /// `brokers-info/broker-info`
    pub brokers: Vec<ProductInfo>,
    /// `pcm-info`, present on brokered connections.
    pub pcm_info: Option<ProductInfo>,
    /// How to authenticate.
    pub next_authentication: Option<NextAuthentication>,
    /// Everything else.
    pub rest: Rest,
}

/// `next-authentication`: methods and domains on offer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NextAuthentication {
    /// `authentication-methods/method`, such as `AUTHENTICATE_VIA_PASSWORD`.
    pub methods: Vec<String>,
    /// `domains/domain`
    pub domains: Vec<String>,
    /// Everything else.
    pub rest: Rest,
}

/// The authentication method name for user name and password.
pub const AUTHENTICATE_VIA_PASSWORD: &str = "AUTHENTICATE_VIA_PASSWORD";

/// One step of authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authenticate {
    /// `method="password"`
    Password(PasswordLogon),
    /// Any other method: the whole `authenticate` element, attributes and order kept.
    Other(Element),
}

/// User name, password and domain. `Debug` never shows the password.
#[derive(Clone, Debug)]
pub struct PasswordLogon {
    /// `username`
    pub username: String,
    /// `password`
    pub password: SecretString,
    /// `domain`; may be empty. Always written, since brokers exist that fail without it.
    pub domain: String,
    /// Everything else.
    pub rest: Rest,
}
// PartialEq for PasswordLogon compares the password in constant time.

/// `result`: an id for programs and a text for the user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome<Id> {
    /// `result-id`
    pub id: Id,
    /// `result-str`; `None` when the element is absent.
    pub text: Option<String>,
    /// Everything else.
    pub rest: Rest,
}

/// Result ids of authentication; compared without regard to case, written as documented.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuthResultId {
    /// `AUTH_SUCCESSFUL_AND_COMPLETE`
    Complete,
    /// `AUTH_SUCCESSFUL_AND_INCOMPLETE`
    Incomplete,
    /// `AUTH_FAILED_UNKNOWN_USERNAME_OR_PASSWORD`
    UnknownUsernameOrPassword,
    /// `AUTH_FAILED_ACCESS_DENIED`
    AccessDenied,
    /// `AUTH_FAILED_USER_HAS_NO_RESOURCE`
    UserHasNoResource,
    /// `AUTH_FAILED_EXPIRED_PASSWORD`
    ExpiredPassword,
    /// `AUTH_FAILED_DIALOG_INVALID_USER_ENTRY`
    DialogInvalidUserEntry,
    /// Any other, as received.
    Other(String),
}

/// Answer to [`Authenticate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticateResp {
    /// `@method` as received: absent on the final answer of a dialog, so never made up.
    pub method: Option<String>,
    /// `result`
    pub result: Outcome<AuthResultId>,
    /// What comes next after an incomplete step.
    pub next_authentication: Option<NextAuthentication>,
    /// Everything else.
    pub rest: Rest,
}

/// Asks for the desktops the user is entitled to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GetResourceList {
    /// `protocols/protocol`
    pub protocols: Vec<String>,
    /// `resource-types/resource-type`
    pub resource_types: Vec<String>,
    /// Everything else.
    pub rest: Rest,
}

/// Result ids of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListResultId {
    /// `LIST_SUCCESSFUL`
    Successful,
    /// `LIST_FAILED_NO_ENTITLEMENT`
    NoEntitlement,
    /// Any other, as received.
    Other(String),
}

/// Answer to [`GetResourceList`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetResourceListResp {
    /// `result`
    pub result: Outcome<ListResultId>,
    /// `resource`, in the broker's order.
    pub resources: Vec<Resource>,
    /// Everything else.
    pub rest: Rest,
}

/// One desktop of the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// `resource-name`, shown to the user
    pub name: String,
    /// `resource-id`, opaque
    pub id: String,
    /// `resource-type`, usually `DESKTOP`
    pub resource_type: Option<String>,
    /// `resource-type/@session-type`, usually `VDI`
    pub session_type: Option<String>,
    /// `resource-state`
    pub state: Option<String>,
    /// `protocols/protocol`
    pub protocols: Vec<ResourceProtocol>,
    /// Everything else.
    pub rest: Rest,
}

/// A protocol a desktop can be reached with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceProtocol {
    /// `PCOIP`
    pub name: String,
    /// `@is-default`, as received
    pub is_default: Option<String>,
}

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

/// Result ids of an allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AllocResultId {
    /// `ALLOC_SUCCESSFUL`
    Successful,
    /// `ALLOC_PENDING_TRY_AGAIN`
    PendingTryAgain,
    /// `ALLOC_FAILED_TO_ALLOCATE_BROKER`
    Broker,
    /// `ALLOC_FAILED_TO_ALLOCATE_BROKER_PORT_UNREACHABLE`
    BrokerPortUnreachable,
    /// `ALLOC_FAILED_TO_ALLOCATE_AGENT`
    Agent,
    /// `ALLOC_FAILED_NO_LICENSE`
    NoLicense,
    /// Any other, as received.
    Other(String),
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

/// Where and how the client reaches its desktop. From a broker that does not launch itself, only the address is present.
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

impl std::fmt::Debug for ConnectTag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConnectTag(..)")
    }
}

impl PartialEq for ConnectTag {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for ConnectTag {}

impl PartialEq for PasswordLogon {
    fn eq(&self, other: &Self) -> bool {
        self.username == other.username
            && self.password.expose_secret() == other.password.expose_secret()
            && self.domain == other.domain
            && self.rest == other.rest
    }
}

impl Eq for PasswordLogon {}

/// Ends the broker session; not the PCoIP session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bye {
    /// Everything.
    pub rest: Rest,
}

/// Answer to [`Bye`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByeResp {
    /// Everything.
    pub rest: Rest,
}

/// Why a document is not a broker message.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseMessageError {
    /// Not acceptable XML.
    #[error("the document is not acceptable XML")]
    Xml(#[from] ParseXmlError),
    /// The root is neither `pcoip-client` nor `pcoip-broker`.
    #[error("the root element is {found:?}, not \"pcoip-client\"")]
    Root {
        /// What stands there, shortened.
        found: String,
    },
    // further: Version (absent or malformed), MessageCount, MissingElement{path}, InvalidValue{path,…}
}

impl Envelope<Request> {
    /// Reads a request document.
    ///
    /// # Errors
    /// See [`ParseMessageError`].
    pub fn parse(document: &[u8]) -> Result<Self, ParseMessageError> {
        let _ = document;
        todo!()
    }

    /// Writes the document.
    #[must_use]
    pub fn to_document(&self) -> Zeroizing<Vec<u8>> {
        todo!()
    }
}

impl Envelope<Response> {
    /// Reads a response document.
    ///
    /// # Errors
    /// See [`ParseMessageError`].
    pub fn parse(document: &[u8]) -> Result<Self, ParseMessageError> {
        let _ = document;
        todo!()
    }

    /// Writes the document.
    #[must_use]
    pub fn to_document(&self) -> Zeroizing<Vec<u8>> {
        todo!()
    }
}

impl<M> Envelope<M> {
    /// A current-version `pcoip-client` document around `message`.
    pub fn new(message: M) -> Self {
        Self {
            root: Root::Client,
            version: Version::CURRENT,
            rest: Rest::default(),
            message,
        }
    }

    /// The answer to this document: same root; same version when it is at most 2.1.
    pub fn reply<R>(&self, message: R) -> Envelope<R> {
        Envelope {
            root: self.root,
            version: self.version.min(Version::CURRENT),
            rest: Rest::default(),
            message,
        }
    }
}
