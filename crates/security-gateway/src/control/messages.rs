//! The JSON bodies of the control link.

use std::{net::IpAddr, time::Duration};

use portcullis_protocol::{InvalidLogId, LogId, client_hello::ServerName};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::core::{AgentEndpoint, GrantId, GrantRefusal, GrantRequest, Granted, Reason};

/// A grant asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GrantBody {
    session: String,
    client: IpAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server_name: Option<String>,
    agent: AgentBody,
    user: String,
    desktop: String,
}

/// An agent's address.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AgentBody {
    ip: IpAddr,
    tcp_port: u16,
    udp_port: u16,
}

/// Why a well-formed grant request is none.
#[derive(Debug, Error)]
pub(super) enum InvalidGrant {
    #[error("field session: {0}")]
    LogId(InvalidLogId),
    #[error("field server_name: not a server name")]
    ServerName,
    #[error("field agent: address or port is not one that could be connected to")]
    Agent,
}

impl TryFrom<GrantBody> for GrantRequest {
    type Error = InvalidGrant;

    fn try_from(body: GrantBody) -> Result<Self, Self::Error> {
        let AgentBody {
            ip,
            tcp_port,
            udp_port,
        } = body.agent;
        if tcp_port == 0 || udp_port == 0 || ip.is_unspecified() || ip.is_multicast() {
            return Err(InvalidGrant::Agent);
        }
        Ok(Self {
            log_id: body.session.parse().map_err(InvalidGrant::LogId)?,
            client: body.client,
            server_name: body
                .server_name
                .map(|name| ServerName::new(&name).ok_or(InvalidGrant::ServerName))
                .transpose()?,
            agent: AgentEndpoint {
                ip,
                tcp_port,
                udp_port,
            },
            user: body.user,
            desktop: body.desktop,
        })
    }
}

impl From<&GrantRequest> for GrantBody {
    fn from(request: &GrantRequest) -> Self {
        let log_id: LogId = request.log_id;
        Self {
            session: log_id.to_string(),
            client: request.client,
            server_name: request
                .server_name
                .as_ref()
                .map(|name| name.as_str().to_owned()),
            agent: AgentBody {
                ip: request.agent.ip,
                tcp_port: request.agent.tcp_port,
                udp_port: request.agent.udp_port,
            },
            user: request.user.clone(),
            desktop: request.desktop.clone(),
        }
    }
}

/// A grant given.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GrantedBody {
    grant: u64,
    address: IpAddr,
    port: u16,
    expires_in_ms: u64,
}

impl From<Granted> for GrantedBody {
    fn from(granted: Granted) -> Self {
        Self {
            grant: granted.grant.get(),
            address: granted.address,
            port: granted.port,
            expires_in_ms: u64::try_from(granted.expires_in.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl From<GrantedBody> for Granted {
    fn from(body: GrantedBody) -> Self {
        Self {
            grant: GrantId::from_raw(body.grant),
            address: body.address,
            port: body.port,
            expires_in: Duration::from_millis(body.expires_in_ms),
        }
    }
}

/// A grant refused: the reason's label, and a sentence.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RefusalBody {
    reason: String,
    message: String,
}

impl From<GrantRefusal> for RefusalBody {
    fn from(refusal: GrantRefusal) -> Self {
        Self {
            reason: refusal.label().to_owned(),
            message: refusal.to_string(),
        }
    }
}

impl RefusalBody {
    /// The refusal, unless it is one this version does not know.
    pub(super) fn refusal(&self) -> Option<GrantRefusal> {
        [
            GrantRefusal::Ambiguous,
            GrantRefusal::Full,
            GrantRefusal::Draining,
            GrantRefusal::AddressFamily,
        ]
        .into_iter()
        .find(|refusal| refusal.label() == self.reason)
    }
}

/// What is wrong with a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Problem {
    pub(super) error: String,
}

/// Whether a gateway serves, and how much it has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// New grants are refused.
    pub draining: bool,
    /// Sessions now.
    pub sessions: usize,
    /// Grants waiting for their client.
    pub pending_grants: usize,
}

/// Fuzz entry: a grant request that is read is written so that it reads the same.
pub(super) fn fuzz_grant(data: &[u8]) {
    let Some(request) = read_grant(data) else {
        return;
    };
    let written = serde_json::to_vec(&GrantBody::from(&request)).unwrap_or_default();
    assert_eq!(read_grant(&written), Some(request));
}

fn read_grant(data: &[u8]) -> Option<GrantRequest> {
    serde_json::from_slice::<GrantBody>(data)
        .ok()?
        .try_into()
        .ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GRANT: &str = r#"{"session":"7cd13600-b190-1039-bfc7-1c697a6f50fb","client":"198.51.100.7","server_name":"WS-17",
        "agent":{"ip":"10.0.0.3","tcp_port":4172,"udp_port":4172},"user":"ada","desktop":"Workstation 17"}"#;

    #[test]
    fn a_grant_is_read_as_it_is_written() {
        fuzz_grant(GRANT.as_bytes());
        let request = read_grant(GRANT.as_bytes()).expect("a grant");
        assert_eq!(request.server_name, ServerName::new("ws-17"));
        for (right, wrong) in [
            ("4172", "0"),
            ("10.0.0.3", "0.0.0.0"),
            ("WS-17", "\\u0000"),
            ("ada\"", "ada\",\"x\":1"),
        ] {
            let changed = GRANT.replacen(right, wrong, 1);
            assert_eq!(read_grant(changed.as_bytes()), None, "{changed}");
        }
    }

    proptest! {
        #[test]
        fn no_change_of_a_grant_makes_the_reader_panic(at in 0..GRANT.len(), byte: u8) {
            let mut bytes = GRANT.as_bytes().to_vec();
            bytes[at] = byte;
            fuzz_grant(&bytes);
        }
    }
}
