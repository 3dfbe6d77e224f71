//! Starts the roles a configuration asks for, wires them to each other, and ends them in order.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures_util::future::{BoxFuture, select_all};
use portcullis_broker::{Broker as EmbeddedBroker, BrokerConfig, BrokerInfo};
use portcullis_connection_manager::{
    Broker, ConnectionManager, Gateway, HttpsAgent, HttpsBroker, ManagerConfig, PcmInfo,
    adapters::{HttpsAgentOptions, HttpsBrokerOptions},
};
use portcullis_console::ConsoleSources;
use portcullis_https::{Identity, Server, ServerLimits};
use portcullis_license_server::{FeatureConfig, LicenseServer, LicenseServerConfig, PoolConfig};
use portcullis_protocol::broker::Root;
use portcullis_security_gateway::{
    GatewayConfig, GatewayHandle, Limits, SecurityGateway, Upstream,
    control::{self, ControlClient},
};
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    adapters::{InProcessBroker, InProcessGateway, RemoteGateway},
    config::{
        BrokerChoice, BrokerSection, Config, ConsoleSection, GatewayChoice, GatewaySection,
        LicenseSection, ManagerSection,
    },
};

/// The application protocol of every HTTPS server here; HTTP/2 is never offered, since clients of this protocol break on it.
const ALPN: &[&[u8]] = &[b"http/1.1"];

/// Time beyond the longest leg in which a request is still answered with that leg's own failure.
const LEG_MARGIN: Duration = Duration::from_secs(2);

/// Roles that run.
pub(crate) struct Roles {
    /// Where they listen.
    pub(crate) addresses: Addresses,
    /// In the order they are to end.
    stages: Vec<Stage>,
}

/// Where the roles of this process listen.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Addresses {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connection_manager: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) security_gateway: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) security_gateway_control: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) broker: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) license_server: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) console: Option<SocketAddr>,
}

impl Addresses {
    /// Those in use, with their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        [
            ("connection_manager", self.connection_manager),
            ("security_gateway", self.security_gateway),
            ("security_gateway_control", self.security_gateway_control),
            ("broker", self.broker),
            ("license_server", self.license_server),
            ("console", self.console),
        ]
        .into_iter()
        .filter_map(|(role, address)| Some((role, address?)))
    }
}

/// What ends together.
struct Stage {
    name: &'static str,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

impl Stage {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            shutdown: CancellationToken::new(),
            tasks: JoinSet::new(),
        }
    }
}

impl Roles {
    /// Opens every port, then serves. Nothing serves when one port cannot be opened.
    pub(crate) async fn start(config: Config) -> Result<Self> {
        let mut building = Building::default();
        let broker = match config.broker {
            Some(section) => Some(building.broker(section).await?),
            None => None,
        };
        if let Some(section) = config.license_server {
            building.license_server(section).await?;
        }
        if let Some(section) = config.security_gateway {
            building.gateway(section).await?;
        }
        if let Some(section) = config.connection_manager {
            building.manager(section, broker).await?;
        }
        if let Some(section) = config.console {
            building.console(section).await?;
        }
        let Building {
            addresses, stages, ..
        } = building;
        Ok(Self { addresses, stages })
    }

    /// Waits for a role that ends by itself, which none should, and names it.
    pub(crate) async fn first_ended(&mut self) -> &'static str {
        let waiting = self
            .stages
            .iter_mut()
            .filter(|stage| !stage.tasks.is_empty())
            .map(|stage| {
                let name = stage.name;
                Box::pin(async move {
                    stage.tasks.join_next().await;
                    name
                }) as BoxFuture<'_, &'static str>
            });
        let waiting: Vec<_> = waiting.collect();
        if waiting.is_empty() {
            return std::future::pending().await;
        }
        select_all(waiting).await.0
    }

    /// Ends the roles, the front door first, each when the one before is done.
    pub(crate) async fn stop(self) {
        for mut stage in self.stages {
            stage.shutdown.cancel();
            while let Some(ended) = stage.tasks.join_next().await {
                if let Err(error) = ended {
                    warn!(
                        role = stage.name,
                        error = &error as &dyn std::error::Error,
                        "A role did not end well"
                    );
                }
            }
            info!(role = stage.name, "Stopped");
        }
    }
}

#[derive(Default)]
struct Building {
    addresses: Addresses,
    gateway: Option<GatewayHandle>,
    registry: Registry,
    stages: Vec<Stage>,
}

impl Building {
    async fn broker(&mut self, section: BrokerSection) -> Result<EmbeddedBroker> {
        let broker = EmbeddedBroker::new(
            section.directory,
            BrokerConfig {
                info: BrokerInfo {
                    hostname: hostname(),
                    ip_address: section
                        .listen
                        .map(|listen| listen.ip())
                        .filter(|ip| !ip.is_unspecified()),
                    ..BrokerInfo::default()
                },
                trusted_proxies: section.trusted_proxies,
                ..BrokerConfig::default()
            },
        );
        broker.register(&mut self.registry);
        if let Some(listen) = section.listen {
            let identity = identity_or_made(section.identity, "broker", &[listen])?;
            let mut stage = Stage::new("broker");
            self.addresses.broker =
                Some(serve_https(&mut stage, listen, &identity, broker.router(), "broker").await?);
            self.ends_before_the_rest(stage);
        }
        Ok(broker)
    }

    async fn license_server(&mut self, section: LicenseSection) -> Result<()> {
        let features = section
            .features
            .into_iter()
            .map(|(name, count)| FeatureConfig { name, count });
        let server = LicenseServer::new(LicenseServerConfig {
            pool: PoolConfig {
                features: features.collect(),
                lease_ttl: section.lease,
            },
            administrator: None,
        })
        .context("cannot use the features of [license_server]")?;
        server.register(&mut self.registry);
        let identity = identity_or_made(section.identity, "license_server", &[section.listen])?;
        let mut stage = Stage::new("license_server");
        self.addresses.license_server = Some(
            serve_https(
                &mut stage,
                section.listen,
                &identity,
                server.router(),
                "license_server",
            )
            .await?,
        );
        let shutdown = stage.shutdown.clone();
        stage.tasks.spawn(async move { server.run(shutdown).await });
        self.ends_before_the_rest(stage);
        Ok(())
    }

    async fn gateway(&mut self, section: GatewaySection) -> Result<()> {
        let gateway = SecurityGateway::bind(GatewayConfig {
            tcp_listen: section.listen,
            udp_listen: section.listen,
            public_addresses: section.public_addresses,
            public_port: section.public_port,
            upstream: section
                .upstream_port
                .map_or(Upstream::Ephemeral, Upstream::Fixed),
            upstream_address: section.upstream_address,
            limits: Limits {
                grant_window: section.grant,
                udp_idle: section.idle,
                tcp_closed_grace: section.tcp_grace,
                session: section.session_limit,
                max_sessions: section.max_sessions,
                ..Limits::default()
            },
            ..GatewayConfig::default()
        })
        .await
        .context("cannot start the Security Gateway")?;
        let handle = gateway.handle();
        for grant in section.standing_grants {
            info!(
                client = %grant.client,
                server_name = grant.server_name.as_ref().map(ToString::to_string),
                agent = %grant.agent.ip,
                desktop = grant.desktop,
                "Standing grant: clients are admitted without a Connection Manager"
            );
            handle
                .add_standing_grant(grant)
                .context("cannot add a standing grant")?;
        }
        handle.metrics().register(&mut self.registry);
        self.addresses.security_gateway = Some(gateway.tcp_address());
        let mut stage = Stage::new("security_gateway");
        stage.tasks.spawn(gateway.run(stage.shutdown.clone()));
        if let Some(section) = section.control {
            let tls = section
                .identity
                .mutual_server_config(&section.authorities)?;
            let listener = bind(section.listen, "security_gateway.control").await?;
            self.addresses.security_gateway_control = Some(listener.local_addr()?);
            let server = Server::new(listener, Some(tls), ServerLimits::default());
            stage
                .tasks
                .spawn(server.serve(control::router(handle.clone()), stage.shutdown.clone()));
        }
        self.gateway = Some(handle);
        self.ends_before_the_rest(stage);
        Ok(())
    }

    async fn manager(
        &mut self,
        section: ManagerSection,
        embedded: Option<EmbeddedBroker>,
    ) -> Result<()> {
        let defaults = ManagerConfig::default();
        let broker_wait = match &section.broker {
            BrokerChoice::Embedded => defaults.broker_wait,
            BrokerChoice::External { wait, .. } => *wait,
        };
        let broker: Arc<dyn Broker> = match section.broker {
            BrokerChoice::Embedded => Arc::new(InProcessBroker(
                embedded.context("no [broker] section for the embedded broker")?,
            )),
            BrokerChoice::External {
                url,
                trust,
                pcoip_broker_root,
                wait,
            } => {
                let root = if pcoip_broker_root {
                    Root::Broker
                } else {
                    Root::Client
                };
                let options = HttpsBrokerOptions {
                    wait,
                    root,
                    ..HttpsBrokerOptions::default()
                };
                Arc::new(
                    HttpsBroker::new(&url, &trust, None, &options)
                        .context("cannot use the broker's address")?,
                )
            }
        };
        let agent_options = HttpsAgentOptions {
            wait: section.agent_wait,
            ..HttpsAgentOptions::default()
        };
        let agent = Arc::new(HttpsAgent::new(&section.agent_trust, None, &agent_options)?);
        let gateway: Option<Arc<dyn Gateway>> = match section.gateway {
            GatewayChoice::Off => None,
            GatewayChoice::Local => {
                let handle = self
                    .gateway
                    .clone()
                    .context("no [security_gateway] section")?;
                Some(Arc::new(InProcessGateway(handle)))
            }
            GatewayChoice::Remote {
                control_url,
                trust,
                identity,
            } => Some(Arc::new(RemoteGateway(ControlClient::new(
                &control_url,
                &trust,
                &identity,
            )?))),
        };
        let listener = bind(section.listen, "connection_manager").await?;
        let address = listener.local_addr()?;
        let shown = Some(address.ip()).filter(|ip| !ip.is_unspecified());
        let pcm_info = match section.send_pcm_info {
            true => Some(PcmInfo::at(shown, Some(&hostname())).unwrap_or_else(|_| PcmInfo::ours())),
            false => None,
        };
        let manager = ConnectionManager::new(
            ManagerConfig {
                pcm_info,
                license_servers: section.license_servers,
                agent_port: section.agent_port,
                agent_address: section.agent_address,
                agent_wait: section.agent_wait,
                broker_wait,
                // One leg must not be cut off by the limit of all together.
                answer_within: defaults
                    .answer_within
                    .max(broker_wait.max(section.agent_wait) + LEG_MARGIN),
                chunked_replies: section.chunked_replies,
                trusted_proxies: section.trusted_proxies,
                client_log_id_fallback: section.client_log_id_fallback,
                max_sessions: section.max_sessions,
                ..defaults
            },
            broker,
            agent,
            gateway,
        );
        manager.metrics().register(&mut self.registry);
        let identity = identity_or_made(section.identity, "connection_manager", &[address])?;
        let mut stage = Stage::new("connection_manager");
        let server = Server::new(
            listener,
            Some(identity.server_config(ALPN)),
            ServerLimits::default(),
        );
        stage
            .tasks
            .spawn(server.serve(manager.router(), stage.shutdown.clone()));
        let shutdown = stage.shutdown.clone();
        stage
            .tasks
            .spawn(async move { manager.run(shutdown).await });
        self.addresses.connection_manager = Some(address);
        self.ends_before_the_rest(stage);
        Ok(())
    }

    async fn console(&mut self, section: ConsoleSection) -> Result<()> {
        let listener = bind(section.listen, "console").await?;
        self.addresses.console = Some(listener.local_addr()?);
        let gateway = self.gateway.clone();
        let sources = ConsoleSources {
            registry: Arc::new(std::mem::take(&mut self.registry)),
            sessions: Arc::new(move || {
                let sessions = gateway.iter().flat_map(GatewayHandle::sessions);
                sessions
                    .filter_map(|session| serde_json::to_value(session).ok())
                    .collect()
            }),
        };
        let router = portcullis_console::router(sources, section.token);
        let mut stage = Stage::new("console");
        let server = Server::new(listener, None, ServerLimits::default());
        stage
            .tasks
            .spawn(server.serve(router, stage.shutdown.clone()));
        // Last: what happens while the others end can still be seen.
        self.stages.push(stage);
        Ok(())
    }

    /// Roles are started from the innermost outwards and end the other way round.
    fn ends_before_the_rest(&mut self, stage: Stage) {
        self.stages.insert(0, stage);
    }
}

async fn serve_https(
    stage: &mut Stage,
    listen: SocketAddr,
    identity: &Identity,
    router: axum::Router,
    section: &str,
) -> Result<SocketAddr> {
    let listener = bind(listen, section).await?;
    let address = listener.local_addr()?;
    let server = Server::new(
        listener,
        Some(identity.server_config(ALPN)),
        ServerLimits::default(),
    );
    stage
        .tasks
        .spawn(server.serve(router, stage.shutdown.clone()));
    Ok(address)
}

async fn bind(address: SocketAddr, section: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        let remedy = match address.port() {
            1..1024 => "ports below 1024 take root or CAP_NET_BIND_SERVICE",
            _ => "another process may hold the port",
        };
        format!("cannot listen on TCP {address} ({remedy}; see `{section}.listen`)")
    })
}

/// The configured certificate, or one made for this start.
fn identity_or_made(
    identity: Option<Identity>,
    section: &str,
    listen: &[SocketAddr],
) -> Result<Identity> {
    if let Some(identity) = identity {
        return Ok(identity);
    }
    let mut names = vec![hostname(), "localhost".to_owned()];
    names.extend(
        listen
            .iter()
            .map(|address| address.ip())
            .filter(|ip| !ip.is_unspecified())
            .map(|ip| ip.to_string()),
    );
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    warn!(
        section,
        ?names,
        "No certificate is configured; a self-signed one was made for this start"
    );
    Identity::self_signed(&names).context("cannot make a self-signed certificate")
}

/// This machine's name.
pub(crate) fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() {
        "localhost".to_owned()
    } else {
        name.to_owned()
    }
}

/// Milliseconds since a moment, for people and JSON.
pub(crate) fn milliseconds_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}
