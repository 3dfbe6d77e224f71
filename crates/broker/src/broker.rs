//! The shell: runs the machine, checks passwords, logs and counts.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::Router;
use ipnet::IpNet;
use portcullis_protocol::broker::Response;
use prometheus_client::registry::Registry;
use tracing::{debug, info, warn};

use crate::{
    answers,
    directory::{Directory, UserId},
    machine::{
        Answer, BrokerInfo, DEFAULT_IDLE, DEFAULT_MAX_SESSIONS, HandleError, Inquiry, Machine,
        Step, Verdict, Verification,
    },
    metrics::Metrics,
    service,
    sessions::SessionToken,
    verifier::Verifier,
};

/// How a broker behaves.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Who it says it is.
    pub info: BrokerInfo,
    /// Sessions at a time.
    pub max_sessions: usize,
    /// How long a session may be idle.
    pub idle: Duration,
    /// Connection Managers and load balancers whose `X-Forwarded-For` is believed. Only matters over HTTPS.
    pub trusted_proxies: Vec<IpNet>,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            info: BrokerInfo::default(),
            max_sessions: DEFAULT_MAX_SESSIONS,
            idle: DEFAULT_IDLE,
            trusted_proxies: Vec::new(),
        }
    }
}

/// The broker. Cheap to clone; clones are the same broker.
#[derive(Clone)]
pub struct Broker {
    shared: Arc<Shared>,
}

struct Shared {
    directory: Arc<Directory>,
    machine: Mutex<Machine>,
    verifier: Verifier,
    metrics: Metrics,
    trusted_proxies: Vec<IpNet>,
}

impl Broker {
    /// A broker over a directory.
    #[must_use]
    pub fn new(directory: Directory, config: BrokerConfig) -> Self {
        let directory = Arc::new(directory);
        let machine = Machine::new(
            Arc::clone(&directory),
            config.info,
            config.max_sessions,
            config.idle,
        );
        Self {
            shared: Arc::new(Shared {
                directory,
                machine: Mutex::new(machine),
                verifier: Verifier::new(),
                metrics: Metrics::new(),
                trusted_proxies: config.trusted_proxies,
            }),
        }
    }

    /// Answers one request. Only a logon takes time: up to 40 s in line, then one password hash.
    ///
    /// # Errors
    /// See [`HandleError`].
    pub async fn handle(&self, inquiry: Inquiry) -> Result<Answer, HandleError> {
        let (log_id, client) = (inquiry.log_id, inquiry.client);
        let message = message_name(&inquiry);
        let outcome = self.perform(inquiry).await;
        let metrics = &self.shared.metrics;
        match &outcome {
            Ok((answer, user)) => {
                let result = answers::result_of(&answer.response.message);
                metrics.answered(message, result);
                let user = user.and_then(|user| self.shared.directory.user(user));
                let user = user.map(|user| user.label());
                match &answer.response.message {
                    Response::AllocateResource(allocation) => {
                        info!(session = %log_id, %client, result, desktop = allocation.resource_id, "Desktop allocation answered");
                    }
                    Response::Authenticate(_) => {
                        info!(session = %log_id, %client, result, user, "Logon answered");
                    }
                    Response::GetResourceList(_)
                    | Response::Hello(_)
                    | Response::Bye(_)
                    | Response::Unknown(_) => {
                        debug!(session = %log_id, %client, message, result, "Message answered");
                    }
                }
            }
            Err(error) => {
                metrics.refused(error);
                match error {
                    HandleError::TooManySessions | HandleError::Random(_) => {
                        warn!(session = %log_id, %client, error = error as &dyn std::error::Error, "Broker message refused");
                    }
                    HandleError::NoSession { .. }
                    | HandleError::OutOfOrder { .. }
                    | HandleError::UnknownMessage { .. } => {
                        info!(session = %log_id, %client, error = error as &dyn std::error::Error, "Broker message refused");
                    }
                }
            }
        }
        outcome.map(|(answer, _)| answer)
    }

    /// Everything served over HTTPS, for [`portcullis_https::Server`]: the broker protocol at `/pcoip-broker/xml`.
    pub fn router(&self) -> Router {
        service::router(self.clone())
    }

    /// Adds the broker's figures to a registry, under `portcullis_broker_`.
    pub fn register(&self, registry: &mut Registry) {
        self.shared.metrics.register(registry);
    }

    /// How many sessions there are.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.machine().session_count(Instant::now())
    }

    /// Users, desktops and entitlements.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.shared.directory
    }

    pub(crate) fn trusted_proxies(&self) -> &[IpNet] {
        &self.shared.trusted_proxies
    }

    /// Runs the machine; on a logon, also tells who it was for.
    async fn perform(&self, inquiry: Inquiry) -> Result<(Answer, Option<UserId>), HandleError> {
        let fresh = SessionToken::random().map_err(HandleError::Random)?;
        let step = self.with_machine(|machine, now| machine.handle(inquiry, fresh, now))?;
        let Verification {
            hash,
            password,
            pending,
        } = match step {
            Step::Answer(answer) => return Ok((answer, None)),
            Step::VerifyPassword(verification) => verification,
        };
        let user = pending.user();
        let start = Instant::now();
        let verdict: Verdict = self.shared.verifier.verify(hash, password).await;
        self.shared.metrics.checked(start.elapsed(), verdict);
        let answer = self.with_machine(|machine, now| machine.verified(pending, verdict, now))?;
        Ok((answer, user))
    }

    fn with_machine<R>(&self, act: impl FnOnce(&mut Machine, Instant) -> R) -> R {
        let mut machine = self.machine();
        let now = Instant::now();
        let result = act(&mut machine, now);
        let sessions = machine.session_count(now);
        drop(machine);
        let sessions = i64::try_from(sessions).unwrap_or(i64::MAX);
        self.shared.metrics.sessions.set(sessions);
        result
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.shared
            .machine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("directory", &self.shared.directory)
            .finish_non_exhaustive()
    }
}

/// A name out of a fixed set, since it becomes a label.
fn message_name(inquiry: &Inquiry) -> &'static str {
    use portcullis_protocol::broker::Request;

    match inquiry.request.message {
        Request::Hello(_) => "hello",
        Request::Authenticate(_) => "authenticate",
        Request::GetResourceList(_) => "get-resource-list",
        Request::AllocateResource(_) => "allocate-resource",
        Request::Bye(_) => "bye",
        Request::Unknown(_) => "unknown",
    }
}
