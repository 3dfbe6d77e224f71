//! A broker behind HTTPS that speaks the broker protocol: a third party's, or `portcullis broker` on another host.

use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderMap, Uri, header, uri::PathAndQuery};
use portcullis_https::{Client, ClientOptions, Identity, Trust, identity::IssueError};
use portcullis_protocol::{
    LogId,
    broker::{
        Bye, ClientInfo, Envelope, Hello, PATH, PROBE_PRODUCT, RESPONSE_LIMITS, Request, Response,
        Root,
    },
};
use thiserror::Error;

use super::{Failed, body, post};
use crate::neighbours::{
    Broker, BrokerAnswer, BrokerCookies, BrokerExchange, BrokerFailure, Cause,
};

/// Header with the addresses a request came through.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// How an [`HttpsBroker`] is talked to.
#[derive(Clone, Debug)]
pub struct HttpsBrokerOptions {
    /// Name of the root element of what is sent; some brokers want `pcoip-broker` of a Connection Manager. Default:
    /// `pcoip-client`.
    pub root: Root,
    /// Longest wait for an answer. Default: 55 s, as deployed with the vendor's product.
    pub wait: Duration,
    /// Longest time to connect. Default: 5 s.
    pub connect: Duration,
}

impl Default for HttpsBrokerOptions {
    fn default() -> Self {
        Self {
            root: Root::Client,
            wait: Duration::from_secs(55),
            connect: Duration::from_secs(5),
        }
    }
}

/// A broker behind HTTPS.
#[derive(Clone, Debug)]
pub struct HttpsBroker {
    client: Client,
    uri: Uri,
    root: Root,
}

/// Why a broker cannot be set up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HttpsBrokerError {
    /// Not a URL.
    #[error("the broker address is not a URL")]
    Url(#[source] http::uri::InvalidUri),
    /// Passwords pass here: nothing but `https://` will do.
    #[error("the broker address does not begin with https://")]
    NotHttps,
    /// The protocol has one path.
    #[error("the broker address has a path other than {PATH}")]
    Path,
    /// No TLS under the given trust.
    #[error("the broker's trust settings cannot be used")]
    Trust(#[source] IssueError),
}

impl HttpsBroker {
    /// The broker at `url` (`https://host[:port]`, with or without the protocol's path), believed under `trust`, shown
    /// `identity` if it asks for a certificate.
    ///
    /// # Errors
    /// See [`HttpsBrokerError`].
    pub fn new(
        url: &str,
        trust: &Trust,
        identity: Option<&Identity>,
        options: &HttpsBrokerOptions,
    ) -> Result<Self, HttpsBrokerError> {
        let limits = ClientOptions {
            connect: options.connect,
            total: options.wait,
            body_bytes: RESPONSE_LIMITS.bytes,
            ..ClientOptions::default()
        };
        Ok(Self {
            uri: endpoint(url)?,
            client: Client::new(trust, identity, limits).map_err(HttpsBrokerError::Trust)?,
            root: options.root,
        })
    }

    async fn exchange(&self, exchange: BrokerExchange) -> Result<BrokerAnswer, BrokerFailure> {
        let BrokerExchange {
            log_id,
            mut cookies,
            client: _,
            forwarded_for,
            mut request,
        } = exchange;
        request.root = self.root;
        let mut http = post(self.uri.clone(), log_id);
        if !forwarded_for.is_empty() {
            let addresses = forwarded_for.iter().map(ToString::to_string);
            http = http.header(FORWARDED_FOR, addresses.collect::<Vec<_>>().join(", "));
        }
        if let Some(pairs) = cookies.to_header() {
            http = http.header(header::COOKIE, pairs.as_str());
        }
        let http = http
            .body(body(request.to_document()))
            .map_err(|error| BrokerFailure::Unreachable(error.into()))?;
        let reply = self.client.send(http).await.map_err(Failed::from)?;
        if !reply.status.is_success() {
            return Err(BrokerFailure::Refused {
                status: reply.status.as_u16(),
            });
        }
        let response = Envelope::<Response>::parse(&reply.body)
            .map_err(|error| BrokerFailure::Garbage(error.into()))?;
        take_cookies(&mut cookies, &reply.headers);
        Ok(BrokerAnswer { cookies, response })
    }

    /// Says what a client's probe says: the one question that needs no session.
    async fn probe(&self) -> Result<(), Cause> {
        let ask = |cookies: BrokerCookies, request| {
            self.exchange(BrokerExchange {
                log_id: LogId::random(),
                cookies,
                client: std::net::Ipv4Addr::UNSPECIFIED.into(),
                forwarded_for: Vec::new(),
                request: Envelope::new(request),
            })
        };
        let hello = Request::Hello(Hello {
            client_info: ClientInfo {
                product_name: Some(PROBE_PRODUCT.into()),
                product_version: Some("1.0".into()),
                platform: Some("PCoIP".into()),
                ..ClientInfo::default()
            },
            ..Hello::default()
        });
        let answer = ask(BrokerCookies::new(), hello).await?;
        if !answer.cookies.is_empty() {
            // It opened a session for the probe. It will close it by itself when this fails.
            let _ = ask(answer.cookies, Request::Bye(Bye::default())).await;
        }
        match answer.response.message {
            Response::Hello(_) => Ok(()),
            Response::Authenticate(_)
            | Response::GetResourceList(_)
            | Response::AllocateResource(_)
            | Response::Bye(_)
            | Response::Unknown(_) => Err(BrokerFailure::wrong_message().into()),
        }
    }
}

impl Broker for HttpsBroker {
    fn ask(&self, exchange: BrokerExchange) -> BoxFuture<'_, Result<BrokerAnswer, BrokerFailure>> {
        Box::pin(self.exchange(exchange))
    }

    fn health(&self) -> BoxFuture<'_, Result<(), Cause>> {
        Box::pin(self.probe())
    }
}

impl From<Failed> for BrokerFailure {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Unreachable(error) => Self::Unreachable(error.into()),
            Failed::TimedOut(within) => Self::TimedOut { within },
            Failed::Garbage(error) => Self::Garbage(error.into()),
        }
    }
}

fn endpoint(url: &str) -> Result<Uri, HttpsBrokerError> {
    let mut parts = url
        .trim()
        .parse::<Uri>()
        .map_err(HttpsBrokerError::Url)?
        .into_parts();
    if parts.scheme != Some(http::uri::Scheme::HTTPS) {
        return Err(HttpsBrokerError::NotHttps);
    }
    match parts
        .path_and_query
        .as_ref()
        .map_or("/", PathAndQuery::as_str)
    {
        "/" | PATH => parts.path_and_query = Some(PathAndQuery::from_static(PATH)),
        _ => return Err(HttpsBrokerError::Path),
    }
    Uri::from_parts(parts).map_err(|_| HttpsBrokerError::NotHttps)
}

/// Takes over what the broker set. Attributes but `Max-Age` mean nothing here: the cookies live as long as the session.
fn take_cookies(cookies: &mut BrokerCookies, headers: &HeaderMap) {
    for set in headers.get_all(header::SET_COOKIE) {
        let Ok(set) = set.to_str() else { continue };
        let mut parts = set.split(';');
        let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else {
            continue;
        };
        let expired =
            parts
                .filter_map(|attribute| attribute.split_once('='))
                .any(|(name, value)| {
                    name.trim().eq_ignore_ascii_case("max-age")
                        && value
                            .trim()
                            .parse::<i64>()
                            .is_ok_and(|seconds| seconds <= 0)
                });
        if expired {
            cookies.remove(name.trim());
        } else {
            cookies.set(name.trim(), value.trim());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_to_the_one_path() {
        for (url, uri) in [
            (
                "https://broker.example",
                "https://broker.example/pcoip-broker/xml",
            ),
            (
                "https://broker.example/",
                "https://broker.example/pcoip-broker/xml",
            ),
            (
                " https://[2001:db8::1]:8443/pcoip-broker/xml ",
                "https://[2001:db8::1]:8443/pcoip-broker/xml",
            ),
        ] {
            assert_eq!(endpoint(url).expect("a proper address"), uri);
        }
    }

    #[test]
    fn improper_addresses_are_refused_by_name() {
        for (url, message) in [
            ("http://broker.example", "does not begin with https://"),
            ("broker.example", "does not begin with https://"),
            ("https://broker.example/other", "a path other than"),
            (
                "https://broker.example/pcoip-broker/xml?x=1",
                "a path other than",
            ),
            ("https://bro ker", "not a URL"),
            ("", "not a URL"),
        ] {
            let error = endpoint(url).expect_err("an improper address").to_string();
            assert!(error.contains(message), "{url}: {error}");
        }
    }

    #[test]
    fn cookies_are_taken_whatever_their_names_and_attributes() {
        let mut headers = HeaderMap::new();
        for set in [
            "JSESSIONID=abc; Path=/; Secure; HttpOnly",
            "lb=node 2",
            "gone=x; Max-Age=0",
            "odd; no=pair",
            "empty=",
        ] {
            headers.append(header::SET_COOKIE, set.parse().expect("a header value"));
        }
        let mut cookies = BrokerCookies::new();
        cookies.set("gone", "old");
        take_cookies(&mut cookies, &headers);
        assert_eq!(cookies.value("JSESSIONID"), Some("abc"));
        assert_eq!(cookies.value("lb"), Some("node 2"));
        assert_eq!(cookies.value("gone"), None);
        assert_eq!(cookies.value("no"), None);
        assert_eq!(cookies.value("empty"), Some(""));
    }
}
