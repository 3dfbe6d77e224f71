//! The shape of `portcullis.toml`, key by key. What the values mean is checked in [`super::check`].

use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;
use toml::Spanned;

/// The whole file. A role runs when its section is there.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) log: Log,
    pub(super) connection_manager: Option<Spanned<ConnectionManager>>,
    pub(super) broker: Option<Spanned<Broker>>,
    pub(super) security_gateway: Option<Spanned<SecurityGateway>>,
    pub(super) license_server: Option<Spanned<LicenseServer>>,
    pub(super) console: Option<Spanned<Console>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    pub(super) level: Option<Spanned<String>>,
    pub(super) format: Option<LogFormat>,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogFormat {
    /// One line of text an event.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectionManager {
    pub(super) listen: Option<Spanned<String>>,
    pub(super) certificate: Option<Spanned<PathBuf>>,
    pub(super) key: Option<Spanned<PathBuf>>,
    pub(super) broker_url: Option<Spanned<String>>,
    pub(super) broker_trust: Option<Spanned<Trust>>,
    pub(super) broker_root: Option<BrokerRoot>,
    pub(super) broker_wait_seconds: Option<Spanned<u64>>,
    pub(super) agent_trust: Option<Spanned<Trust>>,
    pub(super) agent_port: Option<Spanned<u16>>,
    pub(super) agent_address: Option<AgentAddress>,
    pub(super) agent_wait_seconds: Option<Spanned<u64>>,
    pub(super) security_gateway_enabled: Option<Spanned<bool>>,
    pub(super) gateway: Option<Spanned<RemoteGateway>>,
    #[serde(default)]
    pub(super) license_servers: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) trusted_proxies: Vec<Spanned<String>>,
    pub(super) send_pcm_info: Option<bool>,
    pub(super) chunked_replies: Option<bool>,
    pub(super) client_log_id_fallback: Option<bool>,
    pub(super) max_sessions: Option<Spanned<usize>>,
}

/// Root element's name towards an external broker.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum BrokerRoot {
    PcoipClient,
    PcoipBroker,
}

/// Which address is believed to be the agent's.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum AgentAddress {
    Dialled,
    Named,
}

/// How a server's certificate is judged.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Trust {
    System,
    OnFirstUse,
    #[serde(rename = "danger_accept_any_certificate")]
    DangerAcceptAnyCertificate,
    Ca(PathBuf),
    Pinned(Vec<String>),
}

/// A Security Gateway that runs as a process of its own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoteGateway {
    pub(super) control_url: Spanned<String>,
    pub(super) ca: Spanned<PathBuf>,
    pub(super) certificate: Spanned<PathBuf>,
    pub(super) key: Spanned<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Broker {
    pub(super) listen: Option<Spanned<String>>,
    pub(super) certificate: Option<Spanned<PathBuf>>,
    pub(super) key: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub(super) trusted_proxies: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) user: Vec<Spanned<User>>,
    #[serde(default)]
    pub(super) desktop: Vec<Spanned<Desktop>>,
    #[serde(default)]
    pub(super) entitlement: Vec<Spanned<Entitlement>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct User {
    pub(super) name: String,
    #[serde(default)]
    pub(super) domain: String,
    pub(super) password_hash: SecretString,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Desktop {
    pub(super) id: String,
    pub(super) name: Option<String>,
    pub(super) address: String,
    pub(super) hostname: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entitlement {
    pub(super) user: String,
    pub(super) desktop: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SecurityGateway {
    pub(super) listen: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) public_addresses: Vec<Spanned<String>>,
    pub(super) public_port: Option<Spanned<u16>>,
    pub(super) upstream: Option<Spanned<Upstream>>,
    pub(super) upstream_address: Option<Spanned<String>>,
    pub(super) max_sessions: Option<Spanned<usize>>,
    pub(super) grant_seconds: Option<Spanned<u64>>,
    pub(super) idle_seconds: Option<Spanned<u64>>,
    pub(super) tcp_grace_seconds: Option<Spanned<u64>>,
    pub(super) session_hours: Option<Spanned<u64>>,
    pub(super) control: Option<Spanned<GatewayControl>>,
    #[serde(default)]
    pub(super) standing_grant: Vec<Spanned<StandingGrant>>,
}

/// Admission without a Connection Manager.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StandingGrant {
    pub(super) client: Spanned<String>,
    pub(super) server_name: Option<Spanned<String>>,
    pub(super) agent: Spanned<String>,
    pub(super) tcp_port: Option<Spanned<u16>>,
    pub(super) udp_port: Option<Spanned<u16>>,
    pub(super) desktop: Option<String>,
}

/// Source port of UDP towards agents: a number, or `"ephemeral"`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Upstream {
    Port(u16),
    Word(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GatewayControl {
    pub(super) listen: Spanned<String>,
    pub(super) ca: Spanned<PathBuf>,
    pub(super) certificate: Spanned<PathBuf>,
    pub(super) key: Spanned<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LicenseServer {
    pub(super) listen: Option<Spanned<String>>,
    pub(super) certificate: Option<Spanned<PathBuf>>,
    pub(super) key: Option<Spanned<PathBuf>>,
    pub(super) lease_seconds: Option<Spanned<u64>>,
    pub(super) features: Spanned<std::collections::BTreeMap<String, u32>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Console {
    pub(super) listen: Option<Spanned<String>>,
    pub(super) token_file: Option<Spanned<PathBuf>>,
}
