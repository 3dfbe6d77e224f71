//! What a client is told before it connects.

use std::{fmt, net::IpAddr, str::FromStr, time::Duration};

use portcullis_https::Trust;
use portcullis_protocol::LogId;
use secrecy::SecretString;
use thiserror::Error;

use crate::{flow::DEFAULT_MTU, load::Load, signalling::Cipher};

/// The port of the broker protocol when a server's address names none.
pub const DEFAULT_PORT: u16 = 443;

/// How a client connects, and what it does then.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The one address the user knows.
    pub server: ServerUrl,
    /// User name; `DOMAIN\user` when `domain` is empty also names the domain.
    pub user: String,
    /// The user's password.
    pub password: SecretString,
    /// Windows domain; when it is empty and the user name has none, the first domain the server offers is used.
    pub domain: String,
    /// The desktop to connect to, by name without regard to case; by default the first of the list.
    pub desktop: Option<String>,
    /// Which servers to believe on HTTPS.
    pub trust: Trust,
    /// Which agents to believe on TCP 4172.
    pub agent_certificate: AgentCertificate,
    /// How long to stream once the session stands.
    pub stream: Duration,
    /// The traffic to ask for.
    pub load: Load,
    /// Whether to ask for the clear four-octet transport header, as real clients do by default.
    pub transport_header: bool,
    /// Ciphers in order of preference.
    pub ciphers: Vec<Cipher>,
    /// Largest IP packet, headers included, in bytes.
    pub mtu: u16,
    /// Local address of every connection: HTTPS, TCP and UDP.
    pub local_address: Option<IpAddr>,
    /// The session log id; by default a random one.
    pub log_id: Option<LogId>,
    /// Stops short, for tests of the other side.
    pub stop_after: Option<Stage>,
    /// Time limits.
    pub limits: Limits,
}

impl ClientConfig {
    /// A client with defaults: the operating system's authorities, the first desktop, ten seconds of [`Load::default`].
    #[must_use]
    pub fn new(server: ServerUrl, user: impl Into<String>, password: SecretString) -> Self {
        Self {
            server,
            user: user.into(),
            password,
            domain: String::new(),
            desktop: None,
            trust: Trust::System,
            agent_certificate: AgentCertificate::FromConnectTag,
            stream: Duration::from_secs(10),
            load: Load::default(),
            transport_header: true,
            ciphers: vec![Cipher::Aes128Gcm, Cipher::Aes256Gcm],
            mtu: DEFAULT_MTU,
            local_address: None,
            log_id: None,
            stop_after: None,
            limits: Limits::default(),
        }
    }
}

/// How the agent's certificate on TCP 4172 is judged. Agents make their own, so no authority vouches for it.
#[derive(Clone, Debug)]
pub enum AgentCertificate {
    /// Exactly the one whose fingerprint the connect-tag carries; see [`crate::tag`]. The tag came over HTTPS from a
    /// server that was believed, so the agent is believed on that server's word.
    FromConnectTag,
    /// Under a policy of its own, whatever the tag says.
    Trust(Trust),
}

/// A point to stop at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The probing hello was answered.
    Probe,
    /// The hello was answered.
    Hello,
    /// The user is authenticated.
    Authenticate,
    /// The list came.
    List,
    /// The desktop is allocated. No bye is sent.
    Allocate,
    /// The broker session is over.
    Bye,
    /// The agent accepted on TCP 4172. The connection is then dropped without a good-bye.
    Signalling,
    /// The first UDP packet was answered. The connection is then dropped without a good-bye.
    FirstDatagram,
}

/// Time limits of a client.
#[derive(Clone, Debug)]
pub struct Limits {
    /// For TCP and TLS to the server, and for TCP to the session's address.
    pub connect: Duration,
    /// For one request to the server. Connection Managers may take most of a minute to prepare a desktop.
    pub request: Duration,
    /// How often an allocation that is pending is repeated.
    pub allocate_retries: u32,
    /// Pause before each of these.
    pub allocate_pause: Duration,
    /// For TLS to the agent, which may first have to be reached by a gateway.
    pub handshake: Duration,
    /// For the agent's answer inside TLS.
    pub signalling: Duration,
    /// Pause between invites over UDP.
    pub invite_every: Duration,
    /// For the first invite to be answered.
    pub invite: Duration,
    /// How long a session may be silent over UDP before it counts as lost, as real clients have it.
    pub silence: Duration,
    /// For packets on their way when both ends have stopped sending.
    pub settle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            request: Duration::from_secs(60),
            allocate_retries: 5,
            allocate_pause: Duration::from_secs(1),
            handshake: Duration::from_secs(15),
            signalling: Duration::from_secs(10),
            invite_every: Duration::from_millis(250),
            invite: Duration::from_secs(10),
            silence: Duration::from_secs(30),
            settle: Duration::from_millis(500),
        }
    }
}

/// A server's address as a user types it: `https://host`, `https://host:port`, or without `https://`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    host: String,
    port: u16,
}

/// A text that is not a server's address.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "{text:?} is not a server's address such as https://cm.example.com or https://192.0.2.1:8443"
)]
pub struct InvalidServerUrl {
    text: String,
}

impl ServerUrl {
    /// Host name or address, IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host as an address, when it is one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl FromStr for ServerUrl {
    type Err = InvalidServerUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidServerUrl {
            text: text.chars().take(100).collect(),
        };
        let trimmed = text.trim();
        let authority = match trimmed.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => rest,
            Some(_) => return Err(invalid()),
            None => trimmed,
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let authority: http::uri::Authority = authority.parse().map_err(|_| invalid())?;
        let host = authority.host();
        let port = match authority.as_str().strip_prefix(host) {
            Some("") => DEFAULT_PORT,
            Some(rest) => rest
                .strip_prefix(':')
                .and_then(|port| port.parse().ok())
                .filter(|port| *port != 0)
                .ok_or_else(invalid)?,
            // A user name stands in front.
            None => return Err(invalid()),
        };
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(invalid)?,
            None => host,
        };
        if host.is_empty() || (host.contains(':') && host.parse::<IpAddr>().is_err()) {
            return Err(invalid());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "https://[{}]", self.host)?;
        } else {
            write!(f, "https://{}", self.host)?;
        }
        if self.port == DEFAULT_PORT {
            Ok(())
        } else {
            write!(f, ":{}", self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_taken_as_users_type_them() {
        for (text, host, port, written) in [
            (
                "https://cm.example.com",
                "cm.example.com",
                443,
                "https://cm.example.com",
            ),
            (
                "cm.example.com",
                "cm.example.com",
                443,
                "https://cm.example.com",
            ),
            (" HTTPS://CM:8443/ ", "CM", 8443, "https://CM:8443"),
            ("127.0.0.1:1", "127.0.0.1", 1, "https://127.0.0.1:1"),
            ("https://[::1]:44", "::1", 44, "https://[::1]:44"),
            ("[2001:db8::1]", "2001:db8::1", 443, "https://[2001:db8::1]"),
        ] {
            let url: ServerUrl = text.parse().unwrap();
            assert_eq!((url.host(), url.port()), (host, port), "{text}");
            assert_eq!(url.to_string(), written);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "https://",
            "http://cm",
            "cm/path",
            "https://cm/pcoip-broker/xml",
            "user@cm",
            "cm:",
            "cm:0",
            "cm:70000",
            "two words",
            "[::1",
            "[cm:x]",
        ] {
            assert!(text.parse::<ServerUrl>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC{0,60}") {
            if let Ok(url) = text.parse::<ServerUrl>() {
                prop_assert_eq!(url.to_string().parse::<ServerUrl>(), Ok(url));
            }
        }
    }
}
