//! The shell around the session machine: HTTP in, steps performed, HTTP out.

pub(crate) mod arrival;
mod body;
mod farewell;
mod front;
mod health;
mod legs;
mod table;

use std::sync::Arc;

use axum::{Router, routing::get};
use portcullis_protocol::broker::{PATH, Request};
use tokio_util::sync::CancellationToken;

use self::{farewell::Farewells, health::Health, table::SessionTable};
use crate::{
    config::ManagerConfig,
    metrics::Metrics,
    neighbours::{Agent, Broker, Gateway},
    session::SessionPolicy,
};

/// Where load balancers ask whether this Connection Manager can serve.
pub const HEALTH_PATH: &str = "/health";
/// Where supervisors ask whether it is alive at all.
pub const LIVE_PATH: &str = "/health/live";

/// The Connection Manager. Cheap to clone; clones share sessions and figures.
#[derive(Clone)]
pub struct ConnectionManager {
    inner: Arc<Inner>,
}

/// What all requests share.
struct Inner {
    config: ManagerConfig,
    policy: Arc<SessionPolicy>,
    broker: Arc<dyn Broker>,
    agent: Arc<dyn Agent>,
    gateway: Option<Arc<dyn Gateway>>,
    sessions: Arc<SessionTable>,
    farewells: Farewells,
    health: Health,
    metrics: Metrics,
}

impl ConnectionManager {
    /// A Connection Manager between these neighbours. Without a gateway (LAN mode), clients are given the agent's own
    /// address.
    #[must_use]
    pub fn new(
        config: ManagerConfig,
        broker: Arc<dyn Broker>,
        agent: Arc<dyn Agent>,
        gateway: Option<Arc<dyn Gateway>>,
    ) -> Self {
        let metrics = Metrics::default();
        let sessions = SessionTable::new(config.max_sessions, metrics.sessions.clone());
        let inner = Inner {
            policy: Arc::new(config.session_policy(gateway.is_some())),
            config,
            broker,
            agent,
            gateway,
            sessions: Arc::new(sessions),
            farewells: Farewells::default(),
            health: Health::default(),
            metrics,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The routes, to be served by a [`portcullis_https::Server`]: `POST` and `GET` of the broker protocol's path,
    /// [`HEALTH_PATH`] and [`LIVE_PATH`]. Its `header` limit keeps connections for the next request: a minute or more.
    pub fn router(&self) -> Router {
        Router::new()
            .route(PATH, get(async || front::page()).post(front::answer))
            .route(HEALTH_PATH, get(front::health))
            .route(LIVE_PATH, get(async || front::live()))
            .with_state(Arc::clone(&self.inner))
    }

    /// Does what is due without a request: ends sessions whose time has come, and says bye to the broker for sessions that
    /// ended without. Run it beside the server until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        farewell::run(&self.inner, &shutdown).await;
    }

    /// The figures, to be registered wherever they are shown.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// How many sessions there are.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.inner.sessions.len()
    }

    /// Reports a fault of the configuration to load balancers, as the reason of [`HEALTH_PATH`], until it is taken back with
    /// `None`: a certificate that has expired, a public address that leads elsewhere.
    pub fn set_configuration_fault(&self, fault: Option<String>) {
        self.inner.health.set_fault(fault);
    }
}

impl std::fmt::Debug for ConnectionManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionManager")
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}

/// A request's name in logs and figures.
const fn name(request: &Request) -> &'static str {
    match request {
        Request::Hello(_) => "hello",
        Request::Authenticate(_) => "authenticate",
        Request::GetResourceList(_) => "get-resource-list",
        Request::AllocateResource(_) => "allocate-resource",
        Request::Bye(_) => "bye",
        Request::Unknown(_) => "unknown",
    }
}
