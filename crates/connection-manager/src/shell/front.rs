//! The handlers: one request in, one answer out.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Extension,
    body::Body,
    extract::State,
    response::{IntoResponse, Response as HttpResponse},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use portcullis_https::{Peer, server::chunked};
use portcullis_protocol::{
    LogId,
    broker::{Authenticate, Envelope, ParseMessageError, Request, Response},
};
use tracing::{info, warn};

use super::{
    Inner,
    arrival::Arrival,
    body::{self, BodyFault},
    health,
    legs::{Legs, chain, now},
    name,
    table::{COOKIE, Lease, OpenError, SessionKey},
};
use crate::{
    metrics::reject_label,
    session::{ClientFacts, Reject, Session, is_probe},
    texts,
};

/// What a person who opens the address in a browser sees, and what load balancers of old ask for.
const PAGE: &str = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Portcullis</title></head>\
    <body><p>This is a PCoIP Connection Manager. Connect to it with a PCoIP client.</p></body></html>\n";
/// Content type of every message.
const XML: HeaderValue = HeaderValue::from_static("application/xml; charset=UTF-8");
/// Content type of every other sentence.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=UTF-8");
/// Content type of health reports.
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Longest user name in a log line, in characters.
const LOGGED_USER: usize = 128;

/// `POST` of the broker protocol.
pub(super) async fn answer(
    State(inner): State<Arc<Inner>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body,
) -> HttpResponse {
    let arrival = Arrival::new(peer.address.ip(), &headers, &inner.config.trusted_proxies);
    let limit = inner.config.body_bytes;
    let document = match body::read(&headers, body, limit, inner.config.body_wait).await {
        Ok(document) => document,
        Err(fault) => return faulty(&inner, &arrival, fault),
    };
    let request = match Envelope::<Request>::parse(&document) {
        Ok(request) => request,
        Err(error) => return malformed(&inner, &arrival, &error),
    };
    drop(document);
    let name = name(&request.message);
    let user = attempted_user(&request.message);
    let (log_id, outcome) = converse(&inner, &arrival, request).await;
    match outcome {
        Ok((reply, key)) => {
            inner.metrics.answered(name, &reply.message);
            let result = result_of(&reply.message);
            if let Response::Authenticate(_) = &reply.message {
                info!(session = %log_id, client = %arrival.client, request = name, result, user = user.as_deref(), "Request answered");
            } else {
                info!(session = %log_id, client = %arrival.client, request = name, result, "Request answered");
            }
            message(&inner, &reply, key)
        }
        Err(reject) => {
            let reason = reject_label(reject);
            inner.metrics.rejected(name, reason);
            if reject == Reject::Internal || reject == Reject::Loop {
                warn!(session = %log_id, client = %arrival.client, request = name, reason, "Request rejected");
            } else {
                info!(session = %log_id, client = %arrival.client, request = name, reason, "Request rejected");
            }
            sentence(status_of(reject), texts::rejected(&reject).into())
        }
    }
}

/// `GET` of the broker protocol's path: whatever the broker's state, since load balancers may ask here.
pub(super) fn page() -> HttpResponse {
    const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=UTF-8");
    ([(header::CONTENT_TYPE, HTML)], PAGE).into_response()
}

/// `GET` of the health report.
pub(super) async fn health(State(inner): State<Arc<Inner>>) -> HttpResponse {
    let (status, body) = inner.health.report(&inner).await;
    (status, [(header::CONTENT_TYPE, JSON)], body).into_response()
}

/// `GET` of the sign of life.
pub(super) fn live() -> HttpResponse {
    let (status, body) = health::success();
    (status, [(header::CONTENT_TYPE, JSON)], body).into_response()
}

/// An answer, with the key of the session it opened, if any.
type Answered = (Envelope<Response>, Option<SessionKey>);

/// Finds or opens the session of a request and has it handled.
async fn converse(
    inner: &Inner,
    arrival: &Arrival,
    request: Envelope<Request>,
) -> (LogId, Result<Answered, Reject>) {
    match &request.message {
        Request::Hello(hello) if is_probe(hello) => probe(inner, arrival, request).await,
        Request::Hello(_) => greet(inner, arrival, request).await,
        Request::Authenticate(_)
        | Request::GetResourceList(_)
        | Request::AllocateResource(_)
        | Request::Bye(_)
        | Request::Unknown(_) => proceed(inner, arrival, request).await,
    }
}

/// Answers a probe, in a session that nobody else ever sees.
async fn probe(
    inner: &Inner,
    arrival: &Arrival,
    request: Envelope<Request>,
) -> (LogId, Result<Answered, Reject>) {
    let log_id = arrival.log_id.unwrap_or_else(LogId::random);
    let mut session = fresh(inner, arrival, log_id);
    let result = handle(inner, arrival, &mut session, request).await;
    (log_id, result.map(|reply| (reply, None)))
}

/// Opens a session with a hello, or starts an existing one over.
async fn greet(
    inner: &Inner,
    arrival: &Arrival,
    request: Envelope<Request>,
) -> (LogId, Result<Answered, Reject>) {
    let log_id = named(arrival);
    let alias = alias(inner, arrival);
    let living = match find(inner, arrival) {
        Some(lease) if !ended(inner, &lease).await => {
            lease.set_alias(alias);
            Some(lease)
        }
        _ => None,
    };
    let is_new = living.is_none();
    let lease = match living.map_or_else(
        || inner.sessions.open(fresh(inner, arrival, log_id), alias),
        Ok,
    ) {
        Ok(lease) => lease,
        Err(OpenError::Full) => {
            warn!(
                limit = inner.config.max_sessions,
                "Hello rejected: too many sessions"
            );
            return (log_id, Err(Reject::TooManySessions));
        }
        Err(OpenError::NoRandomness) => return (log_id, Err(Reject::Internal)),
    };
    let mut session = lease.lock().await;
    session.client_is(ClientFacts {
        address: arrival.client,
        log_id,
    });
    let result = handle(inner, arrival, &mut session, request).await;
    if result.is_err() && is_new {
        session.end();
    }
    drop(session);
    (log_id, result.map(|reply| (reply, Some(lease.key()))))
}

/// Has an existing session handle a request other than hello.
async fn proceed(
    inner: &Inner,
    arrival: &Arrival,
    request: Envelope<Request>,
) -> (LogId, Result<Answered, Reject>) {
    let Some(lease) = find(inner, arrival) else {
        return (named(arrival), Err(Reject::NoSession));
    };
    let mut session = lease.lock().await;
    session.handle_timeout(now());
    let log_id = session.client().log_id;
    session.client_is(ClientFacts {
        address: arrival.client,
        log_id,
    });
    let result = handle(inner, arrival, &mut session, request).await;
    (log_id, result.map(|reply| (reply, None)))
}

async fn handle(
    inner: &Inner,
    arrival: &Arrival,
    session: &mut Session,
    request: Envelope<Request>,
) -> Result<Envelope<Response>, Reject> {
    let log_id = session.client().log_id;
    let result = Legs::new(inner, arrival, log_id).go(session, request).await;
    inner
        .farewells
        .say(session.client(), session.take_farewell());
    result
}

/// Whether the session has no time left, once the requests before this one are done.
async fn ended(inner: &Inner, lease: &Lease) -> bool {
    let mut session = lease.lock().await;
    session.handle_timeout(now());
    inner
        .farewells
        .say(session.client(), session.take_farewell());
    session.is_over()
}

fn fresh(inner: &Inner, arrival: &Arrival, log_id: LogId) -> Session {
    let client = ClientFacts {
        address: arrival.client,
        log_id,
    };
    Session::new(Arc::clone(&inner.policy), client, now())
}

/// The session a request belongs to, by its cookie or, where that is allowed and no cookie came, by its log id.
fn find(inner: &Inner, arrival: &Arrival) -> Option<Lease> {
    let by_cookie = arrival
        .keys
        .iter()
        .find_map(|key| inner.sessions.find(*key));
    by_cookie.or_else(|| {
        let alias = alias(inner, arrival).filter(|_| !arrival.has_cookie)?;
        inner.sessions.find_alias(alias)
    })
}

/// What a client without a cookie is known by, if it may be.
fn alias(inner: &Inner, arrival: &Arrival) -> Option<(LogId, std::net::IpAddr)> {
    let log_id = arrival.log_id.filter(|log_id| !log_id.is_nil())?;
    inner
        .config
        .client_log_id_fallback
        .then_some((log_id, arrival.client))
}

/// The log id of a request that belongs to no session yet. The nil one names nothing.
fn named(arrival: &Arrival) -> LogId {
    arrival
        .log_id
        .filter(|log_id| !log_id.is_nil())
        .unwrap_or_else(LogId::random)
}

/// The user name of a password logon, for the log.
fn attempted_user(request: &Request) -> Option<String> {
    let Request::Authenticate(Authenticate::Password(logon)) = request else {
        return None;
    };
    let user = if logon.domain.is_empty() {
        logon.username.clone()
    } else {
        format!("{}\\{}", logon.domain, logon.username)
    };
    Some(user.chars().take(LOGGED_USER).collect())
}

/// An answer's result, for the log.
fn result_of(response: &Response) -> String {
    match response {
        Response::Hello(_) | Response::Bye(_) | Response::Unknown(_) => "OK".into(),
        Response::Authenticate(answer) => answer.result.id.to_string(),
        Response::GetResourceList(answer) => answer.result.id.to_string(),
        Response::AllocateResource(answer) => answer.result.id.to_string(),
    }
}

const fn status_of(reject: Reject) -> StatusCode {
    match reject {
        Reject::BrokerUnavailable | Reject::TooManySessions => StatusCode::SERVICE_UNAVAILABLE,
        Reject::NoSession
        | Reject::OutOfOrder
        | Reject::UnknownMessage
        | Reject::Loop
        | Reject::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn message(inner: &Inner, reply: &Envelope<Response>, key: Option<SessionKey>) -> HttpResponse {
    let document = reply.to_document();
    let body = if inner.config.chunked_replies {
        chunked(document.to_vec())
    } else {
        Body::from(document.to_vec())
    };
    let mut response = HttpResponse::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, XML);
    // The literal form that clients are known to take.
    let cookie = key.map(|key| format!("{COOKIE}={}; Secure; HttpOnly", key.to_text()));
    if let Some(cookie) = cookie.and_then(|cookie| HeaderValue::try_from(cookie).ok()) {
        headers.insert(header::SET_COOKIE, cookie);
    }
    response
}

fn sentence(status: StatusCode, text: Cow<'static, str>) -> HttpResponse {
    (status, [(header::CONTENT_TYPE, TEXT)], text).into_response()
}

fn faulty(inner: &Inner, arrival: &Arrival, fault: BodyFault) -> HttpResponse {
    let (status, reason, text) = match fault {
        BodyFault::TooLong => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_long",
            format!(
                "The request is longer than {} bytes.",
                inner.config.body_bytes
            ),
        ),
        BodyFault::TooSlow => (
            StatusCode::REQUEST_TIMEOUT,
            "too_slow",
            format!(
                "The request did not arrive within {:?}.",
                inner.config.body_wait
            ),
        ),
        BodyFault::Broken => (
            StatusCode::BAD_REQUEST,
            "broken_off",
            "The request did not arrive as a whole.".into(),
        ),
    };
    unread(inner, arrival, reason, None);
    let close = [(header::CONNECTION, HeaderValue::from_static("close"))];
    (close, sentence(status, text.into())).into_response()
}

fn malformed(inner: &Inner, arrival: &Arrival, error: &ParseMessageError) -> HttpResponse {
    let cause = chain(error);
    unread(inner, arrival, "malformed", Some(&cause));
    let text = format!("The request is malformed: {}.", texts::malformed(error));
    sentence(StatusCode::BAD_REQUEST, text.into())
}

/// Notes a request that never became a message.
fn unread(inner: &Inner, arrival: &Arrival, reason: &'static str, cause: Option<&str>) {
    inner.metrics.rejected("unread", reason);
    let log_id = named(arrival);
    info!(session = %log_id, client = %arrival.client, reason, cause, "Request rejected");
}
