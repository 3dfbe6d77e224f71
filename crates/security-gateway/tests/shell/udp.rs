//! Datagrams: whose pass, where they come out, and that everybody else hears nothing.

use std::time::Duration;

use portcullis_security_gateway::{
    GatewayConfig, Limits, Upstream,
    core::{DropReason, EndReason},
};
use tokio::net::UdpSocket;

use crate::harness::{
    Agent, CLIENT, OTHER_CLIENT, Site, at, config, ip, is_closed, is_silent, noise, receive, udp,
};

const AGENT: &str = "127.0.1.1";
const OTHER_AGENT: &str = "127.0.1.2";

fn dropped(site: &Site, reason: DropReason) -> u64 {
    site.counters().dropped.count(&reason)
}

fn ephemeral() -> GatewayConfig {
    GatewayConfig {
        upstream: Upstream::Ephemeral,
        ..config()
    }
}

async fn send(socket: &UdpSocket, payload: &[u8], site: &Site) {
    socket.send_to(payload, site.udp).await.expect("sent");
}

#[tokio::test]
async fn datagrams_pass_both_ways_untouched_from_the_fixed_port() {
    let site = Site::start(config()).await;
    let agent = Agent::start(AGENT).await;
    let _control = site.session(CLIENT, "desk-1", &agent).await;
    let client = udp(CLIENT).await;
    let upstream = site.upstream[0].port();
    for (size, seed) in [(12, 1), (36, 2), (1172, 3), (1472, 4)] {
        let (up, down) = (noise(size, seed), noise(size, seed + 100));
        send(&client, &up, &site).await;
        let (got, from) = agent.receive().await;
        assert!(got == up, "{size} bytes changed on the way to the agent");
        assert_eq!(from.port(), upstream);
        agent.udp.send_to(&down, from).await.expect("sent");
        let (got, from) = receive(&client).await;
        assert!(got == down, "{size} bytes changed on the way to the client");
        assert_eq!(from, site.udp);
    }
    let session = &site.gateway.sessions()[0];
    assert_eq!((session.up.packets, session.down.packets), (4, 4));
    let bytes = 12 + 36 + 1172 + 1472;
    assert_eq!((session.up.bytes, session.down.bytes), (bytes, bytes));
    assert_eq!(session.udp_client, client.local_addr().ok());
    site.stop().await;
}

#[tokio::test]
async fn a_configured_source_port_is_used() {
    let free = udp("127.0.0.1").await;
    let port = free.local_addr().expect("address").port();
    drop(free);
    let site = Site::start(GatewayConfig {
        upstream: Upstream::Fixed(port),
        upstream_address: Some(ip("127.0.0.1")),
        ..config()
    })
    .await;
    let agent = Agent::start(AGENT).await;
    let (_client_tcp, agent_tcp) = site.session(CLIENT, "desk-1", &agent).await;
    assert_eq!(
        agent_tcp.peer_addr().expect("address").ip(),
        ip("127.0.0.1")
    );
    let client = udp(CLIENT).await;
    send(&client, &noise(100, 1), &site).await;
    assert_eq!(agent.receive().await.1, at("127.0.0.1", port));
    site.stop().await;
}

#[tokio::test]
async fn datagrams_ahead_of_the_control_connection_are_dropped_silently() {
    let site = Site::start(config()).await;
    let agent = Agent::start(AGENT).await;
    site.grant(CLIENT, Some("desk-1"), &agent);
    let client = udp(CLIENT).await;
    send(&client, &noise(100, 1), &site).await;
    site.until("the drop", |site| {
        dropped(site, DropReason::UnknownSource) == 1
    })
    .await;
    assert!(is_silent(&client));

    let (_client, hello) = site.greet(CLIENT, Some("desk-1")).await;
    let _agent_end = agent.accept(&hello).await;
    let second = noise(100, 2);
    send(&client, &second, &site).await;
    assert!(agent.receive().await.0 == second, "the early one was kept");
    site.stop().await;
}

#[tokio::test]
async fn strangers_hear_nothing_and_reach_nobody() {
    let site = Site::start(config()).await;
    let agent = Agent::start(AGENT).await;
    let _control = site.session(CLIENT, "desk-1", &agent).await;
    let client = udp(CLIENT).await;
    send(&client, &noise(100, 1), &site).await;
    agent.receive().await;
    let stranger = udp(OTHER_CLIENT).await;
    for size in [12, 100, 1472] {
        send(&stranger, &noise(size, 2), &site).await;
    }
    // Nor does a stranger on the agents' side.
    let elsewhere = udp(OTHER_AGENT).await;
    elsewhere
        .send_to(&noise(100, 3), at("127.0.0.1", site.upstream[0].port()))
        .await
        .expect("sent");
    site.until("the drops", |site| {
        dropped(site, DropReason::UnknownSource) == 3
            && dropped(site, DropReason::UnknownAgent) == 1
    })
    .await;
    assert!(is_silent(&stranger));
    assert!(is_silent(&elsewhere));
    assert!(is_silent(&agent.udp));
    assert!(is_silent(&client));
    site.stop().await;
}

#[tokio::test]
async fn sizes_no_pcoip_packet_has_are_dropped() {
    let site = Site::start(config()).await;
    let agent = Agent::start(AGENT).await;
    let _control = site.session(CLIENT, "desk-1", &agent).await;
    let client = udp(CLIENT).await;
    for size in [0, 11, 1473, 3000] {
        send(&client, &noise(size, 1), &site).await;
    }
    send(&client, &noise(12, 1), &site).await;
    assert_eq!(agent.receive().await.0.len(), 12);
    assert_eq!(dropped(&site, DropReason::TooShort), 2);
    assert_eq!(dropped(&site, DropReason::TooLong), 2);
    site.stop().await;
}

#[tokio::test]
async fn each_session_has_its_own_port_when_asked_for() {
    let site = Site::start(ephemeral()).await;
    let agent = Agent::start(AGENT).await;
    let _first = site.session(CLIENT, "desk-1", &agent).await;
    let _second = site.session(OTHER_CLIENT, "desk-1", &agent).await;
    let clients = [udp(CLIENT).await, udp(OTHER_CLIENT).await];
    let mut ports = Vec::new();
    for (client, seed) in clients.iter().zip([1, 2]) {
        send(client, &noise(100, seed), &site).await;
        let (got, from) = agent.receive().await;
        assert!(got == noise(100, seed));
        ports.push(from);
    }
    assert_ne!(ports[0], ports[1]);
    for ((client, port), seed) in clients.iter().zip(&ports).zip([3, 4]) {
        agent
            .udp
            .send_to(&noise(100, seed), port)
            .await
            .expect("sent");
        assert!(receive(client).await.0 == noise(100, seed));
    }
    site.stop().await;
}

#[tokio::test]
async fn an_agent_that_does_not_listen_for_a_while_does_no_harm() {
    let site = Site::start(ephemeral()).await;
    let mut agent = Agent::start(AGENT).await;
    let _control = site.session(CLIENT, "desk-1", &agent).await;
    let client = udp(CLIENT).await;
    let address = agent.udp.local_addr().expect("address");
    agent.udp = udp(OTHER_AGENT).await;
    for seed in 0..20 {
        send(&client, &noise(100, seed), &site).await;
    }
    site.until("all of them to be tried", |site| {
        site.counters().forwarded.up.packets == 20
    })
    .await;
    agent.udp = UdpSocket::bind(address).await.expect("bound again");
    // The system reports the refusals on the next sends; each takes one datagram with it.
    let sent = noise(100, 99);
    let arrives = async {
        loop {
            send(&client, &sent, &site).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (got, from) = tokio::select! {
        received = agent.receive() => received,
        () = arrives => unreachable!("sends for ever"),
    };
    assert!(got == sent);
    agent.udp.send_to(&got, from).await.expect("sent");
    assert!(receive(&client).await.0 == sent);
    site.stop().await;
}

#[tokio::test]
async fn two_clients_behind_one_address_reach_the_agent_that_answers() {
    let site = Site::start(config()).await;
    let agents = [Agent::start(AGENT).await, Agent::start(OTHER_AGENT).await];
    let _first = site.session(CLIENT, "desk-1", &agents[0]).await;
    let _second = site.session(CLIENT, "desk-2", &agents[1]).await;
    let client = udp(CLIENT).await;
    let invite = noise(100, 1);
    send(&client, &invite, &site).await;
    let mut ways = Vec::new();
    for agent in &agents {
        let (got, from) = agent.receive().await;
        assert!(got == invite);
        ways.push(from);
    }
    let answer = noise(100, 2);
    agents[1].udp.send_to(&answer, ways[1]).await.expect("sent");
    assert!(receive(&client).await.0 == answer);
    let next = noise(100, 3);
    send(&client, &next, &site).await;
    assert!(agents[1].receive().await.0 == next);
    // The other client is the only one left.
    let other = udp(CLIENT).await;
    send(&other, &invite, &site).await;
    assert!(agents[0].receive().await.0 == invite);
    assert!(is_silent(&agents[1].udp));
    site.stop().await;
}

#[tokio::test]
async fn a_newer_session_takes_the_agent_over() {
    let site = Site::start(config()).await;
    let agent = Agent::start(AGENT).await;
    let (mut old_client, mut old_agent) = site.session(CLIENT, "desk-1", &agent).await;
    let old = udp(CLIENT).await;
    send(&old, &noise(100, 1), &site).await;
    agent.receive().await;
    let _new = site.session(OTHER_CLIENT, "desk-1", &agent).await;
    assert!(is_closed(&mut old_client).await);
    assert!(is_closed(&mut old_agent).await);
    let new = udp(OTHER_CLIENT).await;
    send(&old, &noise(100, 2), &site).await;
    send(&new, &noise(100, 3), &site).await;
    let (got, from) = agent.receive().await;
    assert!(got == noise(100, 3));
    agent.udp.send_to(&got, from).await.expect("sent");
    receive(&new).await;
    assert!(is_silent(&old));
    let ended = site.counters().ended;
    assert_eq!(ended.count(&EndReason::Superseded), 1);
    site.stop().await;
}

#[tokio::test]
async fn silence_ends_a_session_and_closes_its_control_connection() {
    let site = Site::start(GatewayConfig {
        limits: Limits {
            udp_idle: Duration::from_secs(1),
            ..Limits::default()
        },
        ..config()
    })
    .await;
    let agent = Agent::start(AGENT).await;
    let (mut client_tcp, mut agent_tcp) = site.session(CLIENT, "desk-1", &agent).await;
    let client = udp(CLIENT).await;
    send(&client, &noise(100, 1), &site).await;
    assert!(is_closed(&mut client_tcp).await);
    assert!(is_closed(&mut agent_tcp).await);
    let ended = site.counters().ended;
    assert_eq!(ended.count(&EndReason::AgentNeverAnswered), 1);
    assert_eq!(site.gateway.session_count(), 0);
    site.stop().await;
}

#[tokio::test]
async fn ipv6_and_ipv4_come_in_on_one_listener() {
    let site = Site::start(GatewayConfig {
        tcp_listen: at("::", 0),
        udp_listen: at("::", 0),
        public_addresses: vec![ip("::1"), ip("127.0.0.1")],
        ..config()
    })
    .await;
    for (client, host) in [("::1", "::1"), ("127.0.0.1", "127.0.0.1")] {
        let agent = Agent::start(host).await;
        let granted = site.grant(client, Some("desk-1"), &agent);
        assert_eq!(granted.address, ip(client));
        let site_there = at(client, site.tcp.port());
        let mut stream = tokio::net::TcpStream::connect(site_there)
            .await
            .expect("connected");
        let hello = crate::harness::client_hello(Some("desk-1"));
        tokio::io::AsyncWriteExt::write_all(&mut stream, &hello)
            .await
            .expect("sent");
        let _agent_end = agent.accept(&hello).await;
        let socket = udp(client).await;
        let sent = noise(100, 1);
        socket.send_to(&sent, site_there).await.expect("sent");
        let (got, from) = agent.receive().await;
        assert!(got == sent);
        agent.udp.send_to(&got, from).await.expect("sent");
        assert_eq!(receive(&socket).await, (sent, site_there));
    }
    site.stop().await;
}
