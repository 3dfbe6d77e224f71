//! Values that occur in several sections: addresses, ports, times, certificates, trust.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use portcullis_https::{CertificateDer, Fingerprint, Identity, Trust, identity::read_certificates};
use portcullis_protocol::license_path::LicensePath;
use toml::Spanned;

use super::{check::Checker, error::Mistake, file};

impl Checker {
    pub(super) fn wrong(
        &mut self,
        at: &Range<usize>,
        key: &str,
        problem: impl Into<String>,
        remedy: &str,
    ) {
        self.mistakes
            .push(Mistake::new(at.clone(), key, problem, remedy));
    }

    pub(super) fn listen(
        &mut self,
        value: Option<Spanned<String>>,
        section: &str,
        default: SocketAddr,
    ) -> Option<SocketAddr> {
        value.map_or(Some(default), |value| {
            self.address(&value, &format!("{section}.listen"))
        })
    }

    pub(super) fn address(&mut self, value: &Spanned<String>, key: &str) -> Option<SocketAddr> {
        let parsed = value.as_ref().parse().ok();
        if parsed.is_none() {
            let problem = format!("{:?} is not an address and port", value.as_ref());
            self.wrong(
                &value.span(),
                key,
                problem,
                "write it like \"0.0.0.0:443\" or \"[::]:443\"",
            );
        }
        parsed
    }

    pub(super) fn ip(&mut self, value: &Spanned<String>, key: &str) -> Option<IpAddr> {
        let parsed = value.as_ref().parse().ok();
        if parsed.is_none() {
            let problem = format!("{:?} is not an IP address", value.as_ref());
            self.wrong(
                &value.span(),
                key,
                problem,
                "write an IPv4 or IPv6 address; names are not looked up here",
            );
        }
        parsed
    }

    pub(super) fn public_address(&mut self, value: &Spanned<String>) -> Option<IpAddr> {
        const KEY: &str = "security_gateway.public_addresses";
        let address = self.ip(value, KEY)?;
        if address.is_unspecified() || address.is_multicast() {
            let problem = format!("{address} is no address a client can connect to");
            self.wrong(
                &value.span(),
                KEY,
                problem,
                "name the address clients reach this gateway at",
            );
            return None;
        }
        if address.is_loopback() {
            self.warnings.push(Mistake::new(
                value.span(),
                KEY,
                format!("{address} is reached from this machine alone"),
                "name the address clients reach this gateway at",
            ));
        }
        Some(address)
    }

    pub(super) fn networks(&mut self, values: Vec<Spanned<String>>, key: &str) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for value in values {
            let text = value.as_ref();
            match text
                .parse::<IpNet>()
                .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
            {
                Ok(network) => networks.push(network),
                Err(_) => {
                    let problem = format!("{text:?} is not a network");
                    self.wrong(
                        &value.span(),
                        key,
                        problem,
                        "write an address or a prefix, such as \"10.1.2.3\" or \"10.1.2.0/24\"",
                    );
                }
            }
        }
        networks
    }

    pub(super) fn https_url(&mut self, value: Spanned<String>, key: &str) -> Option<String> {
        let text = value.as_ref().trim_end_matches('/');
        let host = text
            .strip_prefix("https://")
            .filter(|rest| !rest.is_empty() && !rest.starts_with([':', '/']));
        if host.is_none() || text.contains(char::is_whitespace) {
            let problem = format!("{:?} is not an https address", value.as_ref());
            self.wrong(
                &value.span(),
                key,
                problem,
                "write it like \"https://broker.example.com\"; passwords travel over it",
            );
            return None;
        }
        Some(text.to_owned())
    }

    pub(super) fn license_path(
        &mut self,
        value: &Spanned<String>,
        key: &str,
    ) -> Option<LicensePath> {
        let parsed = value.as_ref().parse().ok();
        if parsed.is_none() {
            let problem = format!("{:?} is not a licence server's address", value.as_ref());
            self.wrong(&value.span(), key, problem, "write it like \"7071@licences.example.com\" or \"https://licences.example.com:7071/request\"");
        }
        parsed
    }

    pub(super) fn port(&mut self, value: Option<Spanned<u16>>, key: &str, default: u16) -> u16 {
        let Some(value) = value else { return default };
        if *value.as_ref() == 0 {
            self.wrong(
                &value.span(),
                key,
                "0 is not a port",
                "write a number from 1 to 65535",
            );
        }
        value.into_inner()
    }

    pub(super) fn count(
        &mut self,
        value: Option<Spanned<usize>>,
        key: &str,
        default: usize,
    ) -> usize {
        let Some(value) = value else { return default };
        if *value.as_ref() == 0 {
            self.wrong(
                &value.span(),
                key,
                "0 would refuse everybody",
                "write at least 1, or remove the key for the default",
            );
        }
        value.into_inner()
    }

    pub(super) fn seconds(
        &mut self,
        value: Option<Spanned<u64>>,
        key: &str,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> Duration {
        Duration::from_secs(
            value.map_or(default, |value| self.bounded(value, key, "seconds", range)),
        )
    }

    pub(super) fn bounded(
        &mut self,
        value: Spanned<u64>,
        key: &str,
        unit: &str,
        range: std::ops::RangeInclusive<u64>,
    ) -> u64 {
        if !range.contains(value.as_ref()) {
            let problem = format!("{} is out of range", value.as_ref());
            let remedy = format!(
                "write a number of {unit} from {} to {}",
                range.start(),
                range.end()
            );
            self.wrong(&value.span(), key, problem, &remedy);
        }
        value.into_inner()
    }

    /// The outer `None` is a mistake, the inner one that none is configured.
    #[expect(
        clippy::option_option,
        reason = "absent and wrong are different answers"
    )]
    pub(super) fn identity(
        &mut self,
        certificate: Option<Spanned<PathBuf>>,
        key: Option<Spanned<PathBuf>>,
        section: &str,
    ) -> Option<Option<Identity>> {
        let (certificate, key) = match (certificate, key) {
            (None, None) => return Some(None),
            (Some(certificate), Some(key)) => (certificate, key),
            (Some(alone), None) => {
                self.wrong(
                    &alone.span(),
                    &format!("{section}.certificate"),
                    "stands without a key",
                    "set `key` to the private key's file",
                );
                return None;
            }
            (None, Some(alone)) => {
                self.wrong(
                    &alone.span(),
                    &format!("{section}.key"),
                    "stands without a certificate",
                    "set `certificate` to the chain's file",
                );
                return None;
            }
        };
        match Identity::from_pem_files(
            &self.base.join(certificate.as_ref()),
            &self.base.join(key.as_ref()),
        ) {
            Ok(identity) => Some(Some(identity)),
            Err(error) => {
                let problem = chain(&error);
                self.wrong(
                    &certificate.span(),
                    &format!("{section}.certificate"),
                    problem,
                    "name a PEM file with the certificate first and its authorities after it, and the key that belongs to it",
                );
                None
            }
        }
    }

    pub(super) fn authorities(
        &mut self,
        path: &Spanned<PathBuf>,
        key: &str,
    ) -> Option<Vec<CertificateDer<'static>>> {
        match read_certificates(&self.base.join(path.as_ref())) {
            Ok(authorities) => Some(authorities),
            Err(error) => {
                self.wrong(
                    &path.span(),
                    key,
                    chain(&error),
                    "name a PEM file with the authority's certificate",
                );
                None
            }
        }
    }

    pub(super) fn trust(
        &mut self,
        value: Option<Spanned<file::Trust>>,
        key: &str,
        default: Trust,
    ) -> Option<Trust> {
        let Some(value) = value else {
            return Some(default);
        };
        let at = value.span();
        Some(match value.into_inner() {
            file::Trust::System => Trust::System,
            file::Trust::OnFirstUse => Trust::OnFirstUse,
            file::Trust::DangerAcceptAnyCertificate => {
                self.warnings.push(Mistake::new(
                    at,
                    key,
                    "any certificate is believed, and passwords travel over this leg",
                    "use { ca = \"FILE\" }, { pinned = [\"SHA256\"] } or \"on-first-use\"",
                ));
                Trust::DangerAcceptAnyCertificate
            }
            file::Trust::Ca(path) => {
                Trust::Authorities(self.authorities(&Spanned::new(at, path), key)?)
            }
            file::Trust::Pinned(pins) => {
                let parsed: Result<Vec<Fingerprint>, _> =
                    pins.iter().map(|pin| pin.parse()).collect();
                match parsed {
                    Ok(pins) if !pins.is_empty() => Trust::Pinned(pins),
                    Ok(_) | Err(_) => {
                        self.wrong(
                            &at,
                            key,
                            "a pin is not a SHA-256 fingerprint",
                            "write 64 hexadecimal digits, as `openssl x509 -fingerprint -sha256` prints them",
                        );
                        return None;
                    }
                }
            }
        })
    }
}

/// An error with all its causes, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}
