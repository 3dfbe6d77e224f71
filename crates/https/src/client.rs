//! An HTTPS/1.1 client with kept connections, under one trust policy and hard limits.

use std::{net::IpAddr, time::Duration};

use bytes::Bytes;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::{identity::Identity, trust::Trust};

/// How a [`Client`] behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// For TCP connect and TLS handshake.
    pub connect: Duration,
    /// For a whole exchange, connect included.
    pub total: Duration,
    /// Largest response body, in bytes.
    pub body_bytes: usize,
    /// Local address to connect from.
    pub local_address: Option<IpAddr>,
}

/// A response, read whole.
#[derive(Debug)]
pub struct Reply {
    /// Status code.
    pub status: http::StatusCode,
    /// Header fields.
    pub headers: http::HeaderMap,
    /// Body, wiped on drop.
    pub body: Zeroizing<Vec<u8>>,
}

/// Why no response came.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SendError {
    /// No TCP or TLS connection: refused, unreachable, certificate not trusted.
    #[error("cannot connect")]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
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
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The client. Cheap to clone; clones share kept connections.
#[derive(Clone, Debug)]
pub struct Client {}

impl Client {
    /// A client under `trust`, showing `identity` to servers that ask.
    ///
    /// # Errors
    /// When no authority can be used.
    pub fn new(
        trust: &Trust,
        identity: Option<&Identity>,
        options: ClientOptions,
    ) -> Result<Self, crate::identity::IssueError> {
        let _ = (trust, identity, options);
        todo!()
    }

    /// Sends one request (absolute `https://` URI) and reads the whole response. Never follows redirects.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn send(&self, request: http::Request<Bytes>) -> Result<Reply, SendError> {
        let _ = request;
        todo!()
    }
}
