//! TLS identities, trust policies, and the HTTPS server and client that every role shares.
//!
//! One place decides protocol versions (TLS 1.2 and 1.3), HTTP/1.1 only, header letter case, size and time limits.

pub mod client;
pub mod identity;
pub mod server;
pub mod trust;

pub use client::{Client, ClientOptions, Reply, SendError};
pub use identity::{Authority, Identity};
pub use rustls::pki_types::CertificateDer;
pub use server::{Peer, Server, ServerLimits};
pub use trust::{Fingerprint, Trust};
