//! The authorised relay between the client's network and the desktop's, TCP and UDP 4172.
//!
//! Nothing passes but what the Connection Manager has granted: a control connection whose ClientHello and address match an
//! unexpired grant, and the datagrams of the client that holds such a connection. TLS passes through untouched; the gateway reads
//! the server name of the ClientHello and holds no key.
//!
//! - [`core`] decides, without sockets or a clock.
//! - [`relay`] has the sockets: [`SecurityGateway`] and its [`GatewayHandle`].
//! - [`control`] carries the Connection Manager's word from another machine.
//! - [`metrics`] shows what was counted.

pub mod control;
pub mod core;
pub mod metrics;
pub mod relay;

pub use core::{
    AgentEndpoint, GrantId, GrantRefusal, GrantRequest, Granted, Limits, SessionKey, StandingGrant,
    StandingGrantTaken,
};
pub use metrics::Metrics;
pub use relay::{
    BindError, GatewayConfig, GatewayHandle, SecurityGateway, SessionSummary, Upstream,
};
