//! What an administrator sees: metrics and the list of sessions, over HTTP.
//!
//! | call | answers |
//! |---|---|
//! | `GET /` | what is here, as text |
//! | `GET /metrics` | every role's figures, as OpenMetrics text |
//! | `GET /api/v1/sessions` | the sessions, as a JSON list |
//!
//! It only reads. With a token, every call needs `Authorization: Bearer …`. Without one it is meant for a loopback address,
//! and answers only to requests that name an address or `localhost` as their host: a web page that has its own name resolve
//! to the loopback address (DNS rebinding) learns nothing.

use std::{fmt, net::IpAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{
            AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, WWW_AUTHENTICATE,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::registry::Registry;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tracing::error;

/// Every path served.
pub const PATHS: [&str; 3] = ["/", "/metrics", "/api/v1/sessions"];

const PAGE: &str = "Portcullis\n\
    \n\
    /metrics          figures, as OpenMetrics text\n\
    /api/v1/sessions  sessions, as a JSON list\n";

/// Lists the sessions there are, each as a JSON object; called on each request for the list.
pub type SessionLister = dyn Fn() -> Vec<serde_json::Value> + Send + Sync;

/// Where the console reads from.
#[derive(Clone)]
pub struct ConsoleSources {
    /// The figures of every role.
    pub registry: Arc<Registry>,
    /// The sessions.
    pub sessions: Arc<SessionLister>,
}

impl fmt::Debug for ConsoleSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsoleSources").finish_non_exhaustive()
    }
}

/// Everything served. With `token`, to those who show it; without, on loopback.
pub fn router(sources: ConsoleSources, token: Option<SecretString>) -> Router {
    let [page_path, metrics_path, sessions_path] = PATHS;
    Router::new()
        .route(page_path, get(page))
        .route(metrics_path, get(metrics))
        .route(sessions_path, get(sessions))
        .with_state(sources)
        .layer(middleware::from_fn_with_state(Arc::new(token), guard))
}

async fn page() -> &'static str {
    PAGE
}

async fn metrics(State(sources): State<ConsoleSources>) -> Response {
    let mut text = String::new();
    if let Err(failure) = prometheus_client::encoding::text::encode(&mut text, &sources.registry) {
        error!(
            error = &failure as &dyn std::error::Error,
            "The metrics cannot be written"
        );
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], text).into_response()
}

async fn sessions(State(sources): State<ConsoleSources>) -> Json<Vec<serde_json::Value>> {
    Json((sources.sessions)())
}

/// Stands before every path, those that do not exist included.
async fn guard(
    State(token): State<Arc<Option<SecretString>>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = match token.as_ref() {
        Some(token) if !shows(request.headers(), token) => (
            StatusCode::UNAUTHORIZED,
            [(WWW_AUTHENTICATE, "Bearer")],
            "The console's token is needed.\n",
        )
            .into_response(),
        None if !names_an_address(request.headers()) => (
            StatusCode::MISDIRECTED_REQUEST,
            "Without a token the console is reached by address only.\n",
        )
            .into_response(),
        Some(_) | None => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Whether a request shows the token. Takes the same time for every wrong token of the right length.
fn shows(headers: &HeaderMap, token: &SecretString) -> bool {
    headers
        .get(AUTHORIZATION)
        .map(HeaderValue::as_bytes)
        .and_then(|value| value.split_at_checked(b"Bearer ".len()))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "))
        .is_some_and(|(_, shown)| shown.ct_eq(token.expose_secret().as_bytes()).into())
}

/// Whether the `Host` of a request is an address or `localhost`, which no stranger's name server can point anywhere.
fn names_an_address(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()) else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        // A colon inside brackets belongs to an IPv6 address.
        Some((name, port)) if !port.contains(']') => name,
        Some(_) | None => host,
    };
    let address = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_addresses_or_localhost() {
        let names = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().expect("a value"));
            names_an_address(&headers)
        };
        for host in [
            "127.0.0.1",
            "127.0.0.1:9100",
            "[::1]",
            "[::1]:9100",
            "localhost",
            "LOCALHOST:9100",
        ] {
            assert!(names(host), "{host}");
        }
        for host in [
            "",
            ":9100",
            "evil.example",
            "evil.example:9100",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
        ] {
            assert!(!names(host), "{host}");
        }
        assert!(!names_an_address(&HeaderMap::new()));
    }

    #[test]
    fn a_token_is_shown_whole_or_not() {
        let token = SecretString::from("s3cret");
        let shown = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().expect("a value"));
            shows(&headers, &token)
        };
        for value in ["Bearer s3cret", "bearer s3cret"] {
            assert!(shown(value), "{value}");
        }
        for value in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer s3cre",
            "Bearer s3cret ",
            "Bearer s3crets",
            "Basic s3cret",
            "s3cret",
        ] {
            assert!(!shown(value), "{value:?}");
        }
        assert!(!shows(&HeaderMap::new(), &token));
    }
}
