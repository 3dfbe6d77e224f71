//! Whether this Connection Manager can serve: what load balancers ask, answered in the vendor's words.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::{BoxFuture, join};
use http::StatusCode;
use serde::Serialize;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Inner, legs::chain};
use crate::neighbours::Cause;

/// Longest wait for a neighbour to prove its health: load balancers give up after 5 s.
const PROBE_WAIT: Duration = Duration::from_secs(4);

/// The broker gave no sign of life.
const NO_BROKER: &str = "Cannot communicate with broker";
/// The gateway gave none.
const NO_GATEWAY: &str = "Security Gateway is enabled but does not respond";

/// The last probe's result, and faults of the configuration.
#[derive(Default)]
pub(super) struct Health {
    /// Locked while a probe runs: whoever asks meanwhile gets its result.
    probed: tokio::sync::Mutex<Option<Probed>>,
    fault: Mutex<Option<String>>,
}

#[derive(Clone, Copy)]
struct Probed {
    at: Instant,
    reason: Option<&'static str>,
}

/// The body of an answer, its members in this order.
#[derive(Serialize)]
struct Report<'a> {
    code: u16,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl Health {
    pub(super) fn set_fault(&self, fault: Option<String>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Status and JSON body of the answer to a health check.
    pub(super) async fn report(&self, inner: &Inner) -> (StatusCode, String) {
        let fault = self
            .fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match fault {
            Some(fault) => failure(&fault),
            None => self.reason(inner).await.map_or_else(success, failure),
        }
    }

    async fn reason(&self, inner: &Inner) -> Option<&'static str> {
        let mut probed = self.probed.lock().await;
        let fresh = probed.filter(|probed| probed.at.elapsed() < inner.config.health_fresh);
        if let Some(Probed { reason, .. }) = fresh {
            return reason;
        }
        let gateway = inner.gateway.as_ref();
        let (broker, gateway) = join(probe(inner.broker.health()), async {
            match gateway {
                Some(gateway) => probe(gateway.health()).await,
                None => Ok(()),
            }
        })
        .await;
        let before = probed.and_then(|probed| probed.reason);
        let result = broker
            .map_err(|cause| (NO_BROKER, cause))
            .and(gateway.map_err(|cause| (NO_GATEWAY, cause)));
        let reason = result.as_ref().err().map(|(reason, _)| *reason);
        match &result {
            Err((reason, cause)) if before != Some(reason) => {
                warn!(
                    reason,
                    cause = chain(cause.as_ref()),
                    "Connection Manager is not healthy"
                );
            }
            Ok(()) if before.is_some() => info!("Connection Manager is healthy again"),
            Ok(()) | Err(_) => {}
        }
        *probed = Some(Probed {
            at: Instant::now(),
            reason,
        });
        reason
    }
}

/// The answer when all is well.
pub(super) fn success() -> (StatusCode, String) {
    report(StatusCode::OK, "success", None)
}

fn failure(reason: &str) -> (StatusCode, String) {
    report(StatusCode::INTERNAL_SERVER_ERROR, "Error", Some(reason))
}

fn report(code: StatusCode, status: &'static str, reason: Option<&str>) -> (StatusCode, String) {
    let report = Report {
        code: code.as_u16(),
        status,
        reason,
    };
    // Numbers and text can always be written.
    (code, serde_json::to_string(&report).unwrap_or_default())
}

async fn probe(health: BoxFuture<'_, Result<(), Cause>>) -> Result<(), Cause> {
    tokio::time::timeout(PROBE_WAIT, health)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {PROBE_WAIT:?}").into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bodies_are_the_documented_ones() {
        assert_eq!(success().1, r#"{"code":200,"status":"success"}"#);
        let (status, body) = failure(NO_BROKER);
        assert_eq!(status, 500);
        assert_eq!(
            body,
            r#"{"code":500,"status":"Error","reason":"Cannot communicate with broker"}"#
        );
    }
}
