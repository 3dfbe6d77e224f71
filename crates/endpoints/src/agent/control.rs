//! TCP 60443: Connection Managers have sessions prepared here.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::post,
};
use portcullis_https::{
    Peer,
    server::{ReadBodyError, chunked, read_body},
};
use portcullis_protocol::{
    agent::{LaunchResultId, LaunchSession, LaunchSessionResp, Message, PATH, SessionInfo},
    broker::{Rest, SessionId},
};
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;
use tracing::{debug, info};

use super::{
    config::{AgentEvent, EndReason, LaunchFault, LaunchRefusal, Traffic},
    desk::account,
    lease,
    shared::Shared,
};
use crate::tag;

/// Largest launch request in bytes: the XML limit of the protocol crate.
const REQUEST_BYTES: usize = 64 * 1024;
/// For a launch request to arrive whole.
const REQUEST: Duration = Duration::from_secs(10);
/// How long a launch waits for the licence of the session it takes over from.
const TAKE_OVER: Duration = Duration::from_secs(6);
/// What our own agent answers when there is no licence; readers go by the word inside.
const FAILED_NO_LICENSE: &str = "FAILED_NO_LICENSE";
/// What our own agent answers while it stops.
const FAILED_SHUTTING_DOWN: &str = "FAILED_SHUTTING_DOWN";

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new().route(PATH, post(handle)).with_state(shared)
}

async fn handle(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Response {
    let body = match read_body(body, REQUEST_BYTES, REQUEST).await {
        Ok(body) => body,
        Err(error) => {
            let status = match error {
                ReadBodyError::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
                ReadBodyError::TimedOut => StatusCode::REQUEST_TIMEOUT,
                ReadBodyError::Broken | _ => StatusCode::BAD_REQUEST,
            };
            return (status, error.to_string()).into_response();
        }
    };
    if let Some(delay) = shared.config.faults.launch_delay {
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = shared.shutdown.cancelled() => {}
        }
    }
    if let Some(response) = shared.config.faults.launch_reply.and_then(faulty) {
        return response;
    }
    let request = match Message::parse(&body) {
        Ok(Message::LaunchSession(request)) => request,
        Ok(Message::LaunchSessionResp(_)) => {
            return (StatusCode::BAD_REQUEST, "a launch-session is expected").into_response();
        }
        Err(error) => {
            debug!(
                connection_manager = %peer.address,
                error = &error as &dyn std::error::Error,
                "Launch request not understood"
            );
            return (StatusCode::BAD_REQUEST, error.to_string()).into_response();
        }
    };
    let answer = match launch(&shared, &peer, &request).await {
        Ok(info) => {
            shared.counters.launched.fetch_add(1, Ordering::Relaxed);
            LaunchSessionResp {
                result: LaunchResultId::Successful,
                fail_reason: None,
                session_info: Some(info),
                rest: Rest::default(),
            }
        }
        Err((refusal, text)) => {
            info!(
                session = request.session_log_id,
                ?refusal,
                reason = text,
                "Launch refused"
            );
            shared
                .counters
                .launches_refused
                .fetch_add(1, Ordering::Relaxed);
            shared.emit(AgentEvent::LaunchRefused { reason: refusal });
            LaunchSessionResp {
                result: refusal.result_id(),
                fail_reason: Some(text),
                session_info: None,
                rest: Rest::default(),
            }
        }
    };
    reply(answer, shared.config.faults.launch_reply)
}

/// Prepares a session, or says why not in words for the user.
async fn launch(
    shared: &Arc<Shared>,
    peer: &Peer,
    request: &LaunchSession,
) -> Result<SessionInfo, (LaunchRefusal, String)> {
    if !may_log_on(shared, request) {
        return Err((
            LaunchRefusal::UserAuth,
            "the user name or password is incorrect".to_owned(),
        ));
    }
    let user = account(&request.logon.username);
    let log_id = &request.session_log_id;
    let admitted = shared.admit(&user, log_id).map_err(|_| {
        (
            LaunchRefusal::AnotherSession,
            "another session is running on this desktop".to_owned(),
        )
    })?;
    let session = admitted.session;
    if let Some(released) = &admitted.displaced {
        // With a pool of one licence the new session can only get the old one's.
        let _ = tokio::time::timeout(TAKE_OVER, released.cancelled()).await;
    }
    if let Err(error) = lease::license(shared, &admitted, log_id, &request.license_path).await {
        shared.end(session, EndReason::NotPrepared, Traffic::default());
        return Err((LaunchRefusal::NoLicense, chain(&error)));
    }
    let mut random = [0; tag::RANDOM_BYTES];
    let filled = getrandom::fill(&mut random).is_ok();
    let session_tag = tag::issue(shared.certificate, &random);
    if !filled || !shared.reserve(session, session_tag.clone()) {
        shared.end(session, EndReason::ShuttingDown, Traffic::default());
        return Err((
            LaunchRefusal::ShuttingDown,
            "the agent is shutting down".to_owned(),
        ));
    }
    info!(session = log_id, number = session.0, "Session launched");
    shared.emit(AgentEvent::Launched {
        session,
        log_id: log_id.clone(),
        user: request.logon.username.clone(),
    });
    Ok(SessionInfo {
        ip_address: advertised(shared, peer),
        sni: sni(shared, session),
        port: shared.data.port(),
        session_id: session,
        session_tag,
        rest: Rest::default(),
    })
}

fn may_log_on(shared: &Shared, request: &LaunchSession) -> bool {
    let logon = &request.logon;
    let password = logon.password.expose_secret();
    if logon.username.is_empty() || password.is_empty() {
        return false;
    }
    let Some(users) = &shared.config.users else {
        return true;
    };
    let wanted = account(&logon.username);
    users.iter().any(|(name, expected)| {
        account(name) == wanted
            && bool::from(
                expected
                    .expose_secret()
                    .as_bytes()
                    .ct_eq(password.as_bytes()),
            )
    })
}

fn advertised(shared: &Shared, peer: &Peer) -> String {
    let bound = shared.data.ip();
    shared
        .config
        .advertised
        .unwrap_or(if bound.is_unspecified() {
            peer.local.ip().to_canonical()
        } else {
            bound
        })
        .to_string()
}

fn sni(shared: &Shared, session: SessionId) -> String {
    let hostname = &shared.config.hostname;
    if shared.config.unique_sni {
        // The number without the bit that every session of an agent has set.
        format!("s{}.{hostname}", session.0 & !(1 << 61))
    } else {
        hostname.clone()
    }
}

impl LaunchRefusal {
    fn result_id(self) -> LaunchResultId {
        match self {
            Self::UserAuth => LaunchResultId::UserAuth,
            Self::AnotherSession => LaunchResultId::AnotherSessionStarted,
            Self::NoLicense => LaunchResultId::Other(FAILED_NO_LICENSE.to_owned()),
            Self::ShuttingDown => LaunchResultId::Other(FAILED_SHUTTING_DOWN.to_owned()),
        }
    }
}

/// Faults that need no session.
fn faulty(fault: LaunchFault) -> Option<Response> {
    match fault {
        LaunchFault::Garbage => Some(xml(b"\x00\xffthis is not XML <".to_vec())),
        LaunchFault::NotFound => Some(StatusCode::NOT_FOUND.into_response()),
        LaunchFault::ServerError => Some(StatusCode::INTERNAL_SERVER_ERROR.into_response()),
        LaunchFault::UnknownFailure => {
            let answer = LaunchSessionResp {
                result: LaunchResultId::Other("FAILED_FOR_REASONS_OF_ITS_OWN".to_owned()),
                fail_reason: None,
                session_info: None,
                rest: Rest::default(),
            };
            Some(reply(answer, None))
        }
        LaunchFault::Truncated | LaunchFault::LowerCase => None,
    }
}

fn reply(mut answer: LaunchSessionResp, fault: Option<LaunchFault>) -> Response {
    if fault == Some(LaunchFault::LowerCase) && answer.result == LaunchResultId::Successful {
        answer.result = LaunchResultId::Other("successful".to_owned());
    }
    let mut document = Message::LaunchSessionResp(answer).to_document();
    if fault == Some(LaunchFault::Truncated) {
        let half = document.len() / 2;
        document.truncate(half);
    }
    xml(std::mem::take(&mut *document))
}

fn xml(document: Vec<u8>) -> Response {
    let kind = [(CONTENT_TYPE, "application/xml; charset=UTF-8")];
    (kind, chunked(document)).into_response()
}

/// An error with its causes, for a reader who sees only this text.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
