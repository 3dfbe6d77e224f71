//! The agent's end of the lease interface.
//!
//! Addresses come in the forms a Connection Manager passes to agents: `port@host` and `http(s)://host:port/request`. Of
//! these only host and port count: the lease interface lives under its own path and speaks HTTPS only, so an `http://`
//! address is dialled as HTTPS on the port it names. A server of the vendor's at such an address is not understood.

use std::time::Duration;

use axum::{
    body::Bytes,
    http::{Method, Request, StatusCode, Uri, header::CONTENT_TYPE},
};
use portcullis_https::{Client, ClientOptions, Reply, SendError, Trust, identity::IssueError};
use portcullis_protocol::license_path::LicensePath;
use thiserror::Error;
use tracing::debug;

use crate::{
    LeaseId,
    wire::{AcquireBody, LEASES, LeaseBody, NONE_AVAILABLE, ProblemBody},
};

/// For one call to one server, connecting included. A launch waits for this, and clients give up after a minute.
const CALL: Duration = Duration::from_secs(5);
/// For connecting: leaves the rest of [`CALL`] for the answer.
const CONNECT: Duration = Duration::from_secs(3);
/// Largest answer in bytes.
const ANSWER_BYTES: usize = 16 * 1024;

/// Leases licences from the first server that has one.
#[derive(Clone, Debug)]
pub struct LeaseClient {
    https: Client,
    /// Host and port of each, as URIs write them.
    servers: Vec<String>,
}

/// What to lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcquireRequest {
    /// The feature, usually [`crate::DEFAULT_FEATURE`].
    pub feature: String,
    /// This host's name.
    pub holder: String,
    /// The session's log id. Asking again for the same session gets the same lease from the same server.
    pub session: String,
}

/// Why no licence was leased.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// There is no server to ask.
    #[error("no licence server is configured")]
    NoServer,
    /// Every licence of a server that answered is in use, and no other server had one.
    #[error("no licence is available")]
    NoneAvailable,
    /// No server answered.
    #[error("the licence server {server} cannot be reached")]
    Unreachable {
        /// Host and port of the last server tried.
        server: String,
        /// What went wrong there.
        #[source]
        source: SendError,
    },
    /// A server answered something else than a lease.
    #[error("the licence server {server} refused with status {status}: {message}")]
    Refused {
        /// Host and port of that server.
        server: String,
        /// Its HTTP status.
        status: u16,
        /// Its explanation, when it gave one.
        message: String,
    },
}

/// Why a lease was not renewed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RenewError {
    /// The server does not know the lease any more: lease anew.
    #[error("the lease has expired")]
    Expired,
    /// The server did not answer; the lease lives until its time is up, so try again.
    #[error("the licence server cannot be reached")]
    Unreachable(#[source] SendError),
    /// The server answered something else.
    #[error("the licence server refused with status {status}")]
    Refused {
        /// Its HTTP status.
        status: u16,
    },
}

/// Why a lease was not given back. It expires by itself when its time is up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReturnError {
    /// The server does not know the lease any more.
    #[error("the lease had expired already")]
    Expired,
    /// The server did not answer.
    #[error("the licence server cannot be reached")]
    Unreachable(#[source] SendError),
    /// The server answered something else.
    #[error("the licence server refused with status {status}")]
    Refused {
        /// Its HTTP status.
        status: u16,
    },
}

/// A licence held. Renew it well within [`Self::ttl`] (a third is usual), and give it back; one that is dropped stays taken
/// until its time is up.
#[derive(Debug)]
#[must_use = "a lease that is not given back stays taken until its time is up"]
pub struct Lease {
    https: Client,
    server: String,
    id: LeaseId,
    ttl: Duration,
}

impl LeaseClient {
    /// A client of the servers at `addresses`, asked in that order, each believed under `trust`.
    ///
    /// # Errors
    /// When no authority of `trust` can be used.
    pub fn new(addresses: Vec<LicensePath>, trust: &Trust) -> Result<Self, IssueError> {
        let options = ClientOptions {
            connect: CONNECT,
            total: CALL,
            body_bytes: ANSWER_BYTES,
            local_address: None,
        };
        Ok(Self {
            https: Client::new(trust, None, options)?,
            servers: addresses.iter().map(LicensePath::authority).collect(),
        })
    }

    /// Leases from the first server that grants one; at most 5 s a server.
    ///
    /// A server that granted but whose answer was lost keeps the lease until it expires, unless the same request reaches it
    /// again.
    ///
    /// # Errors
    /// See [`AcquireError`]. With several servers, "none available" outranks a refusal, which outranks "unreachable".
    pub async fn acquire(&self, request: AcquireRequest) -> Result<Lease, AcquireError> {
        // Strings always serialise.
        let body = Bytes::from(
            serde_json::to_vec(&AcquireBody {
                feature: request.feature,
                holder: request.holder,
                session: request.session,
            })
            .unwrap_or_default(),
        );
        let mut failure = AcquireError::NoServer;
        for server in &self.servers {
            match self.acquire_at(server, body.clone()).await {
                Ok(lease) => return Ok(lease),
                Err(error) => {
                    debug!(
                        server,
                        error = &error as &dyn std::error::Error,
                        "No licence from this server"
                    );
                    if rank(&error) >= rank(&failure) {
                        failure = error;
                    }
                }
            }
        }
        Err(failure)
    }

    async fn acquire_at(&self, server: &str, body: Bytes) -> Result<Lease, AcquireError> {
        let refused = |status: StatusCode, message: String| AcquireError::Refused {
            server: server.to_owned(),
            status: status.as_u16(),
            message,
        };
        let reply = call(&self.https, Method::POST, server, LEASES, body)
            .await
            .map_err(|source| AcquireError::Unreachable {
                server: server.to_owned(),
                source,
            })?;
        if !reply.status.is_success() {
            return Err(match serde_json::from_slice::<ProblemBody>(&reply.body) {
                Ok(problem) if problem.error == NONE_AVAILABLE => AcquireError::NoneAvailable,
                Ok(problem) => refused(reply.status, problem.message),
                Err(_) => refused(reply.status, "no explanation".to_owned()),
            });
        }
        let lease = serde_json::from_slice::<LeaseBody>(&reply.body)
            .ok()
            .and_then(|lease| Some((LeaseId::parse(&lease.id)?, lease.ttl_seconds)));
        let (id, ttl_seconds) =
            lease.ok_or_else(|| refused(reply.status, "the answer is no lease".to_owned()))?;
        Ok(Lease {
            https: self.https.clone(),
            server: server.to_owned(),
            id,
            ttl: Duration::from_secs(ttl_seconds),
        })
    }
}

impl Lease {
    /// How long the lease lives from its grant, and from each renewal.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Host and port of the server that granted it.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Lets the lease live for another [`Self::ttl`]; at most 5 s.
    ///
    /// # Errors
    /// See [`RenewError`].
    pub async fn renew(&self) -> Result<(), RenewError> {
        let path = format!("{LEASES}/{}/renew", self.id.expose());
        let reply = call(&self.https, Method::POST, &self.server, &path, Bytes::new())
            .await
            .map_err(RenewError::Unreachable)?;
        match reply.status {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND => Err(RenewError::Expired),
            status => Err(RenewError::Refused {
                status: status.as_u16(),
            }),
        }
    }

    /// Gives the licence back; at most 5 s.
    ///
    /// # Errors
    /// See [`ReturnError`]; the lease is gone or will expire, so there is nothing to repeat.
    pub async fn give_back(self) -> Result<(), ReturnError> {
        let path = format!("{LEASES}/{}", self.id.expose());
        let reply = call(
            &self.https,
            Method::DELETE,
            &self.server,
            &path,
            Bytes::new(),
        )
        .await
        .map_err(ReturnError::Unreachable)?;
        match reply.status {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND => Err(ReturnError::Expired),
            status => Err(ReturnError::Refused {
                status: status.as_u16(),
            }),
        }
    }
}

async fn call(
    https: &Client,
    method: Method,
    server: &str,
    path: &str,
    body: Bytes,
) -> Result<Reply, SendError> {
    let uri = Uri::builder()
        .scheme("https")
        .authority(server)
        .path_and_query(path)
        .build()
        .map_err(|error| SendError::Connect(error.into()))?;
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .header(CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(|error| SendError::Connect(error.into()))?;
    https.send(request).await
}

/// Which failure says most.
fn rank(error: &AcquireError) -> u8 {
    match error {
        AcquireError::NoServer => 0,
        AcquireError::Unreachable { .. } => 1,
        AcquireError::Refused { .. } => 2,
        AcquireError::NoneAvailable => 3,
    }
}
