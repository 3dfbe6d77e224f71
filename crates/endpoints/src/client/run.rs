//! The seven steps, one after the other.

use std::time::{Duration, Instant};

use portcullis_protocol::{
    LogId,
    broker::{
        AUTHENTICATE_VIA_PASSWORD, AllocResultId, AllocateClientInfo, AllocateResource,
        AllocateResourceResp, AuthResultId, Authenticate, Bye, ClientInfo, GetResourceList, Hello,
        HelloResp, ListResultId, PCOIP, PROBE_PRODUCT, PasswordLogon, Request, Resource, Response,
        Rest, ServerAddress, Target,
    },
};
use tracing::debug;

use super::{
    ConnectError,
    config::{ClientConfig, DEFAULT_PORT, ServerUrl, Stage},
    conversation::{self, AskError, Conversation},
    problem::{Problem, port_text, tcp},
    report::{self, Milliseconds, Report, RoundTrips, StepEvent, StepReport, Udp, UdpDirection},
    session::{Session, SessionTarget, Signalled},
};
use crate::{
    agent::config::DATA_PORT,
    signalling::{Accepted, License},
};

/// What the reference client calls itself.
const PRODUCT: &str = "Portcullis Reference Client";
/// For the last bye after a failure: the server's own timeout would end its session anyway.
const PARTING: Duration = Duration::from_secs(2);
/// Desktops named when the wanted one is not among them.
const MAX_NAMED: usize = 10;

/// One connection in the making.
pub(super) struct Run<'a> {
    config: ClientConfig,
    progress: &'a mut (dyn FnMut(StepEvent) + Send),
    conversation: Conversation,
    /// Whether the server has a session of ours that a bye would end.
    greeted: bool,
    log_id: LogId,
    /// The step under way, and since when.
    current: Option<(u8, Instant)>,
    report: Report,
}

/// What the broker conversation yields.
struct Allocated {
    target: SessionTarget,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        config: ClientConfig,
        progress: &'a mut (dyn FnMut(StepEvent) + Send),
    ) -> Result<Self, ConnectError> {
        let conversation = Conversation::new(&config).map_err(ConnectError::Trust)?;
        let log_id = config.log_id.unwrap_or_else(LogId::random);
        Ok(Self {
            conversation,
            greeted: false,
            log_id,
            current: None,
            report: Report {
                ok: false,
                steps: report::unreached(),
                udp: Udp::default(),
                rtt_us: RoundTrips::default(),
                session: log_id.to_string(),
                via: None,
                desktop: None,
                license: None,
                cipher: None,
                transport_header: None,
                frames: 0,
                stream_ms: None,
                problem: None,
                result_id: None,
                server_text: None,
            },
            config,
            progress,
        })
    }

    pub(super) async fn whole(&mut self) {
        match self.establish().await {
            Ok(Some((session, target))) => self.stream(session, &target).await,
            Ok(None) => {}
            Err(problem) => self.fail(problem).await,
        }
    }

    /// All seven steps. `None` when told to stop before their end.
    pub(super) async fn establish(&mut self) -> Result<Option<(Session, SessionTarget)>, Problem> {
        let Some(Allocated { target }) = self.allocate().await? else {
            return Ok(None);
        };
        // Step 6 happened on the agent before the allocation was answered; the agent will tell of it inside step 7.
        self.current = Some((7, Instant::now()));
        let place = target.clone();
        let opened = Signalled::open(&target, &self.config).await;
        let problem = |error| Problem::session(&error, &place);
        let signalled = match opened {
            Ok(signalled) => signalled,
            Err(error) => {
                self.licensed(None);
                return Err(problem(error));
            }
        };
        self.licensed(Some(signalled.accepted()));
        self.report.via = Some(signalled.via().to_string());
        if self.stops_after(Stage::Signalling) {
            return Ok(None);
        }
        let session = signalled.invite().await.map_err(problem)?;
        let flows = vec![
            format!(
                "client → {} {}",
                target.address,
                tcp(target.port, DATA_PORT)
            ),
            format!(
                "client → {} {}",
                target.address,
                port_text("UDP", target.port, DATA_PORT)
            ),
        ];
        let round_trip = session.flow().round_trips().max();
        self.done(
            format!("First packet back over UDP after {round_trip} µs"),
            flows,
        );
        if self.stops_after(Stage::FirstDatagram) {
            self.account(&session);
            return Ok(None);
        }
        Ok(Some((session, target)))
    }

    /// Steps 1 to 5: everything that goes over HTTPS.
    async fn allocate(&mut self) -> Result<Option<Allocated>, Problem> {
        let Some(greeting) = self.greet().await? else {
            return Ok(None);
        };
        self.authenticate(&greeting).await?;
        if self.stops_after(Stage::Authenticate) {
            return Ok(None);
        }
        let resources = self.list().await?;
        if self.stops_after(Stage::List) {
            return Ok(None);
        }
        let resource = self.choose(resources)?;
        let target = self.prepare(resource).await?;
        if self.stops_after(Stage::Allocate) {
            return Ok(None);
        }
        // The session exists whatever becomes of this bye.
        if let Err(error) = self.ask(Request::Bye(Bye::default())).await {
            debug!(session = %self.log_id, problem = error.text, "The server did not answer the bye");
        }
        self.greeted = false;
        if self.stops_after(Stage::Bye) {
            return Ok(None);
        }
        Ok(Some(Allocated { target }))
    }

    /// Step 1.
    async fn greet(&mut self) -> Result<Option<HelloResp>, Problem> {
        self.begin(1);
        let server = self.config.server.clone();
        let probe = Hello {
            client_info: ClientInfo {
                product_name: Some(PROBE_PRODUCT.to_owned()),
                product_version: Some("1.0".to_owned()),
                platform: Some("PCoIP".to_owned()),
                ..ClientInfo::default()
            },
            ..Hello::default()
        };
        let answer = self.conversation.probe(Request::Hello(probe)).await;
        let answer = answer.map_err(|error| Problem::ask(&error, &server))?;
        if !matches!(answer, Response::Hello(_)) {
            return Err(unexpected(&answer, &server));
        }
        if self.stops_after(Stage::Probe) {
            return Ok(None);
        }
        let address = conversation::resolve(&server);
        let address = tokio::time::timeout(self.config.limits.connect, address).await;
        let hello = Hello {
            client_info: ClientInfo {
                product_name: Some(PRODUCT.to_owned()),
                product_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
                platform: Some(std::env::consts::OS.to_owned()),
                locale: Some("en_US".to_owned()),
                hostname: Some("reference-client".to_owned()),
                device_name: Some("reference-client".to_owned()),
                ..ClientInfo::default()
            },
            caps: Some(Vec::new()),
            server_address: Some(ServerAddress {
                ip_address: address.ok().flatten().map(|address| address.to_string()),
                hostname: Some(server.host().to_owned()),
                ..ServerAddress::default()
            }),
            ..Hello::default()
        };
        // From here on there may be a session, even if its answer gets lost.
        self.greeted = true;
        let answer = self.ask(Request::Hello(hello)).await?;
        let Response::Hello(greeting) = answer else {
            return Err(unexpected(&answer, &server));
        };
        let brokers: Vec<_> = greeting
            .brokers
            .iter()
            .filter_map(|broker| broker.product_name.as_deref())
            .collect();
        let detail = if brokers.is_empty() {
            "The broker did not name itself".to_owned()
        } else {
            format!("Broker: {}", brokers.join(", "))
        };
        self.done(detail, vec![self.front_door_flow()]);
        Ok((!self.stops_after(Stage::Hello)).then_some(greeting))
    }

    /// Step 2.
    async fn authenticate(&mut self, greeting: &HelloResp) -> Result<(), Problem> {
        self.begin(2);
        let server = self.config.server.clone();
        let mut domains = [].as_slice();
        if let Some(offer) = &greeting.next_authentication {
            domains = offer.domains.as_slice();
            let by_password = offer
                .methods
                .iter()
                .any(|method| method.eq_ignore_ascii_case(AUTHENTICATE_VIA_PASSWORD));
            if !by_password {
                return Err(Problem::new(format!(
                    "The server offers no logon with a password, only {:?}; the reference client knows nothing else.",
                    offer.methods
                )));
            }
        }
        let (user, domain) = self.logon_names(domains);
        let logon = PasswordLogon {
            username: user.clone(),
            password: self.config.password.clone(),
            domain,
            rest: Rest::default(),
        };
        let request = Request::Authenticate(Authenticate::Password(logon));
        let answer = self.ask(request).await?;
        let Response::Authenticate(answer) = answer else {
            return Err(unexpected(&answer, &server));
        };
        if answer.result.id != AuthResultId::Complete {
            return Err(Problem::authentication(
                &answer.result.id,
                answer.result.text.as_deref(),
            ));
        }
        let flows = vec![
            self.front_door_flow(),
            format!("Connection Manager → broker TCP {DEFAULT_PORT}, unless it is embedded"),
        ];
        self.done(format!("User {user}"), flows);
        Ok(())
    }

    /// Step 3.
    async fn list(&mut self) -> Result<Vec<Resource>, Problem> {
        self.begin(3);
        let request = GetResourceList {
            protocols: vec![PCOIP.to_owned()],
            resource_types: vec!["DESKTOP".to_owned()],
            rest: Rest::default(),
        };
        let answer = self.ask(Request::GetResourceList(request)).await?;
        let Response::GetResourceList(answer) = answer else {
            return Err(unexpected(&answer, &self.config.server));
        };
        if answer.result.id != ListResultId::Successful {
            return Err(Problem::list(
                &answer.result.id,
                answer.result.text.as_deref(),
            ));
        }
        let detail = format!("{} on the list", answer.resources.len());
        self.done(detail, vec![self.front_door_flow()]);
        Ok(answer.resources)
    }

    /// Step 4.
    fn choose(&mut self, resources: Vec<Resource>) -> Result<Resource, Problem> {
        self.begin(4);
        let names: Vec<_> = resources
            .iter()
            .take(MAX_NAMED)
            .map(|resource| resource.name.clone())
            .collect();
        let wanted = self.config.desktop.as_deref();
        let resource = resources.into_iter().find(|resource| match wanted {
            Some(wanted) => resource.name.to_lowercase() == wanted.to_lowercase(),
            None => true,
        });
        let Some(resource) = resource else {
            return Err(Problem::new(match wanted {
                _ if names.is_empty() => "The list of desktops is empty.".to_owned(),
                Some(wanted) => {
                    format!("There is no desktop {wanted:?} on the user's list, only {names:?}.")
                }
                None => "No desktop can be chosen.".to_owned(),
            }));
        };
        self.report.desktop = Some(resource.name.clone());
        self.done(format!("Desktop {}", resource.name), Vec::new());
        Ok(resource)
    }

    /// Step 5.
    async fn prepare(&mut self, resource: Resource) -> Result<SessionTarget, Problem> {
        self.begin(5);
        let mut retries = 0;
        let answer = loop {
            let answer = self.allocate_once(&resource).await?;
            let pending = answer.result.id == AllocResultId::PendingTryAgain;
            if !pending || retries >= self.config.limits.allocate_retries {
                break answer;
            }
            retries += 1;
            tokio::time::sleep(self.config.limits.allocate_pause).await;
        };
        let result = answer.result;
        if result.id != AllocResultId::Successful {
            if result.id == AllocResultId::NoLicense {
                // The agent was reached, or it would not have asked for a licence.
                self.done("The agent was reached".to_owned(), Vec::new());
                self.begin(6);
            }
            return Err(Problem::allocation(&result.id, result.text.as_deref()));
        }
        let target = complete(answer.target)?;
        let flows = vec![
            self.front_door_flow(),
            "Connection Manager → agent TCP 60443".to_owned(),
        ];
        let detail = format!("Session at {}:{}", target.address, target.port);
        self.done(detail, flows);
        Ok(target)
    }

    async fn allocate_once(
        &mut self,
        resource: &Resource,
    ) -> Result<AllocateResourceResp, Problem> {
        let request = AllocateResource {
            resource_id: resource.id.clone(),
            protocol: Some(PCOIP.to_owned()),
            client_info: Some(AllocateClientInfo {
                ip_address: self.config.local_address.map(|address| address.to_string()),
                ..AllocateClientInfo::default()
            }),
            rest: Rest::default(),
        };
        let answer = self.ask(Request::AllocateResource(request)).await?;
        let Response::AllocateResource(answer) = answer else {
            return Err(unexpected(&answer, &self.config.server));
        };
        Ok(answer)
    }

    async fn ask(&mut self, request: Request) -> Result<Response, Problem> {
        let answer = self.conversation.ask(request, self.log_id).await;
        answer.map_err(|error| Problem::ask(&error, &self.config.server))
    }

    /// Streams, stops, compares, says good-bye.
    async fn stream(&mut self, mut session: Session, target: &SessionTarget) {
        (self.progress)(StepEvent::Streaming(self.config.stream));
        let start = Instant::now();
        let streamed = session.stream(self.config.stream).await;
        self.report.stream_ms = Some(Milliseconds(start.elapsed()));
        let account = match streamed {
            Ok(()) => session.stop().await,
            Err(error) => Err(error),
        };
        self.account(&session);
        match account {
            Ok(account) => {
                self.report.udp = Udp {
                    down: UdpDirection::new(account.agent.sent, account.received),
                    up: UdpDirection::new(account.sent, account.agent.received),
                };
                self.report.ok = self.report.steps.iter().all(|step| step.ok);
                session.bye().await;
            }
            Err(error) => {
                let Problem { text, .. } = Problem::session(&error, target);
                if let Some(step) = self.report.steps.last_mut() {
                    step.ok = false;
                }
                self.report.problem = Some(text);
                session.bye().await;
            }
        }
    }

    /// What the client knows of the flow by itself.
    fn account(&mut self, session: &Session) {
        let flow = session.flow();
        let sent = flow.sent();
        self.report.udp = Udp {
            down: UdpDirection::new(flow.highest_sequence(), flow.received()),
            up: UdpDirection {
                sent,
                ..UdpDirection::default()
            },
        };
        let trips = flow.round_trips();
        let quantile = |share| (!trips.is_empty()).then(|| trips.value_at_quantile(share));
        self.report.rtt_us = RoundTrips {
            p50: quantile(0.5),
            p99: quantile(0.99),
            samples: trips.len(),
        };
        self.report.frames = flow.frames();
    }

    /// Step 6, as far as the client learns of it.
    fn licensed(&mut self, accepted: Option<&Accepted>) {
        let (ms, detail) = match accepted {
            Some(accepted) => {
                self.report.license = Some(accepted.license);
                self.report.cipher = Some(accepted.cipher);
                self.report.transport_header = Some(accepted.transport_header);
                let took = Duration::from_millis(accepted.license_ms.into());
                let detail = match accepted.license {
                    License::Leased => "Leased from the licence server, within step 5",
                    License::NotConfigured => {
                        "No licence server is configured; the agent runs without"
                    }
                };
                (Some(Milliseconds(took)), detail)
            }
            None => (
                None,
                "The agent answered, so it has what it needs; it did not tell more",
            ),
        };
        let Some(step) = self.report.steps.get_mut(5) else {
            return;
        };
        step.ok = true;
        step.ms = ms;
        step.detail = Some(detail.to_owned());
        step.flows = vec!["agent → licence server HTTPS".to_owned()];
        let step = step.clone();
        self.announce(6);
        (self.progress)(StepEvent::Finished(step));
        self.announce(7);
    }

    /// User name and domain as they go over the wire.
    fn logon_names(&self, offered: &[String]) -> (String, String) {
        let config = &self.config;
        if !config.domain.is_empty() {
            return (config.user.clone(), config.domain.clone());
        }
        if let Some((domain, user)) = config.user.split_once('\\') {
            return (user.to_owned(), domain.to_owned());
        }
        // A name such as user@example.com carries its domain already.
        let domain = match offered.first() {
            Some(domain) if !config.user.contains('@') => domain.clone(),
            Some(_) | None => String::new(),
        };
        (config.user.clone(), domain)
    }

    fn front_door_flow(&self) -> String {
        let flow = tcp(self.config.server.port(), DEFAULT_PORT);
        format!("client → Connection Manager {flow}")
    }

    fn stops_after(&self, stage: Stage) -> bool {
        self.config.stop_after == Some(stage)
    }

    fn begin(&mut self, step: u8) {
        self.current = Some((step, Instant::now()));
        self.announce(step);
    }

    fn announce(&mut self, step: u8) {
        if let Some(report) = self.step(step) {
            let name = report.name;
            (self.progress)(StepEvent::Started { step, name });
        }
    }

    fn done(&mut self, detail: String, flows: Vec<String>) {
        self.conclude(true, Some(detail), flows);
    }

    pub(super) async fn fail(&mut self, problem: Problem) {
        self.conclude(false, None, Vec::new());
        self.report.problem = Some(problem.text);
        self.report.result_id = problem.result_id;
        self.report.server_text = problem.server_text;
        if std::mem::take(&mut self.greeted) {
            let parting = self.ask(Request::Bye(Bye::default()));
            // A courtesy to the server, which would end its session by itself.
            let _ = tokio::time::timeout(PARTING, parting).await;
        }
    }

    fn conclude(&mut self, ok: bool, detail: Option<String>, flows: Vec<String>) {
        let Some((number, since)) = self.current.take() else {
            return;
        };
        let Some(step) = self.step(number) else {
            return;
        };
        step.ok = ok;
        step.ms = Some(Milliseconds(since.elapsed()));
        step.detail = detail;
        step.flows = flows;
        let step = step.clone();
        (self.progress)(StepEvent::Finished(step));
    }

    fn step(&mut self, number: u8) -> Option<&mut StepReport> {
        self.report
            .steps
            .iter_mut()
            .find(|step| step.step == number)
    }

    pub(super) fn finish(self) -> Report {
        self.report
    }
}

/// A target with everything a client needs.
fn complete(target: Option<Target>) -> Result<SessionTarget, Problem> {
    let missing = |what: &str| {
        Problem::new(format!(
            "The desktop was allocated, but the answer has no {what}: the Connection Manager, or the broker behind it, is \
             at fault."
        ))
    };
    let target = target.ok_or_else(|| missing("target"))?;
    Ok(SessionTarget {
        address: target.ip_address.ok_or_else(|| missing("ip-address"))?,
        port: target.port.ok_or_else(|| missing("port"))?,
        sni: target.sni,
        session_id: target.session_id.ok_or_else(|| missing("session-id"))?,
        connect_tag: target.connect_tag.ok_or_else(|| missing("connect-tag"))?,
    })
}

fn unexpected(response: &Response, server: &ServerUrl) -> Problem {
    let found = response.name().chars().take(100).collect();
    Problem::ask(&AskError::Unexpected { found }, server)
}
