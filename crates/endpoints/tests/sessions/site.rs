//! A small deployment for tests: a front door that is broker and Connection Manager in one, an agent, a licence server.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response as HttpResponse},
    routing::post,
};
use bytes::Bytes;
use portcullis_endpoints::{
    Agent, AgentConfig, AgentHandle, Client, ClientConfig, Report,
    agent::{AgentEvent, LicensePolicy},
    client::{Limits, ServerUrl, SessionTarget},
    load::{DisplayLoad, Downstream, Load, PacketLoad},
};
use portcullis_https::{
    Authority, Client as Https, ClientOptions, Peer, SendError, Server, ServerLimits, Trust,
    server::{chunked, read_body},
};
use portcullis_license_server::{Handle, LicenseServer, LicenseServerConfig, PoolConfig};
use portcullis_protocol::{
    agent::{LaunchResultId, LaunchSession, LaunchSessionResp, Logon, Message, PATH as AGENT_PATH},
    broker::{
        AllocResultId, AllocateResourceResp, AuthResultId, Authenticate, AuthenticateResp, ByeResp,
        Envelope, GetResourceListResp, HelloResp, ListResultId, NextAuthentication, Outcome, PATH,
        PasswordLogon, ProductInfo, Request, Resource, Response, Rest, Target,
    },
};
use secrecy::SecretString;
use tokio::{net::TcpListener, sync::broadcast, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub(crate) const USER: &str = "ada";
pub(crate) const PASSWORD: &str = "correct horse";
pub(crate) const DESKTOP: &str = "Workstation 17";
pub(crate) const HOSTNAME: &str = "ws-17";

/// Nothing in these tests takes longer, unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What the front door saw of one request.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) message: String,
    pub(crate) peer: SocketAddr,
    pub(crate) headers: HeaderMap,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// How the front door behaves.
#[derive(Clone, Default)]
pub(crate) struct Manners {
    /// Answers so many allocations with "pending" first.
    pub(crate) pending: u32,
    /// How long it waits for the agent.
    pub(crate) agent_wait: Option<Duration>,
    /// Passed to the agent.
    pub(crate) license_path: String,
    /// Whether the agent is given another password than the user's.
    pub(crate) wrong_agent_password: bool,
    /// Changes a target before it goes out.
    pub(crate) rewrite: Option<fn(&mut Target)>,
    /// Answers every request of this name with this instead.
    pub(crate) instead: Option<(&'static str, StatusCode, &'static [u8])>,
}

/// A licence server with a pool.
pub(crate) struct Licenses {
    pub(crate) address: SocketAddr,
    pub(crate) path: String,
    pub(crate) handle: Handle,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Licenses {
    pub(crate) fn used(&self) -> u32 {
        self.handle.usage().iter().map(|feature| feature.used).sum()
    }

    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Everything running.
pub(crate) struct Site {
    pub(crate) agent: AgentHandle,
    pub(crate) events: broadcast::Receiver<AgentEvent>,
    pub(crate) server: ServerUrl,
    pub(crate) trust: Trust,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
    manners: Arc<Mutex<Manners>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// Waits until something holds that nobody tells of.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .expect("it holds in time");
}

/// A licence server on loopback, under an authority the agent of [`agent_config`] is told of.
pub(crate) async fn licenses(authority: &Authority, pool: PoolConfig) -> Licenses {
    licenses_at((Ipv4Addr::LOCALHOST, 0).into(), authority, pool).await
}

/// A licence server at an address of choice.
pub(crate) async fn licenses_at(
    address: SocketAddr,
    authority: &Authority,
    pool: PoolConfig,
) -> Licenses {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let identity = authority.issue(&["127.0.0.1"]).unwrap();
    let config = LicenseServerConfig {
        pool,
        administrator: None,
    };
    let server = LicenseServer::new(config).unwrap();
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let https = Server::new(
        listener,
        Some(identity.server_config(&[b"http/1.1"])),
        ServerLimits::default(),
    );
    tasks.spawn(https.serve(server.router(), stop.clone()));
    let handle = server.handle();
    let stopped = stop.clone();
    tasks.spawn(async move { server.run(stopped).await });
    Licenses {
        address,
        path: format!("{}@127.0.0.1", address.port()),
        handle,
        stop,
        tasks,
    }
}

pub(crate) fn agent_config(authority: &Authority) -> AgentConfig {
    AgentConfig {
        control_listen: (Ipv4Addr::LOCALHOST, 0).into(),
        data_listen: (Ipv4Addr::LOCALHOST, 0).into(),
        hostname: HOSTNAME.to_owned(),
        users: Some(vec![
            (USER.to_owned(), PASSWORD.into()),
            ("bob".to_owned(), PASSWORD.into()),
        ]),
        license: LicensePolicy {
            trust: Trust::Authorities(vec![authority.certificate()]),
            addresses: None,
            require: false,
        },
        ..AgentConfig::default()
    }
}

impl Site {
    pub(crate) async fn start(authority: &Authority, agent: AgentConfig, manners: Manners) -> Self {
        let agent = Agent::start(agent).await.unwrap();
        let events = agent.events();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let identity = authority.issue(&["127.0.0.1", "localhost"]).unwrap();
        let seen = Arc::default();
        let manners = Arc::new(Mutex::new(manners));
        let door = Arc::new(Door {
            agent: agent.addresses().control,
            manners: Arc::clone(&manners),
            seen: Arc::clone(&seen),
            logons: Mutex::default(),
        });
        let router = Router::new().route(PATH, post(answer)).with_state(door);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let https = Server::new(
            listener,
            Some(identity.server_config(&[b"http/1.1"])),
            ServerLimits::default(),
        );
        tasks.spawn(https.serve(router, stop.clone()));
        Self {
            agent,
            events,
            server: format!("https://{address}").parse().unwrap(),
            trust: Trust::Authorities(vec![authority.certificate()]),
            seen,
            manners,
            stop,
            tasks,
        }
    }

    /// An agent without licences, behind a front door that behaves.
    pub(crate) async fn plain() -> Self {
        let authority = Authority::generate("Test authority").unwrap();
        Self::start(&authority, agent_config(&authority), Manners::default()).await
    }

    pub(crate) fn manners(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.manners.lock().unwrap());
    }

    /// A client that streams briefly.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new(self.server.clone(), USER, PASSWORD.into());
        config.trust = self.trust.clone();
        config.stream = Duration::from_millis(300);
        config.load = Load {
            down: Downstream::Display(DisplayLoad {
                kbps: 5_000,
                fps: 60,
            }),
            up: PacketLoad {
                pps: 200,
                bytes: 48,
            },
        };
        config.limits = Limits {
            allocate_pause: Duration::from_millis(10),
            ..Limits::default()
        };
        config
    }

    pub(crate) async fn connect(&self, config: ClientConfig) -> Report {
        let connecting = Client::connect(config, |_| {});
        tokio::time::timeout(PATIENCE, connecting)
            .await
            .expect("the client is done in time")
            .unwrap()
    }

    /// Has a session prepared without a client that uses it.
    pub(crate) async fn launch(&self, user: &str) -> SessionTarget {
        let door = Door {
            agent: self.agent.addresses().control,
            manners: Arc::clone(&self.manners),
            seen: Arc::default(),
            logons: Mutex::default(),
        };
        let logon = PasswordLogon {
            username: user.to_owned(),
            password: PASSWORD.into(),
            domain: String::new(),
            rest: Rest::default(),
        };
        let answer = launch(&door, &logon, "").await.unwrap();
        let info = answer
            .session_info
            .unwrap_or_else(|| panic!("refused: {:?}", answer.fail_reason));
        SessionTarget {
            address: info.ip_address,
            port: info.port,
            sni: Some(info.sni),
            session_id: info.session_id,
            connect_tag: info.session_tag,
        }
    }

    /// The next event that `wanted` recognises; others are passed over.
    pub(crate) async fn event(
        &mut self,
        mut wanted: impl FnMut(&AgentEvent) -> bool,
    ) -> AgentEvent {
        let wait = async {
            loop {
                let event = self.events.recv().await.unwrap();
                if wanted(&event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("the event happens in time")
    }

    pub(crate) async fn stop(mut self) {
        self.agent.stop().await;
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

struct Door {
    agent: SocketAddr,
    manners: Arc<Mutex<Manners>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Credentials by cookie.
    logons: Mutex<HashMap<String, PasswordLogon>>,
}

async fn answer(
    State(door): State<Arc<Door>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body,
) -> HttpResponse {
    let body = read_body(body, 65_536, PATIENCE).await.unwrap();
    let request = Envelope::<Request>::parse(&body).unwrap();
    let name = request.message.name().to_owned();
    door.seen.lock().unwrap().push(Seen {
        message: name.clone(),
        peer: peer.address,
        headers: headers.clone(),
    });
    let manners = door.manners.lock().unwrap().clone();
    if let Some((message, status, body)) = manners.instead
        && message == name
    {
        return (status, body).into_response();
    }
    let text = |name: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let session = text("cookie")
        .split("; ")
        .find_map(|pair| pair.strip_prefix("JSESSIONID=").map(str::to_owned));
    let mut cookie = None;
    let response = match &request.message {
        Request::Hello(hello) => {
            if !hello.is_probe() {
                let fresh = portcullis_protocol::LogId::random();
                cookie = Some(format!("JSESSIONID={fresh}; Secure; HttpOnly"));
            }
            Response::Hello(HelloResp {
                brokers: vec![ProductInfo {
                    product_name: Some("Test broker".to_owned()),
                    ..ProductInfo::default()
                }],
                next_authentication: Some(NextAuthentication::password(vec!["CORP".to_owned()])),
                ..HelloResp::default()
            })
        }
        Request::Authenticate(Authenticate::Password(logon)) => {
            let known = logon.username == USER || logon.username == "bob";
            let right = known && *logon == with_password(logon, PASSWORD);
            if right {
                let session = session.expect("a cookie");
                door.logons.lock().unwrap().insert(session, logon.clone());
            }
            Response::Authenticate(AuthenticateResp {
                method: Some("password".to_owned()),
                result: if right {
                    Outcome::new(AuthResultId::Complete, "")
                } else {
                    Outcome::new(
                        AuthResultId::UnknownUsernameOrPassword,
                        "re-enter username, password, and/or domain",
                    )
                },
                next_authentication: None,
                rest: Rest::default(),
            })
        }
        Request::GetResourceList(_) => Response::GetResourceList(GetResourceListResp {
            result: Outcome::new(ListResultId::Successful, ""),
            resources: ["Something else", DESKTOP]
                .map(|name| Resource {
                    name: name.to_owned(),
                    id: format!("id of {name}"),
                    ..Resource::default()
                })
                .into(),
            rest: Rest::default(),
        }),
        Request::AllocateResource(_) => {
            let pending = {
                let mut manners = door.manners.lock().unwrap();
                let pending = manners.pending > 0;
                manners.pending = manners.pending.saturating_sub(1);
                pending
            };
            let logon = session.and_then(|session| door.logons.lock().unwrap().remove(&session));
            if pending {
                // The next try needs them again.
                if let (Some(logon), Some(cookie)) = (logon, cookie_of(&headers)) {
                    door.logons.lock().unwrap().insert(cookie, logon);
                }
                refusal(AllocResultId::PendingTryAgain, None)
            } else {
                let logon = logon.expect("an authenticated user");
                allocate(&door, &logon, &text("client-log-id")).await
            }
        }
        Request::Bye(_) => Response::Bye(ByeResp::default()),
        Request::Authenticate(Authenticate::Other(_)) | Request::Unknown(_) => {
            panic!("unexpected {name}")
        }
    };
    let document = request.reply(response).to_document().to_vec();
    let mut reply = chunked(document).into_response();
    if let Some(cookie) = cookie {
        let headers = reply.headers_mut();
        headers.append("set-cookie", cookie.parse().unwrap());
        headers.append("set-cookie", "AWSALB=sticky; Path=/".parse().unwrap());
    }
    reply
}

fn cookie_of(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get("cookie")?.to_str().ok()?;
    cookies
        .split("; ")
        .find_map(|pair| pair.strip_prefix("JSESSIONID=").map(str::to_owned))
}

fn with_password(logon: &PasswordLogon, password: &str) -> PasswordLogon {
    PasswordLogon {
        password: SecretString::from(password),
        ..logon.clone()
    }
}

fn refusal(id: AllocResultId, text: Option<String>) -> Response {
    Response::AllocateResource(AllocateResourceResp {
        result: Outcome {
            id,
            text,
            rest: Rest::default(),
        },
        target: None,
        resource_id: None,
        protocol: None,
        rest: Rest::default(),
    })
}

async fn allocate(door: &Door, logon: &PasswordLogon, log_id: &str) -> Response {
    let answer = match launch(door, logon, log_id).await {
        Ok(answer) => answer,
        Err(LaunchError::Unreachable) => {
            return refusal(AllocResultId::BrokerPortUnreachable, None);
        }
        Err(LaunchError::Nonsense) => return refusal(AllocResultId::Agent, None),
    };
    let Some(info) = answer.session_info else {
        let id = if answer.result.is_license_failure() {
            AllocResultId::NoLicense
        } else {
            AllocResultId::Agent
        };
        return refusal(id, answer.fail_reason);
    };
    assert_eq!(answer.result, LaunchResultId::Successful);
    let mut target = Target {
        ip_address: Some(info.ip_address),
        hostname: Some(HOSTNAME.to_owned()),
        sni: Some(info.sni),
        port: Some(info.port),
        session_id: Some(info.session_id),
        connect_tag: Some(info.session_tag),
        rest: Rest::default(),
    };
    if let Some(rewrite) = door.manners.lock().unwrap().rewrite {
        rewrite(&mut target);
    }
    Response::AllocateResource(AllocateResourceResp {
        result: Outcome::new(AllocResultId::Successful, ""),
        target: Some(target),
        resource_id: None,
        protocol: None,
        rest: Rest::default(),
    })
}

enum LaunchError {
    Unreachable,
    Nonsense,
}

impl std::fmt::Debug for LaunchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "unreachable",
            Self::Nonsense => "nonsense",
        })
    }
}

async fn launch(
    door: &Door,
    logon: &PasswordLogon,
    log_id: &str,
) -> Result<LaunchSessionResp, LaunchError> {
    let manners = door.manners.lock().unwrap().clone();
    let password = if manners.wrong_agent_password {
        "wrong".into()
    } else {
        logon.password.clone()
    };
    let request = LaunchSession {
        session_type: "UNSPECIFIED".to_owned(),
        ip_address: door.agent.ip().to_string(),
        hostname: HOSTNAME.to_owned(),
        logon: Logon {
            method: "windows-password".to_owned(),
            username: logon.username.clone(),
            password,
            domain: logon.domain.clone(),
            rest: Rest::default(),
        },
        client_mac: String::new(),
        client_ip: String::new(),
        client_name: "test".to_owned(),
        license_path: manners.license_path,
        session_log_id: log_id.to_owned(),
        time_zone_windows: None,
        rest: Rest::default(),
    };
    let options = ClientOptions {
        total: manners.agent_wait.unwrap_or(PATIENCE),
        ..ClientOptions::default()
    };
    let https = Https::new(&Trust::DangerAcceptAnyCertificate, None, options).unwrap();
    let document = Message::LaunchSession(request).to_document();
    let request = http::Request::post(format!("https://{}{AGENT_PATH}", door.agent))
        .body(Bytes::copy_from_slice(&document))
        .unwrap();
    let reply = match https.send(request).await {
        Ok(reply) => reply,
        Err(SendError::Connect(_) | SendError::TimedOut { .. }) => {
            return Err(LaunchError::Unreachable);
        }
        Err(_) => return Err(LaunchError::Nonsense),
    };
    match Message::parse(&reply.body) {
        Ok(Message::LaunchSessionResp(answer)) if reply.status == StatusCode::OK => Ok(answer),
        Ok(_) | Err(_) => Err(LaunchError::Nonsense),
    }
}
