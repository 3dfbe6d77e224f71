//! An HTTPS/1.1 client with kept connections, under one trust policy and hard limits.

use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client as Pool,
        connect::{HttpConnector, HttpInfo},
    },
    rt::{TokioExecutor, TokioTimer},
};
use thiserror::Error;
use tower::Service;
use zeroize::Zeroizing;

use crate::{
    identity::{Identity, IssueError},
    trust::Trust,
};

/// How long an unused connection is kept for the next request.
const IDLE: Duration = Duration::from_secs(30);
/// Unused connections kept for one server; more than this only helps in a storm that is over by then.
const IDLE_PER_HOST: usize = 32;

/// How a [`Client`] behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// For name resolution, TCP connect and TLS handshake together.
    pub connect: Duration,
    /// For a whole exchange, connect included.
    pub total: Duration,
    /// Largest response body, in bytes.
    pub body_bytes: usize,
    /// Local address to connect from.
    pub local_address: Option<IpAddr>,
}

impl Default for ClientOptions {
    /// 5 s to connect, 30 s in all, 64 KiB of body.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            total: Duration::from_secs(30),
            body_bytes: 64 * 1024,
            local_address: None,
        }
    }
}

/// A response, read whole.
#[derive(Debug)]
pub struct Reply {
    /// Status code.
    pub status: http::StatusCode,
    /// Header fields.
    pub headers: http::HeaderMap,
    /// The address the server was reached at.
    pub remote: Option<SocketAddr>,
    /// Body, wiped on drop.
    pub body: Zeroizing<Vec<u8>>,
}

/// Why no response came.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SendError {
    /// No TCP or TLS connection: refused, unreachable, too slow, certificate not trusted.
    #[error("cannot connect")]
    Connect(#[source] Box<dyn StdError + Send + Sync>),
    /// Nothing, or not everything, came in time.
    #[error("no answer within {within:?}")]
    TimedOut {
        /// The limit in force.
        within: Duration,
        /// Whether the connection stood when time ran out.
        connected: bool,
    },
    /// The response is longer than allowed.
    #[error("the response is longer than {limit} bytes")]
    TooLong {
        /// The limit in force, in bytes.
        limit: usize,
    },
    /// The connection broke, or what came is not HTTP.
    #[error("the exchange broke off")]
    Broken(#[source] Box<dyn StdError + Send + Sync>),
}

/// The client. Cheap to clone; clones share kept connections.
#[derive(Clone)]
pub struct Client {
    pool: Pool<TimedConnector, Full<Bytes>>,
    options: ClientOptions,
}

impl Client {
    /// A client under `trust`, showing `identity` to servers that ask.
    ///
    /// # Errors
    /// When no authority can be used.
    pub fn new(
        trust: &Trust,
        identity: Option<&Identity>,
        options: ClientOptions,
    ) -> Result<Self, IssueError> {
        let tls = trust.client_config(identity)?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_local_address(options.local_address);
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(rustls::ClientConfig::clone(&tls))
            .https_only()
            .enable_http1()
            .wrap_connector(tcp);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .http1_title_case_headers(true)
            .build(TimedConnector {
                inner: https,
                within: options.connect,
            });
        Ok(Self { pool, options })
    }

    /// Sends one request (absolute `https://` URI) and reads the whole response. Never follows redirects.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn send(&self, request: http::Request<Bytes>) -> Result<Reply, SendError> {
        tokio::time::timeout(self.options.total, self.exchange(request))
            .await
            .unwrap_or(Err(SendError::TimedOut {
                within: self.options.total,
                // Connecting has its own, usually shorter, limit and error.
                connected: self.options.connect < self.options.total,
            }))
    }

    async fn exchange(&self, request: http::Request<Bytes>) -> Result<Reply, SendError> {
        let response = self
            .pool
            .request(request.map(Full::new))
            .await
            .map_err(|error| {
                if error.is_connect() {
                    SendError::Connect(error.into())
                } else {
                    SendError::Broken(error.into())
                }
            })?;
        let (head, body) = response.into_parts();
        let limit = self.options.body_bytes;
        let body = Limited::new(body, limit).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                SendError::TooLong { limit }
            } else {
                SendError::Broken(error)
            }
        })?;
        Ok(Reply {
            status: head.status,
            remote: head.extensions.get::<HttpInfo>().map(HttpInfo::remote_addr),
            headers: head.headers,
            body: Zeroizing::new(body.to_bytes().to_vec()),
        })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Gives resolving, connecting and the TLS handshake one time limit.
#[derive(Clone)]
struct TimedConnector {
    inner: HttpsConnector<HttpConnector>,
    within: Duration,
}

impl Service<http::Uri> for TimedConnector {
    type Response = <HttpsConnector<HttpConnector> as Service<http::Uri>>::Response;
    type Error = Box<dyn StdError + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let connecting = self.inner.call(uri);
        let within = self.within;
        Box::pin(async move {
            tokio::time::timeout(within, connecting)
                .await
                .unwrap_or_else(|_| {
                    Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("no connection within {within:?}"),
                    )
                    .into())
                })
        })
    }
}
