//! What an administrator can set about the Connection Manager. Plain values; the binary reads them from its file.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use portcullis_protocol::{agent, broker::ProductInfo, license_path::LicensePath};
use thiserror::Error;

use crate::session::SessionPolicy;

/// What software recognises connections without a Connection Manager by: it must never stand in what we say of ourselves.
const DIRECT_CONNECT: &str = "direct-connect broker";

/// Separates several licence servers in `license-path`. The vendor's separator is not public; a semicolon occurs in
/// neither form of address.
const LICENSE_SEPARATOR: &str = ";";

/// Everything that can be set, with the defaults documented at each field.
#[derive(Clone, Debug)]
pub struct ManagerConfig {
    /// What is said of this Connection Manager in `hello` and `hello-resp`; `None` says nothing, which also turns off the
    /// detection of a Connection Manager behind itself. Default: product, version and platform, no address, no host name.
    pub pcm_info: Option<PcmInfo>,
    /// Licence servers that agents are told, in order, each in the form it was written. Default: none.
    pub license_servers: Vec<LicensePath>,
    /// TCP port of agents. Default: 60443.
    pub agent_port: u16,
    /// Which address is believed to be the agent's. Default: [`AgentAddressRule::AsNamed`].
    pub agent_address: AgentAddressRule,
    /// Longest wait for one answer of the broker. Default: 55 s, as deployed with the vendor's product.
    pub broker_wait: Duration,
    /// Longest wait for an agent to launch. Default: 30 s.
    pub agent_wait: Duration,
    /// Longest wait for the gateway to admit a client. Default: 5 s.
    pub gateway_wait: Duration,
    /// Longest time from a request to its answer, all waits together; clients are known to wait about a minute.
    /// Default: 57 s.
    pub answer_within: Duration,
    /// Whether replies are sent with `Transfer-Encoding: chunked`, which some clients insist on, or with a fixed length.
    /// Default: chunked.
    pub chunked_replies: bool,
    /// Largest request body, in bytes. Default: 64 KiB, which is also all that the message reader takes.
    pub body_bytes: usize,
    /// Longest time for a request body to arrive. Default: 10 s.
    pub body_wait: Duration,
    /// Load balancers and proxies whose `X-Forwarded-For` is believed. Default: none.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether a request without a cookie finds its session by `Client-Log-Id` and client address. For clients that lose
    /// cookies; such ids can be guessed, so it is off by default.
    pub client_log_id_fallback: bool,
    /// Most sessions at a time. Default: 100 000.
    pub max_sessions: usize,
    /// A session without a request for this long is dropped. Default: 10 min.
    pub idle: Duration,
    /// A session that has no desktop after this long is dropped, busy or not. Default: 1 h.
    pub lifetime: Duration,
    /// How long the result of a health probe is used again, so that health checks cannot hammer the broker. Default: 2 s.
    pub health_fresh: Duration,
}

impl Default for ManagerConfig {
    fn default() -> Self {
        Self {
            pcm_info: Some(PcmInfo::ours()),
            license_servers: Vec::new(),
            agent_port: agent::PORT,
            agent_address: AgentAddressRule::default(),
            broker_wait: Duration::from_secs(55),
            agent_wait: Duration::from_secs(30),
            gateway_wait: Duration::from_secs(5),
            answer_within: Duration::from_secs(57),
            chunked_replies: true,
            body_bytes: 64 * 1024,
            body_wait: Duration::from_secs(10),
            trusted_proxies: Vec::new(),
            client_log_id_fallback: false,
            max_sessions: 100_000,
            idle: Duration::from_secs(10 * 60),
            lifetime: Duration::from_secs(60 * 60),
            health_fresh: Duration::from_secs(2),
        }
    }
}

impl ManagerConfig {
    /// The part the session machine needs. `gateway` says whether clients are sent through a Security Gateway.
    #[must_use]
    pub fn session_policy(&self, gateway: bool) -> SessionPolicy {
        SessionPolicy {
            pcm_info: self.pcm_info.clone(),
            license_path: self
                .license_servers
                .iter()
                .map(LicensePath::as_str)
                .collect::<Vec<_>>()
                .join(LICENSE_SEPARATOR),
            agent_port: self.agent_port,
            agent_address: self.agent_address,
            gateway,
            idle: self.idle,
            lifetime: self.lifetime,
        }
    }
}

/// Which address is believed to be the agent's when a session is launched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AgentAddressRule {
    /// The one the agent names in its answer, which may differ from the one dialled on desktops with several networks.
    /// Loopback, unspecified and multicast addresses are replaced by the one dialled.
    #[default]
    AsNamed,
    /// Always the one dialled, so that no desktop can direct the gateway to another machine.
    AsDialled,
}

/// What a Connection Manager says of itself (`pcm-info`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcmInfo(ProductInfo);

/// A name that would make software take this for a connection without a Connection Manager.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the Connection Manager must not call itself a \"Direct-Connect Broker\"")]
pub struct InvalidPcmInfo;

impl PcmInfo {
    /// The product name; also the marker by which a Connection Manager behind itself is noticed.
    pub const PRODUCT: &'static str = "Portcullis";

    /// Product, version and platform of this build.
    #[must_use]
    pub fn ours() -> Self {
        Self(ProductInfo {
            product_name: Some(Self::PRODUCT.into()),
            product_version: Some(env!("CARGO_PKG_VERSION").into()),
            platform: Some(std::env::consts::OS.into()),
            ..ProductInfo::default()
        })
    }

    /// The same, with the address and the host name clients know this Connection Manager by.
    ///
    /// # Errors
    /// When the host name holds the phrase that marks connections without a Connection Manager.
    pub fn at(address: Option<IpAddr>, hostname: Option<&str>) -> Result<Self, InvalidPcmInfo> {
        if hostname.is_some_and(|name| name.to_lowercase().contains(DIRECT_CONNECT)) {
            return Err(InvalidPcmInfo);
        }
        let Self(mut info) = Self::ours();
        info.ip_address = address.map(|address| address.to_string());
        info.hostname = hostname.map(str::to_owned);
        Ok(Self(info))
    }

    /// As it goes over the wire.
    #[must_use]
    pub fn as_product_info(&self) -> &ProductInfo {
        &self.0
    }

    /// Whether `info` was written by a Portcullis, this one or another.
    #[must_use]
    pub fn is_ours(info: &ProductInfo) -> bool {
        info.product_name
            .as_deref()
            .is_some_and(|name| name.trim().eq_ignore_ascii_case(Self::PRODUCT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_direct_connect_phrase_is_refused_in_any_case() {
        assert_eq!(
            PcmInfo::at(None, Some("a DIRECT-CONNECT broker")),
            Err(InvalidPcmInfo)
        );
        assert!(PcmInfo::at(None, Some("cm.example")).is_ok());
    }

    #[test]
    fn the_marker_is_the_product_name() {
        assert!(PcmInfo::is_ours(PcmInfo::ours().as_product_info()));
        assert!(PcmInfo::is_ours(&ProductInfo {
            product_name: Some(" portcullis".into()),
            ..ProductInfo::default()
        }));
        assert!(!PcmInfo::is_ours(&ProductInfo::default()));
    }

    #[test]
    fn license_servers_are_joined_as_written() {
        let config = ManagerConfig {
            license_servers: ["27000@10.0.0.9", "http://lls.example:7070/request"]
                .into_iter()
                .map(|text| LicensePath::parse(text).expect("both forms are known"))
                .collect(),
            ..ManagerConfig::default()
        };
        assert_eq!(
            config.session_policy(true).license_path,
            "27000@10.0.0.9;http://lls.example:7070/request"
        );
        assert_eq!(
            ManagerConfig::default().session_policy(true).license_path,
            ""
        );
    }
}
