//! Agents behind HTTPS on TCP 60443.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::Uri;
use portcullis_https::{Client, ClientOptions, Identity, Trust, identity::IssueError};
use portcullis_protocol::{
    LogId,
    agent::{LaunchSession, Message, PATH},
};

use super::{Failed, body, post};
use crate::neighbours::{Agent, AgentAddress, AgentAnswer, AgentFailure};

/// How agents are talked to.
#[derive(Clone, Debug)]
pub struct HttpsAgentOptions {
    /// Longest wait for an answer, connecting included. Default: 30 s, as seen of the vendor's product.
    pub wait: Duration,
    /// Longest time to connect. Default: 5 s.
    pub connect: Duration,
}

impl Default for HttpsAgentOptions {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(30),
            connect: Duration::from_secs(5),
        }
    }
}

/// Agents behind HTTPS, all under one trust policy.
#[derive(Clone, Debug)]
pub struct HttpsAgent {
    client: Client,
}

impl HttpsAgent {
    /// Agents believed under `trust`, shown `identity` if they ask for a certificate.
    ///
    /// # Errors
    /// When `trust` cannot be used.
    pub fn new(
        trust: &Trust,
        identity: Option<&Identity>,
        options: &HttpsAgentOptions,
    ) -> Result<Self, IssueError> {
        let limits = ClientOptions {
            connect: options.connect,
            total: options.wait,
            ..ClientOptions::default()
        };
        let client = Client::new(trust, identity, limits)?;
        Ok(Self { client })
    }

    async fn exchange(
        &self,
        address: AgentAddress,
        request: LaunchSession,
        log_id: LogId,
    ) -> Result<AgentAnswer, AgentFailure> {
        let uri = endpoint(&address).ok_or_else(|| {
            AgentFailure::Unreachable("the broker named no host name or IP address".into())
        })?;
        let http = post(uri, log_id)
            .body(body(Message::LaunchSession(request).to_document()))
            .map_err(|error| AgentFailure::Unreachable(error.into()))?;
        let reply = self.client.send(http).await.map_err(Failed::from)?;
        if !reply.status.is_success() {
            let status = format!(
                "the agent answered with HTTP status {}",
                reply.status.as_u16()
            );
            return Err(AgentFailure::Garbage(status.into()));
        }
        let dialled = reply
            .remote
            .map(|remote| remote.ip())
            .or_else(|| address.host.parse().ok())
            .ok_or_else(|| AgentFailure::Unreachable("the agent's address is not known".into()))?;
        match Message::parse(&reply.body).map_err(|error| AgentFailure::Garbage(error.into()))? {
            Message::LaunchSessionResp(response) => Ok(AgentAnswer {
                response,
                dialled: dialled.to_canonical(),
            }),
            Message::LaunchSession(_) => Err(AgentFailure::Garbage(
                "the agent answered with a request".into(),
            )),
        }
    }
}

impl Agent for HttpsAgent {
    fn launch(
        &self,
        address: AgentAddress,
        request: LaunchSession,
        log_id: LogId,
    ) -> BoxFuture<'_, Result<AgentAnswer, AgentFailure>> {
        Box::pin(self.exchange(address, request, log_id))
    }
}

impl From<Failed> for AgentFailure {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Unreachable(error) => Self::Unreachable(error.into()),
            Failed::TimedOut(within) => Self::TimedOut { within },
            Failed::Garbage(error) => Self::Garbage(error.into()),
        }
    }
}

/// Where an agent is asked. `None` for what is no host: the name comes from a broker and must not become another URL.
fn endpoint(address: &AgentAddress) -> Option<Uri> {
    let host = address.host.trim_matches(['[', ']']);
    let authority = if let Ok(address) = host.parse::<Ipv6Addr>() {
        match IpAddr::V6(address).to_canonical() {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        }
    } else {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if host.is_empty() || !host.bytes().all(is_name) {
            return None;
        }
        host.to_owned()
    };
    Uri::builder()
        .scheme(http::uri::Scheme::HTTPS)
        .authority(format!("{authority}:{}", address.port))
        .path_and_query(PATH)
        .build()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str) -> Option<String> {
        let address = AgentAddress {
            host: host.into(),
            port: 60443,
        };
        endpoint(&address).map(|uri| uri.to_string())
    }

    #[test]
    fn every_kind_of_host_is_dialled_on_the_one_path() {
        for (host, authority) in [
            ("10.0.0.21", "10.0.0.21"),
            ("desk-1.corp.example", "desk-1.corp.example"),
            ("DESK_1", "DESK_1"),
            ("2001:db8::1", "[2001:db8::1]"),
            ("[2001:db8::1]", "[2001:db8::1]"),
            ("::ffff:10.0.0.21", "10.0.0.21"),
        ] {
            let uri = format!("https://{authority}:60443/pcoip-agent/xml");
            assert_eq!(at(host), Some(uri));
        }
    }

    #[test]
    fn what_is_no_host_is_not_dialled() {
        for host in [
            "",
            "a b",
            "host/path",
            "user@host",
            "host:1",
            "host?x",
            "hö",
            "fe80::1%eth0",
        ] {
            assert_eq!(at(host), None, "{host}");
        }
    }
}
