//! Certificates with their keys: read from PEM files, or made up for demonstrations, tests and first starts.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
};
use thiserror::Error;
use time::{Duration, OffsetDateTime};

/// How long made-up certificates are valid.
const VALIDITY: Duration = Duration::days(365);
/// Made-up certificates start this much in the past, so that a client whose clock is behind accepts them.
const BACKDATED: Duration = Duration::hours(1);

/// A certificate chain, leaf first, with its private key.
#[derive(Clone, Debug)]
pub struct Identity {
    inner: Arc<CertifiedKey>,
}

/// Why an identity could not be loaded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadIdentityError {
    /// The certificate file cannot be read, or is not PEM.
    #[error("cannot read certificates from {path}")]
    ReadCertificates {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: rustls::pki_types::pem::Error,
    },
    /// The certificate file holds no certificate.
    #[error("no certificate in {path}")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The key file cannot be read, is not PEM, or holds no private key.
    #[error("cannot read a private key from {path}")]
    ReadKey {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: rustls::pki_types::pem::Error,
    },
    /// The key is of a kind that cannot sign, or is not the certificate's.
    #[error("the key in {key} does not fit the certificate in {certificate}")]
    Mismatch {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
        /// What went wrong.
        source: rustls::Error,
    },
}

/// Why a certificate could not be made, or an authority not used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The certificate library refused.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// The TLS library refused.
    #[error("cannot use a certificate")]
    Use(#[from] rustls::Error),
    /// The client verifier refused the authorities.
    #[error("cannot check client certificates against these authorities")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The operating system has no trusted authorities.
    #[error("the operating system has no trusted certificate authorities")]
    NoSystemAuthorities,
}

impl Identity {
    /// Reads a PEM chain and a PEM key (PKCS#8, PKCS#1 or SEC1) and checks that they belong together.
    ///
    /// # Errors
    /// See [`LoadIdentityError`].
    pub fn from_pem_files(certificate: &Path, key: &Path) -> Result<Self, LoadIdentityError> {
        let chain = read_certificates(certificate)?;
        let secret =
            PrivateKeyDer::from_pem_file(key).map_err(|source| LoadIdentityError::ReadKey {
                path: key.to_owned(),
                source,
            })?;
        Self::from_der(chain, secret).map_err(|source| LoadIdentityError::Mismatch {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            source,
        })
    }

    /// A certificate signed by itself, for the given DNS names and IP addresses, valid for a year.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub fn self_signed(names: &[&str]) -> Result<Self, IssueError> {
        let key = KeyPair::generate()?;
        let certificate = leaf_params(names)?.self_signed(&key)?;
        Ok(Self::from_der(
            vec![certificate.der().clone()],
            key_der(&key),
        )?)
    }

    /// The chain, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.inner.cert
    }

    /// TLS server side with this identity, no client certificate asked, ALPN as given (`&[]` for none).
    #[must_use]
    pub fn server_config(&self, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .unwrap_or_else(|_| unreachable!("the ring provider supports TLS 1.2 and 1.3"))
            .with_no_client_auth()
            .with_cert_resolver(self.resolver());
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }

    /// TLS server side that admits only clients whose certificate one of `authorities` has signed.
    ///
    /// # Errors
    /// When no authority can be used.
    pub fn mutual_server_config(
        &self,
        authorities: &[CertificateDer<'static>],
    ) -> Result<Arc<ServerConfig>, IssueError> {
        let provider = Arc::new(default_provider());
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority.clone())?;
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::ALL_VERSIONS)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(self.resolver());
        Ok(Arc::new(config))
    }

    fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, rustls::Error> {
        Ok(Self {
            inner: Arc::new(CertifiedKey::from_der(chain, key, &default_provider())?),
        })
    }

    /// Serves both sides: the resolver of a server and of a client that is asked for a certificate.
    pub(crate) fn resolver(&self) -> Arc<SingleCertAndKey> {
        Arc::new(SingleCertAndKey::from(CertifiedKey::clone(&self.inner)))
    }
}

/// Reads every certificate of a PEM file.
///
/// # Errors
/// See [`LoadIdentityError`].
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadIdentityError> {
    let failed = |source| LoadIdentityError::ReadCertificates {
        path: path.to_owned(),
        source,
    };
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(failed)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    if certificates.is_empty() {
        return Err(LoadIdentityError::NoCertificate {
            path: path.to_owned(),
        });
    }
    Ok(certificates)
}

/// A made-up certificate authority (ECDSA P-256), for the demonstration, tests and self-signed set-ups.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Authority {
    /// A new authority under the given common name, valid for a year.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub fn generate(common_name: &str) -> Result<Self, IssueError> {
        let mut params = CertificateParams::default();
        set_validity(&mut params);
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    /// A certificate for servers and clients, naming DNS names and IP addresses alike.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub fn issue(&self, names: &[&str]) -> Result<Identity, IssueError> {
        Ok(self.issue_pem(names)?.identity)
    }

    /// Like [`Authority::issue`], with the PEM texts, for set-ups that need files.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub fn issue_pem(&self, names: &[&str]) -> Result<IssuedPem, IssueError> {
        let key = KeyPair::generate()?;
        let certificate = leaf_params(names)?.signed_by(&key, &self.issuer)?;
        Ok(IssuedPem {
            certificate: certificate.pem(),
            key: key.serialize_pem().into(),
            identity: Identity::from_der(vec![certificate.der().clone()], key_der(&key))?,
        })
    }

    /// The authority's certificate, to be trusted.
    #[must_use]
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    /// The authority's certificate as PEM text.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }
}

/// An issued certificate in every form.
#[derive(Debug)]
pub struct IssuedPem {
    /// The certificate as PEM text.
    pub certificate: String,
    /// The private key as PEM text (PKCS#8).
    pub key: secrecy::SecretString,
    /// Both, ready for use.
    pub identity: Identity,
}

fn leaf_params(names: &[&str]) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::new(
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>(),
    )?;
    set_validity(&mut params);
    // A name, not an address, where there is one: that is what people read in a warning dialog.
    let common_name = names
        .iter()
        .find(|name| name.parse::<IpAddr>().is_err())
        .or(names.first());
    params.distinguished_name.push(
        DnType::CommonName,
        common_name.copied().unwrap_or("portcullis"),
    );
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    Ok(params)
}

fn set_validity(params: &mut CertificateParams) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATED;
    params.not_after = now + VALIDITY;
    params.distinguished_name = rcgen::DistinguishedName::new();
}

fn key_der(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(key.serialize_der().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_round_trip_and_a_foreign_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::generate("Test authority").unwrap();
        let (one, two) = (
            authority.issue_pem(&["one.test"]).unwrap(),
            authority.issue_pem(&["two.test"]).unwrap(),
        );
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("one.pem"), &one.certificate).unwrap();
        std::fs::write(
            path("one.key"),
            secrecy::ExposeSecret::expose_secret(&one.key),
        )
        .unwrap();
        std::fs::write(
            path("two.key"),
            secrecy::ExposeSecret::expose_secret(&two.key),
        )
        .unwrap();

        let loaded = Identity::from_pem_files(&path("one.pem"), &path("one.key")).unwrap();
        assert_eq!(loaded.chain(), one.identity.chain());
        assert!(matches!(
            Identity::from_pem_files(&path("one.pem"), &path("two.key")),
            Err(LoadIdentityError::Mismatch { .. })
        ));
        assert!(matches!(
            Identity::from_pem_files(&path("one.key"), &path("one.key")),
            Err(LoadIdentityError::NoCertificate { .. })
        ));
        assert!(matches!(
            Identity::from_pem_files(&path("one.pem"), &path("one.pem")),
            Err(LoadIdentityError::ReadKey { .. })
        ));
        assert!(matches!(
            Identity::from_pem_files(&path("none.pem"), &path("one.key")),
            Err(LoadIdentityError::ReadCertificates { .. })
        ));
    }
}
