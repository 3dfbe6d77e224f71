//! Grants, admission, binding and ends, one rule a test, in virtual time.

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

#[test]
fn a_grant_tells_where_the_client_goes() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let granted = bench
        .grant(request(CLIENT, Some("desk-1"), agent(1)))
        .expect("granted");
    assert_eq!(granted.address, ip("203.0.113.1"));
    assert_eq!(granted.port, 4172);
    assert_eq!(granted.expires_in, secs(60));
}

#[test]
fn a_grant_for_an_address_family_without_public_address_is_refused() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let refused = bench.grant(request("2001:db8::7", Some("desk-1"), agent(1)));
    assert_eq!(refused, Err(GrantRefusal::AddressFamily));
    assert_eq!(bench.gateway.checked_entries(), 0);
}

#[test]
fn a_mapped_ipv4_address_is_the_ipv4_client() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench
        .grant(request(
            &format!("::ffff:{CLIENT}"),
            Some("desk-1"),
            agent(1),
        ))
        .expect("granted");
    let admission = bench.hello(CLIENT, Some("desk-1")).expect("admitted");
    let mapped = socket(&format!("::ffff:{CLIENT}"), 4000);
    let verdict = bench
        .gateway
        .handle_client_datagram(mapped, &PACKET, bench.now);
    let forward = Forward {
        session: admission.session,
        to: agent(1).udp(),
    };
    assert_eq!(verdict, Verdict::Forward(forward));
}

#[test]
fn server_names_match_in_any_case() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench
        .grant(request(CLIENT, Some("SAL-W7P64"), agent(1)))
        .expect("granted");
    let admission = bench.hello(CLIENT, Some("sal-w7p64")).expect("admitted");
    assert_eq!(admission.agent, agent(1));
    assert!(!admission.reattached);
}

#[test]
fn a_grant_without_a_name_admits_no_name_or_our_own_address_only() {
    for (sent, admitted) in [
        (None, true),
        (Some("203.0.113.1"), true),
        (Some("203.0.113.2"), false),
        (Some("desk-1"), false),
    ] {
        let mut bench = Bench::new(UpstreamPorts::Shared);
        bench
            .grant(request(CLIENT, None, agent(1)))
            .expect("granted");
        assert_eq!(bench.hello(CLIENT, sent).is_ok(), admitted, "{sent:?}");
    }
}

#[test]
fn refusals_name_their_reason() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    assert_eq!(
        bench.hello(CLIENT, Some("desk-1")),
        Err(AdmissionRefusal::NoGrant)
    );
    bench
        .grant(request(CLIENT, Some("desk-1"), agent(1)))
        .expect("granted");
    assert_eq!(
        bench.hello(CLIENT, Some("desk-2")),
        Err(AdmissionRefusal::WrongServerName {
            granted: Some(name("desk-1"))
        })
    );
    assert_eq!(
        bench.hello(CLIENT, None),
        Err(AdmissionRefusal::WrongServerName {
            granted: Some(name("desk-1"))
        })
    );
    assert_eq!(
        bench.hello(OTHER_CLIENT, Some("desk-1")),
        Err(AdmissionRefusal::WrongClientAddress {
            granted: ip(CLIENT)
        })
    );
    assert_eq!(bench.gateway.session_count(), 0);
    let counters = bench.gateway.counters();
    assert_eq!(counters.admissions_refused.total(), 4);
    assert_eq!(
        counters
            .admissions_refused
            .count(&AdmissionRefusal::NoGrant),
        1
    );
}

#[test]
fn a_grant_expires_whether_or_not_the_timer_ran() {
    for timer_runs in [true, false] {
        let mut bench = Bench::new(UpstreamPorts::Shared);
        bench
            .grant(request(CLIENT, Some("desk-1"), agent(1)))
            .expect("granted");
        if timer_runs {
            bench.pass(secs(60));
        } else {
            bench.now += secs(60);
        }
        assert_eq!(
            bench.hello(CLIENT, Some("desk-1")),
            Err(AdmissionRefusal::Expired)
        );
        assert!(matches!(
            bench.gateway.poll_event(),
            Some(Event::GrantExpired { .. })
        ));
        assert_eq!(bench.gateway.counters().grants_expired, 1);
        bench.pass(secs(300));
        assert_eq!(bench.gateway.checked_entries(), 0);
    }
}

#[test]
fn a_client_that_comes_just_in_time_is_admitted() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench
        .grant(request(CLIENT, Some("desk-1"), agent(1)))
        .expect("granted");
    bench.pass(secs(60) - Duration::from_millis(1));
    bench.hello(CLIENT, Some("desk-1")).expect("admitted");
}

#[test]
fn a_second_connection_beside_a_live_one_is_refused() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench.session(CLIENT, "desk-1", agent(1));
    assert_eq!(
        bench.hello(CLIENT, Some("desk-1")),
        Err(AdmissionRefusal::AlreadyUsed)
    );
    assert_eq!(bench.gateway.session_count(), 1);
}

#[test]
fn a_client_may_come_back_within_the_grant_window() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "desk-1", agent(1));
    bench.gateway.handle_tcp_closed(session, bench.now);
    bench.pass(secs(50));
    let again = bench.hello(CLIENT, Some("desk-1")).expect("admitted");
    assert_eq!((again.session, again.reattached), (session, true));
    assert_eq!(bench.gateway.counters().reattached, 1);
}

#[test]
fn a_client_may_come_back_within_the_grace() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "desk-1", agent(1));
    bench.up(CLIENT, 4000).expect("forwarded");
    bench.pass(secs(70));
    bench.up(CLIENT, 4000).expect("forwarded");
    bench
        .down(UpstreamSocket::Shared, agent(1))
        .expect("forwarded");
    bench.pass(secs(30));
    bench.gateway.handle_tcp_closed(session, bench.now);
    bench.pass(secs(14));
    let again = bench.hello(CLIENT, Some("desk-1")).expect("admitted");
    assert_eq!((again.session, again.reattached), (session, true));
    // It may bring a new UDP socket.
    bench.up(CLIENT, 4001).expect("forwarded");
    assert_eq!(
        bench.down(UpstreamSocket::Shared, agent(1)),
        Ok(socket(CLIENT, 4001))
    );
    assert_eq!(bench.up(CLIENT, 4000), Err(DropReason::NoneWaiting));
}

#[test]
fn a_session_ends_when_the_client_does_not_come_back() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "desk-1", agent(1));
    bench.pass(secs(70));
    bench.gateway.handle_tcp_closed(session, bench.now);
    bench.pass(secs(14));
    assert_eq!(bench.ends(), []);
    bench.pass(secs(1));
    assert_eq!(bench.ends(), [(session, EndReason::TcpClosed)]);
    assert_eq!(
        bench.hello(CLIENT, Some("desk-1")),
        Err(AdmissionRefusal::AlreadyUsed)
    );
    bench.pass(secs(300));
    assert_eq!(bench.gateway.checked_entries(), 0);
    assert_eq!(
        bench.hello(CLIENT, Some("desk-1")),
        Err(AdmissionRefusal::NoGrant)
    );
}

#[test]
fn an_unreachable_agent_may_be_tried_again() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench
        .grant(request(CLIENT, Some("desk-1"), agent(1)))
        .expect("granted");
    let session = bench
        .hello(CLIENT, Some("desk-1"))
        .expect("admitted")
        .session;
    bench.gateway.handle_agent_unreachable(session, bench.now);
    let again = bench.hello(CLIENT, Some("desk-1")).expect("admitted");
    assert_eq!(again.session, session);
    bench.gateway.handle_agent_unreachable(session, bench.now);
    assert_eq!(bench.gateway.counters().agents_unreachable, 2);
    bench.pass(secs(60));
    assert_eq!(bench.ends(), [(session, EndReason::AgentUnreachable)]);
}

#[test]
fn the_same_grant_again_replaces_the_pending_one() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let first = bench
        .grant(request(CLIENT, Some("desk-1"), agent(1)))
        .expect("granted");
    bench.pass(secs(50));
    let second = bench
        .grant(request(CLIENT, Some("desk-1"), agent(1)))
        .expect("granted");
    assert_ne!(first.grant, second.grant);
    assert_eq!(bench.gateway.pending_count(), 1);
    bench.pass(secs(50));
    bench.hello(CLIENT, Some("desk-1")).expect("admitted");
}

#[test]
fn two_pending_grants_that_look_alike_are_never_guessed() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench
        .grant(request(CLIENT, Some("desk"), agent(1)))
        .expect("granted");
    assert_eq!(
        bench.grant(request(CLIENT, Some("DESK"), agent(2))),
        Err(GrantRefusal::Ambiguous)
    );
    // Our own address as a name is no name.
    bench
        .grant(request(CLIENT, None, agent(1)))
        .expect("granted");
    assert_eq!(
        bench.grant(request(CLIENT, Some("203.0.113.1"), agent(2))),
        Err(GrantRefusal::Ambiguous)
    );
    // Once the first has come there is nothing to confuse.
    bench.hello(CLIENT, Some("desk")).expect("admitted");
    bench
        .grant(request(CLIENT, Some("desk"), agent(2)))
        .expect("granted");
    let second = bench.hello(CLIENT, Some("desk")).expect("admitted");
    assert_eq!(second.agent, agent(2));
}

#[test]
fn another_users_return_is_waited_for() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "desk", agent(1));
    bench.gateway.handle_tcp_closed(session, bench.now);
    let other = GrantRequest {
        user: "somebody else".to_owned(),
        ..request(CLIENT, Some("desk"), agent(2))
    };
    assert_eq!(bench.grant(other.clone()), Err(GrantRefusal::Ambiguous));
    bench.pass(secs(60));
    bench.grant(other).expect("granted");
}

#[test]
fn a_return_that_a_later_grant_makes_doubtful_is_refused() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "desk", agent(1));
    let other = GrantRequest {
        user: "somebody else".to_owned(),
        ..request(CLIENT, Some("desk"), agent(2))
    };
    bench.grant(other).expect("granted");
    bench.gateway.handle_tcp_closed(session, bench.now);
    assert_eq!(
        bench.hello(CLIENT, Some("desk")),
        Err(AdmissionRefusal::Ambiguous)
    );
}

#[test]
fn a_user_who_asks_for_another_desktop_gives_up_the_return() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "desk", agent(1));
    bench.gateway.handle_tcp_closed(session, bench.now);
    bench
        .grant(request(CLIENT, Some("desk"), agent(2)))
        .expect("granted");
    let admission = bench.hello(CLIENT, Some("desk")).expect("admitted");
    assert_eq!(admission.agent, agent(2));
    bench.pass(secs(15));
    assert_eq!(bench.ends(), [(session, EndReason::TcpClosed)]);
}

#[test]
fn limits_of_number_are_kept() {
    let limits = Limits {
        max_sessions: 3,
        max_pending_grants: 2,
        ..Limits::default()
    };
    let mut bench = Bench::with(UpstreamPorts::Shared, limits);
    bench
        .grant(request(CLIENT, Some("a"), agent(1)))
        .expect("granted");
    bench
        .grant(request(CLIENT, Some("b"), agent(2)))
        .expect("granted");
    assert_eq!(
        bench.grant(request(CLIENT, Some("c"), agent(3))),
        Err(GrantRefusal::Full)
    );
    bench
        .grant(request(CLIENT, Some("b"), agent(2)))
        .expect("a replacement takes no further room");
    bench.hello(CLIENT, Some("a")).expect("admitted");
    bench.hello(CLIENT, Some("b")).expect("admitted");
    bench
        .grant(request(CLIENT, Some("c"), agent(3)))
        .expect("granted");
    assert_eq!(
        bench.grant(request(CLIENT, Some("d"), agent(4))),
        Err(GrantRefusal::Full)
    );
    bench
        .hello(CLIENT, Some("c"))
        .expect("a grant keeps a place");
}

#[test]
fn a_draining_gateway_honours_what_it_granted() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench
        .grant(request(CLIENT, Some("a"), agent(1)))
        .expect("granted");
    bench.gateway.set_draining(true);
    assert_eq!(
        bench.grant(request(CLIENT, Some("b"), agent(2))),
        Err(GrantRefusal::Draining)
    );
    bench.hello(CLIENT, Some("a")).expect("admitted");
}

#[test]
fn strangers_and_early_datagrams_are_dropped() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    assert_eq!(bench.up(CLIENT, 4000), Err(DropReason::UnknownSource));
    bench
        .grant(request(CLIENT, Some("a"), agent(1)))
        .expect("granted");
    assert_eq!(bench.up(CLIENT, 4000), Err(DropReason::UnknownSource));
    bench.hello(CLIENT, Some("a")).expect("admitted");
    assert_eq!(bench.up(OTHER_CLIENT, 4000), Err(DropReason::UnknownSource));
    bench.up(CLIENT, 4000).expect("forwarded");
    assert_eq!(bench.gateway.counters().dropped.total(), 3);
}

#[test]
fn a_bound_source_is_relayed_both_ways_and_counted() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "a", agent(1));
    assert_eq!(
        bench.down(UpstreamSocket::Shared, agent(1)),
        Err(DropReason::NoClientYet)
    );
    let to_agent = Forward {
        session,
        to: agent(1).udp(),
    };
    assert_eq!(bench.up(CLIENT, 4000), Ok(vec![to_agent]));
    assert_eq!(bench.up(CLIENT, 4000), Ok(vec![to_agent]));
    assert_eq!(
        bench.down(UpstreamSocket::Shared, agent(1)),
        Ok(socket(CLIENT, 4000))
    );
    assert_eq!(
        bench.down(UpstreamSocket::Shared, agent(2)),
        Err(DropReason::UnknownAgent)
    );
    let view = bench.gateway.sessions(bench.now).remove(0);
    assert_eq!((view.flows.up.packets, view.flows.up.bytes), (2, 80));
    assert_eq!((view.flows.down.packets, view.flows.down.bytes), (1, 40));
    assert_eq!(view.udp_client, Some(socket(CLIENT, 4000)));
    assert_eq!(bench.gateway.counters().forwarded, view.flows);
}

#[test]
fn sizes_no_pcoip_packet_has_are_dropped() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench.session(CLIENT, "a", agent(1));
    let from = socket(CLIENT, 4000);
    for (size, verdict) in [
        (0, Some(DropReason::TooShort)),
        (11, Some(DropReason::TooShort)),
        (12, None),
        (1472, None),
        (1473, Some(DropReason::TooLong)),
    ] {
        let payload = vec![0; size];
        let up = bench
            .gateway
            .handle_client_datagram(from, &payload, bench.now);
        let dropped = match up {
            Verdict::Drop(reason) => Some(reason),
            Verdict::Forward(_) | Verdict::Offer(_) => None,
        };
        assert_eq!(dropped, verdict, "{size} bytes up");
    }
    let payload = vec![0; 1473];
    let down = bench.gateway.handle_agent_datagram(
        UpstreamSocket::Shared,
        agent(1).udp(),
        &payload,
        bench.now,
    );
    assert_eq!(down, Verdict::Drop(DropReason::TooLong));
}

#[test]
fn a_second_source_of_a_served_client_is_dropped() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench.session(CLIENT, "a", agent(1));
    bench.up(CLIENT, 4000).expect("forwarded");
    bench
        .down(UpstreamSocket::Shared, agent(1))
        .expect("forwarded");
    bench.pass(secs(10));
    assert_eq!(bench.up(CLIENT, 4001), Err(DropReason::NoneWaiting));
}

#[test]
fn a_source_no_agent_answers_gives_way_after_a_while() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench.session(CLIENT, "a", agent(1));
    bench.up(CLIENT, 4000).expect("forwarded");
    assert_eq!(bench.up(CLIENT, 4001), Err(DropReason::NoneWaiting));
    bench.pass(secs(3));
    bench.up(CLIENT, 4001).expect("forwarded");
    assert_eq!(
        bench.down(UpstreamSocket::Shared, agent(1)),
        Ok(socket(CLIENT, 4001))
    );
}

#[test]
fn the_agent_that_answers_tells_sessions_behind_one_address_apart() {
    for ports in [UpstreamPorts::Shared, UpstreamPorts::PerSession] {
        let mut bench = Bench::new(ports);
        let first = bench.session(CLIENT, "a", agent(1));
        let second = bench.session(CLIENT, "b", agent(2));
        let upstream = |key| match ports {
            UpstreamPorts::Shared => UpstreamSocket::Shared,
            UpstreamPorts::PerSession => UpstreamSocket::Of(key),
        };
        let offered = bench.up(CLIENT, 4000).expect("offered");
        let mut agents: Vec<_> = offered.iter().map(|forward| forward.to).collect();
        agents.sort();
        assert_eq!(agents, [agent(1).udp(), agent(2).udp()]);
        assert_eq!(bench.up(CLIENT, 4001), Err(DropReason::Contended));
        assert_eq!(
            bench.down(upstream(first), agent(1)),
            Ok(socket(CLIENT, 4000))
        );
        // The other session is the only one left to wait, and needs no test.
        let to_second = Forward {
            session: second,
            to: agent(2).udp(),
        };
        assert_eq!(bench.up(CLIENT, 4001), Ok(vec![to_second]));
        assert_eq!(
            bench.down(upstream(second), agent(2)),
            Ok(socket(CLIENT, 4001))
        );
        bench.pass(secs(10));
        assert_eq!(bench.gateway.trials.len(), 0);
    }
}

#[test]
fn an_answer_test_is_bounded_and_makes_room_for_others() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    for n in 1..=10 {
        bench.session(CLIENT, &format!("desk-{n}"), agent(n));
    }
    for _ in 0..16 {
        assert_eq!(bench.up(CLIENT, 4000).map(|offers| offers.len()), Ok(8));
    }
    assert_eq!(bench.up(CLIENT, 4000), Err(DropReason::OfferSpent));
    bench.pass(secs(3));
    assert_eq!(bench.up(CLIENT, 4000), Err(DropReason::Unanswered));
    assert_eq!(
        bench.down(UpstreamSocket::Shared, agent(10)),
        Err(DropReason::NoClientYet)
    );
    bench.up(CLIENT, 4001).expect("another source has its turn");
    assert_eq!(
        bench.down(UpstreamSocket::Shared, agent(9)),
        Ok(socket(CLIENT, 4001))
    );
    bench.up(CLIENT, 4000).expect("tested once more");
    bench.pass(secs(6));
    assert_eq!(bench.gateway.trials.len(), 0);
}

#[test]
fn a_session_that_lost_its_connection_drops_out_of_the_answer_test() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let sessions = [1, 2, 3].map(|n| bench.session(CLIENT, &format!("desk-{n}"), agent(n)));
    assert_eq!(bench.up(CLIENT, 4000).map(|offers| offers.len()), Ok(3));
    bench.gateway.handle_tcp_closed(sessions[0], bench.now);
    let offered = bench.up(CLIENT, 4000).expect("offered");
    assert_eq!(
        offered
            .iter()
            .map(|offer| offer.session)
            .collect::<Vec<_>>(),
        [sessions[2], sessions[1]]
    );
    assert_eq!(
        bench.down(UpstreamSocket::Shared, agent(1)),
        Err(DropReason::NoClientYet)
    );
    assert_eq!(
        bench.down(UpstreamSocket::Shared, agent(2)),
        Ok(socket(CLIENT, 4000))
    );
}

#[test]
fn an_answer_test_ends_in_time_even_when_the_timer_is_late() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench.session(CLIENT, "a", agent(1));
    bench.session(CLIENT, "b", agent(2));
    bench.up(CLIENT, 4000).expect("offered");
    bench.now += secs(3);
    assert_eq!(
        bench.down(UpstreamSocket::Shared, agent(1)),
        Err(DropReason::NoClientYet)
    );
    bench.up(CLIENT, 4001).expect("another source has its turn");
    assert_eq!(
        bench.down(UpstreamSocket::Shared, agent(1)),
        Ok(socket(CLIENT, 4001))
    );
    bench.gateway.checked_entries();
}

#[test]
fn a_short_idle_limit_does_not_cut_the_time_to_come_back() {
    let limits = Limits {
        udp_idle: secs(5),
        ..Limits::default()
    };
    let mut bench = Bench::with(UpstreamPorts::Shared, limits);
    let session = bench.session(CLIENT, "a", agent(1));
    bench.gateway.handle_tcp_closed(session, bench.now);
    bench.pass(secs(59));
    let again = bench.hello(CLIENT, Some("a")).expect("admitted");
    assert_eq!(again.session, session);
}

#[test]
fn a_new_session_takes_the_agent_from_an_older_one_on_a_shared_port() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let old = bench.session(CLIENT, "a", agent(1));
    bench.up(CLIENT, 4000).expect("forwarded");
    let new = bench.session(OTHER_CLIENT, "a", agent(1));
    assert_eq!(bench.ends(), [(old, EndReason::Superseded)]);
    assert_eq!(bench.up(CLIENT, 4000), Err(DropReason::UnknownSource));
    bench.up(OTHER_CLIENT, 4000).expect("forwarded");
    assert_eq!(
        bench.down(UpstreamSocket::Shared, agent(1)),
        Ok(socket(OTHER_CLIENT, 4000))
    );
    assert_eq!(bench.gateway.sessions(bench.now)[0].key, new);
}

#[test]
fn sessions_share_an_agent_when_each_has_its_own_port() {
    let mut bench = Bench::new(UpstreamPorts::PerSession);
    let one = bench.session(CLIENT, "a", agent(1));
    let two = bench.session(OTHER_CLIENT, "a", agent(1));
    bench.up(CLIENT, 4000).expect("forwarded");
    bench.up(OTHER_CLIENT, 4000).expect("forwarded");
    assert_eq!(
        bench.down(UpstreamSocket::Of(one), agent(1)),
        Ok(socket(CLIENT, 4000))
    );
    assert_eq!(
        bench.down(UpstreamSocket::Of(two), agent(1)),
        Ok(socket(OTHER_CLIENT, 4000))
    );
    assert_eq!(
        bench.down(UpstreamSocket::Of(one), agent(2)),
        Err(DropReason::UnknownAgent)
    );
}

#[test]
fn thirty_seconds_of_silence_keep_a_session_and_seventy_five_end_it() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "a", agent(1));
    bench.up(CLIENT, 4000).expect("forwarded");
    bench.pass(secs(30));
    bench.up(CLIENT, 4000).expect("forwarded");
    bench.pass(secs(74));
    bench
        .down(UpstreamSocket::Shared, agent(1))
        .expect("forwarded");
    bench.pass(secs(74));
    assert_eq!(bench.ends(), []);
    bench.pass(secs(1));
    assert_eq!(bench.ends(), [(session, EndReason::Idle)]);
}

#[test]
fn a_session_whose_udp_never_came_ends_saying_so() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "a", agent(1));
    bench.pass(secs(75));
    assert_eq!(bench.ends(), [(session, EndReason::UdpNeverCame)]);
}

#[test]
fn the_absolute_limit_ends_a_busy_session() {
    let limits = Limits {
        session: Some(secs(100)),
        ..Limits::default()
    };
    let mut bench = Bench::with(UpstreamPorts::Shared, limits);
    let session = bench.session(CLIENT, "a", agent(1));
    for _ in 0..9 {
        bench.up(CLIENT, 4000).expect("forwarded");
        bench.pass(secs(11));
    }
    assert_eq!(bench.ends(), []);
    bench.pass(secs(1));
    assert_eq!(bench.ends(), [(session, EndReason::TimeLimit)]);
}

#[test]
fn udp_outlives_the_control_connection_by_the_grace_only() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "a", agent(1));
    bench.up(CLIENT, 4000).expect("forwarded");
    bench.pass(secs(60));
    bench.gateway.handle_tcp_closed(session, bench.now);
    bench.pass(secs(14));
    bench.up(CLIENT, 4000).expect("forwarded");
    bench.pass(secs(1));
    assert_eq!(bench.up(CLIENT, 4000), Err(DropReason::UnknownSource));
    assert_eq!(bench.ends(), [(session, EndReason::TcpClosed)]);
}

#[test]
fn without_a_control_connection_no_new_source_is_bound() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "a", agent(1));
    bench.gateway.handle_tcp_closed(session, bench.now);
    assert_eq!(bench.up(CLIENT, 4000), Err(DropReason::NoneWaiting));
}

#[test]
fn an_administrator_ends_a_session_once() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "a", agent(1));
    let now = bench.now;
    assert!(
        bench
            .gateway
            .end_session(session, EndReason::Administrator, now)
    );
    assert!(
        !bench
            .gateway
            .end_session(session, EndReason::Administrator, now)
    );
    bench.gateway.handle_tcp_closed(session, now);
    assert_eq!(bench.ends(), [(session, EndReason::Administrator)]);
    assert_eq!(
        bench
            .gateway
            .counters()
            .ended
            .count(&EndReason::Administrator),
        1
    );
}

#[test]
fn stopping_ends_everything() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let a = bench.session(CLIENT, "a", agent(1));
    let b = bench.session(CLIENT, "b", agent(2));
    bench
        .grant(request(CLIENT, Some("c"), agent(3)))
        .expect("granted");
    bench.gateway.end_all(EndReason::Shutdown, bench.now);
    assert_eq!(
        bench.ends(),
        [(a, EndReason::Shutdown), (b, EndReason::Shutdown)]
    );
    assert_eq!(bench.gateway.pending_count(), 0);
    bench.pass(secs(300));
    assert_eq!(bench.gateway.checked_entries(), 0);
}

#[test]
fn the_memory_of_past_grants_is_bounded() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    for n in 0..3_000_u32 {
        let client = IpAddr::from(n.to_be_bytes()).to_string();
        bench
            .grant(request(&client, Some("a"), agent(1)))
            .expect("granted");
        bench.now += Duration::from_millis(50);
    }
    bench.pass(secs(60));
    assert_eq!(bench.gateway.checked_entries(), grant::MAX_REMEMBERED);
}

#[test]
fn every_reason_has_a_label_of_its_own() {
    fn check<R: Reason + std::fmt::Debug>(reasons: &[R]) {
        assert_eq!(reasons.len(), R::LABELS.len());
        let mut labels: Vec<_> = reasons.iter().map(Reason::label).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), reasons.len(), "{reasons:?}");
        assert!(!labels.contains(&"other"));
    }
    check(&[
        GrantRefusal::Ambiguous,
        GrantRefusal::Full,
        GrantRefusal::Draining,
        GrantRefusal::AddressFamily,
    ]);
    check(&[
        AdmissionRefusal::NoGrant,
        AdmissionRefusal::Expired,
        AdmissionRefusal::AlreadyUsed,
        AdmissionRefusal::WrongServerName { granted: None },
        AdmissionRefusal::WrongClientAddress {
            granted: ip(CLIENT),
        },
        AdmissionRefusal::Ambiguous,
    ]);
    check(&[
        EndReason::TcpClosed,
        EndReason::AgentUnreachable,
        EndReason::Idle,
        EndReason::UdpNeverCame,
        EndReason::TimeLimit,
        EndReason::Superseded,
        EndReason::Administrator,
        EndReason::Shutdown,
    ]);
    check(&[
        DropReason::TooShort,
        DropReason::TooLong,
        DropReason::UnknownSource,
        DropReason::NoneWaiting,
        DropReason::Contended,
        DropReason::OfferSpent,
        DropReason::Unanswered,
        DropReason::UnknownAgent,
        DropReason::NoClientYet,
    ]);
}
