//! One rule a test, in virtual time.

mod address_policy;
mod admission;
mod datagrams;
mod ends;
mod preflight;
mod quality;
mod rebind;
mod standing;

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use portcullis_protocol::{LogId, client_hello::ServerName};

use super::*;

const CLIENT: &str = "198.51.100.7";
const OTHER_CLIENT: &str = "198.51.100.8";
const PACKET: [u8; 40] = [7; 40];

/// A gateway with a clock, and short ways to say what happens to it.
struct Bench {
    gateway: Gateway,
    now: Instant,
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn socket(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

fn name(text: &str) -> ServerName {
    ServerName::new(text).expect("a server name")
}

fn agent(last: u8) -> AgentEndpoint {
    AgentEndpoint {
        ip: IpAddr::from([10, 0, 0, last]),
        tcp_port: 4172,
        udp_port: 4172,
    }
}

fn request(client: &str, server_name: Option<&str>, agent: AgentEndpoint) -> GrantRequest {
    GrantRequest {
        log_id: LogId::random(),
        client: ip(client),
        server_name: server_name.map(name),
        agent,
        user: format!("user of {client}"),
        desktop: "desk".to_owned(),
    }
}

impl Bench {
    fn new(upstream: UpstreamPorts) -> Self {
        Self::with(upstream, Limits::default())
    }

    fn with(upstream: UpstreamPorts, limits: Limits) -> Self {
        Self {
            gateway: Gateway::new(Settings {
                public_addresses: vec![ip("203.0.113.1")],
                public_port: 4172,
                upstream,
                limits,
            }),
            now: Instant::now(),
        }
    }

    fn grant(&mut self, request: GrantRequest) -> Result<Granted, GrantRefusal> {
        self.gateway.authorize(request, self.now)
    }

    fn hello(
        &mut self,
        client: &str,
        server_name: Option<&str>,
    ) -> Result<Admission, AdmissionRefusal> {
        let server_name = server_name.map(name);
        self.gateway
            .handle_client_hello(socket(client, 50_000), server_name.as_ref(), self.now)
    }

    /// Grants and admits a session whose agent is connected.
    fn session(&mut self, client: &str, server_name: &str, to: AgentEndpoint) -> SessionKey {
        self.grant(request(client, Some(server_name), to))
            .expect("granted");
        let admission = self.hello(client, Some(server_name)).expect("admitted");
        assert_eq!(admission.agent, to);
        self.gateway
            .handle_agent_connected(admission.session, self.now);
        admission.session
    }

    fn up(&mut self, client: &str, port: u16) -> Result<Vec<Forward>, DropReason> {
        match self
            .gateway
            .handle_client_datagram(socket(client, port), &PACKET, self.now)
        {
            Verdict::Drop(reason) => Err(reason),
            verdict @ (Verdict::Forward(_) | Verdict::Offer(_)) => Ok(verdict.forwards().to_vec()),
        }
    }

    fn down(
        &mut self,
        socket: UpstreamSocket,
        from: AgentEndpoint,
    ) -> Result<SocketAddr, DropReason> {
        match self
            .gateway
            .handle_agent_datagram(socket, from.udp(), &PACKET, self.now)
        {
            Verdict::Forward(forward) => Ok(forward.to),
            Verdict::Drop(reason) => Err(reason),
            Verdict::Offer(_) => panic!("a datagram from an agent goes to one client"),
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.gateway.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.gateway.handle_timeout(self.now);
        }
        self.now = until;
        self.gateway.checked_entries();
    }

    fn ends(&mut self) -> Vec<(SessionKey, EndReason)> {
        std::iter::from_fn(|| self.gateway.poll_event())
            .filter_map(|event| match event {
                Event::SessionEnded { key, reason, .. } => Some((key, reason)),
                Event::GrantExpired { .. } => None,
            })
            .collect()
    }
}
