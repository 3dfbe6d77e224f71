//! The broker protocol over HTTPS, as a client speaks it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode, Uri,
    header::{ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, COOKIE, SET_COOKIE, USER_AGENT},
};
use portcullis_https::{Client as HttpsClient, ClientOptions, SendError, identity::IssueError};
use portcullis_protocol::{
    LogId,
    broker::{Envelope, PATH, ParseMessageError, RESPONSE_LIMITS, Request, Response},
};
use thiserror::Error;

use super::config::{ClientConfig, ServerUrl};

/// Largest answer, in bytes: the XML limit of the protocol crate.
const ANSWER_BYTES: usize = RESPONSE_LIMITS.bytes;
/// Cookies kept: a session's own and those of load balancers.
const MAX_COOKIES: usize = 16;
/// Longest cookie kept, name and value, in bytes.
const MAX_COOKIE_BYTES: usize = 4096;
/// Characters of an error page worth repeating.
const MAX_EXCERPT: usize = 200;
/// What real clients call themselves. Servers must not care.
const AGENT: &str = "Mozilla/4.0 (compatible; MSIE 6.0)";
const CLIENT_LOG_ID: HeaderName = HeaderName::from_static("client-log-id");

/// A conversation with one server: one kept connection, its cookies, one session log id.
#[derive(Debug)]
pub(crate) struct Conversation {
    https: HttpsClient,
    uri: Uri,
    cookies: Cookies,
}

/// Why a request was not answered.
#[derive(Debug, Error)]
pub(crate) enum AskError {
    #[error("no answer came")]
    Send(#[source] SendError),
    #[error("the server answered with status {status}")]
    Status {
        status: StatusCode,
        /// The start of the body, on one line.
        excerpt: String,
    },
    #[error("the answer is not a message of the broker protocol")]
    Parse(#[source] ParseMessageError),
    #[error("the server answered {found} instead")]
    Unexpected { found: String },
}

impl Conversation {
    pub(crate) fn new(config: &ClientConfig) -> Result<Self, IssueError> {
        let options = ClientOptions {
            connect: config.limits.connect,
            total: config.limits.request,
            body_bytes: ANSWER_BYTES,
            local_address: config.local_address,
        };
        let server = &config.server;
        // Host and port were taken out of an authority, so they make one again.
        let uri = format!("{server}{PATH}").parse().unwrap_or_default();
        Ok(Self {
            https: HttpsClient::new(&config.trust, None, options)?,
            uri,
            cookies: Cookies::default(),
        })
    }

    /// Asks as a probe does: under the nil log id, and without cookies.
    pub(crate) async fn probe(&self, request: Request) -> Result<Response, AskError> {
        let nil = LogId::from_uuid(uuid::Uuid::nil());
        let (response, _) = self.exchange(request, nil, None).await?;
        Ok(response)
    }

    /// Asks as part of the session.
    pub(crate) async fn ask(
        &mut self,
        request: Request,
        log_id: LogId,
    ) -> Result<Response, AskError> {
        let cookies = self.cookies.header();
        let (response, headers) = self.exchange(request, log_id, cookies).await?;
        self.cookies.absorb(&headers);
        Ok(response)
    }

    async fn exchange(
        &self,
        request: Request,
        log_id: LogId,
        cookies: Option<HeaderValue>,
    ) -> Result<(Response, HeaderMap), AskError> {
        let document = Envelope::new(request).to_document();
        let mut message = http::Request::new(Bytes::copy_from_slice(&document));
        *message.method_mut() = http::Method::POST;
        *message.uri_mut() = self.uri.clone();
        let headers = message.headers_mut();
        let fixed = HeaderValue::from_static;
        headers.insert(CONTENT_TYPE, fixed("text/xml; charset=UTF-8"));
        headers.insert(USER_AGENT, fixed(AGENT));
        headers.insert(ACCEPT, fixed("text/*, application/octet-stream"));
        headers.insert(CONNECTION, fixed("Keep-Alive"));
        headers.insert(CACHE_CONTROL, fixed("no-cache"));
        if let Ok(log_id) = HeaderValue::from_str(&log_id.to_string()) {
            headers.insert(CLIENT_LOG_ID, log_id);
        }
        if let Some(cookies) = cookies {
            headers.insert(COOKIE, cookies);
        }
        let reply = self.https.send(message).await.map_err(AskError::Send)?;
        if reply.status != StatusCode::OK {
            return Err(AskError::Status {
                status: reply.status,
                excerpt: excerpt(&reply.body),
            });
        }
        let envelope = Envelope::<Response>::parse(&reply.body).map_err(AskError::Parse)?;
        Ok((envelope.message, reply.headers))
    }
}

/// The address a client would give as the server's: the one it resolved.
pub(crate) async fn resolve(server: &ServerUrl) -> Option<IpAddr> {
    if let Some(address) = server.address() {
        return Some(address);
    }
    let mut addresses = tokio::net::lookup_host((server.host(), server.port()))
        .await
        .ok()?;
    addresses.next().as_ref().map(SocketAddr::ip)
}

/// The start of an error page on one line, without anything a terminal might obey.
fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word.chars().filter(|character| !character.is_control()));
        if line.len() > MAX_EXCERPT {
            break;
        }
    }
    line.chars().take(MAX_EXCERPT).collect()
}

/// Cookies by name. Path, domain and lifetime do not matter to a client of one path and one session.
#[derive(Debug, Default)]
struct Cookies(BTreeMap<String, String>);

impl Cookies {
    fn absorb(&mut self, headers: &HeaderMap) {
        for field in headers.get_all(SET_COOKIE) {
            let Ok(field) = field.to_str() else { continue };
            let pair = field.split(';').next().unwrap_or_default();
            let Some((name, value)) = pair.split_once('=') else {
                continue;
            };
            let (name, value) = (name.trim(), value.trim());
            if name.is_empty() || name.len() + value.len() > MAX_COOKIE_BYTES {
                continue;
            }
            if self.0.len() < MAX_COOKIES || self.0.contains_key(name) {
                self.0.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    fn header(&self) -> Option<HeaderValue> {
        if self.0.is_empty() {
            return None;
        }
        let pairs: Vec<_> = self
            .0
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        HeaderValue::from_str(&pairs.join("; ")).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cookies: &mut Cookies, fields: &[&str]) {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(SET_COOKIE, HeaderValue::from_str(field).unwrap());
        }
        cookies.absorb(&headers);
    }

    #[test]
    fn cookies_of_server_and_load_balancer_are_sent_back_together() {
        let mut cookies = Cookies::default();
        assert_eq!(cookies.header(), None);
        set(
            &mut cookies,
            &["JSESSIONID=abc; Secure; HttpOnly", "AWSALB=x=y; Path=/"],
        );
        assert_eq!(cookies.header().unwrap(), "AWSALB=x=y; JSESSIONID=abc");
        set(&mut cookies, &["JSESSIONID=def"]);
        assert_eq!(cookies.header().unwrap(), "AWSALB=x=y; JSESSIONID=def");
    }

    #[test]
    fn senseless_and_too_many_cookies_are_left_out() {
        let mut cookies = Cookies::default();
        set(&mut cookies, &["", "novalue", "=x", "; a=b"]);
        assert_eq!(cookies.header(), None);
        for number in 0..40 {
            set(&mut cookies, &[&format!("c{number}=1")]);
        }
        assert_eq!(cookies.0.len(), MAX_COOKIES);
        set(&mut cookies, &[&format!("c0={}", "x".repeat(5000))]);
        assert_eq!(cookies.0["c0"], "1");
    }

    #[test]
    fn an_excerpt_is_short_and_plain() {
        assert_eq!(excerpt(b" a\n\tb\x1b[31m  c "), "a b[31m c");
        assert_eq!(excerpt(&[b'x'; 5000]).len(), MAX_EXCERPT);
        assert_eq!(excerpt(b""), "");
    }
}
