//! The other two ends of a PCoIP session: a reference **agent** and a reference **client**.
//!
//! Both are this project's own stand-ins for the vendor's, which cannot be had; they exist to demonstrate and to test
//! Portcullis, not to show a desktop. What they say to a Connection Manager, and the layout of their UDP packets, is what
//! real ends say and send. What runs inside TLS on TCP 4172 ([`signalling`]) and inside ESP ([`payload`]) is our own
//! invention, because the vendor's is not public: neither end works with a vendor's counterpart.

pub mod agent;
pub mod client;
pub mod esp;
pub mod flow;
pub mod load;
pub mod load_generator;
pub mod payload;
pub mod signalling;
mod socket;
pub mod tag;

pub use agent::{Agent, AgentConfig, AgentHandle};
pub use client::{Client, ClientConfig, Report};

/// A fuzz entry: takes any bytes and panics only when a promise is broken.
pub type FuzzEntry = fn(&[u8]);

/// Fuzz entries of this crate by name; each stands beside its parser.
pub const FUZZ_TARGETS: &[(&str, FuzzEntry)] = &[
    ("endpoint_signalling", signalling::fuzz_signalling),
    ("endpoint_esp", esp::fuzz_esp),
];
