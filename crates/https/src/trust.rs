//! Which servers a client leg believes.

use std::{
    collections::HashMap,
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{
        CryptoProvider, ring::default_provider, verify_tls12_signature, verify_tls13_signature,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use thiserror::Error;

use crate::identity::{Identity, IssueError};

/// How many servers [`Trust::OnFirstUse`] remembers; further ones are refused rather than trusted unseen.
const MAX_FIRST_USES: usize = 65_536;

/// SHA-256 of a certificate's DER form. Written as 64 hexadecimal digits, colons allowed.
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
    /// Whatever each server shows first, and only that afterwards. Kept in memory, by the server name or address dialled
    /// and for as long as the client built from this policy lives.
    OnFirstUse,
    /// Anything. Passwords travel over these legs: for laboratories only.
    DangerAcceptAnyCertificate,
}

impl Trust {
    /// TLS client side under this policy, with a client certificate when `identity` is given. [`crate::Client`] calls it
    /// for HTTPS; other TLS legs use it directly.
    ///
    /// # Errors
    /// When no authority can be used.
    pub fn client_config(
        &self,
        identity: Option<&Identity>,
    ) -> Result<Arc<ClientConfig>, IssueError> {
        let provider = Arc::new(default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(rustls::ALL_VERSIONS)?;
        let by_fingerprint = |policy| {
            let verifier = FingerprintVerifier {
                policy,
                provider: Arc::clone(&provider),
            };
            Arc::new(verifier) as Arc<dyn ServerCertVerifier>
        };
        let builder = match self {
            Self::Authorities(authorities) => {
                builder.with_root_certificates(store(authorities.iter().cloned())?)
            }
            Self::System => {
                let authorities = rustls_native_certs::load_native_certs().certs;
                let mut roots = RootCertStore::empty();
                // Systems carry a few authorities no library accepts: the others still count.
                roots.add_parsable_certificates(authorities);
                if roots.is_empty() {
                    return Err(IssueError::NoSystemAuthorities);
                }
                builder.with_root_certificates(roots)
            }
            Self::Pinned(pins) => builder
                .dangerous()
                .with_custom_certificate_verifier(by_fingerprint(Policy::Pinned(pins.clone()))),
            Self::OnFirstUse => {
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(by_fingerprint(Policy::OnFirstUse(
                        Mutex::default(),
                    )))
            }
            Self::DangerAcceptAnyCertificate => builder
                .dangerous()
                .with_custom_certificate_verifier(by_fingerprint(Policy::Any)),
        };
        Ok(Arc::new(match identity {
            Some(identity) => builder.with_client_cert_resolver(identity.resolver()),
            None => builder.with_no_client_auth(),
        }))
    }
}

impl Fingerprint {
    /// The fingerprint of a certificate.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is not 64 hexadecimal digits.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a certificate fingerprint is 64 hexadecimal digits, with or without colons")]
pub struct InvalidFingerprint;

impl FromStr for Fingerprint {
    type Err = InvalidFingerprint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: Vec<u32> = text
            .chars()
            .filter(|character| *character != ':')
            .map(|character| character.to_digit(16).ok_or(InvalidFingerprint))
            .collect::<Result<_, _>>()?;
        if digits.len() != 64 {
            return Err(InvalidFingerprint);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair.iter().fold(0, |byte, digit| {
                byte << 4 | u8::try_from(*digit).unwrap_or(0)
            });
        }
        Ok(Self(bytes))
    }
}

fn store(
    authorities: impl Iterator<Item = CertificateDer<'static>>,
) -> Result<RootCertStore, IssueError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority)?;
    }
    Ok(roots)
}

#[derive(Debug)]
enum Policy {
    Pinned(Vec<Fingerprint>),
    OnFirstUse(Mutex<HashMap<ServerName<'static>, Fingerprint>>),
    Any,
}

/// Judges a certificate by what it is, not by who signed it. The handshake signature is checked in every case: whoever
/// shows the certificate holds its key.
#[derive(Debug)]
struct FingerprintVerifier {
    policy: Policy,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for FingerprintVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = Fingerprint::of(end_entity);
        let believed = match &self.policy {
            Policy::Pinned(pins) => pins.contains(&shown),
            Policy::OnFirstUse(seen) => {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                match seen.get(server_name) {
                    Some(first) => *first == shown,
                    None if seen.len() >= MAX_FIRST_USES => false,
                    None => {
                        seen.insert(server_name.to_owned(), shown);
                        true
                    }
                }
            }
            Policy::Any => true,
        };
        if believed {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_as_they_are_written() {
        let identity = Identity::self_signed(&["desk.test"]).unwrap();
        let fingerprint = Fingerprint::of(&identity.chain()[0]);
        let text = fingerprint.to_string();
        assert_eq!(text.parse(), Ok(fingerprint));
        let with_colons: Vec<String> = text
            .to_uppercase()
            .as_bytes()
            .chunks(2)
            .map(|pair| String::from_utf8_lossy(pair).into_owned())
            .collect();
        assert_eq!(with_colons.join(":").parse(), Ok(fingerprint));
        assert_eq!("".parse::<Fingerprint>(), Err(InvalidFingerprint));
        assert_eq!(text[1..].parse::<Fingerprint>(), Err(InvalidFingerprint));
        assert_eq!(
            text.replace(&text[..1], "g").parse::<Fingerprint>(),
            Err(InvalidFingerprint)
        );
    }
}
