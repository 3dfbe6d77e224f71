//! Which servers a client leg believes.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use crate::identity::Identity;

/// SHA-256 of a certificate's DER form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// How a server's certificate is judged.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Signed by one of these authorities, for the name or address dialled.
    Authorities(Vec<CertificateDer<'static>>),
    /// Signed by an authority the operating system trusts.
    System,
    /// Exactly one of these certificates, whatever it says of itself.
    Pinned(Vec<Fingerprint>),
    /// Whatever each server shows first, and only that afterwards (kept in memory, by server name or address and port).
    OnFirstUse,
    /// Anything. Passwords travel over these legs: for laboratories only.
    DangerAcceptAnyCertificate,
}

impl Trust {
    /// TLS client side under this policy, with a client certificate when `identity` is given. Used directly for TCP 4172
    /// by the reference client; [`crate::Client`] calls it for HTTPS.
    ///
    /// # Errors
    /// When no authority can be used.
    pub fn client_config(
        &self,
        identity: Option<&Identity>,
    ) -> Result<Arc<rustls::ClientConfig>, crate::identity::IssueError> {
        let _ = identity;
        todo!()
    }
}
