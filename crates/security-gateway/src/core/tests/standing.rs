//! Standing grants: admission without a Connection Manager.

use super::*;

fn standing(client: &str, server_name: Option<&str>, agent: AgentEndpoint) -> StandingGrant {
    StandingGrant {
        log_id: LogId::random(),
        client: client.parse().expect("a network"),
        server_name: server_name.map(name),
        agent,
        desktop: "desk".to_owned(),
    }
}

fn bench_with(upstream: UpstreamPorts, grants: &[StandingGrant]) -> Bench {
    let mut bench = Bench::new(upstream);
    for grant in grants {
        bench
            .gateway
            .add_standing_grant(grant.clone())
            .expect("added");
    }
    bench
}

#[test]
fn every_connection_makes_a_session_however_late_and_often() {
    let grant = standing("198.51.100.0/24", Some("Desk-1"), agent(1));
    let mut bench = bench_with(UpstreamPorts::PerSession, &[grant]);
    bench.pass(secs(86_400));
    let mut keys = Vec::new();
    let mut log_ids = Vec::new();
    for client in [CLIENT, CLIENT, OTHER_CLIENT] {
        let admission = bench.hello(client, Some("dESK-1")).expect("admitted");
        assert_eq!(admission.agent, agent(1));
        assert!(!admission.reattached);
        keys.push(admission.session);
        log_ids.push(admission.log_id);
    }
    keys.dedup();
    log_ids.sort_unstable();
    log_ids.dedup();
    assert_eq!((keys.len(), log_ids.len()), (3, 3));
    assert_eq!(bench.gateway.session_count(), 3);
    assert_eq!(bench.gateway.counters().admitted, 3);
    assert_eq!(bench.gateway.sessions(bench.now)[0].desktop, "desk");
}

#[test]
fn sessions_of_one_address_get_their_sources_one_after_the_other() {
    let grant = standing("198.51.100.7/32", Some("desk-1"), agent(1));
    let mut bench = bench_with(UpstreamPorts::PerSession, &[grant]);
    for port in 4000..4010 {
        let admission = bench.hello(CLIENT, Some("desk-1")).expect("admitted");
        bench
            .gateway
            .handle_agent_connected(admission.session, bench.now);
        let to_agent = Forward {
            session: admission.session,
            to: agent(1).udp(),
        };
        assert_eq!(bench.up(CLIENT, port), Ok(vec![to_agent]));
        assert_eq!(
            bench.down(UpstreamSocket::Of(admission.session), agent(1)),
            Ok(socket(CLIENT, port))
        );
    }
    assert_eq!(bench.gateway.session_count(), 10);
}

#[test]
fn only_the_named_network_and_name_are_admitted() {
    let named = standing("198.51.100.0/29", Some("desk-1"), agent(1));
    let nameless = standing("198.51.100.0/29", None, agent(2));
    let mut bench = bench_with(UpstreamPorts::PerSession, &[named, nameless]);
    assert_eq!(
        bench.hello(OTHER_CLIENT, Some("desk-1")),
        Err(AdmissionRefusal::NoGrant)
    );
    assert_eq!(
        bench.hello(CLIENT, Some("desk-2")),
        Err(AdmissionRefusal::NoGrant)
    );
    for (sent, to) in [
        (Some("desk-1"), agent(1)),
        (None, agent(2)),
        (Some("203.0.113.1"), agent(2)),
    ] {
        assert_eq!(bench.hello(CLIENT, sent).expect("admitted").agent, to);
    }
}

#[test]
fn the_narrowest_network_decides_and_none_is_there_twice() {
    let grants = [
        standing("198.51.0.0/16", Some("desk-1"), agent(1)),
        standing("198.51.100.7/32", Some("desk-1"), agent(2)),
        standing("198.51.100.0/24", Some("desk-1"), agent(3)),
    ];
    let mut bench = bench_with(UpstreamPorts::PerSession, &grants);
    for (client, to) in [
        (CLIENT, agent(2)),
        (OTHER_CLIENT, agent(3)),
        ("198.51.1.1", agent(1)),
    ] {
        let admission = bench.hello(client, Some("desk-1")).expect("admitted");
        assert_eq!(admission.agent, to, "{client}");
    }
    let same = standing("198.51.100.9/24", Some("DESK-1"), agent(4));
    assert_eq!(
        bench.gateway.add_standing_grant(same),
        Err(StandingGrantTaken)
    );
}

#[test]
fn a_grant_of_the_connection_manager_goes_first() {
    let grant = standing("198.51.100.7/32", Some("desk-1"), agent(1));
    let mut bench = bench_with(UpstreamPorts::PerSession, &[grant]);
    bench.session(CLIENT, "desk-1", agent(2));
    let admission = bench.hello(CLIENT, Some("desk-1")).expect("admitted");
    assert_eq!(admission.agent, agent(1));
}

#[test]
fn limits_and_draining_hold() {
    let limits = Limits {
        max_sessions: 1,
        ..Limits::default()
    };
    let mut bench = Bench::with(UpstreamPorts::PerSession, limits);
    bench
        .gateway
        .add_standing_grant(standing("198.51.100.7/32", None, agent(1)))
        .expect("added");
    bench.gateway.set_draining(true);
    assert_eq!(bench.hello(CLIENT, None), Err(AdmissionRefusal::Draining));
    bench.gateway.set_draining(false);
    bench.hello(CLIENT, None).expect("admitted");
    assert_eq!(bench.hello(CLIENT, None), Err(AdmissionRefusal::Full));
    assert_eq!(bench.gateway.session_count(), 1);
}

#[test]
fn nobody_comes_back_to_a_session_and_nothing_is_left_of_it() {
    let grant = standing("198.51.100.7/32", Some("desk-1"), agent(1));
    let mut bench = bench_with(UpstreamPorts::PerSession, &[grant]);
    let first = bench.hello(CLIENT, Some("desk-1")).expect("admitted");
    bench.gateway.handle_tcp_closed(first.session, bench.now);
    let second = bench.hello(CLIENT, Some("desk-1")).expect("admitted");
    assert_ne!(second.session, first.session);
    bench.gateway.handle_tcp_closed(second.session, bench.now);
    bench.pass(secs(15));
    let ended = [first.session, second.session].map(|key| (key, EndReason::TcpClosed));
    assert_eq!(bench.ends(), ended);
    bench.pass(secs(600));
    assert_eq!(bench.gateway.checked_entries(), 0);
}

#[test]
fn with_one_port_for_all_an_agent_has_one_session() {
    let grant = standing("198.51.100.7/32", Some("desk-1"), agent(1));
    let mut bench = bench_with(UpstreamPorts::Shared, &[grant]);
    let first = bench.hello(CLIENT, Some("desk-1")).expect("admitted");
    bench.hello(CLIENT, Some("desk-1")).expect("admitted");
    assert_eq!(bench.ends(), [(first.session, EndReason::Superseded)]);
}
