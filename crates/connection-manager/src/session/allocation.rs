//! From the user's choice to a desktop the client can connect to: broker, agent, gateway, and every way each can fail.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use portcullis_protocol::{
    agent::{LaunchResultId, LaunchSession, LaunchSessionResp, SessionInfo},
    broker::{
        AllocResultId, AllocateResource, AllocateResourceResp, Outcome, PCOIP, Response, Rest,
        Target,
    },
};

use super::{Answer, Head, LaunchOrder, Pending, Phase, Reject, Session, Step, reply};
use crate::{
    config::AgentAddressRule,
    neighbours::{
        AgentAddress, AgentAnswer, AgentFailure, BrokerFailure, GatewayFailure, GrantOrder,
        GrantedAddress,
    },
    texts,
};

/// How long a launched session is offered to the gateway again when the gateway refused it. A connect-tag is good for
/// 60 s; what is left is for the client to connect.
const REUSE: Duration = Duration::from_secs(45);
/// Port of the PCoIP session when a broker names none.
const PCOIP_PORT: u16 = 4172;
/// `session-type` of every launch.
const SESSION_TYPE: &str = "UNSPECIFIED";

/// What the user chose.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    resource_id: String,
    protocol: Option<String>,
    client_mac: String,
}

/// A launch under way.
#[derive(Debug)]
pub(super) struct Launching {
    choice: Choice,
    desktop: String,
    answer: AllocateResourceResp,
}

/// A session on an agent that only the gateway has yet to let the client to.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    choice: Choice,
    desktop: String,
    /// With the agent's own address and port as target.
    answer: AllocateResourceResp,
    agent: IpAddr,
    port: u16,
    until: Instant,
}

impl Choice {
    pub(super) fn of(request: &AllocateResource) -> Self {
        let info = request.client_info.as_ref();
        Self {
            resource_id: request.resource_id.clone(),
            protocol: request.protocol.clone(),
            client_mac: info
                .and_then(|info| info.mac_address.as_deref())
                .map_or("", str::trim)
                .into(),
        }
    }

    fn failed(&self, id: AllocResultId, text: impl Into<String>) -> Response {
        Response::AllocateResource(AllocateResourceResp {
            result: Outcome::new(id, text),
            target: None,
            resource_id: Some(self.resource_id.clone()),
            protocol: Some(self.protocol.clone().unwrap_or_else(|| PCOIP.into())),
            rest: Rest::default(),
        })
    }
}

impl Session {
    /// Handles what the agent answered to [`Step::Launch`].
    pub fn handle_agent(
        &mut self,
        result: Result<AgentAnswer, AgentFailure>,
        now: Instant,
    ) -> Step {
        match self.pending.take() {
            Some((head, Pending::Launch(launching))) => {
                self.launched(head, *launching, result, now)
            }
            other => self.unexpected(other),
        }
    }

    /// Handles what the gateway answered to [`Step::Authorize`].
    pub fn handle_gateway(
        &mut self,
        result: Result<GrantedAddress, GatewayFailure>,
        _now: Instant,
    ) -> Step {
        match self.pending.take() {
            Some((head, Pending::Grant(prepared))) => self.authorized(head, *prepared, result),
            other => self.unexpected(other),
        }
    }

    /// A session launched for the same choice a moment ago, which the gateway refused then.
    pub(super) fn prepared_for(&mut self, choice: &Choice, now: Instant) -> Option<Prepared> {
        self.prepared
            .take()
            .filter(|prepared| prepared.choice.resource_id == choice.resource_id)
            .filter(|prepared| now < prepared.until)
    }

    pub(super) fn authorize(&mut self, head: Head, prepared: Prepared) -> Step {
        let target = prepared.answer.target.as_ref();
        let order = GrantOrder {
            log_id: self.client.log_id,
            client: self.client.address,
            server_name: target
                .and_then(|target| target.sni.clone())
                .filter(|name| !name.is_empty()),
            agent: prepared.agent,
            tcp_port: prepared.port,
            udp_port: prepared.port,
            user: self.user.clone(),
            desktop: prepared.desktop.clone(),
        };
        self.pending = Some((head, Pending::Grant(Box::new(prepared))));
        Step::Authorize(order)
    }

    pub(super) fn allocated(
        &mut self,
        head: Head,
        choice: Choice,
        result: Answer,
        now: Instant,
    ) -> Step {
        let (rest, mut answer) = match result {
            Ok((rest, Response::AllocateResource(answer))) => (rest, answer),
            Ok(_) => return broker_failed(head, &choice, &BrokerFailure::wrong_message()),
            Err(failure) => return broker_failed(head, &choice, &failure),
        };
        if answer.result.id != AllocResultId::Successful {
            // A failure has no target, and an address must not reach a client that the gateway has not admitted.
            answer.target = None;
            return reply(head, rest, Response::AllocateResource(answer));
        }
        let head = Head { rest, ..head };
        answer.resource_id.get_or_insert(choice.resource_id.clone());
        answer
            .protocol
            .get_or_insert_with(|| choice.protocol.clone().unwrap_or_else(|| PCOIP.into()));
        let Some(target) = answer.target.clone() else {
            return nowhere(head, &choice);
        };
        let desktop = self.name_of(&choice, &target);
        if target.session_id.is_none() || target.connect_tag.is_none() {
            return self.launch(head, choice, desktop, answer, &target);
        }
        if !self.policy.gateway {
            return self.finish(head, answer);
        }
        let agent = address(target.ip_address.as_deref());
        let port = target.port.unwrap_or(PCOIP_PORT);
        let (Some(agent), 1..) = (agent, port) else {
            return nowhere(head, &choice);
        };
        let prepared = Prepared {
            choice,
            desktop,
            answer,
            agent,
            port,
            until: now + REUSE,
        };
        self.authorize(head, prepared)
    }

    fn launch(
        &mut self,
        head: Head,
        choice: Choice,
        desktop: String,
        answer: AllocateResourceResp,
        target: &Target,
    ) -> Step {
        let ip_address = target.ip_address.as_deref().map_or("", str::trim);
        let hostname = target.hostname.as_deref().map_or("", str::trim);
        let Some(host) = [ip_address, hostname]
            .into_iter()
            .find(|name| !name.is_empty())
        else {
            return nowhere(head, &choice);
        };
        let Some(credentials) = &self.credentials else {
            let failed = choice.failed(AllocResultId::Agent, texts::NO_PASSWORD);
            return reply(head, Rest::default(), failed);
        };
        let order = LaunchOrder {
            address: AgentAddress {
                host: host.into(),
                port: self.policy.agent_port,
            },
            request: LaunchSession {
                session_type: SESSION_TYPE.into(),
                ip_address: ip_address.into(),
                hostname: hostname.into(),
                logon: credentials.logon(),
                client_mac: if choice.client_mac.is_empty() {
                    self.client_mac.clone()
                } else {
                    choice.client_mac.clone()
                },
                client_ip: self.client.address.to_string(),
                client_name: self.client_name.clone(),
                license_path: self.policy.license_path.clone(),
                session_log_id: self.client.log_id.to_string(),
                time_zone_windows: None,
                rest: Rest::default(),
            },
        };
        let launching = Launching {
            choice,
            desktop,
            answer,
        };
        self.pending = Some((head, Pending::Launch(Box::new(launching))));
        Step::Launch(order)
    }

    fn launched(
        &mut self,
        head: Head,
        launching: Launching,
        result: Result<AgentAnswer, AgentFailure>,
        now: Instant,
    ) -> Step {
        let Launching {
            choice,
            desktop,
            mut answer,
        } = launching;
        let (info, dialled) =
            match result.map(|answer| (session_of(answer.response, &desktop), answer.dialled)) {
                Ok((Ok(info), dialled)) => (info, dialled),
                Ok((Err((id, text)), _)) => {
                    return reply(head, Rest::default(), choice.failed(id, text));
                }
                Err(failure) => {
                    let id = match failure {
                        AgentFailure::Unreachable(_) | AgentFailure::TimedOut { .. } => {
                            AllocResultId::BrokerPortUnreachable
                        }
                        AgentFailure::Garbage(_) => AllocResultId::Agent,
                    };
                    let text = texts::agent_failed(&failure, &desktop, self.policy.agent_port);
                    return reply(head, Rest::default(), choice.failed(id, text));
                }
            };
        let agent = believed(
            self.policy.agent_address,
            address(Some(&info.ip_address)),
            dialled,
        );
        let target = answer.target.get_or_insert_default();
        target.ip_address = Some(agent.to_string());
        target.sni = Some(info.sni);
        target.port = Some(info.port);
        target.session_id = Some(info.session_id);
        target.connect_tag = Some(info.session_tag);
        if !self.policy.gateway {
            return self.finish(head, answer);
        }
        let prepared = Prepared {
            choice,
            desktop,
            answer,
            agent,
            port: info.port,
            until: now + REUSE,
        };
        self.authorize(head, prepared)
    }

    fn authorized(
        &mut self,
        head: Head,
        prepared: Prepared,
        result: Result<GrantedAddress, GatewayFailure>,
    ) -> Step {
        let granted = match result {
            Ok(granted) => granted,
            Err(failure) => {
                let id = match failure {
                    GatewayFailure::Ambiguous => AllocResultId::PendingTryAgain,
                    GatewayFailure::Full
                    | GatewayFailure::Draining
                    | GatewayFailure::Unreachable(_)
                    | GatewayFailure::TimedOut { .. }
                    | GatewayFailure::Refused(_) => AllocResultId::Broker,
                };
                let failed = prepared.choice.failed(id, texts::gateway_failed(&failure));
                self.prepared = Some(prepared);
                return reply(head, Rest::default(), failed);
            }
        };
        let mut answer = prepared.answer;
        let target = answer.target.get_or_insert_default();
        target.ip_address = Some(granted.ip.to_string());
        target.port = Some(granted.port);
        self.finish(head, answer)
    }

    /// The client gets its desktop; nothing of the user is needed any more.
    fn finish(&mut self, head: Head, answer: AllocateResourceResp) -> Step {
        self.forget();
        self.phase = Phase::Done;
        let rest = head.rest.clone();
        reply(head, rest, Response::AllocateResource(answer))
    }

    /// The desktop as the user knows it, or else as the broker named it.
    fn name_of(&self, choice: &Choice, target: &Target) -> String {
        let listed = self.names.iter().find(|(id, _)| *id == choice.resource_id);
        let names = [
            listed.map(|(_, name)| name.as_str()),
            target.hostname.as_deref(),
        ];
        let mut names = names.into_iter().flatten().map(str::trim);
        names
            .find(|name| !name.is_empty())
            .unwrap_or(&choice.resource_id)
            .into()
    }

    fn unexpected(&mut self, pending: Option<(Head, Pending)>) -> Step {
        self.pending = pending;
        Step::Reject(Reject::Internal)
    }
}

fn broker_failed(head: Head, choice: &Choice, failure: &BrokerFailure) -> Step {
    let failed = choice.failed(AllocResultId::Broker, texts::broker_failed(failure));
    reply(head, Rest::default(), failed)
}

/// The broker allocated, but said nothing that leads to a desktop.
fn nowhere(head: Head, choice: &Choice) -> Step {
    let failed = choice.failed(AllocResultId::Broker, texts::BROKER_NAMED_NO_DESKTOP);
    reply(head, Rest::default(), failed)
}

/// The session an agent launched, or the client's result for why there is none.
fn session_of(
    response: LaunchSessionResp,
    desktop: &str,
) -> Result<SessionInfo, (AllocResultId, String)> {
    let reason = response.fail_reason.as_deref();
    match response.result {
        LaunchResultId::Successful => response
            .session_info
            .filter(|info| info.port != 0)
            .ok_or_else(|| (AllocResultId::Agent, texts::agent_incomprehensible(desktop))),
        LaunchResultId::UserAuth => Err((AllocResultId::Agent, texts::agent_user_auth())),
        LaunchResultId::AnotherSessionStarted => {
            Err((AllocResultId::Agent, texts::agent_another_session()))
        }
        id if id.is_license_failure() => Err((AllocResultId::NoLicense, texts::NO_LICENSE.into())),
        LaunchResultId::Other(_) | _ => {
            Err((AllocResultId::Agent, texts::agent_refused(desktop, reason)))
        }
    }
}

/// The agent's address: as it says or as it was dialled.
fn believed(rule: AgentAddressRule, named: Option<IpAddr>, dialled: IpAddr) -> IpAddr {
    let plausible = |named: &IpAddr| {
        let broadcast = *named == IpAddr::V4(Ipv4Addr::BROADCAST);
        let nowhere = named.is_unspecified() || named.is_multicast() || broadcast;
        !nowhere && (!named.is_loopback() || dialled.is_loopback())
    };
    match rule {
        AgentAddressRule::AsNamed => named.filter(plausible).unwrap_or(dialled),
        AgentAddressRule::AsDialled => dialled,
    }
}

fn address(text: Option<&str>) -> Option<IpAddr> {
    let address: IpAddr = text?.trim().parse().ok()?;
    Some(address.to_canonical())
}
