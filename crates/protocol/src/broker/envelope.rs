//! The document around a message: root, version, exactly one child.

use std::{fmt, str::FromStr};

use zeroize::Zeroizing;

use super::{
    AllocateResource, AllocateResourceResp, Authenticate, AuthenticateResp, Bye, ByeResp,
    GetResourceList, GetResourceListResp, Hello, HelloResp, ParseMessageError, RESPONSE_LIMITS,
    Rest,
    error::shortened,
    fields::{merge_attributes, take_attribute},
};
use crate::{
    decimal::decimal,
    xml::{self, Element, Limits, Node, REREAD_LIMITS},
};

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
#[expect(
    clippy::large_enum_variant,
    reason = "a message is short-lived and never stored in numbers"
)]
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

impl<M> Envelope<M> {
    /// A current-version `pcoip-client` document around `message`.
    #[must_use]
    pub fn new(message: M) -> Self {
        Self {
            root: Root::Client,
            version: Version::CURRENT,
            rest: Rest::default(),
            message,
        }
    }

    /// The answer to this document: same root; same version when it is at most 2.1.
    #[must_use]
    pub fn reply<R>(&self, message: R) -> Envelope<R> {
        Envelope {
            root: self.root,
            version: self.version.min(Version::CURRENT),
            rest: Rest::default(),
            message,
        }
    }
}

impl Envelope<Request> {
    /// Reads a request document, under [`Limits::default`].
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
}

impl Envelope<Response> {
    /// Reads a response document, under [`RESPONSE_LIMITS`].
    ///
    /// # Errors
    /// See [`ParseMessageError`].
    pub fn parse(document: &[u8]) -> Result<Self, ParseMessageError> {
        xml::parse(document, &RESPONSE_LIMITS)?.try_into()
    }

    /// Writes the document.
    #[must_use]
    pub fn to_document(&self) -> Zeroizing<Vec<u8>> {
        Element::from(self).to_document()
    }
}

impl Request {
    /// The message's element name, for logs.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Hello(_) => "hello",
            Self::Authenticate(_) => "authenticate",
            Self::GetResourceList(_) => "get-resource-list",
            Self::AllocateResource(_) => "allocate-resource",
            Self::Bye(_) => "bye",
            Self::Unknown(element) => &element.name,
        }
    }
}

impl Response {
    /// The message's element name, for logs.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Hello(_) => "hello-resp",
            Self::Authenticate(_) => "authenticate-resp",
            Self::GetResourceList(_) => "get-resource-list-resp",
            Self::AllocateResource(_) => "allocate-resource-resp",
            Self::Bye(_) => "bye-resp",
            Self::Unknown(element) => &element.name,
        }
    }
}

impl TryFrom<Element> for Request {
    type Error = ParseMessageError;

    /// Reads the message element, without the root around it.
    fn try_from(element: Element) -> Result<Self, ParseMessageError> {
        match element.name.as_str() {
            "hello" => Hello::read(element).map(Self::Hello),
            "authenticate" => Authenticate::read(element).map(Self::Authenticate),
            "get-resource-list" => GetResourceList::read(element).map(Self::GetResourceList),
            "allocate-resource" => AllocateResource::read(element).map(Self::AllocateResource),
            "bye" => Bye::read(element).map(Self::Bye),
            _ => Ok(Self::Unknown(element)),
        }
    }
}

impl From<&Request> for Element {
    /// Writes the message element, without the root around it.
    fn from(message: &Request) -> Self {
        match message {
            Request::Hello(hello) => hello.write(),
            Request::Authenticate(authenticate) => authenticate.write(),
            Request::GetResourceList(list) => list.write(),
            Request::AllocateResource(allocate) => allocate.write(),
            Request::Bye(bye) => bye.write(),
            Request::Unknown(element) => element.clone(),
        }
    }
}

impl TryFrom<Element> for Response {
    type Error = ParseMessageError;

    /// Reads the message element, without the root around it.
    fn try_from(element: Element) -> Result<Self, ParseMessageError> {
        match element.name.as_str() {
            "hello-resp" => HelloResp::read(element).map(Self::Hello),
            "authenticate-resp" => AuthenticateResp::read(element).map(Self::Authenticate),
            "get-resource-list-resp" => {
                GetResourceListResp::read(element).map(Self::GetResourceList)
            }
            "allocate-resource-resp" => {
                AllocateResourceResp::read(element).map(Self::AllocateResource)
            }
            "bye-resp" => ByeResp::read(element).map(Self::Bye),
            _ => Ok(Self::Unknown(element)),
        }
    }
}

impl From<&Response> for Element {
    /// Writes the message element, without the root around it.
    fn from(message: &Response) -> Self {
        match message {
            Response::Hello(hello) => hello.write(),
            Response::Authenticate(authenticate) => authenticate.write(),
            Response::GetResourceList(list) => list.write(),
            Response::AllocateResource(allocate) => allocate.write(),
            Response::Bye(bye) => bye.write(),
            Response::Unknown(element) => element.clone(),
        }
    }
}

impl TryFrom<Element> for Envelope<Request> {
    type Error = ParseMessageError;

    fn try_from(root: Element) -> Result<Self, ParseMessageError> {
        open(root)?.with(Request::try_from)
    }
}

impl TryFrom<Element> for Envelope<Response> {
    type Error = ParseMessageError;

    fn try_from(root: Element) -> Result<Self, ParseMessageError> {
        open(root)?.with(Response::try_from)
    }
}

impl From<&Envelope<Request>> for Element {
    fn from(envelope: &Envelope<Request>) -> Self {
        envelope.wrap(Self::from(&envelope.message))
    }
}

impl From<&Envelope<Response>> for Element {
    fn from(envelope: &Envelope<Response>) -> Self {
        envelope.wrap(Self::from(&envelope.message))
    }
}

/// Reads the root and leaves its message as it is.
fn open(mut element: Element) -> Result<Envelope<Element>, ParseMessageError> {
    let root = match element.name.as_str() {
        "pcoip-client" => Root::Client,
        "pcoip-broker" => Root::Broker,
        other => {
            return Err(ParseMessageError::Root {
                found: shortened(other),
                expected: Root::Client.as_str(),
            });
        }
    };
    let version = take_version(&mut element)?;
    let message = sole_message(&mut element)?;
    Ok(Envelope {
        root,
        version,
        rest: Rest {
            attributes: element.attributes,
            ..Rest::default()
        },
        message,
    })
}

impl Envelope<Element> {
    fn with<M>(
        self,
        read: impl FnOnce(Element) -> Result<M, ParseMessageError>,
    ) -> Result<Envelope<M>, ParseMessageError> {
        Ok(Envelope {
            root: self.root,
            version: self.version,
            rest: self.rest,
            message: read(self.message)?,
        })
    }
}

impl<M> Envelope<M> {
    /// The root element around a written message.
    fn wrap(&self, message: Element) -> Element {
        let mut root = Element::new(self.root.as_str())
            .attribute("version", self.version.to_string())
            .child(message);
        merge_attributes(&mut root.attributes, &self.rest.attributes);
        root
    }
}

/// Takes the mandatory `version` off a root.
pub(crate) fn take_version(root: &mut Element) -> Result<Version, ParseMessageError> {
    take_attribute(&mut root.attributes, "version")
        .and_then(|text| text.parse().ok())
        .ok_or(ParseMessageError::Version)
}

/// Takes the one message out of a root. Text beside it has no meaning and is refused like a second message.
pub(crate) fn sole_message(root: &mut Element) -> Result<Element, ParseMessageError> {
    let found = root.children.len();
    match (root.children.pop(), found) {
        (Some(Node::Element(message)), 1) => Ok(message),
        (Some(Node::Text(_)), 1) | (None, _) => Err(ParseMessageError::MessageCount { found: 0 }),
        (Some(_), found) => Err(ParseMessageError::MessageCount { found }),
    }
}

impl Root {
    /// The element name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "pcoip-client",
            Self::Broker => "pcoip-broker",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Version {
    type Err = ParseMessageError;

    /// Reads two decimal numbers around a dot, without signs or leading zeros.
    fn from_str(text: &str) -> Result<Self, ParseMessageError> {
        let (major, minor) = text.split_once('.').ok_or(ParseMessageError::Version)?;
        match (decimal(major), decimal(minor)) {
            (Some(major), Some(minor)) => Ok(Self { major, minor }),
            _ => Err(ParseMessageError::Version),
        }
    }
}

/// Fuzz entry: a request that is read, is written so that it reads the same.
#[doc(hidden)]
pub fn fuzz_request(data: &[u8]) {
    if let Ok(envelope) = Envelope::<Request>::parse(data) {
        let again = xml::parse(&envelope.to_document(), &REREAD_LIMITS);
        let again = again
            .map_err(ParseMessageError::from)
            .and_then(Envelope::<Request>::try_from);
        assert_eq!(again, Ok(envelope));
    }
}

/// Fuzz entry: a response that is read, is written so that it reads the same.
#[doc(hidden)]
pub fn fuzz_response(data: &[u8]) {
    if let Ok(envelope) = Envelope::<Response>::parse(data) {
        let again = xml::parse(&envelope.to_document(), &REREAD_LIMITS);
        let again = again
            .map_err(ParseMessageError::from)
            .and_then(Envelope::<Response>::try_from);
        assert_eq!(again, Ok(envelope));
    }
}
