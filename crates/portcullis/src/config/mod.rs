//! `portcullis.toml`: read, checked as a whole, and turned into what the roles run on.
//!
//! Every key is described in `docs/configuration.md`. A mistake names file, line, key and remedy, and all mistakes of a file
//! are reported at once.

mod check;
mod directory;
mod error;
mod file;
mod standing;
mod values;

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use ipnet::IpNet;
use portcullis_broker::Directory;
use portcullis_connection_manager::AgentAddressRule;
use portcullis_https::{CertificateDer, Identity, Trust};
use portcullis_protocol::license_path::LicensePath;
use portcullis_security_gateway::StandingGrant;
use secrecy::SecretString;

pub(crate) use error::ConfigError;
pub(crate) use file::LogFormat;

/// Largest configuration file read, in bytes: 100 000 desktops fit.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// What this process is to run. A role that is absent does not run.
#[derive(Debug, Default)]
pub(crate) struct Config {
    pub(crate) log: LogConfig,
    pub(crate) connection_manager: Option<ManagerSection>,
    pub(crate) broker: Option<BrokerSection>,
    pub(crate) security_gateway: Option<GatewaySection>,
    pub(crate) license_server: Option<LicenseSection>,
    pub(crate) console: Option<ConsoleSection>,
    /// What will work but is probably not meant.
    pub(crate) warnings: Vec<ConfigError>,
}

/// How log lines are written.
#[derive(Debug, Default)]
pub(crate) struct LogConfig {
    pub(crate) level: Option<String>,
    pub(crate) format: LogFormat,
}

/// `[connection_manager]`
#[derive(Debug)]
pub(crate) struct ManagerSection {
    pub(crate) listen: SocketAddr,
    /// `None`: a self-signed certificate is made at every start.
    pub(crate) identity: Option<Identity>,
    pub(crate) broker: BrokerChoice,
    pub(crate) agent_trust: Trust,
    pub(crate) agent_port: u16,
    pub(crate) agent_address: AgentAddressRule,
    pub(crate) agent_wait: Duration,
    pub(crate) gateway: GatewayChoice,
    pub(crate) license_servers: Vec<LicensePath>,
    pub(crate) trusted_proxies: Vec<IpNet>,
    pub(crate) send_pcm_info: bool,
    pub(crate) chunked_replies: bool,
    pub(crate) client_log_id_fallback: bool,
    pub(crate) max_sessions: usize,
}

/// Which broker a Connection Manager asks.
#[derive(Debug)]
pub(crate) enum BrokerChoice {
    /// The one of `[broker]`, in this process.
    Embedded,
    /// One that speaks the broker protocol over HTTPS.
    External {
        /// `https://host[:port]`
        url: String,
        /// How its certificate is judged.
        trust: Trust,
        /// Whether it wants the root element `pcoip-broker`.
        pcoip_broker_root: bool,
        /// Longest wait for an answer.
        wait: Duration,
    },
}

/// Whether and where sessions are relayed.
#[derive(Debug)]
pub(crate) enum GatewayChoice {
    /// LAN: clients go straight to the agents.
    Off,
    /// The gateway of `[security_gateway]`, in this process.
    Local,
    /// A gateway in a process of its own, over its control link.
    Remote {
        /// `https://host:port`
        control_url: String,
        /// How its certificate is judged.
        trust: Trust,
        /// What we show it.
        identity: Identity,
    },
}

/// `[broker]`
#[derive(Debug)]
pub(crate) struct BrokerSection {
    /// `None`: only the Connection Manager of this process asks it.
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) identity: Option<Identity>,
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Users, desktops and who may use which.
    pub(crate) directory: Directory,
}

/// `[security_gateway]`
#[derive(Debug)]
pub(crate) struct GatewaySection {
    pub(crate) listen: SocketAddr,
    pub(crate) public_addresses: Vec<IpAddr>,
    pub(crate) public_port: Option<u16>,
    /// `None`: a port of its own for each session.
    pub(crate) upstream_port: Option<u16>,
    pub(crate) upstream_address: Option<IpAddr>,
    pub(crate) max_sessions: usize,
    pub(crate) grant: Duration,
    pub(crate) idle: Duration,
    pub(crate) tcp_grace: Duration,
    pub(crate) session_limit: Option<Duration>,
    pub(crate) control: Option<ControlSection>,
    pub(crate) standing_grants: Vec<StandingGrant>,
}

/// `[security_gateway.control]`
#[derive(Debug)]
pub(crate) struct ControlSection {
    pub(crate) listen: SocketAddr,
    pub(crate) authorities: Vec<CertificateDer<'static>>,
    pub(crate) identity: Identity,
}

/// `[license_server]`
#[derive(Debug)]
pub(crate) struct LicenseSection {
    pub(crate) listen: SocketAddr,
    pub(crate) identity: Option<Identity>,
    pub(crate) lease: Duration,
    /// Feature name and how many sessions may hold it.
    pub(crate) features: Vec<(String, u32)>,
}

/// `[console]`
#[derive(Debug)]
pub(crate) struct ConsoleSection {
    pub(crate) listen: SocketAddr,
    pub(crate) token: Option<SecretString>,
}

/// Reads and checks a configuration file.
///
/// # Errors
/// Every mistake in the file, in the order of its lines.
pub(crate) fn load(path: &Path) -> Result<Config, Vec<ConfigError>> {
    let unreadable = |problem: String, remedy: &str| {
        vec![ConfigError {
            file: path.to_owned(),
            line: None,
            key: String::new(),
            problem,
            remedy: remedy.to_owned(),
        }]
    };
    let length = std::fs::metadata(path)
        .map_err(|error| {
            unreadable(
                format!("cannot be read: {error}"),
                "name an existing file with --config, or write one: see docs/configuration.md",
            )
        })?
        .len();
    if length > MAX_FILE_BYTES {
        return Err(unreadable(
            format!("is larger than {MAX_FILE_BYTES} bytes"),
            "this is not a configuration of Portcullis",
        ));
    }
    let text = std::fs::read_to_string(path).map_err(|error| {
        unreadable(
            format!("cannot be read: {error}"),
            "make it readable UTF-8 text",
        )
    })?;
    check::check(&text, path)
}
