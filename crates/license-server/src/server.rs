//! The pool over HTTPS.
//!
//! Our own interface, all JSON; refusals carry `error` (a stable code) and `message` (a sentence):
//!
//! | call | answers |
//! |---|---|
//! | `GET /api/1.0/health` | 200 |
//! | `POST /api/1.0/leases` `{feature, holder, session}` | 201 `{id, feature, ttl_seconds}`, 409 `none_available`, 404 `unknown_feature`, 400 |
//! | `POST /api/1.0/leases/{id}/renew` | 200 `{ttl_seconds}`, 404 `unknown_lease` |
//! | `DELETE /api/1.0/leases/{id}` | 204, 404 `unknown_lease` |
//! | `POST /request` | 501: the vendor's binary exchange is not implemented |
//!
//! Whoever reaches the port can lease: like a local licence server of the vendor's, this one trusts its network. Knowing a
//! lease's id, or repeating its claim word for word, is the right to end it.
//!
//! With an administrator configured there is also the read interface that monitoring tools know, under
//! `/api/1.0/instances/~`; see `Administrator`.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    http::StatusCode,
    routing::{delete, get, post},
};
use portcullis_https::server::{ReadBodyError, read_body};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::{
    LeaseId, administration, metrics,
    pool::{
        AcquireRefusal, Claim, FeatureUsage, InvalidPool, LeaseGrant, Pool, PoolConfig, Totals,
    },
    wire::{AcquireBody, LEASES, LeaseBody, NONE_AVAILABLE, Problem, RenewedBody},
};

/// Largest request body in bytes: three names of 256 bytes, written with every character escaped.
const BODY_BYTES: usize = 4 * 1024;
/// For a request body to arrive; it fits in one segment or two.
const BODY_WITHIN: Duration = Duration::from_secs(5);

/// What a licence server is made of.
#[derive(Clone, Debug)]
pub struct LicenseServerConfig {
    /// The pool.
    pub pool: PoolConfig,
    /// Who may read the pool over the network; `None` leaves that interface out.
    pub administrator: Option<Administrator>,
}

/// Who may read features and holders over the network.
///
/// Calls, under `/api/1.0/instances/~`: `POST authorize` `{user, password}` answers `{token}`, to be shown as
/// `Authorization: Bearer …` for an hour; then `GET features`, `GET features/{id}` and `GET features/{id}/clients`. Paths and
/// field names of features are the ones public monitoring tools use; the fields of `clients` are ours. At most ten wrong
/// passwords a minute are heard, whoever sends them.
#[derive(Clone, Debug)]
pub struct Administrator {
    /// User name, compared exactly.
    pub user: String,
    /// Password.
    pub password: SecretString,
}

/// The licence server. Serve its [`Self::router`] and keep [`Self::run`] running.
#[derive(Debug)]
pub struct LicenseServer {
    shared: Arc<Shared>,
}

/// Looks into a running licence server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl LicenseServer {
    /// A server with nothing leased.
    ///
    /// # Errors
    /// When the configuration makes no pool.
    pub fn new(config: LicenseServerConfig) -> Result<Self, InvalidPool> {
        Ok(Self {
            shared: Arc::new(Shared {
                pool: Mutex::new(Pool::new(config.pool)?),
                changed: Notify::new(),
                exhausted: AtomicBool::new(false),
                administration: config.administrator.map(administration::Guard::new),
            }),
        })
    }

    /// Everything served, for [`portcullis_https::Server`].
    pub fn router(&self) -> Router {
        let mut router = Router::new()
            .route("/api/1.0/health", get(health))
            .route(LEASES, post(acquire))
            .route(&format!("{LEASES}/{{id}}/renew"), post(renew))
            .route(&format!("{LEASES}/{{id}}"), delete(give_back))
            .route("/request", post(vendor_exchange));
        if self.shared.administration.is_some() {
            router = router.nest("/api/1.0/instances/~", administration::router());
        }
        router
            .fallback(|| async { Problem::not_found() })
            .method_not_allowed_fallback(|| async {
                Problem::new(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "method_not_allowed",
                    "This path does not take that method.",
                )
            })
            .with_state(Arc::clone(&self.shared))
    }

    /// Logs leases that expire when they do, until `shutdown`. Without it they expire all the same, at the next call.
    pub async fn run(&self, shutdown: CancellationToken) {
        loop {
            let next = self.shared.with_pool(|pool, _| pool.poll_timeout());
            let expiry = async {
                match next {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.shared.changed.notified() => {}
                () = expiry => {}
            }
        }
    }

    /// A look inside.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Adds this server's figures to a registry, under `portcullis_license_`.
    pub fn register(&self, registry: &mut prometheus_client::registry::Registry) {
        metrics::register(registry, self.handle());
    }
}

impl Handle {
    /// The use of every feature, in configured order.
    #[must_use]
    pub fn usage(&self) -> Vec<FeatureUsage> {
        self.shared.with_pool(|pool, _| pool.usage())
    }

    /// Who holds a feature, longest first; `None` when there is no such feature.
    #[must_use]
    pub fn clients(&self, feature: &str) -> Option<Vec<Claim>> {
        self.shared.with_pool(|pool, _| pool.clients(feature))
    }

    /// What happened since the server was made.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.shared.with_pool(|pool, _| pool.totals())
    }
}

/// What the handlers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pool: Mutex<Pool>,
    /// Wakes [`LicenseServer::run`] when there may be a deadline it does not know.
    changed: Notify,
    /// Whether the last claim found no licence: an administrator hears of it once, not once a user.
    exhausted: AtomicBool,
    pub(crate) administration: Option<administration::Guard>,
}

impl Shared {
    /// Runs `act` on the pool, after what has expired is out of it and in the log.
    pub(crate) fn with_pool<R>(&self, act: impl FnOnce(&mut Pool, Instant) -> R) -> R {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let expired = pool.expire(now);
        let result = act(&mut pool, now);
        drop(pool);
        for claim in expired {
            info!(
                session = claim.session(),
                holder = claim.holder(),
                feature = claim.feature(),
                "Licence lease expired without being given back"
            );
        }
        result
    }

    fn acquire(&self, claim: &Claim) -> Result<LeaseGrant, Problem> {
        loop {
            let id = LeaseId::random().map_err(|source| {
                error!(
                    error = &source as &dyn std::error::Error,
                    "The random source failed"
                );
                Problem::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "internal",
                    "The server cannot make lease names.",
                )
            })?;
            match self.with_pool(|pool, now| pool.acquire(claim.clone(), id, now)) {
                Ok(grant) => {
                    self.exhausted.store(false, Ordering::Relaxed);
                    self.changed.notify_one();
                    return Ok(grant);
                }
                // Never seen in practice; a fresh id is the whole cure.
                Err(AcquireRefusal::IdTaken) => {}
                Err(refusal @ AcquireRefusal::NoneAvailable { count }) => {
                    if !self.exhausted.swap(true, Ordering::Relaxed) {
                        warn!(
                            feature = claim.feature(),
                            count, "The licence pool is exhausted; sessions are being refused"
                        );
                    }
                    info!(
                        session = claim.session(),
                        holder = claim.holder(),
                        feature = claim.feature(),
                        "Licence refused: none available"
                    );
                    return Err(Problem::new(
                        StatusCode::CONFLICT,
                        NONE_AVAILABLE,
                        sentence(&refusal),
                    ));
                }
                Err(refusal @ AcquireRefusal::UnknownFeature) => {
                    info!(
                        session = claim.session(),
                        holder = claim.holder(),
                        feature = claim.feature(),
                        "Licence refused: unknown feature"
                    );
                    return Err(Problem::new(
                        StatusCode::NOT_FOUND,
                        "unknown_feature",
                        sentence(&refusal),
                    ));
                }
            }
        }
    }
}

/// Reads a JSON body within the limits.
pub(crate) async fn read_json<T: DeserializeOwned>(body: Body) -> Result<T, Problem> {
    let bytes = read_body(body, BODY_BYTES, BODY_WITHIN)
        .await
        .map_err(|error| {
            let message = sentence(&error);
            match error {
                ReadBodyError::TooLong { .. } => {
                    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_long", message)
                }
                ReadBodyError::TimedOut => {
                    Problem::new(StatusCode::REQUEST_TIMEOUT, "timed_out", message)
                }
                ReadBodyError::Broken | _ => Problem::bad_request(message),
            }
        })?;
    serde_json::from_slice(&bytes).map_err(|error| {
        debug!(
            error = &error as &dyn std::error::Error,
            "Request body refused"
        );
        Problem::bad_request("The body is not the JSON object this call takes.")
    })
}

/// An error's text as a sentence for people.
fn sentence(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).chain(['.']).collect())
        .unwrap_or_default()
}

fn unknown_lease() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "unknown_lease",
        "There is no such lease: it was given back, has expired, or never was.",
    )
}

async fn health() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "status": "ok" }))
}

async fn acquire(
    State(shared): State<Arc<Shared>>,
    body: Body,
) -> Result<(StatusCode, Json<LeaseBody>), Problem> {
    let AcquireBody {
        feature,
        holder,
        session,
    } = read_json(body).await?;
    let claim = Claim::new(feature, holder, session)
        .map_err(|error| Problem::bad_request(sentence(&error)))?;
    let grant = shared.acquire(&claim)?;
    info!(
        session = claim.session(),
        holder = claim.holder(),
        feature = claim.feature(),
        lease = grant.id.tag(),
        repeated = !grant.fresh,
        "Licence leased"
    );
    let lease = LeaseBody {
        id: grant.id.expose(),
        feature: grant.feature,
        ttl_seconds: grant.ttl.as_secs(),
    };
    Ok((StatusCode::CREATED, Json(lease)))
}

async fn renew(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Json<RenewedBody>, Problem> {
    let id = LeaseId::parse(&id).ok_or_else(unknown_lease)?;
    let ttl = shared
        .with_pool(|pool, now| pool.renew(id, now))
        .map_err(|_| unknown_lease())?;
    Ok(Json(RenewedBody {
        ttl_seconds: ttl.as_secs(),
    }))
}

async fn give_back(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let id = LeaseId::parse(&id).ok_or_else(unknown_lease)?;
    let claim = shared
        .with_pool(|pool, now| pool.give_back(id, now))
        .map_err(|_| unknown_lease())?;
    info!(
        session = claim.session(),
        holder = claim.holder(),
        feature = claim.feature(),
        lease = id.tag(),
        "Licence given back"
    );
    Ok(StatusCode::NO_CONTENT)
}

async fn vendor_exchange() -> Problem {
    Problem::new(
        StatusCode::NOT_IMPLEMENTED,
        "not_implemented",
        "This licence server does not speak the vendor's signed binary exchange; agents lease at /api/1.0/leases.",
    )
}
