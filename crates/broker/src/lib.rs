//! The connection broker: who the users are, which desktops each is entitled to, and where those desktops are.
//!
//! It is a service from broker request to broker reply. Embedded in a Connection Manager it is called directly; served
//! over HTTPS it is an external broker for any other. Nothing differs between the two but the way the messages travel.
//!
//! - [`directory`]: users, desktops and entitlements, checked when built.
//! - [`machine`]: the sessions and the order of messages. No sockets, no clock, no randomness, no password hashing.
//! - [`password`]: argon2id hashes.
//! - [`Broker`]: the shell, which checks passwords on a bounded pool of threads beside everything else.
//! - `Broker::router`: the same over HTTPS.
//!
//! On allocation the broker names the desktop's address and nothing more: whoever asked prepares the desktop's agent. The
//! `port` of a target is the port of the PCoIP session, so the port of the agent's management service is never in it.

mod answers;
mod broker;
pub mod directory;
pub mod machine;
mod metrics;
pub mod password;
mod service;
mod sessions;
mod verifier;

pub use broker::{Broker, BrokerConfig};
pub use directory::{DesktopConfig, Directory, EntitlementConfig, InvalidDirectory, UserConfig};
pub use machine::{Answer, BrokerInfo, HandleError, Inquiry};
pub use password::{Argon2Params, HashPasswordError, hash_password};
pub use sessions::SessionToken;
