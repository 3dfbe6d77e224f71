//! `portcullis demo`: every role on this machine, made-up certificates, and a user on the way through the seven steps.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use portcullis_broker::{
    Argon2Params, DesktopConfig, Directory, EntitlementConfig, UserConfig, hash_password,
};
use portcullis_connection_manager::AgentAddressRule;
use portcullis_endpoints::{Agent, AgentConfig, AgentHandle, ClientConfig, agent::LicensePolicy};
use portcullis_https::{Authority, Trust};
use portcullis_license_server::DEFAULT_FEATURE;
use portcullis_protocol::{agent, license_path::LicensePath};
use portcullis_security_gateway::{
    Limits,
    relay::{DEFAULT_UPSTREAM_PORT, PCOIP_PORT},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use tempfile::TempDir;
use uuid::Uuid;

use crate::{
    cli::Demo,
    client,
    config::{
        BrokerChoice, BrokerSection, Config, ConsoleSection, GatewayChoice, GatewaySection,
        LicenseSection, LogFormat, ManagerSection,
    },
    logging, password,
    roles::{Roles, milliseconds_since},
    terminal,
};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const USER: &str = "ada";
const DESKTOP: &str = "Workstation 17";
const HOSTNAME: &str = "WS-17";
/// One desktop, one session at a time, and one to spare while the last one's licence is on its way back.
const LICENSES: u32 = 2;
const DESKTOP_ID: &str = "ws-17";
// The ports everything has in a real deployment; where one is taken or forbidden here, a free one stands in.
const HTTPS_PORT: u16 = 443;
const LICENSE_PORT: u16 = 7071;
const CONSOLE_PORT: u16 = 9172;
/// How often ports are looked for before giving up.
const ATTEMPTS: usize = 8;
const MAX_SESSIONS: usize = 1000;
const LEASE: Duration = Duration::from_secs(300);
const BROKER_WAIT: Duration = Duration::from_secs(55);
const AGENT_WAIT: Duration = Duration::from_secs(30);
/// Short, so that what a client left behind can be seen to go.
const TCP_GRACE: Duration = Duration::from_secs(3);

/// What `demo --keep --json` prints once it is ready; scripts rely on these keys.
#[derive(Serialize)]
struct Kept<'a> {
    front_door: &'a str,
    ca: String,
    user: &'a str,
    password: &'a str,
    password_file: String,
    desktop: &'a str,
    gateway: String,
    agent: String,
    agent_data: String,
    console: String,
    ready_ms: f64,
}

/// A demonstration that runs.
struct Demonstration {
    roles: Roles,
    agent: AgentHandle,
    authority: Authority,
    user: String,
    password: SecretString,
    /// The desktop of the embedded broker; an external one has its own.
    desktop: Option<&'static str>,
    front_door: String,
    ready_ms: f64,
}

/// `portcullis demo`
pub(crate) async fn run(arguments: Demo) -> Result<ExitCode> {
    logging::start(
        if arguments.keep { "info" } else { "error" },
        LogFormat::Text,
    )?;
    let mut demonstration = Demonstration::start(&arguments).await?;
    let outcome = if arguments.keep {
        demonstration.keep(arguments.json).await
    } else {
        demonstration.show(&arguments).await
    };
    demonstration.stop().await;
    outcome
}

impl Demonstration {
    /// Starts everything. A port that was free a moment ago may be gone: then everything is tried again with others.
    async fn start(arguments: &Demo) -> Result<Self> {
        let started = Instant::now();
        let mut attempt = 1;
        loop {
            match Self::try_start(arguments, started).await {
                Err(error) if attempt < ATTEMPTS && is_taken(&error) => attempt += 1,
                outcome => break outcome,
            }
        }
    }

    async fn try_start(arguments: &Demo, started: Instant) -> Result<Self> {
        let authority = Authority::generate("Portcullis demonstration")?;
        let password = match &arguments.password_file {
            Some(path) => password::read_file(path)?,
            None => SecretString::from(Uuid::new_v4().simple().to_string()),
        };
        let agent = start_agent(arguments, &authority).await?;
        let config = config(arguments, &authority, &password, agent.addresses().control);
        let roles = match config {
            Ok(config) => Roles::start(config).await,
            Err(error) => Err(error),
        };
        let roles = match roles {
            Ok(roles) => roles,
            Err(error) => {
                agent.stop().await;
                return Err(error);
            }
        };
        let front_door = format!(
            "https://{}",
            roles
                .addresses
                .connection_manager
                .context("no Connection Manager")?
        );
        Ok(Self {
            roles,
            agent,
            authority,
            user: arguments.user.clone().unwrap_or_else(|| USER.to_owned()),
            password,
            desktop: arguments.broker_url.is_none().then_some(DESKTOP),
            front_door,
            ready_ms: milliseconds_since(started),
        })
    }

    /// Stays up and says how to connect.
    async fn keep(&mut self, json: bool) -> Result<ExitCode> {
        let folder = TempDir::with_prefix("portcullis-demo-")
            .context("cannot make a folder for the certificate")?;
        let (ca, password_file) = (folder.path().join("ca.pem"), folder.path().join("password"));
        std::fs::write(&ca, self.authority.certificate_pem())?;
        std::fs::write(&password_file, self.password.expose_secret())?;
        let addresses = self.agent.addresses();
        let gateway = self
            .roles
            .addresses
            .security_gateway
            .map_or_else(String::new, |address| address.to_string());
        let console = self
            .roles
            .addresses
            .console
            .map_or_else(String::new, |address| format!("http://{address}"));
        let kept = Kept {
            front_door: &self.front_door,
            ca: ca.display().to_string(),
            user: &self.user,
            password: self.password.expose_secret(),
            password_file: password_file.display().to_string(),
            desktop: self.desktop.unwrap_or_default(),
            gateway,
            agent: addresses.control.to_string(),
            agent_data: addresses.data.to_string(),
            console,
            ready_ms: self.ready_ms,
        };
        if json {
            terminal::json(&kept)?;
        } else {
            self.introduce()?;
            terminal::line("\nConnect with\n")?;
            terminal::line(&format!(
                "  portcullis client connect --server {} --user {} --password-file {} --ca {}\n",
                kept.front_door, kept.user, kept.password_file, kept.ca
            ))?;
            terminal::line(&format!(
                "Look at {}/metrics and {}/api/v1/sessions",
                kept.console, kept.console
            ))?;
            terminal::line("Stop with Ctrl-C")?;
        }
        tokio::select! {
            told = terminal::told_to_end() => told?,
            role = self.roles.first_ended() => anyhow::bail!("the role {role} ended by itself; see the log"),
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Takes a user through the seven steps.
    async fn show(&self, arguments: &Demo) -> Result<ExitCode> {
        let mut config =
            ClientConfig::new(self.front_door.parse()?, &self.user, self.password.clone());
        config.trust = Trust::Authorities(vec![self.authority.certificate()]);
        config.stream = Duration::from_secs(arguments.seconds);
        config.desktop = self.desktop.map(str::to_owned);
        if !arguments.json {
            self.introduce()?;
            let wanted = config
                .desktop
                .as_deref()
                .unwrap_or("the first desktop of the list");
            terminal::line(&format!("\n{} asks for {wanted}\n", self.user))?;
        }
        let report = client::watch(config, arguments.json).await?;
        if arguments.json {
            terminal::json(&report)?;
        } else {
            client::summary(&report)?;
        }
        Ok(if report.ok {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn introduce(&self) -> Result<()> {
        let addresses = &self.roles.addresses;
        let agent = self.agent.addresses();
        let shown = |address: Option<SocketAddr>| {
            address.map_or_else(|| "off".to_owned(), |address| address.to_string())
        };
        terminal::line(
            "Portcullis demonstration: every role on this machine, certificates made up, store in memory\n",
        )?;
        for (role, place) in [
            ("Connection Manager", self.front_door.clone()),
            (
                "Security Gateway",
                format!("{} TCP and UDP", shown(addresses.security_gateway)),
            ),
            (
                "Licence server",
                format!("https://{}", shown(addresses.license_server)),
            ),
            (
                "Reference agent",
                format!(
                    "https://{}, session on {} TCP and UDP",
                    agent.control, agent.data
                ),
            ),
            ("Console", format!("http://{}", shown(addresses.console))),
        ] {
            terminal::line(&format!("  {role:<20}{place}"))?;
        }
        terminal::line(&format!("\nReady after {:.0} ms", self.ready_ms))
    }

    async fn stop(self) {
        self.agent.stop().await;
        self.roles.stop().await;
    }
}

async fn start_agent(arguments: &Demo, authority: &Authority) -> Result<AgentHandle> {
    let control_listen = arguments
        .agent_listen
        .unwrap_or_else(|| free(LOOPBACK, agent::PORT));
    let data_listen = if control_listen.ip() == LOOPBACK && !arguments.lan {
        // The gateway has the usual port there.
        SocketAddr::new(LOOPBACK, 0)
    } else {
        free(control_listen.ip(), PCOIP_PORT)
    };
    Agent::start(AgentConfig {
        control_listen,
        data_listen,
        hostname: HOSTNAME.to_owned(),
        license: LicensePolicy {
            trust: Trust::Authorities(vec![authority.certificate()]),
            addresses: None,
            require: true,
        },
        ..AgentConfig::default()
    })
    .await
    .context("cannot start the reference agent")
}

/// What the roles are to run on.
fn config(
    arguments: &Demo,
    authority: &Authority,
    password: &SecretString,
    agent: SocketAddr,
) -> Result<Config> {
    let identity = authority.issue(&["127.0.0.1", "localhost"])?;
    let licenses = free(LOOPBACK, LICENSE_PORT);
    let gateway = free(LOOPBACK, PCOIP_PORT);
    let broker = match &arguments.broker_url {
        None => BrokerChoice::Embedded,
        Some(url) => BrokerChoice::External {
            url: url.trim_end_matches('/').to_owned(),
            trust: Trust::OnFirstUse,
            pcoip_broker_root: false,
            wait: BROKER_WAIT,
        },
    };
    let limits = Limits::default();
    Ok(Config {
        connection_manager: Some(ManagerSection {
            listen: free(LOOPBACK, HTTPS_PORT),
            identity: Some(identity.clone()),
            agent_trust: Trust::OnFirstUse,
            agent_port: agent.port(),
            agent_address: AgentAddressRule::AsDialled,
            agent_wait: AGENT_WAIT,
            gateway: if arguments.lan {
                GatewayChoice::Off
            } else {
                GatewayChoice::Local
            },
            license_servers: vec![LicensePath::parse(&format!(
                "{}@{}",
                licenses.port(),
                licenses.ip()
            ))?],
            trusted_proxies: Vec::new(),
            send_pcm_info: true,
            chunked_replies: true,
            client_log_id_fallback: false,
            max_sessions: MAX_SESSIONS,
            broker,
        }),
        broker: match arguments.broker_url {
            Some(_) => None,
            None => Some(BrokerSection {
                listen: None,
                identity: None,
                trusted_proxies: Vec::new(),
                directory: directory(password, agent.ip())?,
            }),
        },
        security_gateway: (!arguments.lan).then(|| GatewaySection {
            listen: gateway,
            public_addresses: vec![LOOPBACK],
            public_port: None,
            upstream_port: Some(free_udp(LOOPBACK, DEFAULT_UPSTREAM_PORT)),
            upstream_address: None,
            max_sessions: MAX_SESSIONS,
            grant: limits.grant_window,
            idle: limits.udp_idle,
            tcp_grace: TCP_GRACE,
            session_limit: None,
            control: None,
            standing_grants: Vec::new(),
        }),
        license_server: Some(LicenseSection {
            listen: licenses,
            identity: Some(identity),
            lease: LEASE,
            features: vec![(DEFAULT_FEATURE.to_owned(), LICENSES)],
        }),
        console: Some(ConsoleSection {
            listen: free(LOOPBACK, CONSOLE_PORT),
            token: None,
        }),
        ..Config::default()
    })
}

/// One user, one desktop, one entitlement.
fn directory(password: &SecretString, agent: IpAddr) -> Result<Directory> {
    let user = UserConfig {
        name: USER.to_owned(),
        domain: String::new(),
        password_hash: hash_password(password, Argon2Params::default())?.into(),
    };
    let desktop = DesktopConfig {
        id: DESKTOP_ID.to_owned(),
        name: DESKTOP.to_owned(),
        address: agent.to_string(),
        agent_port: None,
        hostname: Some(HOSTNAME.to_owned()),
    };
    let entitlement = EntitlementConfig {
        user: USER.to_owned(),
        desktop: DESKTOP_ID.to_owned(),
    };
    Ok(Directory::new(
        vec![user],
        vec![desktop],
        vec![entitlement],
    )?)
}

/// The usual port at an address when it can be had, TCP and UDP, else one that is free now.
fn free(ip: IpAddr, usual: u16) -> SocketAddr {
    let try_port = |port| {
        let listener = TcpListener::bind((ip, port)).ok()?;
        let address = listener.local_addr().ok()?;
        UdpSocket::bind(address).ok()?;
        Some(address)
    };
    (0..ATTEMPTS)
        .find_map(|attempt| try_port(if attempt == 0 { usual } else { 0 }))
        .unwrap_or((ip, usual).into())
}

/// The same for a port that is only used by UDP.
fn free_udp(ip: IpAddr, usual: u16) -> u16 {
    let port = |port| {
        UdpSocket::bind((ip, port))
            .ok()?
            .local_addr()
            .ok()
            .map(|address| address.port())
    };
    port(usual).or_else(|| port(0)).unwrap_or(usual)
}

/// Whether somebody else has a port we wanted.
fn is_taken(error: &anyhow::Error) -> bool {
    let mut causes = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::AddrInUse)
}
