//! Every sentence a user can meet, in English, in one place.
//!
//! They name what happened and what the user can do, never a cause inside the house: causes are for the log.

use portcullis_protocol::broker::ParseMessageError;

use crate::{
    neighbours::{AgentFailure, BrokerFailure, GatewayFailure},
    session::Reject,
};

/// The user is signed in, but not with a password that a desktop could be started with.
pub(crate) const NO_PASSWORD: &str =
    "This desktop needs your user name and password to start. Sign in again with your password.";
/// The broker's answer named no desktop, or not how to reach it.
pub(crate) const BROKER_NAMED_NO_DESKTOP: &str =
    "The connection broker did not say where this desktop is. Tell your administrator.";
/// The agent refused the credentials.
const AGENT_USER_AUTH: &str = "The desktop did not accept your user name, password or domain. Sign in again, or ask your administrator whether you \
     may log on to this desktop.";
/// Another user's session is on the desktop.
const AGENT_ANOTHER_SESSION: &str = "Another session is open on this desktop. Try again when it has ended, or choose another desktop.";
/// No licence.
pub(crate) const NO_LICENSE: &str =
    "No session licence is free. Try again later, or tell your administrator.";

/// For an authentication that the broker never judged.
pub(crate) fn authentication_failed(failure: &BrokerFailure) -> &'static str {
    match failure {
        BrokerFailure::Unreachable(_) | BrokerFailure::TimedOut { .. } => {
            "The sign-in service cannot be reached, so your entry was not checked. Try again in a minute."
        }
        BrokerFailure::Garbage(_) | BrokerFailure::Refused { .. } => {
            "The sign-in service gave no usable answer, so your entry was not checked. Connect again, and tell your \
             administrator if this stays."
        }
    }
}

/// For an allocation that the broker never answered.
pub(crate) fn broker_failed(failure: &BrokerFailure) -> &'static str {
    match failure {
        BrokerFailure::Unreachable(_) | BrokerFailure::TimedOut { .. } => {
            "The connection broker cannot be reached. Try again in a minute."
        }
        BrokerFailure::Garbage(_) | BrokerFailure::Refused { .. } => {
            "The connection broker gave no usable answer. Connect again, and tell your administrator if this stays."
        }
    }
}

/// For an agent that gave no answer.
pub(crate) fn agent_failed(failure: &AgentFailure, desktop: &str, port: u16) -> String {
    match failure {
        AgentFailure::Unreachable(_) => format!(
            "The desktop {desktop} cannot be reached on port {port}. It may be switched off or starting; try again in a \
             minute."
        ),
        AgentFailure::TimedOut { .. } => format!(
            "The desktop {desktop} did not answer on port {port} in time. It may be starting or busy; try again in a \
             minute."
        ),
        AgentFailure::Garbage(_) => agent_incomprehensible(desktop),
    }
}

/// For an agent whose answer holds no session.
pub(crate) fn agent_incomprehensible(desktop: &str) -> String {
    format!(
        "The desktop {desktop} gave an answer that cannot be understood. Tell your administrator."
    )
}

/// For an agent that refused the credentials.
pub(crate) fn agent_user_auth() -> String {
    AGENT_USER_AUTH.into()
}

/// For an agent that is taken.
pub(crate) fn agent_another_session() -> String {
    AGENT_ANOTHER_SESSION.into()
}

/// For any other refusal of an agent, with the agent's own words when it has some.
pub(crate) fn agent_refused(desktop: &str, reason: Option<&str>) -> String {
    match reason.map(str::trim).filter(|reason| !reason.is_empty()) {
        Some(reason) => reason.into(),
        None => format!("The desktop {desktop} could not start a session. Try again in a minute."),
    }
}

/// For a gateway that did not admit the client.
pub(crate) fn gateway_failed(failure: &GatewayFailure) -> &'static str {
    match failure {
        GatewayFailure::Ambiguous => {
            "Someone else on your network is connecting to the same desktop name. Try again in a few seconds."
        }
        GatewayFailure::Full => "The gateway to the desktops is full. Try again in a few minutes.",
        GatewayFailure::Draining => {
            "The gateway to the desktops takes no new sessions at the moment. Try again in a few minutes."
        }
        GatewayFailure::Unreachable(_) | GatewayFailure::TimedOut { .. } => {
            "The gateway to the desktops does not respond. Try again in a minute, and tell your administrator if this \
             stays."
        }
        GatewayFailure::Refused(_) => {
            "The gateway to the desktops refused the session. Tell your administrator."
        }
    }
}

/// For a request that gets no message of the protocol in answer.
pub(crate) fn rejected(reject: &Reject) -> &'static str {
    match reject {
        Reject::NoSession => {
            "There is no session under this cookie: it has ended or expired. Start again with hello."
        }
        Reject::OutOfOrder => {
            "The message is out of order. A session is hello, authenticate, get-resource-list, allocate-resource, bye."
        }
        Reject::UnknownMessage => "The message is not one of the broker protocol.",
        Reject::Loop => {
            "This Connection Manager was asked by a Portcullis Connection Manager: the broker address points at a \
             Connection Manager instead of a broker."
        }
        Reject::BrokerUnavailable => "The broker is unavailable. Try again in a minute.",
        Reject::TooManySessions => "Too many sessions are open. Try again in a minute.",
        Reject::Internal => "The Connection Manager could not handle the request.",
    }
}

/// For a document that is no message: what is wrong, without a word of what it says.
pub(crate) fn malformed(error: &ParseMessageError) -> String {
    match error {
        ParseMessageError::Xml(error) => error.to_string(),
        ParseMessageError::Root { .. } => "the root element is not \"pcoip-client\"".into(),
        ParseMessageError::UnknownMessage { .. } => "the message is not known".into(),
        ParseMessageError::Version
        | ParseMessageError::MessageCount { .. }
        | ParseMessageError::MissingElement { .. }
        | ParseMessageError::DuplicateElement { .. }
        | ParseMessageError::InvalidValue { .. }
        | _ => error.to_string(),
    }
}
