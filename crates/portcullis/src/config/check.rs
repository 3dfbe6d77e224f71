//! From the shape of the file to what the roles run on: every value is checked here, and nowhere later.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use portcullis_connection_manager::AgentAddressRule;
use portcullis_https::Trust;
use portcullis_protocol::agent;
use portcullis_security_gateway::core::DEFAULT_MAX_SESSIONS;
use secrecy::SecretString;
use toml::Spanned;

use crate::logging;

use super::{
    BrokerChoice, BrokerSection, Config, ConfigError, ConsoleSection, ControlSection,
    GatewayChoice, GatewaySection, LicenseSection, LogConfig, ManagerSection, error::Mistake, file,
};

/// Where clients expect a Connection Manager.
const MANAGER_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 443);
/// Where clients expect a Security Gateway, TCP and UDP.
const GATEWAY_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 4172);
/// Where agents expect a licence server with TLS.
const LICENSE_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7071);
/// The console shows who works where: only this machine, unless told otherwise.
const CONSOLE_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9172);
/// UDP source port towards agents, as firewalls between the two expect it.
const UPSTREAM_PORT: u16 = 55_000;

/// Checks the text of a configuration file; `path` names it in messages and is where relative paths start.
pub(super) fn check(text: &str, path: &Path) -> Result<Config, Vec<ConfigError>> {
    let file = match parse(text) {
        Ok(file) => file,
        Err(mistake) => return Err(vec![mistake.located(path.to_owned(), text)]),
    };
    let base = path.parent().unwrap_or(Path::new("")).to_owned();
    let mut checker = Checker {
        base,
        mistakes: Vec::new(),
        warnings: Vec::new(),
    };
    let mut config = checker.config(file);
    let located = |mistakes: Vec<Mistake>| {
        let mut errors: Vec<ConfigError> = mistakes
            .into_iter()
            .map(|mistake| mistake.located(path.to_owned(), text))
            .collect();
        errors.sort_by_key(|error| error.line);
        errors
    };
    if checker.mistakes.is_empty() {
        config.warnings = located(checker.warnings);
        Ok(config)
    } else {
        Err(located(checker.mistakes))
    }
}

/// Reads the shape alone.
fn parse(text: &str) -> Result<file::File, Mistake> {
    let deserializer = toml::Deserializer::parse(text).map_err(|error| {
        Mistake::new(
            error.span().unwrap_or(0..0),
            "",
            format!("not TOML: {}", one_line(error.message())),
            "check quotes, brackets and equals signs around this line",
        )
    })?;
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let key: Vec<String> = error
            .path()
            .iter()
            .map(ToString::to_string)
            // How the parser reports positions is no part of the key.
            .filter(|segment| !segment.starts_with("$__"))
            .collect();
        let problem = one_line(error.inner().message());
        let remedy = remedy_for_shape(&problem);
        Mistake::new(
            error.inner().span().unwrap_or(0..0),
            key.join("."),
            problem,
            remedy,
        )
    })
}

/// A message of the parser on one line, in the words of people rather than of Rust.
fn one_line(message: &str) -> String {
    let number = |word| {
        if matches!(word, "u16" | "u32" | "u64" | "usize") {
            "a whole number"
        } else {
            word
        }
    };
    message
        .split_whitespace()
        .map(number)
        .collect::<Vec<_>>()
        .join(" ")
}

/// What to do about a message of the parser. Its wording is stable enough to look for, and where it changes, the general
/// advice still holds.
fn remedy_for_shape(problem: &str) -> String {
    let mut quoted = problem.split('`').skip(1).step_by(2);
    if problem.starts_with("unknown field") {
        let unknown = quoted.next().unwrap_or_default();
        let nearest = quoted
            .map(|known| (strsim::damerau_levenshtein(unknown, known), known))
            .min()
            .filter(|(distance, known)| *distance <= known.len() / 2);
        if let Some((_, known)) = nearest {
            return format!("did you mean `{known}`?");
        }
        return "remove it, or look up its place in docs/configuration.md".to_owned();
    }
    if problem.starts_with("missing field") {
        return format!("add `{}`", quoted.next().unwrap_or_default());
    }
    "see docs/configuration.md for what goes here".to_owned()
}

pub(super) struct Checker {
    pub(super) base: PathBuf,
    pub(super) mistakes: Vec<Mistake>,
    pub(super) warnings: Vec<Mistake>,
}

impl Checker {
    fn config(&mut self, file: file::File) -> Config {
        let roles = Roles {
            broker: file.broker.is_some(),
            gateway: file.security_gateway.is_some(),
        };
        let runs_nothing = file.connection_manager.is_none()
            && file.broker.is_none()
            && file.security_gateway.is_none()
            && file.license_server.is_none();
        if runs_nothing {
            self.wrong(
                &(0..0),
                "",
                "no role to run",
                "add at least one of [connection_manager], [broker], [security_gateway] and [license_server]",
            );
        }
        let used_broker = file
            .connection_manager
            .as_ref()
            .is_some_and(|manager| manager.as_ref().broker_url.is_none());
        if let Some(level) = &file.log.level
            && logging::parse(level.as_ref()).is_err()
        {
            let problem = format!("{:?} is no log level", level.as_ref());
            self.wrong(&level.span(), "log.level", problem, "write error, warn, info, debug or trace, or directives such as \"info,hyper=warn\"");
        }
        let log = LogConfig {
            level: file.log.level.map(Spanned::into_inner),
            format: file.log.format.unwrap_or_default(),
        };
        Config {
            log,
            connection_manager: file
                .connection_manager
                .and_then(|section| self.manager(section, &roles)),
            broker: file
                .broker
                .and_then(|section| self.broker(section, used_broker)),
            security_gateway: file
                .security_gateway
                .and_then(|section| self.gateway(section)),
            license_server: file
                .license_server
                .and_then(|section| self.license_server(section)),
            console: file.console.and_then(|section| self.console(section)),
            warnings: Vec::new(),
        }
    }

    fn manager(
        &mut self,
        section: Spanned<file::ConnectionManager>,
        roles: &Roles,
    ) -> Option<ManagerSection> {
        const AT: &str = "connection_manager";
        let whole = section.span();
        let section = section.into_inner();
        let listen = self.listen(section.listen, AT, MANAGER_LISTEN);
        let identity = self.identity(section.certificate, section.key, AT);
        let wait = self.seconds(
            section.broker_wait_seconds,
            "connection_manager.broker_wait_seconds",
            55,
            1..=300,
        );
        let broker_trust = self.trust(
            section.broker_trust,
            "connection_manager.broker_trust",
            Trust::System,
        );
        let broker = match section.broker_url {
            Some(url) => self
                .https_url(url, "connection_manager.broker_url")
                .zip(broker_trust)
                .map(|(url, trust)| BrokerChoice::External {
                    url,
                    trust,
                    pcoip_broker_root: section.broker_root == Some(file::BrokerRoot::PcoipBroker),
                    wait,
                }),
            None if roles.broker => Some(BrokerChoice::Embedded),
            None => {
                self.wrong(
                    &whole,
                    AT,
                    "no broker to ask",
                    "set broker_url to the broker's address, or add a [broker] section with users and desktops",
                );
                None
            }
        };
        let remote = section
            .gateway
            .and_then(|gateway| self.remote_gateway(gateway));
        let enabled = section.security_gateway_enabled;
        let wanted = enabled
            .as_ref()
            .map_or(remote.is_some() || roles.gateway, |enabled| {
                *enabled.as_ref()
            });
        let gateway = match (wanted, remote) {
            (false, _) => GatewayChoice::Off,
            (true, Some(remote)) => remote,
            (true, None) => {
                if !roles.gateway {
                    self.wrong(
                        &enabled.map_or(whole, |enabled| enabled.span()),
                        "connection_manager.security_gateway_enabled",
                        "no Security Gateway to use",
                        "add a [security_gateway] section, or [connection_manager.gateway] for one on another host, or set it to false",
                    );
                }
                GatewayChoice::Local
            }
        };
        let agent_trust = self.trust(
            section.agent_trust,
            "connection_manager.agent_trust",
            Trust::OnFirstUse,
        );
        let license_servers = section
            .license_servers
            .into_iter()
            .filter_map(|path| self.license_path(&path, "connection_manager.license_servers"))
            .collect();
        let agent_port = self.port(
            section.agent_port,
            "connection_manager.agent_port",
            agent::PORT,
        );
        let agent_wait = self.seconds(
            section.agent_wait_seconds,
            "connection_manager.agent_wait_seconds",
            30,
            1..=300,
        );
        let trusted_proxies = self.networks(
            section.trusted_proxies,
            "connection_manager.trusted_proxies",
        );
        let max_sessions = self.count(
            section.max_sessions,
            "connection_manager.max_sessions",
            100_000,
        );
        Some(ManagerSection {
            listen: listen?,
            identity: identity?,
            broker: broker?,
            agent_trust: agent_trust?,
            agent_port,
            agent_address: match section.agent_address {
                // A desktop must not be able to direct the gateway to another machine.
                None | Some(file::AgentAddress::Dialled) => AgentAddressRule::AsDialled,
                Some(file::AgentAddress::Named) => AgentAddressRule::AsNamed,
            },
            agent_wait,
            gateway,
            license_servers,
            trusted_proxies,
            send_pcm_info: section.send_pcm_info.unwrap_or(true),
            chunked_replies: section.chunked_replies.unwrap_or(true),
            client_log_id_fallback: section.client_log_id_fallback.unwrap_or(false),
            max_sessions,
        })
    }

    fn remote_gateway(&mut self, section: Spanned<file::RemoteGateway>) -> Option<GatewayChoice> {
        let section = section.into_inner();
        let control_url = self.https_url(
            section.control_url,
            "connection_manager.gateway.control_url",
        );
        let authorities = self.authorities(&section.ca, "connection_manager.gateway.ca");
        let identity = self.identity(
            Some(section.certificate),
            Some(section.key),
            "connection_manager.gateway",
        );
        Some(GatewayChoice::Remote {
            control_url: control_url?,
            trust: Trust::Authorities(authorities?),
            identity: identity??,
        })
    }

    fn broker(&mut self, section: Spanned<file::Broker>, used_here: bool) -> Option<BrokerSection> {
        const AT: &str = "broker";
        let whole = section.span();
        let section = section.into_inner();
        if section.listen.is_none() && !used_here {
            self.wrong(
                &whole,
                AT,
                "nobody could ask this broker",
                "set broker.listen to serve it over HTTPS, or remove connection_manager.broker_url to use it in this process",
            );
        }
        let listen = match section.listen {
            Some(listen) => Some(self.address(&listen, "broker.listen")?),
            None => None,
        };
        let identity = self.identity(section.certificate, section.key, AT);
        let trusted_proxies = self.networks(section.trusted_proxies, "broker.trusted_proxies");
        let directory = self.directory(section.user, section.desktop, section.entitlement, &whole);
        Some(BrokerSection {
            listen,
            identity: identity?,
            trusted_proxies,
            directory: directory?,
        })
    }

    fn gateway(&mut self, section: Spanned<file::SecurityGateway>) -> Option<GatewaySection> {
        const AT: &str = "security_gateway";
        let whole = section.span();
        let section = section.into_inner();
        let listen = self.listen(section.listen, AT, GATEWAY_LISTEN);
        if section.public_addresses.is_empty() {
            self.wrong(
                &whole,
                "security_gateway.public_addresses",
                "no public address",
                "name the address clients reach this gateway at; never the load balancer's",
            );
        }
        let public_addresses = section
            .public_addresses
            .into_iter()
            .filter_map(|address| self.public_address(&address))
            .collect();
        let upstream_port = match section.upstream {
            None => Some(Some(UPSTREAM_PORT)),
            Some(upstream) => {
                let at = upstream.span();
                match upstream.into_inner() {
                    file::Upstream::Port(port) if port > 0 => Some(Some(port)),
                    file::Upstream::Word(word) if word == "ephemeral" => Some(None),
                    file::Upstream::Word(word)
                        if word.parse::<u16>().is_ok_and(|port| port > 0) =>
                    {
                        Some(word.parse().ok())
                    }
                    file::Upstream::Port(_) | file::Upstream::Word(_) => {
                        self.wrong(
                            &at,
                            "security_gateway.upstream",
                            "is neither a port nor \"ephemeral\"",
                            "use 55000, the port firewalls expect, or \"ephemeral\" when several sessions go to one agent address",
                        );
                        None
                    }
                }
            }
        };
        let upstream_address = match section.upstream_address {
            Some(address) => Some(self.ip(&address, "security_gateway.upstream_address")?),
            None => None,
        };
        let control = match section.control {
            Some(control) => Some(self.control(control)?),
            None => None,
        };
        let standing_grants = self.standing_grants(section.standing_grant);
        let session_limit = section.session_hours.map(|hours| {
            self.bounded(hours, "security_gateway.session_hours", "hours", 1..=8760)
                .saturating_mul(3600)
        });
        Some(GatewaySection {
            listen: listen?,
            public_addresses,
            public_port: section
                .public_port
                .map(|port| self.port(Some(port), "security_gateway.public_port", 4172)),
            upstream_port: upstream_port?,
            upstream_address,
            max_sessions: self.count(
                section.max_sessions,
                "security_gateway.max_sessions",
                DEFAULT_MAX_SESSIONS,
            ),
            grant: self.seconds(
                section.grant_seconds,
                "security_gateway.grant_seconds",
                60,
                1..=240,
            ),
            idle: self.seconds(
                section.idle_seconds,
                "security_gateway.idle_seconds",
                75,
                5..=3600,
            ),
            tcp_grace: self.seconds(
                section.tcp_grace_seconds,
                "security_gateway.tcp_grace_seconds",
                15,
                1..=300,
            ),
            session_limit: session_limit.map(Duration::from_secs),
            control,
            standing_grants,
        })
    }

    fn control(&mut self, section: Spanned<file::GatewayControl>) -> Option<ControlSection> {
        let section = section.into_inner();
        let listen = self.address(&section.listen, "security_gateway.control.listen");
        let identity = self.identity(
            Some(section.certificate),
            Some(section.key),
            "security_gateway.control",
        );
        let authorities = self.authorities(&section.ca, "security_gateway.control.ca");
        Some(ControlSection {
            listen: listen?,
            authorities: authorities?,
            identity: identity??,
        })
    }

    fn license_server(&mut self, section: Spanned<file::LicenseServer>) -> Option<LicenseSection> {
        const AT: &str = "license_server";
        let section = section.into_inner();
        let listen = self.listen(section.listen, AT, LICENSE_LISTEN);
        let identity = self.identity(section.certificate, section.key, AT);
        if section.features.as_ref().is_empty() {
            let at = section.features.span();
            self.wrong(
                &at,
                "license_server.features",
                "is empty",
                "name a feature and its count, such as `Agent-Session = 10`",
            );
        }
        Some(LicenseSection {
            listen: listen?,
            identity: identity?,
            lease: self.seconds(
                section.lease_seconds,
                "license_server.lease_seconds",
                300,
                30..=86_400,
            ),
            features: section.features.into_inner().into_iter().collect(),
        })
    }

    fn console(&mut self, section: Spanned<file::Console>) -> Option<ConsoleSection> {
        let whole = section.span();
        let section = section.into_inner();
        let listen = self.listen(section.listen, "console", CONSOLE_LISTEN)?;
        let token = match section.token_file {
            None => None,
            Some(path) => match std::fs::read_to_string(self.base.join(path.as_ref())) {
                Ok(token) if token.trim().len() >= 16 => Some(SecretString::from(token.trim())),
                Ok(_) => {
                    self.wrong(
                        &path.span(),
                        "console.token_file",
                        "holds fewer than 16 characters",
                        "write a long random token into it",
                    );
                    return None;
                }
                Err(error) => {
                    self.wrong(
                        &path.span(),
                        "console.token_file",
                        format!("cannot read {}: {error}", path.as_ref().display()),
                        "name a readable file",
                    );
                    return None;
                }
            },
        };
        if token.is_none() && !listen.ip().is_loopback() {
            self.wrong(
                &whole,
                "console.token_file",
                "the console would show sessions to anyone who can reach it",
                "set token_file, or listen on a loopback address",
            );
        }
        Some(ConsoleSection { listen, token })
    }
}

/// Which other roles this process runs.
struct Roles {
    broker: bool,
    gateway: bool,
}
