//! The broker over HTTPS, for Connection Managers elsewhere.

use std::{net::IpAddr, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    extract::State,
    http::{
        HeaderMap, StatusCode,
        header::{CONTENT_TYPE, COOKIE, SET_COOKIE},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use ipnet::IpNet;
use portcullis_https::{
    Peer,
    server::{ReadBodyError, chunked, read_body},
};
use portcullis_protocol::{
    LogId,
    broker::{Envelope, PATH, Request},
    xml::Limits,
};
use tracing::debug;

use crate::{
    Broker,
    machine::{Answer, HandleError, Inquiry},
    sessions::SessionToken,
};

/// For a request body to arrive; it fits in a few segments.
const BODY_WITHIN: Duration = Duration::from_secs(10);
/// Name of the session cookie; load balancers keep clients on one broker by it.
const COOKIE_NAME: &str = "JSESSIONID";

pub(crate) fn router(broker: Broker) -> Router {
    Router::new()
        .route(PATH, get(page).post(exchange))
        .with_state(broker)
}

/// What load balancers probe and the curious see.
async fn page() -> &'static str {
    "This is a PCoIP broker. Connection Managers and clients post their messages here.\n"
}

async fn exchange(
    State(broker): State<Broker>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let client = client_address(peer.address.ip(), &headers, broker.trusted_proxies());
    let log_id = log_id(&headers);
    let document = match read_body(body, Limits::default().bytes, BODY_WITHIN).await {
        Ok(document) => document,
        Err(error) => {
            debug!(session = %log_id, %client, error = &error as &dyn std::error::Error, "Request not read");
            return refuse_body(&error);
        }
    };
    let request = match Envelope::<Request>::parse(&document) {
        Ok(request) => request,
        Err(error) => {
            debug!(session = %log_id, %client, error = &error as &dyn std::error::Error, "Request is no broker message");
            return refuse(
                StatusCode::BAD_REQUEST,
                "This is not a PCoIP broker message.",
            );
        }
    };
    drop(document);
    let inquiry = Inquiry {
        session: session(&headers),
        client,
        log_id,
        request,
    };
    match broker.handle(inquiry).await {
        Ok(answer) => reply(&answer),
        Err(error) => refuse_message(&error),
    }
}

fn reply(answer: &Answer) -> Response {
    // Chunked, since clients exist that fail on replies of a known length.
    let body = chunked(answer.response.to_document().to_vec());
    let mut response = ([(CONTENT_TYPE, "application/xml; charset=UTF-8")], body).into_response();
    if let Some(token) = answer.session {
        let cookie = format!("{COOKIE_NAME}={}; Secure; HttpOnly", token.expose());
        if let Ok(cookie) = cookie.parse() {
            response.headers_mut().insert(SET_COOKIE, cookie);
        }
    }
    response
}

fn refuse(status: StatusCode, sentence: &'static str) -> Response {
    (status, sentence).into_response()
}

fn refuse_body(error: &ReadBodyError) -> Response {
    match error {
        ReadBodyError::TooLong { .. } => refuse(
            StatusCode::PAYLOAD_TOO_LARGE,
            "The message is too long for a PCoIP broker message.",
        ),
        ReadBodyError::TimedOut => refuse(
            StatusCode::REQUEST_TIMEOUT,
            "The message did not arrive in time.",
        ),
        ReadBodyError::Broken | _ => refuse(
            StatusCode::BAD_REQUEST,
            "The message did not arrive in one piece.",
        ),
    }
}

fn refuse_message(error: &HandleError) -> Response {
    match error {
        HandleError::NoSession { .. } => refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            "There is no such session; say hello first.",
        ),
        HandleError::OutOfOrder { .. } => refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The message came out of order.",
        ),
        HandleError::UnknownMessage { .. } => refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The message is not known here.",
        ),
        HandleError::TooManySessions => refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "There are too many sessions; try again later.",
        ),
        HandleError::Random(_) => refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The broker cannot make a session.",
        ),
    }
}

/// Our session cookie among all there are; load balancers add their own.
fn session(headers: &HeaderMap) -> Option<SessionToken> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|&(name, _)| name == COOKIE_NAME)
        .find_map(|(_, value)| SessionToken::parse(value.trim_matches('"')))
}

/// The client's log id, or a fresh one when it sent none or nonsense.
fn log_id(headers: &HeaderMap) -> LogId {
    headers
        .get("client-log-id")
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(LogId::random)
}

/// The client's address: the peer's, or, while it is a trusted proxy's, what that proxy says it forwards for.
fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer.to_canonical();
    let forwarded: Vec<&str> = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    for text in forwarded.into_iter().rev() {
        if !trusted.iter().any(|net| net.contains(&client)) {
            break;
        }
        let Ok(address) = text.trim().parse::<IpAddr>() else {
            break;
        };
        client = address.to_canonical();
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for &(name, value) in pairs {
            headers.append(name, value.parse().expect("a value"));
        }
        headers
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn only_trusted_proxies_speak_for_others() {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8"]
            .iter()
            .map(|net| net.parse().expect("a network"))
            .collect();
        let cases: [(&str, &[&str], &str); 8] = [
            ("192.0.2.1", &["198.51.100.7"], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("::ffff:10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
            (
                "10.0.0.1",
                &["203.0.113.9", "198.51.100.7, fd00::2"],
                "198.51.100.7",
            ),
            ("10.0.0.1", &["198.51.100.7, nonsense"], "10.0.0.1"),
            ("10.0.0.1", &["10.0.0.2, 10.0.0.3"], "10.0.0.2"),
        ];
        for (peer, values, expected) in cases {
            let pairs: Vec<_> = values
                .iter()
                .map(|&value| ("x-forwarded-for", value))
                .collect();
            let found = client_address(ip(peer), &headers(&pairs), &trusted);
            assert_eq!(found, ip(expected), "{peer} {values:?}");
        }
    }

    #[test]
    fn our_cookie_is_found_among_others() {
        let token = SessionToken::from_random([7; SessionToken::BYTES]);
        let text = token.expose();
        for value in [
            format!("JSESSIONID={text}"),
            format!("AWSALB=abc=; JSESSIONID={text};x=y"),
            format!("JSESSIONID=other; JSESSIONID=\"{text}\""),
        ] {
            assert_eq!(
                session(&headers(&[("cookie", &value)])),
                Some(token),
                "{value}"
            );
        }
        let two = headers(&[("cookie", "a=b"), ("cookie", &format!("JSESSIONID={text}"))]);
        assert_eq!(session(&two), Some(token));
        for value in [
            "",
            "JSESSIONID",
            "JSESSIONID=",
            "jsessionid=x",
            "XJSESSIONID=1",
        ] {
            assert_eq!(session(&headers(&[("cookie", value)])), None, "{value}");
        }
    }

    #[test]
    fn a_missing_or_broken_log_id_is_replaced() {
        let id = "7cd13600-b190-1039-bfc7-1c697a6f50fb";
        assert_eq!(log_id(&headers(&[("client-log-id", id)])).to_string(), id);
        let first = log_id(&headers(&[("client-log-id", "x")]));
        assert!(!first.is_nil());
        assert_ne!(first, log_id(&headers(&[])));
    }
}
