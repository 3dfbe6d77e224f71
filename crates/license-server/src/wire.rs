//! The JSON of the lease interface, shared by server and client.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use crate::pool::{Claim, MAX_TEXT_BYTES};

/// `POST /api/1.0/leases`
pub(crate) const LEASES: &str = "/api/1.0/leases";

/// Code of the refusal that means "try again when somebody has left".
pub(crate) const NONE_AVAILABLE: &str = "none_available";

/// Body of a request for a lease.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AcquireBody {
    pub(crate) feature: String,
    pub(crate) holder: String,
    pub(crate) session: String,
}

/// Body of a lease granted.
#[derive(Deserialize, Serialize)]
pub(crate) struct LeaseBody {
    pub(crate) id: String,
    pub(crate) feature: String,
    pub(crate) ttl_seconds: u64,
}

/// Body of a renewal.
#[derive(Serialize)]
pub(crate) struct RenewedBody {
    pub(crate) ttl_seconds: u64,
}

/// Body of every refusal: a stable code for programs and a sentence for people.
#[derive(Deserialize, Serialize)]
pub(crate) struct ProblemBody {
    pub(crate) error: String,
    pub(crate) message: String,
}

/// A refusal on its way out.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    pub(crate) fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "There is nothing at this path.",
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = ProblemBody {
            error: self.code.to_owned(),
            message: self.message,
        };
        (self.status, Json(body)).into_response()
    }
}

/// Fuzz entry: what is read as a claim is one within its limits.
pub(crate) fn fuzz_acquire(data: &[u8]) {
    let Ok(body) = serde_json::from_slice::<AcquireBody>(data) else {
        return;
    };
    if let Ok(claim) = Claim::new(body.feature, body.holder, body.session) {
        for text in [claim.feature(), claim.holder(), claim.session()] {
            assert!(!text.is_empty() && text.len() <= MAX_TEXT_BYTES);
            assert!(!text.contains(char::is_control));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_claim_makes_the_reader_panic(feature in "\\PC{0,300}", holder in any::<String>(), session in "[\\x00-\\x7f]{0,40}") {
            let body = serde_json::json!({ "feature": feature, "holder": holder, "session": session });
            fuzz_acquire(body.to_string().as_bytes());
        }
    }
}
