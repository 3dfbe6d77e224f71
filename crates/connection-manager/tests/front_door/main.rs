//! The front door over real TLS, between neighbours that do what a test tells them.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a script names the one message it is about"
)]

#[path = "../support/mod.rs"]
mod support;

mod failures;
mod health;
mod http;
mod sessions;
