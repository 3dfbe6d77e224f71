//! A floating pool of session licences, leased over HTTPS.
//!
//! An agent leases a licence when it prepares a session, renews the lease while the session lasts, and gives it back at
//! the end. A lease that is never renewed expires, so an agent that dies holds a licence for one lease time and no longer.
//!
//! - [`pool`] decides: who gets a lease, until when, what a retry gets. No sockets, no clock, no randomness.
//! - [`server`] serves the pool over HTTPS, with a REST interface of our own and the read interface monitoring tools know.
//! - [`client`] is the agent's end.
//!
//! The pool lives in memory. After a restart every renewal is answered 404 and the holders lease anew; until they have,
//! the pool may be handed out twice for at most one renewal period.
//!
//! Not here: the vendor's licence agents speak a signed binary exchange on `/request`, which is neither public nor
//! implemented. `POST /request` answers 501 and says so.

mod administration;
pub mod client;
mod lease_id;
mod metrics;
pub mod pool;
pub mod server;
mod wire;

pub use client::{AcquireError, AcquireRequest, Lease, LeaseClient, RenewError, ReturnError};
pub use lease_id::LeaseId;
pub use pool::{DEFAULT_FEATURE, FeatureConfig, FeatureUsage, InvalidPool, PoolConfig};
pub use server::{Administrator, Handle, LicenseServer, LicenseServerConfig};

/// The fuzz target of requests for a lease.
#[doc(hidden)]
pub fn fuzz_acquire(data: &[u8]) {
    wire::fuzz_acquire(data);
}
