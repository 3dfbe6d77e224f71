//! Certificates with their keys: read from PEM files, or made up for demonstrations, tests and first starts.

use std::{path::Path, sync::Arc};

use rustls::pki_types::CertificateDer;
use thiserror::Error;

/// A certificate chain, leaf first, with its private key.
#[derive(Clone, Debug)]
pub struct Identity {
    inner: Arc<rustls::sign::CertifiedKey>,
}

/// Why an identity could not be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadIdentityError {}

/// Why a certificate could not be made.
#[derive(Debug, Error)]
#[error("cannot make a certificate")]
pub struct IssueError;

impl Identity {
    /// Reads a PEM chain and a PEM key (PKCS#8, PKCS#1 or SEC1) and checks that they belong together.
    ///
    /// # Errors
    /// See [`LoadIdentityError`].
    pub fn from_pem_files(certificate: &Path, key: &Path) -> Result<Self, LoadIdentityError> {
        let _ = (certificate, key);
        todo!()
    }

    /// The chain, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.inner.cert
    }

    /// TLS server side with this identity, no client certificate asked, ALPN as given (`&[]` for none).
    #[must_use]
    pub fn server_config(&self, alpn: &[&[u8]]) -> Arc<rustls::ServerConfig> {
        let _ = alpn;
        todo!()
    }

    /// TLS server side that admits only clients whose certificate one of `authorities` has signed.
    ///
    /// # Errors
    /// When no authority can be used.
    pub fn mutual_server_config(
        &self,
        authorities: &[CertificateDer<'static>],
    ) -> Result<Arc<rustls::ServerConfig>, IssueError> {
        let _ = authorities;
        todo!()
    }
}

/// A made-up certificate authority (ECDSA P-256), for the demonstration, tests and self-signed set-ups.
#[derive(Debug)]
pub struct Authority {}

impl Authority {
    /// A new authority under the given common name, valid for a year.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub fn generate(common_name: &str) -> Result<Self, IssueError> {
        let _ = common_name;
        todo!()
    }

    /// A certificate for servers and clients, naming DNS names and IP addresses alike.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub fn issue(&self, names: &[&str]) -> Result<Identity, IssueError> {
        let _ = names;
        todo!()
    }

    /// The authority's certificate, to be trusted.
    #[must_use]
    pub fn certificate(&self) -> CertificateDer<'static> {
        todo!()
    }

    /// The authority's certificate as PEM text.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        todo!()
    }
}
