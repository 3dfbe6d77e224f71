//! An HTTPS/1.1 server around an `axum::Router`.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Extension, Router, body::Body};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use tracing::{debug, warn};
use zeroize::Zeroizing;

/// How long running requests may take to finish once the server is told to stop.
const FINISH: Duration = Duration::from_secs(5);
/// Pause after a failed accept: out of file descriptors is the usual cause, and only time helps.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// Bytes of request head (line and header fields) held at most.
const HEAD_BYTES: usize = 16 * 1024;
/// Header fields read at most.
const HEADER_FIELDS: usize = 64;

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
    /// For the head of a request, which is also how long a kept connection may stay idle.
    pub header: Duration,
    /// Connections at a time, in all.
    pub connections: usize,
    /// Connections at a time from one address.
    pub connections_per_address: usize,
}

impl Default for ServerLimits {
    /// 10 s for the handshake; 75 s idle, since PCoIP clients lose their session when a connection closes within a minute;
    /// 4096 connections, 256 from one address (a site behind one NAT address is one address).
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(75),
            connections: 4096,
            connections_per_address: 256,
        }
    }
}

/// A listening HTTPS server.
pub struct Server {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    limits: ServerLimits,
}

impl Server {
    /// Wraps a bound listener. `tls` of `None` serves plain HTTP (for probes and loopback pages).
    #[must_use]
    pub fn new(
        listener: TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        limits: ServerLimits,
    ) -> Self {
        Self {
            listener,
            tls: tls.map(TlsAcceptor::from),
            limits,
        }
    }

    /// Serves until `shutdown`, then lets running requests finish (at most five seconds). A handler runs to its end even
    /// when its client hangs up. Every reply's header names are written in title case (`Set-Cookie`).
    pub async fn serve(self, router: Router, shutdown: CancellationToken) {
        let slots = Arc::new(Semaphore::new(self.limits.connections));
        let addresses = Arc::new(PerAddress {
            limit: self.limits.connections_per_address,
            open: Mutex::default(),
        });
        let tasks = TaskTracker::new();
        let stopped = shutdown.child_token();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = accept(&self.listener, &slots) => accepted,
            };
            let (stream, address, slot) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "Cannot accept a connection"
                    );
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let Some(guard) = PerAddress::enter(&addresses, address.ip()) else {
                debug!(client = %address, "Connection refused: too many from this address");
                continue;
            };
            let connection = Connection {
                router: router.clone(),
                tls: self.tls.clone(),
                limits: self.limits.clone(),
                requests: tasks.clone(),
                stopped: stopped.clone(),
            };
            tasks.spawn(async move {
                connection.run(stream, address).await;
                drop((guard, slot));
            });
        }
        drop(self.listener);
        tasks.close();
        if tokio::time::timeout(FINISH, tasks.wait()).await.is_err() {
            warn!(
                running = tasks.len(),
                "Requests were still running when the server stopped"
            );
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("listener", &self.listener)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
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
    body: Body,
    limit: usize,
    within: Duration,
) -> Result<Zeroizing<Vec<u8>>, ReadBodyError> {
    let collected = tokio::time::timeout(within, Limited::new(body, limit).collect()).await;
    match collected.map_err(|_| ReadBodyError::TimedOut)? {
        Ok(body) => Ok(Zeroizing::new(body.to_bytes().to_vec())),
        Err(error) if error.is::<LengthLimitError>() => Err(ReadBodyError::TooLong { limit }),
        Err(_) => Err(ReadBodyError::Broken),
    }
}

/// A body sent with `Transfer-Encoding: chunked`, which some clients insist on.
pub fn chunked(bytes: Vec<u8>) -> Body {
    Body::from_stream(futures_util::stream::iter([Ok::<_, Infallible>(
        Bytes::from(bytes),
    )]))
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    Ok((stream, address, slot))
}

/// What one connection needs of the server.
struct Connection {
    router: Router,
    tls: Option<TlsAcceptor>,
    limits: ServerLimits,
    requests: TaskTracker,
    stopped: CancellationToken,
}

impl Connection {
    async fn run(self, stream: TcpStream, address: SocketAddr) {
        let Ok(local) = stream.local_addr() else {
            return;
        };
        if let Err(error) = stream.set_nodelay(true) {
            debug!(client = %address, error = &error as &dyn std::error::Error, "Cannot turn off send delay");
        }
        let mut peer = Peer {
            address,
            local,
            certificate: None,
        };
        let Some(tls) = self.tls.clone() else {
            return self.exchange(stream, peer).await;
        };
        match tokio::time::timeout(self.limits.handshake, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                let chain = stream.get_ref().1.peer_certificates();
                peer.certificate = chain
                    .and_then(<[_]>::first)
                    .map(|leaf| leaf.clone().into_owned());
                self.exchange(stream, peer).await;
            }
            Ok(Err(error)) => {
                debug!(client = %address, error = &error as &dyn std::error::Error, "TLS handshake failed")
            }
            Err(_) => debug!(client = %address, "TLS handshake timed out"),
        }
    }

    async fn exchange(self, stream: impl AsyncRead + AsyncWrite + Unpin, peer: Peer) {
        let address = peer.address;
        let router = self.router.layer(Extension(peer));
        let service = service_fn(|request: http::Request<Incoming>| {
            // A task of its own: a client that hangs up must not cancel a half-done change of state.
            let running = self
                .requests
                .spawn(router.clone().oneshot(request.map(Body::new)));
            async move {
                match running.await {
                    Ok(Ok(response)) => Ok(response),
                    Ok(Err(never)) => match never {},
                    Err(panicked) => Err(panicked),
                }
            }
        });
        let mut connection = std::pin::pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(self.limits.header)
                .max_buf_size(HEAD_BYTES)
                .max_headers(HEADER_FIELDS)
                .title_case_headers(true)
                .serve_connection(TokioIo::new(stream), service)
        );
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stopped.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(client = %address, error = &error as &dyn std::error::Error, "Connection ended early");
        }
    }
}

/// Open connections by address.
struct PerAddress {
    limit: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// Counts one connection for as long as it lives.
struct AddressGuard {
    addresses: Arc<PerAddress>,
    address: IpAddr,
}

impl PerAddress {
    fn enter(this: &Arc<Self>, address: IpAddr) -> Option<AddressGuard> {
        let mut open = this.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        if *count >= this.limit {
            return None;
        }
        *count += 1;
        Some(AddressGuard {
            addresses: Arc::clone(this),
            address,
        })
    }
}

impl Drop for AddressGuard {
    fn drop(&mut self) {
        let mut open = self
            .addresses
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}
