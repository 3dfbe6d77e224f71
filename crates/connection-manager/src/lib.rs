//! The HTTPS front door of Portcullis: the Connection Manager.
//!
//! It relays the broker protocol between client and broker, launches the session on the chosen desktop's agent, and has
//! the Security Gateway admit the client. Four rooms:
//!
//! - [`session`]: the pure machine. Every order of messages and every failure is a value in, a [`session::Step`] out.
//! - [`neighbours`]: the traits through which broker, agent and gateway are known.
//! - [`adapters`]: broker and agent over HTTPS.
//! - [`ConnectionManager`]: the shell. It reads requests, performs steps, keeps the sessions and answers health checks.
//!
//! Sentences shown to users stand in `texts`, all in one place.

pub mod adapters;
pub mod config;
mod metrics;
pub mod neighbours;
pub mod session;
mod shell;
mod texts;

pub use adapters::{HttpsAgent, HttpsBroker};
pub use config::{AgentAddressRule, InvalidPcmInfo, ManagerConfig, PcmInfo};
pub use metrics::Metrics;
pub use neighbours::{
    Agent, AgentAddress, AgentAnswer, AgentFailure, Broker, BrokerAnswer, BrokerCookies,
    BrokerExchange, BrokerFailure, Gateway, GatewayFailure, GrantOrder, GrantedAddress,
};
pub use shell::{ConnectionManager, HEALTH_PATH, LIVE_PATH};

/// The fuzz target of what a request says outside its document.
#[doc(hidden)]
pub fn fuzz_headers(data: &[u8]) {
    shell::arrival::fuzz_headers(data);
}
