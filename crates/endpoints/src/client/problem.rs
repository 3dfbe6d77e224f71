//! What a user is told when a step fails: what happened, which flow is concerned, where to look.

use std::error::Error;

use http::StatusCode;
use portcullis_https::SendError;
use portcullis_protocol::broker::{AllocResultId, AuthResultId, ListResultId};

use super::{
    config::{DEFAULT_PORT, ServerUrl},
    conversation::AskError,
    session::{SessionError, SessionTarget},
};
use crate::{agent::config::DATA_PORT, signalling::RefusalReason};

/// Why a step failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) text: String,
    pub(crate) result_id: Option<String>,
    pub(crate) server_text: Option<String>,
}

impl Problem {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    /// A refusal by result id: the server's own text first, since it was written for this user.
    fn refusal(id: &str, server_text: Option<&str>, meaning: &str) -> Self {
        let server_text = server_text.filter(|text| !text.is_empty());
        let said =
            server_text.map_or_else(String::new, |text| format!(" (the server says: {text})"));
        Self {
            text: format!("{meaning}{said}."),
            result_id: Some(id.to_owned()),
            server_text: server_text.map(str::to_owned),
        }
    }

    /// No answer, or no usable one, from the server.
    pub(crate) fn ask(error: &AskError, server: &ServerUrl) -> Self {
        let flow = tcp(server.port(), DEFAULT_PORT);
        let to = format!("{server} ({flow} from client to Connection Manager)");
        Self::new(match error {
            AskError::Send(SendError::Connect(source)) => format!(
                "There is no connection to {to}: {}. Nothing listens there, the port is blocked on the way, or the \
                 server's certificate is not trusted.",
                innermost(source.as_ref())
            ),
            AskError::Send(SendError::TimedOut { within, connected }) if *connected => format!(
                "{to} did not answer within {within:?}. The Connection Manager may be waiting for its broker (TCP 443) \
                 or for the desktop's agent (TCP 60443)."
            ),
            AskError::Send(SendError::TimedOut { within, .. }) => format!(
                "There is no connection to {to} within {within:?}: the port is blocked on the way, or the host is down."
            ),
            AskError::Send(error) => {
                format!("The exchange with {to} broke off: {}.", innermost(error))
            }
            AskError::Status { status, excerpt } => {
                let said = if excerpt.is_empty() {
                    String::new()
                } else {
                    format!(" (\"{excerpt}\")")
                };
                format!(
                    "{to} answered with status {status}{said}. {}",
                    status_hint(*status)
                )
            }
            AskError::Parse(error) => format!(
                "{to} answered something that is not the broker protocol: {}. Is it a Connection Manager or a broker?",
                innermost(error)
            ),
            AskError::Unexpected { found } => {
                format!("{to} answered with {found:?}, which does not belong to the request.")
            }
        })
    }

    /// The user was not authenticated.
    pub(crate) fn authentication(id: &AuthResultId, text: Option<&str>) -> Self {
        let meaning = match id {
            AuthResultId::UnknownUsernameOrPassword => {
                "The user name, the password or the domain is wrong"
            }
            AuthResultId::AccessDenied => "The user may not log on here",
            AuthResultId::UserHasNoResource => "The user is entitled to no desktop",
            AuthResultId::ExpiredPassword => "The password has expired and must be changed first",
            AuthResultId::Incomplete => {
                "The server asks for a further authentication step, which the reference client does not know"
            }
            AuthResultId::Complete
            | AuthResultId::DialogInvalidUserEntry
            | AuthResultId::Other(_)
            | _ => "The broker did not accept the logon",
        };
        Self::refusal(id.as_str(), text, meaning)
    }

    /// No list.
    pub(crate) fn list(id: &ListResultId, text: Option<&str>) -> Self {
        let meaning = match id {
            ListResultId::NoEntitlement => "The user is entitled to no desktop",
            ListResultId::Successful | ListResultId::Other(_) | _ => {
                "The broker gave no list of desktops"
            }
        };
        Self::refusal(id.as_str(), text, meaning)
    }

    /// No desktop.
    pub(crate) fn allocation(id: &AllocResultId, text: Option<&str>) -> Self {
        let meaning = match id {
            AllocResultId::PendingTryAgain => {
                "The desktop is still being prepared; try again later"
            }
            AllocResultId::Broker => "The broker could not provide the desktop",
            AllocResultId::BrokerPortUnreachable => {
                "The Connection Manager did not reach the desktop's agent on TCP 60443: the port is blocked on the way, \
                 or no agent runs there"
            }
            AllocResultId::Agent => "The desktop's agent could not start a session",
            AllocResultId::NoLicense => {
                "The desktop's agent got no session licence: the pool is empty, or the licence server is not reached"
            }
            AllocResultId::Successful | AllocResultId::Other(_) | _ => {
                "The desktop could not be allocated"
            }
        };
        Self::refusal(id.as_str(), text, meaning)
    }

    /// No session, or no longer one.
    pub(crate) fn session(error: &SessionError, target: &SessionTarget) -> Self {
        let tcp = tcp(target.port, DATA_PORT);
        let udp = tcp.replace("TCP", "UDP");
        let place = format!("{}:{}", target.address, target.port);
        Self::new(match error {
            SessionError::Resolve { host } => {
                format!(
                    "The session's host name {host:?} has no address. Targets should name addresses."
                )
            }
            SessionError::Tcp(source) => format!(
                "{tcp} from client to {place} does not connect: {source}. The port is blocked on the way, or nothing \
                 listens there."
            ),
            SessionError::TcpTimedOut(within) => format!(
                "{tcp} from client to {place} is not answered within {within:?}: the port is blocked on the way, or the \
                 Security Gateway's public address is wrong."
            ),
            SessionError::Tls(source) => format!(
                "{tcp} to {place} connects, but is closed before TLS stands: {}. The Security Gateway has no grant for \
                 this client, or does not reach the agent on its TCP 4172.",
                innermost(source)
            ),
            SessionError::TlsTimedOut(within) => format!(
                "{tcp} to {place} connects, but TLS is not answered within {within:?}. The Security Gateway may not reach \
                 the agent on its TCP 4172."
            ),
            SessionError::Closed => {
                format!(
                    "The other end closed {tcp} to {place}. See the agent's and the Security Gateway's log."
                )
            }
            SessionError::Certificate(_) => format!(
                "The certificate on {tcp} to {place} is not the agent's: something between client and agent ends TLS \
                 there, or another agent answers."
            ),
            SessionError::TagWithoutCertificate => format!(
                "The connect-tag for {place} is not one of the reference agent's, and the reference client can talk to \
                 no other ({tcp})."
            ),
            SessionError::Refused(RefusalReason::NoSuchSession) => format!(
                "The agent behind {tcp} to {place} knows no such session: the connect-tag was used before, is older than \
                 60 s, or belongs to another agent."
            ),
            SessionError::Refused(reason) => {
                format!("The agent behind {tcp} to {place} refused the session: {reason:?}.")
            }
            SessionError::SignallingTimedOut(within) => {
                format!("The agent behind {tcp} to {place} did not answer within {within:?}.")
            }
            SessionError::NoUdp {
                invites,
                within,
                refused,
            } => {
                let why = if *refused {
                    "a host answered that nothing listens there"
                } else {
                    "UDP is blocked between client and Security Gateway, or between Security Gateway (UDP 55000) and agent"
                };
                format!(
                    "TCP came, UDP never did: none of {invites} packets on {udp} to {place} was answered within \
                     {within:?}; {why}."
                )
            }
            SessionError::Silent(within) => {
                format!(
                    "The session stood, but then nothing came on {udp} from {place} for {within:?}."
                )
            }
            SessionError::Bye(reason) => {
                format!("The agent behind {place} ended the session: {reason:?}.")
            }
            SessionError::Policy(_)
            | SessionError::Receive(_)
            | SessionError::Send(_)
            | SessionError::OutOfOrder
            | SessionError::Keys(_)
            | SessionError::UdpSocket(_) => {
                format!("The session at {place} ({tcp}) failed: {}.", chain(error))
            }
        })
    }
}

/// A port as firewall tables name it, and as it is here.
pub(crate) fn tcp(port: u16, documented: u16) -> String {
    port_text("TCP", port, documented)
}

pub(crate) fn port_text(protocol: &str, port: u16, documented: u16) -> String {
    if port == documented {
        format!("{protocol} {documented}")
    } else {
        format!("{protocol} {documented} (here {port})")
    }
}

fn status_hint(status: StatusCode) -> &'static str {
    if status.is_server_error() {
        "The Connection Manager is up but could not serve the request: it may not reach its broker (TCP 443); see its log."
    } else if status == StatusCode::NOT_FOUND {
        "Whatever listens there is not a Connection Manager or broker."
    } else {
        "The server refused the request; see the Connection Manager's log."
    }
}

/// The last cause, which names what really happened.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
