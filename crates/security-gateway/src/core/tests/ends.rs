//! How sessions end, and what is left of them.

use super::*;

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
fn coming_back_starts_the_idle_limit_anew() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "a", agent(1));
    bench.up(CLIENT, 4000).expect("forwarded");
    bench
        .down(UpstreamSocket::Shared, agent(1))
        .expect("forwarded");
    bench.pass(secs(70));
    bench.gateway.handle_tcp_closed(session, bench.now);
    bench.pass(secs(10));
    bench.hello(CLIENT, Some("a")).expect("admitted");
    bench.pass(secs(74));
    assert_eq!(bench.ends(), []);
    bench.pass(secs(1));
    assert_eq!(bench.ends(), [(session, EndReason::Idle)]);
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
            came: ip(OTHER_CLIENT),
        },
        AdmissionRefusal::Ambiguous,
        AdmissionRefusal::Full,
        AdmissionRefusal::Draining,
    ]);
    check(&[
        EndReason::TcpClosed,
        EndReason::AgentUnreachable,
        EndReason::Idle,
        EndReason::UdpNeverCame,
        EndReason::AgentNeverAnswered,
        EndReason::TimeLimit,
        EndReason::Superseded,
        EndReason::Administrator,
        EndReason::Shutdown,
    ]);
    check(&[
        UdpVerdict::TooSoon,
        UdpVerdict::ClientSilent,
        UdpVerdict::AgentSilent,
        UdpVerdict::BothWays,
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
