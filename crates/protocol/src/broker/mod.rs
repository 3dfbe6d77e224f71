//! The PCoIP broker protocol: `pcoip-client` documents between client, Connection Manager and broker.
//!
//! A document is an [`Envelope`] around exactly one message. Known children become fields; unknown attributes and
//! children stay in each message's [`Rest`] and are written back where they stood, so that what a newer client and broker
//! tell each other survives the relay.

use crate::xml::Limits;

mod allocate;
mod authenticate;
mod bye;
mod envelope;
mod error;
pub(crate) mod fields;
mod hello;
mod outcome;
mod resource_list;
mod rest;

pub use allocate::{
    AllocateClientInfo, AllocateResource, AllocateResourceResp, ConnectTag, SessionId, Target,
};
pub use authenticate::{Authenticate, AuthenticateResp, PasswordLogon};
pub use bye::{Bye, ByeResp};
pub use envelope::{Envelope, Request, Response, Root, Version};
#[doc(hidden)]
pub use envelope::{fuzz_request, fuzz_response};
pub use error::ParseMessageError;
pub use hello::{ClientInfo, Hello, HelloResp, NextAuthentication, ProductInfo, ServerAddress};
pub use outcome::{AllocResultId, AuthResultId, ListResultId, Outcome};
pub use resource_list::{GetResourceList, GetResourceListResp, Resource, ResourceProtocol};
pub use rest::Rest;

pub(crate) use allocate::{read_port, read_session_id, read_tag};
pub(crate) use envelope::{sole_message, take_version};
pub(crate) use error::shortened;
pub(crate) use outcome::result_ids;

/// Path of the broker protocol on every server that speaks it.
pub const PATH: &str = "/pcoip-broker/xml";
/// The only protocol version seen in public.
pub const VERSION: &str = "2.1";
/// Product name of the probe a client sends before its real hello.
pub const PROBE_PRODUCT: &str = "QueryBrokerClient";
/// The one protocol desktops are offered with.
pub const PCOIP: &str = "PCOIP";

/// Bounds on a response: a list of some thousand desktops passes, where requests stay under [`Limits::default`].
pub const RESPONSE_LIMITS: Limits = Limits {
    bytes: 1024 * 1024,
    depth: 16,
    nodes: 64 * 1024,
    attributes: 32,
};
/// The authentication method name for user name and password.
pub const AUTHENTICATE_VIA_PASSWORD: &str = "AUTHENTICATE_VIA_PASSWORD";

#[cfg(test)]
mod tests;
