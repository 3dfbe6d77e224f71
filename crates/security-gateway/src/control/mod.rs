//! The control link: how a Connection Manager on another machine reaches a gateway.
//!
//! HTTPS with certificates on both sides, JSON bodies, four requests:
//!
//! | request | does | answers |
//! |---|---|---|
//! | `POST /v1/grants` | grants a client one connection | 201 with where to send it, 409 with the reason of a refusal |
//! | `GET /v1/sessions` | lists the sessions, oldest first | 200 |
//! | `DELETE /v1/sessions/{key}` | ends a session | 204, or 404 when there is none |
//! | `GET /v1/health` | says whether new grants are taken | 200 |
//!
//! A request without a client certificate is answered 403, so that a mistake in setting up the listener opens nothing.

mod client;
mod messages;

use std::time::Duration;

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Path, Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use portcullis_https::{
    Peer,
    server::{ReadBodyError, read_body},
};
use tracing::{info, warn};

pub use client::{AuthorizeError, ControlClient, ControlError, NewControlClientError};
pub use messages::Health;

use self::messages::{GrantBody, GrantedBody, Problem, RefusalBody};
use crate::{
    core::{GrantRequest, SessionKey},
    relay::{GatewayHandle, SessionSummary},
};

/// Largest request body, in bytes; a grant needs a few hundred.
const BODY_BYTES: usize = 16 * 1024;
/// How long a request body may take.
const BODY_WITHIN: Duration = Duration::from_secs(5);

/// The control link's requests, to be served by a [`portcullis_https::Server`] under
/// [`portcullis_https::Identity::mutual_server_config`].
pub fn router(gateway: GatewayHandle) -> Router {
    Router::new()
        .route("/v1/grants", post(grant))
        .route("/v1/sessions", get(sessions))
        .route("/v1/sessions/{key}", delete(end_session))
        .route("/v1/health", get(health))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(require_certificate))
        .with_state(gateway)
}

async fn require_certificate(
    peer: Option<Extension<Peer>>,
    request: Request,
    next: Next,
) -> Response {
    if peer.is_some_and(|Extension(peer)| peer.certificate.is_some()) {
        return next.run(request).await;
    }
    warn!(
        "Control request without a client certificate refused: the control link must ask for one"
    );
    problem(StatusCode::FORBIDDEN, "a client certificate is required")
}

async fn grant(State(gateway): State<GatewayHandle>, body: Body) -> Response {
    let body = match read_body(body, BODY_BYTES, BODY_WITHIN).await {
        Ok(body) => body,
        Err(error) => {
            let status = match error {
                ReadBodyError::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
                ReadBodyError::TimedOut => StatusCode::REQUEST_TIMEOUT,
                ReadBodyError::Broken | _ => StatusCode::BAD_REQUEST,
            };
            return problem(status, error);
        }
    };
    let body: GrantBody = match serde_json::from_slice(&body) {
        Ok(body) => body,
        Err(error) => return problem(StatusCode::BAD_REQUEST, error),
    };
    let request = match GrantRequest::try_from(body) {
        Ok(request) => request,
        Err(error) => return problem(StatusCode::BAD_REQUEST, error),
    };
    match gateway.authorize(request) {
        Ok(granted) => (StatusCode::CREATED, Json(GrantedBody::from(granted))).into_response(),
        Err(refusal) => (StatusCode::CONFLICT, Json(RefusalBody::from(refusal))).into_response(),
    }
}

async fn sessions(State(gateway): State<GatewayHandle>) -> Json<Vec<SessionSummary>> {
    Json(gateway.sessions())
}

async fn end_session(State(gateway): State<GatewayHandle>, Path(key): Path<u64>) -> Response {
    if gateway.end_session(SessionKey::from_raw(key)) {
        info!(key, "Session ended over the control link");
        StatusCode::NO_CONTENT.into_response()
    } else {
        problem(StatusCode::NOT_FOUND, "there is no such session")
    }
}

async fn health(State(gateway): State<GatewayHandle>) -> Json<Health> {
    Json(Health {
        draining: gateway.is_draining(),
        sessions: gateway.session_count(),
        pending_grants: gateway.pending_count(),
    })
}

async fn unknown() -> Response {
    problem(StatusCode::NOT_FOUND, "there is nothing under this path")
}

async fn wrong_method() -> Response {
    problem(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path takes another method",
    )
}

fn problem(status: StatusCode, error: impl ToString) -> Response {
    let error = error.to_string();
    (status, Json(Problem { error })).into_response()
}

/// The fuzz target of requests for a grant.
#[doc(hidden)]
pub fn fuzz_grant(data: &[u8]) {
    messages::fuzz_grant(data);
}
