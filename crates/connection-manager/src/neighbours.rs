//! Broker, agent and gateway as the Connection Manager knows them: three traits and what passes through them.

use std::{error::Error, fmt, net::IpAddr, time::Duration};

use futures_util::future::BoxFuture;
use portcullis_protocol::{
    LogId,
    agent::{LaunchSession, LaunchSessionResp},
    broker::{Envelope, Request, Response},
};
use thiserror::Error;
use zeroize::Zeroizing;

/// A cause of any kind, kept for the log.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Cookies kept of one broker; more are ignored.
const MAX_COOKIES: usize = 16;
/// Longest cookie kept, name and value together, in bytes (RFC 6265 asks for 4096).
const MAX_COOKIE_BYTES: usize = 4096;

/// A connection broker: the embedded one, or one behind HTTPS.
pub trait Broker: Send + Sync {
    /// Asks one thing and waits for the answer. The caller sets the time limit.
    fn ask(&self, exchange: BrokerExchange) -> BoxFuture<'_, Result<BrokerAnswer, BrokerFailure>>;

    /// Whether the broker can be talked to at this moment.
    fn health(&self) -> BoxFuture<'_, Result<(), Cause>>;
}

/// The agents of all desktops.
pub trait Agent: Send + Sync {
    /// Prepares a session on one desktop. The caller sets the time limit.
    fn launch(
        &self,
        address: AgentAddress,
        request: LaunchSession,
        log_id: LogId,
    ) -> BoxFuture<'_, Result<AgentAnswer, AgentFailure>>;
}

/// The Security Gateway that clients are sent through.
pub trait Gateway: Send + Sync {
    /// Has one client admitted to one desktop.
    fn authorize(&self, order: GrantOrder)
    -> BoxFuture<'_, Result<GrantedAddress, GatewayFailure>>;

    /// Whether the gateway answers at this moment.
    fn health(&self) -> BoxFuture<'_, Result<(), Cause>>;
}

/// One request to a broker, with what belongs to it outside the document.
#[derive(Clone, Debug)]
pub struct BrokerExchange {
    /// The session's log id (`Client-Log-Id`).
    pub log_id: LogId,
    /// Cookies the broker has set in this session so far.
    pub cookies: BrokerCookies,
    /// The client's real address.
    pub client: IpAddr,
    /// Addresses for `X-Forwarded-For`, the client's last.
    pub forwarded_for: Vec<IpAddr>,
    /// The document.
    pub request: Envelope<Request>,
}

/// A broker's answer.
#[derive(Clone, Debug)]
pub struct BrokerAnswer {
    /// All cookies of the session from now on.
    pub cookies: BrokerCookies,
    /// The document.
    pub response: Envelope<Response>,
}

/// Why a broker gave no answer.
#[derive(Debug, Error)]
pub enum BrokerFailure {
    /// No connection: refused, unreachable, certificate not trusted.
    #[error("the broker cannot be reached")]
    Unreachable(#[source] Cause),
    /// No answer in time.
    #[error("the broker gave no answer within {within:?}")]
    TimedOut {
        /// The limit in force.
        within: Duration,
    },
    /// An answer that is not a message of the protocol.
    #[error("the broker's answer cannot be understood")]
    Garbage(#[source] Cause),
    /// An HTTP error, as brokers give for messages out of order.
    #[error("the broker refused the message with HTTP status {status}")]
    Refused {
        /// The status code.
        status: u16,
    },
}

impl BrokerFailure {
    /// A well-formed message that answers another question.
    pub(crate) fn wrong_message() -> Self {
        Self::Garbage("the message is not the answer to the question".into())
    }
}

/// Where an agent listens for Connection Managers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AgentAddress {
    /// IP address or host name, as the broker named it.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// An agent's answer, whatever its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentAnswer {
    /// The document.
    pub response: LaunchSessionResp,
    /// The address the agent was reached at.
    pub dialled: IpAddr,
}

/// Why an agent gave no answer.
#[derive(Debug, Error)]
pub enum AgentFailure {
    /// No connection: switched off, unreachable, certificate not trusted.
    #[error("the agent cannot be reached")]
    Unreachable(#[source] Cause),
    /// No answer in time.
    #[error("the agent gave no answer within {within:?}")]
    TimedOut {
        /// The limit in force.
        within: Duration,
    },
    /// An answer that is not a message of the protocol, an HTTP error included.
    #[error("the agent's answer cannot be understood")]
    Garbage(#[source] Cause),
}

/// Orders a gateway to admit one client to one desktop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantOrder {
    /// The session's log id.
    pub log_id: LogId,
    /// The address the client will come from.
    pub client: IpAddr,
    /// The server name in the client's TLS ClientHello; `None` when it will send none.
    pub server_name: Option<String>,
    /// The agent's address.
    pub agent: IpAddr,
    /// The agent's TCP port.
    pub tcp_port: u16,
    /// The agent's UDP port.
    pub udp_port: u16,
    /// The user, for administrators; may be empty.
    pub user: String,
    /// The desktop's name, for administrators.
    pub desktop: String,
}

/// Where an admitted client must connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantedAddress {
    /// The gateway's public address.
    pub ip: IpAddr,
    /// Its port, TCP and UDP.
    pub port: u16,
}

/// Why a gateway did not admit a client.
#[derive(Debug, Error)]
pub enum GatewayFailure {
    /// Another client at the same address is about to connect under the same server name; it will pass in seconds.
    #[error("the gateway could not tell this client from another one that is about to connect")]
    Ambiguous,
    /// The gateway carries as many sessions as it may.
    #[error("the gateway is full")]
    Full,
    /// The gateway takes no new sessions.
    #[error("the gateway is draining")]
    Draining,
    /// No connection to the gateway.
    #[error("the gateway cannot be reached")]
    Unreachable(#[source] Cause),
    /// No answer in time.
    #[error("the gateway gave no answer within {within:?}")]
    TimedOut {
        /// The limit in force.
        within: Duration,
    },
    /// The gateway refused for another reason, or its answer cannot be understood.
    #[error("the gateway refused the client")]
    Refused(#[source] Cause),
}

/// The cookies one broker has set in one session. `Debug` shows their names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct BrokerCookies(Vec<(String, Zeroizing<String>)>);

impl BrokerCookies {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Sets a cookie. One that is too long, or one too many, is ignored.
    pub fn set(&mut self, name: &str, value: &str) {
        if name.is_empty() || name.len() + value.len() > MAX_COOKIE_BYTES {
            return;
        }
        let known = self.0.iter_mut().find(|(known, _)| known == name);
        if let Some((_, kept)) = known {
            *kept = Zeroizing::new(value.into());
        } else if self.0.len() < MAX_COOKIES {
            self.0.push((name.into(), Zeroizing::new(value.into())));
        }
    }

    /// Forgets a cookie.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| known != name);
    }

    /// A cookie's value.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether the broker has set none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a `Cookie` header; `None` when there is nothing to send.
    #[must_use]
    pub fn to_header(&self) -> Option<Zeroizing<String>> {
        let pairs = self
            .0
            .iter()
            .map(|(name, value)| format!("{name}={}", value.as_str()));
        (!self.is_empty()).then(|| Zeroizing::new(pairs.collect::<Vec<_>>().join("; ")))
    }
}

impl fmt::Debug for BrokerCookies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_replaced_removed_and_written_in_order() {
        let mut cookies = BrokerCookies::new();
        assert_eq!(cookies.to_header(), None);
        cookies.set("JSESSIONID", "one");
        cookies.set("lb", "node-2");
        cookies.set("JSESSIONID", "two");
        assert_eq!(cookies.value("JSESSIONID"), Some("two"));
        let header = cookies.to_header().expect("two cookies are set");
        assert_eq!(header.as_str(), "JSESSIONID=two; lb=node-2");
        cookies.remove("JSESSIONID");
        assert_eq!(cookies.value("JSESSIONID"), None);
        assert!(!cookies.is_empty());
    }

    #[test]
    fn cookies_are_bounded_and_never_shown() {
        let mut cookies = BrokerCookies::new();
        for index in 0..100 {
            cookies.set(&format!("c{index}"), "secret-value");
        }
        cookies.set("c1", &"x".repeat(MAX_COOKIE_BYTES));
        assert_eq!(cookies.0.len(), MAX_COOKIES);
        assert_eq!(cookies.value("c1"), Some("secret-value"));
        assert!(!format!("{cookies:?}").contains("secret-value"));
    }
}
