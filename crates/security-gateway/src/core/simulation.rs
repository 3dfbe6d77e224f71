//! Random lives of a gateway in virtual time, checked against a plain model of what it may do.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use portcullis_protocol::{LogId, client_hello::ServerName};
use proptest::prelude::*;

use super::*;

const GRANT_WINDOW: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(15);
const MAX_SESSIONS: usize = 6;
const MAX_PENDING: usize = 4;

/// Something that happens. Numbers stand for clients, names, agents and ports, of which there are few so that they meet.
#[derive(Clone, Debug)]
enum Step {
    Grant {
        client: u8,
        name: Option<u8>,
        agent: u8,
        user: u8,
    },
    Hello {
        client: u8,
        name: Option<u8>,
    },
    AgentConnected(u8),
    AgentUnreachable(u8),
    TcpClosed(u8),
    FromClient {
        client: u8,
        port: u8,
        size: u16,
    },
    FromAgent {
        agent: u8,
        socket: u8,
        size: u16,
    },
    /// A client sends a few times from one port, and the agents of all its sessions answer each time.
    Talk {
        client: u8,
        port: u8,
    },
    Kill(u8),
    Drain(bool),
    Pass(Duration),
    /// Time passes, but the timer is late.
    Oversleep(Duration),
}

fn step() -> impl Strategy<Value = Step> {
    let client = || 0..3_u8;
    let name = || prop_oneof![3 => (0..3_u8).prop_map(Some), 1 => Just(None)];
    let agent = || 0..4_u8;
    let size = || {
        prop_oneof![
            8 => 12..=1472_u16,
            1 => 0..12_u16,
            1 => 1473..1600_u16
        ]
    };
    let time = || {
        prop_oneof![
            (1..4_000_u64).prop_map(Duration::from_millis),
            (1..80_u64).prop_map(Duration::from_secs),
        ]
    };
    prop_oneof![
        4 => (client(), name(), agent(), 0..2_u8)
            .prop_map(|(client, name, agent, user)| Step::Grant { client, name, agent, user }),
        4 => (client(), name()).prop_map(|(client, name)| Step::Hello { client, name }),
        2 => any::<u8>().prop_map(Step::AgentConnected),
        1 => any::<u8>().prop_map(Step::AgentUnreachable),
        2 => any::<u8>().prop_map(Step::TcpClosed),
        8 => (client(), 0..3_u8, size())
            .prop_map(|(client, port, size)| Step::FromClient { client, port, size }),
        6 => (agent(), any::<u8>(), size())
            .prop_map(|(agent, socket, size)| Step::FromAgent { agent, socket, size }),
        6 => (client(), 0..3_u8).prop_map(|(client, port)| Step::Talk { client, port }),
        1 => any::<u8>().prop_map(Step::Kill),
        1 => prop::bool::weighted(0.1).prop_map(Step::Drain),
        3 => time().prop_map(Step::Pass),
        1 => time().prop_map(Step::Oversleep),
    ]
}

/// What happens to sessions that stand when their clients' ports change all the time.
fn restless_step() -> impl Strategy<Value = Step> {
    let client = || 0..3_u8;
    let port = || 0..3_u8;
    prop_oneof![
        8 => (client(), port()).prop_map(|(client, port)| Step::Talk { client, port }),
        4 => (client(), port())
            .prop_map(|(client, port)| Step::FromClient { client, port, size: 100 }),
        1 => any::<u8>().prop_map(Step::TcpClosed),
        2 => client().prop_map(|client| Step::Hello { client, name: Some(0) }),
        1 => any::<u8>().prop_map(Step::Kill),
        1 => (1..8_u64).prop_map(|seconds| Step::Pass(Duration::from_secs(seconds))),
    ]
}

fn client_ip(client: u8) -> IpAddr {
    IpAddr::from([198, 51, 100, client])
}

fn agent_endpoint(agent: u8) -> AgentEndpoint {
    AgentEndpoint {
        ip: IpAddr::from([10, 0, 0, agent]),
        tcp_port: 4172,
        udp_port: 4172 + u16::from(agent),
    }
}

fn server_name(name: Option<u8>) -> Option<ServerName> {
    name.and_then(|name| ServerName::new(&format!("Desk-{name}")))
}

/// What the model knows of a grant.
#[derive(Debug)]
struct ModelGrant {
    client: u8,
    name: Option<u8>,
    agent: u8,
    expires: Instant,
    used: bool,
}

/// What the model knows of a session.
#[derive(Debug)]
struct ModelSession {
    client: u8,
    name: Option<u8>,
    agent: u8,
    grant_expires: Instant,
    tcp_closed: Option<Instant>,
}

struct World {
    gateway: Gateway,
    ports: UpstreamPorts,
    now: Instant,
    grants: Vec<ModelGrant>,
    live: BTreeMap<SessionKey, ModelSession>,
    ended: BTreeMap<SessionKey, EndReason>,
    /// The last sequence number a client used; one count for all is as good as many.
    sequence: u32,
}

impl World {
    fn new(ports: UpstreamPorts) -> Self {
        Self {
            gateway: Gateway::new(Settings {
                public_addresses: vec![IpAddr::from([203, 0, 113, 1])],
                public_port: 4172,
                upstream: ports,
                limits: Limits {
                    max_sessions: MAX_SESSIONS,
                    max_pending_grants: MAX_PENDING,
                    session: Some(Duration::from_secs(600)),
                    ..Limits::default()
                },
            }),
            ports,
            now: Instant::now(),
            grants: Vec::new(),
            live: BTreeMap::new(),
            ended: BTreeMap::new(),
            sequence: 0,
        }
    }

    /// One of the live sessions, chosen by a number.
    fn pick(&self, number: u8) -> Option<SessionKey> {
        let keys: Vec<_> = self.live.keys().copied().collect();
        keys.get(usize::from(number) % keys.len().max(1)).copied()
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Grant {
                client,
                name,
                agent,
                user,
            } => self.grant(client, name, agent, user),
            Step::Hello { client, name } => self.hello(client, name),
            Step::AgentConnected(number) => {
                if let Some(key) = self.pick(number) {
                    self.gateway.handle_agent_connected(key, self.now);
                }
            }
            Step::AgentUnreachable(number) => {
                if let Some(key) = self.pick(number) {
                    self.gateway.handle_agent_unreachable(key, self.now);
                    self.close(key);
                }
            }
            Step::TcpClosed(number) => {
                if let Some(key) = self.pick(number) {
                    self.gateway.handle_tcp_closed(key, self.now);
                    self.close(key);
                }
            }
            Step::FromClient { client, port, size } => self.client_datagram(client, port, size),
            Step::FromAgent {
                agent,
                socket,
                size,
            } => self.agent_datagram(agent, socket, size),
            Step::Talk { client, port } => {
                for _ in 0..6 {
                    self.client_datagram(client, port, 100);
                    let answering: Vec<_> = self
                        .live
                        .iter()
                        .filter(|(_, session)| session.client == client)
                        .map(|(key, session)| (*key, session.agent))
                        .collect();
                    for (key, agent) in answering {
                        self.answer(key, agent, 100);
                    }
                    self.now += Duration::from_millis(300);
                }
            }
            Step::Kill(number) => {
                if let Some(key) = self.pick(number) {
                    assert!(
                        self.gateway
                            .end_session(key, EndReason::Administrator, self.now)
                    );
                }
            }
            Step::Drain(on) => self.gateway.set_draining(on),
            Step::Pass(time) => self.pass(time),
            Step::Oversleep(time) => self.now += time,
        }
        self.events();
        self.check();
    }

    fn close(&mut self, key: SessionKey) {
        if let Some(session) = self.live.get_mut(&key) {
            session.tcp_closed.get_or_insert(self.now);
        }
    }

    fn grant(&mut self, client: u8, name: Option<u8>, agent: u8, user: u8) {
        let request = GrantRequest {
            log_id: LogId::random(),
            client: client_ip(client),
            server_name: server_name(name),
            agent: agent_endpoint(agent),
            user: format!("user-{user}"),
            desktop: String::new(),
        };
        let Ok(granted) = self.gateway.authorize(request, self.now) else {
            return;
        };
        assert!(!self.gateway.is_draining());
        for grant in &mut self.grants {
            if (grant.client, grant.name) == (client, name) && !grant.used {
                assert!(
                    grant.expires <= self.now || grant.agent == agent,
                    "two grants that look alike"
                );
                grant.used = true;
            }
        }
        self.grants.push(ModelGrant {
            client,
            name,
            agent,
            expires: self.now + granted.expires_in,
            used: false,
        });
    }

    fn hello(&mut self, client: u8, name: Option<u8>) {
        let from = SocketAddr::new(client_ip(client), 50_000);
        let sent = server_name(name);
        let Ok(admission) = self
            .gateway
            .handle_client_hello(from, sent.as_ref(), self.now)
        else {
            return;
        };
        if admission.reattached {
            let session = self.live.get_mut(&admission.session).expect("a session");
            assert_eq!((session.client, session.name), (client, name));
            assert_eq!(agent_endpoint(session.agent), admission.agent);
            let closed = session.tcp_closed.take().expect("no second connection");
            assert!(self.now < session.grant_expires.max(closed + GRACE));
            return;
        }
        let grant = self
            .grants
            .iter_mut()
            .find(|grant| (grant.client, grant.name) == (client, name) && !grant.used)
            .expect("admitted without a grant");
        assert!(self.now < grant.expires, "admitted too late");
        assert_eq!(agent_endpoint(grant.agent), admission.agent);
        grant.used = true;
        let agent = grant.agent;
        let session = ModelSession {
            client,
            name,
            agent,
            grant_expires: grant.expires,
            tcp_closed: None,
        };
        assert!(self.live.insert(admission.session, session).is_none());
        self.events();
        if self.ports == UpstreamPorts::Shared {
            let same = self.live.values().filter(|other| other.agent == agent);
            assert_eq!(same.count(), 1, "two sessions share an agent's answers");
        }
    }

    fn client_datagram(&mut self, client: u8, port: u8, size: u16) {
        let from = SocketAddr::new(client_ip(client), 4000 + u16::from(port));
        // A client's datagrams are ESP of one SPI whatever port they come from, as behind a NAT that changes its mind.
        self.sequence += 1;
        let mut payload = [u32::from(client) + 1_000, self.sequence]
            .map(u32::to_be_bytes)
            .concat();
        payload.resize(usize::from(size), 0);
        let verdict = self
            .gateway
            .handle_client_datagram(from, &payload, self.now);
        let forwards = verdict.forwards();
        assert!(forwards.len() <= MAX_CANDIDATES);
        assert!(forwards.is_empty() || (12..=1472).contains(&size));
        for forward in forwards {
            let session = self.live.get(&forward.session).expect("no session");
            assert_eq!(session.client, client, "another client's session");
            assert_eq!(forward.to, agent_endpoint(session.agent).udp());
        }
    }

    fn agent_datagram(&mut self, agent: u8, socket: u8, size: u16) {
        match self.pick(socket) {
            Some(key) => self.answer(key, agent, size),
            None if self.ports == UpstreamPorts::Shared => {
                self.answer(SessionKey(0), agent, size);
            }
            None => {}
        }
    }

    /// A datagram of an agent on the socket that the session has.
    fn answer(&mut self, key: SessionKey, agent: u8, size: u16) {
        let from = agent_endpoint(agent).udp();
        let payload = vec![0; usize::from(size)];
        let upstream = match self.ports {
            UpstreamPorts::Shared => UpstreamSocket::Shared,
            UpstreamPorts::PerSession => UpstreamSocket::Of(key),
        };
        let verdict = self
            .gateway
            .handle_agent_datagram(upstream, from, &payload, self.now);
        for forward in verdict.forwards() {
            assert!((12..=1472).contains(&size));
            let session = self.live.get(&forward.session).expect("no session");
            assert_eq!(session.agent, agent, "another agent's session");
            assert_eq!(forward.to.ip(), client_ip(session.client));
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.gateway.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.gateway.handle_timeout(self.now);
            assert!(
                self.gateway
                    .poll_timeout()
                    .is_none_or(|next| next > self.now),
                "the timer does not advance"
            );
        }
        self.now = self.now.max(until);
    }

    fn events(&mut self) {
        while let Some(event) = self.gateway.poll_event() {
            if let Event::SessionEnded { key, reason, .. } = event {
                assert!(self.live.remove(&key).is_some(), "ended twice");
                assert!(self.ended.insert(key, reason).is_none());
            }
        }
    }

    fn check(&self) {
        self.gateway.checked_entries();
        assert_eq!(self.gateway.session_count(), self.live.len());
        assert!(self.gateway.session_count() + self.gateway.pending_count() <= MAX_SESSIONS);
        assert!(self.gateway.pending_count() <= MAX_PENDING);
        assert!(self.gateway.trials.len() <= 3);
        if self.gateway.session_count() + self.gateway.pending_count() > 0 {
            assert!(self.gateway.poll_timeout().is_some());
        }
    }

    /// Lets time pass until nothing waits for it.
    fn finish(mut self) {
        for _ in 0..10_000 {
            let Some(at) = self.gateway.poll_timeout() else {
                break;
            };
            self.now = self.now.max(at);
            self.gateway.handle_timeout(self.now);
            self.events();
        }
        self.check();
        assert_eq!(self.gateway.checked_entries(), 0);
        assert!(self.live.is_empty());
        let counters = self.gateway.counters();
        assert_eq!(counters.ended.total(), self.ended.len() as u64);
        assert_eq!(counters.admitted, self.ended.len() as u64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_the_rules_hold(
        shared in any::<bool>(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let ports = if shared { UpstreamPorts::Shared } else { UpstreamPorts::PerSession };
        let mut world = World::new(ports);
        for step in &steps {
            world.take(step);
        }
        world.finish();
    }

    #[test]
    fn a_restless_nat_breaks_no_rule(
        steps in prop::collection::vec(restless_step(), 1..40),
        ports in prop_oneof![Just(UpstreamPorts::Shared), Just(UpstreamPorts::PerSession)],
    ) {
        let mut world = World::new(ports);
        for client in 0..3 {
            world.take(&Step::Grant { client, name: Some(0), agent: client, user: client });
            world.take(&Step::Hello { client, name: Some(0) });
            world.take(&Step::Talk { client, port: 0 });
        }
        for step in &steps {
            world.take(step);
        }
        world.finish();
    }

    #[test]
    fn strangers_get_nothing_out_of_a_busy_gateway(
        datagrams in prop::collection::vec((3..250_u8, any::<u16>(), 0..1600_usize), 1..200),
    ) {
        let mut world = World::new(UpstreamPorts::Shared);
        for client in 0..3 {
            world.take(&Step::Grant { client, name: Some(0), agent: client, user: client });
            world.take(&Step::Hello { client, name: Some(0) });
            world.take(&Step::FromClient { client, port: 0, size: 100 });
        }
        let entries = world.gateway.checked_entries();
        for (client, port, size) in datagrams {
            let from = SocketAddr::new(client_ip(client), port);
            let verdict = world
                .gateway
                .handle_client_datagram(from, &vec![0; size], world.now);
            prop_assert!(verdict.forwards().is_empty());
        }
        prop_assert_eq!(world.gateway.checked_entries(), entries);
    }
}

/// A day of a small office: sessions come and go, none stays behind.
#[test]
fn a_day_leaves_nothing_behind() {
    let mut world = World::new(UpstreamPorts::Shared);
    for hour in 0..24_u8 {
        for client in 0..3 {
            world.take(&Step::Grant {
                client,
                name: Some(client),
                agent: client,
                user: client,
            });
            world.take(&Step::Hello {
                client,
                name: Some(client),
            });
            world.take(&Step::AgentConnected(client));
        }
        assert_eq!(world.live.len(), 3, "hour {hour}");
        for _ in 0..59 {
            for client in 0..3 {
                world.take(&Step::FromClient {
                    client,
                    port: 0,
                    size: 100,
                });
                world.take(&Step::FromAgent {
                    agent: client,
                    socket: 0,
                    size: 1200,
                });
            }
            world.take(&Step::Pass(GRANT_WINDOW));
        }
        world.take(&Step::Pass(Duration::from_secs(600)));
        assert_eq!(world.live.len(), 0, "hour {hour}");
    }
    assert_eq!(world.ended.len(), 72);
    assert_eq!(world.gateway.counters().bound, 72);
    assert_eq!(world.gateway.counters().dropped.total(), 72 * 98);
    world.finish();
}
