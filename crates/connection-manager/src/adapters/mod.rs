//! Broker and agent over HTTPS, where their traits meet [`portcullis_https::Client`].

mod agent;
mod broker;

use bytes::Bytes;
use http::{HeaderValue, header};
use portcullis_https::SendError;
use portcullis_protocol::LogId;
use zeroize::Zeroizing;

pub use agent::{HttpsAgent, HttpsAgentOptions};
pub use broker::{HttpsBroker, HttpsBrokerError, HttpsBrokerOptions};

/// Header that carries the session's log id.
pub(crate) const CLIENT_LOG_ID: &str = "client-log-id";

/// What PCoIP clients send; every server that talks to them takes it.
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("text/xml; charset=UTF-8");

/// The head of a `POST` of one document.
fn post(uri: http::Uri, log_id: LogId) -> http::request::Builder {
    http::Request::post(uri)
        .header(header::CONTENT_TYPE, CONTENT_TYPE)
        .header(CLIENT_LOG_ID, log_id.to_string())
}

/// A document as a body that is wiped once it is sent, since it may hold a password.
fn body(document: Zeroizing<Vec<u8>>) -> Bytes {
    Bytes::from_owner(document)
}

/// How an exchange failed, as both neighbours tell it.
enum Failed {
    Unreachable(SendError),
    TimedOut(std::time::Duration),
    Garbage(SendError),
}

impl From<SendError> for Failed {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Connect(_) => Self::Unreachable(error),
            SendError::TimedOut { within, .. } => Self::TimedOut(within),
            SendError::TooLong { .. } | SendError::Broken(_) | _ => Self::Garbage(error),
        }
    }
}
