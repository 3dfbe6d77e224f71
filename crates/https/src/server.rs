//! An HTTPS/1.1 server around an `axum::Router`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// Who is on the other end of a connection; every request carries it as an `axum::Extension<Peer>`.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The TCP peer.
    pub address: SocketAddr,
    /// Our end of the connection.
    pub local: SocketAddr,
    /// The leaf certificate a client showed, on servers that ask for one.
    pub certificate: Option<CertificateDer<'static>>,
}

/// Time and size limits of a server.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For the headers of a request, which is also how long a kept connection may stay idle.
    pub header: Duration,
    /// Connections at a time, in all.
    pub connections: usize,
    /// Connections at a time from one address.
    pub connections_per_address: usize,
}

/// A listening HTTPS server.
#[derive(Debug)]
pub struct Server {}

impl Server {
    /// Wraps a bound listener. `tls` of `None` serves plain HTTP (for probes and loopback pages).
    #[must_use]
    pub fn new(
        listener: TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        limits: ServerLimits,
    ) -> Self {
        let _ = (listener, tls, limits);
        todo!()
    }

    /// Serves until `shutdown`, then lets running requests finish (at most five seconds). A handler runs to its end even
    /// when its client hangs up. Every reply's header names are written in title case (`Set-Cookie`).
    pub async fn serve(self, router: Router, shutdown: CancellationToken) {
        let _ = (router, shutdown);
        todo!()
    }
}

/// Why a request body was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadBodyError {
    /// Longer than allowed.
    #[error("the request body is longer than {limit} bytes")]
    TooLong {
        /// The limit in force, in bytes.
        limit: usize,
    },
    /// Not complete in time.
    #[error("the request body did not arrive in time")]
    TimedOut,
    /// The connection broke.
    #[error("the connection broke while the request body was read")]
    Broken,
}

/// Reads a whole request body within a size and a time limit. Wiped on drop.
///
/// # Errors
/// See [`ReadBodyError`].
pub async fn read_body(
    body: axum::body::Body,
    limit: usize,
    within: Duration,
) -> Result<Zeroizing<Vec<u8>>, ReadBodyError> {
    let _ = (body, limit, within);
    todo!()
}

/// A body sent with `Transfer-Encoding: chunked`, which some clients insist on.
#[must_use]
pub fn chunked(bytes: Vec<u8>) -> axum::body::Body {
    let _ = bytes;
    todo!()
}
