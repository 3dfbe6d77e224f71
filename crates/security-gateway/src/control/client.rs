//! The Connection Manager's end of the control link.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header::CONTENT_TYPE, uri::InvalidUri};
use portcullis_https::{Client, ClientOptions, Identity, Reply, SendError, Trust};
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::messages::{GrantBody, GrantedBody, Health, Problem, RefusalBody};
use crate::{
    core::{GrantRefusal, GrantRequest, Granted, SessionKey},
    relay::SessionSummary,
};

/// For connecting to a gateway.
const CONNECT: Duration = Duration::from_secs(3);
/// For a whole exchange: a user waits behind it, and gives a log-in a minute in all.
const TOTAL: Duration = Duration::from_secs(8);
/// Largest reply, in bytes: a list of some ten thousand sessions.
const REPLY_BYTES: usize = 8 * 1024 * 1024;

/// A client of one gateway's control link. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct ControlClient {
    client: Client,
    base: String,
}

/// Why a control client cannot be set up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NewControlClientError {
    /// The address is no URL.
    #[error("the gateway's address is not a URL")]
    Malformed(#[source] InvalidUri),
    /// The address is not of the form `https://host:port`.
    #[error("the gateway's address is not of the form https://host:port")]
    NotHttps,
    /// The identity or an authority cannot be used.
    #[error("cannot set up TLS towards the gateway")]
    Tls(#[source] portcullis_https::identity::IssueError),
}

/// Why a gateway did not do what was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ControlError {
    /// No answer came. Another gateway may be reachable.
    #[error("cannot reach the gateway")]
    Unreachable(#[source] SendError),
    /// The answer is none that a gateway of this version gives.
    #[error("the gateway answered {status}: {message}")]
    Unexpected {
        /// The HTTP status.
        status: StatusCode,
        /// What the gateway said of it, or what is wrong with what it said.
        message: String,
    },
}

/// Why a grant did not come.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AuthorizeError {
    /// The gateway refused.
    #[error(transparent)]
    Refused(#[from] GrantRefusal),
    /// The gateway could not be asked.
    #[error(transparent)]
    Link(#[from] ControlError),
}

impl ControlClient {
    /// A client for the gateway at `base_url` (`https://host:port`), which shows `identity` and judges the gateway by `trust`.
    ///
    /// # Errors
    /// See [`NewControlClientError`].
    pub fn new(
        base_url: &str,
        trust: &Trust,
        identity: &Identity,
    ) -> Result<Self, NewControlClientError> {
        let url: Uri = base_url.parse().map_err(NewControlClientError::Malformed)?;
        let plain = matches!(url.path(), "" | "/") && url.query().is_none();
        if url.scheme_str() != Some("https") || !plain {
            return Err(NewControlClientError::NotHttps);
        }
        let options = ClientOptions {
            connect: CONNECT,
            total: TOTAL,
            body_bytes: REPLY_BYTES,
            local_address: None,
        };
        Ok(Self {
            client: Client::new(trust, Some(identity), options)
                .map_err(NewControlClientError::Tls)?,
            base: base_url.trim_end_matches('/').to_owned(),
        })
    }

    /// Grants a client one connection to an agent, soon.
    ///
    /// # Errors
    /// See [`AuthorizeError`].
    pub async fn authorize(&self, request: &GrantRequest) -> Result<Granted, AuthorizeError> {
        let body = serde_json::to_vec(&GrantBody::from(request)).unwrap_or_default();
        let reply = self.send(Method::POST, "/v1/grants", body).await?;
        match reply.status {
            StatusCode::CREATED => Ok(parse::<GrantedBody>(&reply)?.into()),
            StatusCode::CONFLICT => Err(parse::<RefusalBody>(&reply)?
                .refusal()
                .map_or_else(|| unexpected(&reply).into(), AuthorizeError::Refused)),
            _ => Err(unexpected(&reply).into()),
        }
    }

    /// Every session of the gateway, oldest first.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn sessions(&self) -> Result<Vec<SessionSummary>, ControlError> {
        let reply = self.send(Method::GET, "/v1/sessions", Vec::new()).await?;
        expect(StatusCode::OK, &reply)?;
        parse(&reply)
    }

    /// Ends a session. False when there is none under this key.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn end_session(&self, key: SessionKey) -> Result<bool, ControlError> {
        let path = format!("/v1/sessions/{key}");
        let reply = self.send(Method::DELETE, &path, Vec::new()).await?;
        match reply.status {
            StatusCode::NO_CONTENT => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(unexpected(&reply)),
        }
    }

    /// Whether the gateway serves, and how much it has to do.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn health(&self) -> Result<Health, ControlError> {
        let reply = self.send(Method::GET, "/v1/health", Vec::new()).await?;
        expect(StatusCode::OK, &reply)?;
        parse(&reply)
    }

    async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Reply, ControlError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(CONTENT_TYPE, "application/json")
            .body(Bytes::from(body))
            .map_err(|error| ControlError::Unreachable(SendError::Broken(Box::new(error))))?;
        self.client
            .send(request)
            .await
            .map_err(ControlError::Unreachable)
    }
}

fn expect(status: StatusCode, reply: &Reply) -> Result<(), ControlError> {
    if reply.status == status {
        Ok(())
    } else {
        Err(unexpected(reply))
    }
}

fn parse<T: DeserializeOwned>(reply: &Reply) -> Result<T, ControlError> {
    serde_json::from_slice(&reply.body).map_err(|error| ControlError::Unexpected {
        status: reply.status,
        message: error.to_string(),
    })
}

fn unexpected(reply: &Reply) -> ControlError {
    let message = serde_json::from_slice::<Problem>(&reply.body).map_or_else(
        |_| "no reason was given".to_owned(),
        |problem| problem.error,
    );
    ControlError::Unexpected {
        status: reply.status,
        message,
    }
}
