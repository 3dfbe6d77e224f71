//! A session's licence: acquired before the session is offered, renewed while it lasts, given back at its end.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use portcullis_license_server::{
    AcquireError, AcquireRequest, DEFAULT_FEATURE, Lease, LeaseClient, RenewError,
};
use portcullis_protocol::{broker::SessionId, license_path::LicensePath};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    config::{AgentEvent, EndReason, LicenseState},
    shared::{Admitted, Shared},
};
use crate::signalling::License;

/// Shortest pause between renewals, whatever lease time a server names; well below a third of the shortest ours grants.
const MIN_RENEWAL: Duration = Duration::from_millis(100);
/// How long a launch waits for licences of sessions that have just ended: as long as giving one back may take.
const RETURN: Duration = Duration::from_secs(6);

/// Why a session got no licence.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum LicenseError {
    /// The policy wants a licence and nobody named a server.
    #[error("no licence server is configured")]
    NotConfigured,
    /// The Connection Manager's `license-path` names no server this agent can ask.
    #[error("the license-path is not of the form port@host or http://host:port/request")]
    Path,
    /// The policy's trust names no authority that can be used.
    #[error("the authorities for licence servers cannot be used")]
    Trust(#[source] portcullis_https::identity::IssueError),
    /// The servers gave none.
    #[error("the licence servers gave no licence")]
    Acquire(#[source] AcquireError),
}

/// Gets an admitted session its licence, if one is called for, and has a task keep it until the session ends.
pub(crate) async fn license(
    shared: &Arc<Shared>,
    admitted: &Admitted,
    log_id: &str,
    license_path: &str,
) -> Result<(), LicenseError> {
    let Some(addresses) = addresses(shared, license_path)? else {
        return Ok(());
    };
    let session = admitted.session;
    let client = shared
        .lease_client(addresses)
        .map_err(LicenseError::Trust)?;
    let request = AcquireRequest {
        feature: DEFAULT_FEATURE.to_owned(),
        holder: shared.config.hostname.clone(),
        session: holder_session(log_id, session),
    };
    let start = Instant::now();
    let lease = acquire(shared, &client, &request)
        .await
        .map_err(LicenseError::Acquire)?;
    let took = start.elapsed();
    shared.counters.leases.fetch_add(1, Ordering::Relaxed);
    shared.emit(AgentEvent::LicenseAcquired {
        session,
        server: lease.server().to_owned(),
        took,
    });
    let released = CancellationToken::new();
    let state = LicenseState {
        license: License::Leased,
        took,
    };
    shared.licensed(session, state, released.clone());
    let keeper = Keeper {
        shared: Arc::clone(shared),
        session,
        log_id: log_id.to_owned(),
        client,
        request,
        ended: admitted.ended.clone(),
        released,
    };
    shared.tasks.spawn(keeper.run(lease));
    Ok(())
}

/// Whom to ask; `None` when the session runs without a licence.
fn addresses(
    shared: &Shared,
    license_path: &str,
) -> Result<Option<Vec<LicensePath>>, LicenseError> {
    let policy = &shared.config.license;
    let addresses = match &policy.addresses {
        Some(addresses) => addresses.clone(),
        None => LicensePath::parse_list(license_path).map_err(|_| LicenseError::Path)?,
    };
    if !addresses.is_empty() {
        Ok(Some(addresses))
    } else if policy.require {
        Err(LicenseError::NotConfigured)
    } else {
        Ok(None)
    }
}

/// A pool may be short only because our own earlier session has not given its licence back yet.
async fn acquire(
    shared: &Shared,
    client: &LeaseClient,
    request: &AcquireRequest,
) -> Result<Lease, AcquireError> {
    let returning = shared.returning();
    match client.acquire(request.clone()).await {
        Err(AcquireError::NoneAvailable) if !returning.is_empty() => {
            let all = async {
                for released in &returning {
                    released.cancelled().await;
                }
            };
            let _ = tokio::time::timeout(RETURN, all).await;
            client.acquire(request.clone()).await
        }
        outcome => outcome,
    }
}

/// What the licence server knows the session as: its log id, or the agent's own number when there is none.
fn holder_session(log_id: &str, session: SessionId) -> String {
    match log_id.parse::<portcullis_protocol::LogId>() {
        Ok(id) if !id.is_nil() => id.to_string(),
        Ok(_) | Err(_) => session.0.to_string(),
    }
}

struct Keeper {
    shared: Arc<Shared>,
    session: SessionId,
    log_id: String,
    client: LeaseClient,
    request: AcquireRequest,
    ended: CancellationToken,
    released: CancellationToken,
}

impl Keeper {
    /// Renews at a third of the lease time until the session ends, then gives the lease back.
    ///
    /// A server that cannot be reached does not end a session: only one that answers and has no licence to give does.
    async fn run(self, lease: Lease) {
        let mut held = Some(lease);
        while let Some(lease) = &held {
            let pause = (lease.ttl() / 3).max(MIN_RENEWAL);
            tokio::select! {
                () = self.ended.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            match lease.renew().await {
                Ok(()) => {}
                Err(RenewError::Expired) => self.replace(&mut held).await,
                Err(error) => warn!(
                    session = self.log_id,
                    error = &error as &dyn std::error::Error,
                    "Licence not renewed"
                ),
            }
        }
        if let Some(lease) = held
            && let Err(error) = lease.give_back().await
        {
            debug!(
                session = self.log_id,
                error = &error as &dyn std::error::Error,
                "Licence not given back: it will expire"
            );
        }
        self.shared.counters.leases.fetch_sub(1, Ordering::Relaxed);
        self.released.cancel();
        self.shared.emit(AgentEvent::LicenseReturned {
            session: self.session,
        });
    }

    /// The server forgot the lease, perhaps because it restarted: lease anew, or end the session.
    async fn replace(&self, held: &mut Option<Lease>) {
        match self.client.acquire(self.request.clone()).await {
            Ok(lease) => *held = Some(lease),
            Err(error @ AcquireError::Unreachable { .. }) => debug!(
                session = self.log_id,
                error = &error as &dyn std::error::Error,
                "Licence not replaced yet"
            ),
            Err(error) => {
                warn!(
                    session = self.log_id,
                    error = &error as &dyn std::error::Error,
                    "Licence lost"
                );
                *held = None;
                self.shared
                    .request_end(self.session, EndReason::LicenseLost);
            }
        }
    }
}
