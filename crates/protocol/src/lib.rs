//! What goes over the wire between PCoIP client, Connection Manager, broker, agent and Security Gateway.
//!
//! Sans-IO: no socket, no clock, no async runtime. Every parser is total (it never panics), bounded in size and depth,
//! and has its fuzz entry beside it. How sure each wire fact is stands in `docs/protocol.md`.

pub mod agent;
pub mod broker;
pub mod client_hello;
mod decimal;
pub mod esp;
pub mod license_path;
mod log_id;
pub mod xml;

pub use log_id::{InvalidLogId, LogId};

/// A fuzz target: its name and its entry.
#[doc(hidden)]
pub type FuzzTarget = (&'static str, fn(&[u8]));

/// Every fuzz target by name, for `fuzz/` and for the replay of its seeds.
#[doc(hidden)]
pub const FUZZ_TARGETS: &[FuzzTarget] = &[
    ("agent_message", agent::fuzz),
    ("broker_request", broker::fuzz_request),
    ("broker_response", broker::fuzz_response),
    ("client_hello", client_hello::fuzz),
    ("esp", esp::fuzz),
    ("license_path", license_path::fuzz),
    ("xml", xml::fuzz),
];
