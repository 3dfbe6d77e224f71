//! Control connections: who is admitted, what passes, how it ends.

use std::time::Duration;

use portcullis_security_gateway::{
    GatewayConfig, Limits, SessionKey,
    core::{AdmissionRefusal, EndReason},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::harness::{
    Agent, CLIENT, OTHER_CLIENT, Site, client_hello, config, ip, is_closed, is_reset, noise, read,
    within,
};

const AGENT: &str = "127.0.1.1";

fn refused(site: &Site, reason: &AdmissionRefusal) -> u64 {
    site.counters().admissions_refused.count(reason)
}

/// What was closed before it could be matched with a grant.
fn early_closes(site: &Site, reason: &str) -> u64 {
    let name = "portcullis_gateway_connections_refused_total";
    let prefix = format!("{name}{{reason=\"{reason}\"}} ");
    crate::metrics::exposition(&site.gateway)
        .lines()
        .find_map(|line| line.strip_prefix(&prefix)?.parse().ok())
        .expect("counted")
}

#[tokio::test]
async fn bytes_pass_both_ways_untouched() {
    let site = Site::start(config()).await;
    let agent = Agent::start(AGENT).await;
    let granted = site.grant(CLIENT, Some("Desk-1"), &agent);
    assert_eq!(granted.address, site.tcp.ip());
    assert_eq!(granted.port, site.tcp.port());
    assert_eq!(site.udp.port(), site.tcp.port());

    let (client, hello) = site.greet(CLIENT, Some("desk-1")).await;
    let agent_end = agent.accept(&hello).await;
    let (up, down) = (noise(300_000, 1), noise(500_000, 2));
    let (mut client_in, mut client_out) = client.into_split();
    let (mut agent_in, mut agent_out) = agent_end.into_split();
    let send_up = async {
        client_out.write_all(&up).await.expect("sent");
        client_out.shutdown().await.expect("closed");
    };
    let send_down = async {
        agent_out.write_all(&down).await.expect("sent");
        agent_out.shutdown().await.expect("closed");
    };
    let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
    let (_, _, up_result, down_result) = within(async {
        tokio::join!(
            send_up,
            send_down,
            agent_in.read_to_end(&mut got_up),
            client_in.read_to_end(&mut got_down)
        )
    })
    .await;
    up_result.expect("read");
    down_result.expect("read");
    assert!(got_up == up, "bytes changed on the way to the agent");
    assert!(got_down == down, "bytes changed on the way to the client");
    site.stop().await;
}

#[tokio::test]
async fn a_client_hello_may_come_byte_by_byte() {
    let site = Site::start(config()).await;
    let agent = Agent::start(AGENT).await;
    site.grant(CLIENT, Some("desk-1"), &agent);
    let mut client = site.connect(CLIENT).await;
    client.set_nodelay(true).expect("set");
    let hello = client_hello(Some("desk-1"));
    for byte in &hello {
        client.write_all(&[*byte]).await.expect("sent");
        tokio::task::yield_now().await;
    }
    agent.accept(&hello).await;
    site.stop().await;
}

#[tokio::test]
async fn a_client_without_a_server_name_needs_a_grant_without_one() {
    let site = Site::start(config()).await;
    let agent = Agent::start(AGENT).await;
    site.grant(CLIENT, Some("desk-1"), &agent);
    let (mut nameless, _) = site.greet(CLIENT, None).await;
    assert!(is_closed(&mut nameless).await);
    assert!(agent.is_untouched().await);
    let expected = AdmissionRefusal::WrongServerName { granted: None };
    assert_eq!(refused(&site, &expected), 1);

    site.grant(CLIENT, None, &agent);
    let (_nameless, hello) = site.greet(CLIENT, None).await;
    agent.accept(&hello).await;
    site.stop().await;
}

#[tokio::test]
async fn another_name_or_another_address_is_refused() {
    let site = Site::start(config()).await;
    let agent = Agent::start(AGENT).await;
    site.grant(CLIENT, Some("desk-1"), &agent);
    let (mut wrong_name, _) = site.greet(CLIENT, Some("desk-2")).await;
    assert!(is_reset(&mut wrong_name).await);
    let (mut wrong_address, _) = site.greet(OTHER_CLIENT, Some("desk-1")).await;
    assert!(is_reset(&mut wrong_address).await);
    let (mut unknown, _) = site.greet(OTHER_CLIENT, Some("desk-9")).await;
    assert!(is_closed(&mut unknown).await);
    assert!(agent.is_untouched().await);
    for reason in [
        AdmissionRefusal::WrongServerName { granted: None },
        AdmissionRefusal::WrongClientAddress {
            granted: ip(CLIENT),
            came: ip(OTHER_CLIENT),
        },
        AdmissionRefusal::NoGrant,
    ] {
        assert_eq!(refused(&site, &reason), 1, "{reason:?}");
    }
    assert_eq!(site.gateway.session_count(), 0);
    site.stop().await;
}

#[tokio::test]
async fn an_expired_grant_admits_nobody() {
    let site = Site::start(GatewayConfig {
        limits: Limits {
            grant_window: Duration::from_millis(30),
            ..Limits::default()
        },
        ..config()
    })
    .await;
    let agent = Agent::start(AGENT).await;
    site.grant(CLIENT, Some("desk-1"), &agent);
    site.until("the grant to expire", |site| {
        site.counters().grants_expired == 1
    })
    .await;
    assert_eq!(site.gateway.pending_count(), 0);
    let (mut late, _) = site.greet(CLIENT, Some("desk-1")).await;
    assert!(is_closed(&mut late).await);
    assert!(agent.is_untouched().await);
    assert_eq!(refused(&site, &AdmissionRefusal::Expired), 1);
    site.stop().await;
}

#[tokio::test]
async fn a_replayed_grant_is_refused_while_the_first_connection_lives() {
    let site = Site::start(config()).await;
    let agent = Agent::start(AGENT).await;
    let (mut client, mut agent_end) = site.session(CLIENT, "desk-1", &agent).await;
    let (mut replay, _) = site.greet(CLIENT, Some("desk-1")).await;
    assert!(is_closed(&mut replay).await);
    assert!(agent.is_untouched().await);
    assert_eq!(refused(&site, &AdmissionRefusal::AlreadyUsed), 1);
    client.write_all(b"still here").await.expect("sent");
    assert_eq!(read(&mut agent_end, 10).await, b"still here");
    site.stop().await;
}

#[tokio::test]
async fn a_client_may_come_back_to_its_session() {
    let site = Site::start(config()).await;
    let agent = Agent::start(AGENT).await;
    let (client, mut first) = site.session(CLIENT, "desk-1", &agent).await;
    let key = site.gateway.sessions()[0].key;
    let mut client = client;
    client.shutdown().await.expect("half closed");
    assert!(is_closed(&mut first).await);
    // The agent still holds its end: the client need not wait for it.
    let (mut again, hello) = site.greet(CLIENT, Some("desk-1")).await;
    let mut second = agent.accept(&hello).await;
    again.write_all(b"back").await.expect("sent");
    assert_eq!(read(&mut second, 4).await, b"back");
    assert!(is_closed(&mut client).await, "the old connection is cut");
    let sessions = site.gateway.sessions();
    assert_eq!((sessions.len(), sessions[0].key), (1, key));
    assert_eq!(site.counters().reattached, 1);
    site.stop().await;
}

#[tokio::test]
async fn a_refusing_agent_closes_the_client_which_may_try_again() {
    let site = Site::start(config()).await;
    let Agent { tcp, udp, endpoint } = Agent::start(AGENT).await;
    let address = tcp.local_addr().expect("address");
    drop(tcp);
    site.gateway
        .authorize(crate::harness::request(CLIENT, Some("desk-1"), endpoint))
        .expect("granted");
    let (mut client, _) = site.greet(CLIENT, Some("desk-1")).await;
    assert!(is_closed(&mut client).await);
    assert_eq!(site.counters().agents_unreachable, 1);

    let tcp = TcpListener::bind(address).await.expect("bound again");
    let agent = Agent { tcp, udp, endpoint };
    let (_client, hello) = site.greet(CLIENT, Some("desk-1")).await;
    agent.accept(&hello).await;
    assert_eq!(site.counters().reattached, 1);
    site.stop().await;
}

#[tokio::test]
async fn an_agent_that_closes_closes_the_client() {
    let site = Site::start(config()).await;
    let agent = Agent::start(AGENT).await;
    let (mut client, mut agent_end) = site.session(CLIENT, "desk-1", &agent).await;
    agent_end.write_all(b"bye").await.expect("sent");
    drop(agent_end);
    assert_eq!(read(&mut client, 3).await, b"bye");
    assert!(is_closed(&mut client).await);
    assert_eq!(site.gateway.sessions()[0].tcp, "closed");
    site.stop().await;
}

#[tokio::test]
async fn a_half_closed_connection_still_carries_the_other_way() {
    let site = Site::start(config()).await;
    let agent = Agent::start(AGENT).await;
    let (mut client, mut agent_end) = site.session(CLIENT, "desk-1", &agent).await;
    client.shutdown().await.expect("half closed");
    assert!(is_closed(&mut agent_end).await);
    agent_end.write_all(b"the rest").await.expect("sent");
    agent_end.shutdown().await.expect("closed");
    assert_eq!(read(&mut client, 8).await, b"the rest");
    assert!(is_closed(&mut client).await);
    site.stop().await;
}

#[tokio::test]
async fn what_is_no_client_hello_is_reset_and_counted() {
    let site = Site::start(config()).await;
    let agent = Agent::start(AGENT).await;
    site.grant(CLIENT, Some("desk-1"), &agent);
    let mut text = site.connect(CLIENT).await;
    text.write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .expect("sent");
    assert!(is_closed(&mut text).await);
    // A record that announces an endless handshake message, and goes on for ever.
    let mut endless = site.connect(CLIENT).await;
    let mut record = vec![22, 3, 1, 0x3f, 0xff, 1, 0, 0xff, 0xff];
    record.resize(40_000, 0);
    let _ = endless.write_all(&record).await;
    assert!(is_closed(&mut endless).await);
    drop(site.connect(CLIENT).await);
    site.until("the closing to be noticed", |site| {
        early_closes(site, "client_gone") == 1
    })
    .await;
    assert_eq!(early_closes(&site, "no_client_hello"), 2);
    assert!(agent.is_untouched().await);
    assert_eq!(site.gateway.session_count(), 0);
    site.stop().await;
}

#[tokio::test]
async fn a_client_hello_that_takes_too_long_is_reset_and_counted() {
    let site = Site::start(GatewayConfig {
        client_hello: Duration::from_millis(50),
        ..config()
    })
    .await;
    let agent = Agent::start(AGENT).await;
    site.grant(CLIENT, Some("desk-1"), &agent);
    let mut silent = site.connect(CLIENT).await;
    assert!(is_closed(&mut silent).await);
    let mut slow = site.connect(CLIENT).await;
    let hello = client_hello(Some("desk-1"));
    let _ = slow.write_all(&hello[..hello.len() - 1]).await;
    assert!(is_closed(&mut slow).await);
    assert_eq!(early_closes(&site, "client_hello_timed_out"), 2);
    assert!(agent.is_untouched().await);
    assert_eq!(site.gateway.session_count(), 0);
    site.stop().await;
}

#[tokio::test]
async fn one_address_cannot_hold_every_place() {
    let site = Site::start(GatewayConfig {
        unadmitted_per_address: 2,
        ..config()
    })
    .await;
    let agent = Agent::start(AGENT).await;
    let _first = site.connect(OTHER_CLIENT).await;
    let _second = site.connect(OTHER_CLIENT).await;
    let mut third = site.connect(OTHER_CLIENT).await;
    assert!(is_closed(&mut third).await);
    // Those who are admitted hold none.
    let mut admitted = Vec::new();
    for number in 1..=4 {
        admitted.push(
            site.session(CLIENT, &format!("desk-{number}"), &agent)
                .await,
        );
    }
    site.stop().await;
}

#[tokio::test]
async fn a_session_ends_a_while_after_its_connection() {
    let site = Site::start(GatewayConfig {
        limits: Limits {
            grant_window: Duration::from_secs(1),
            tcp_closed_grace: Duration::from_millis(50),
            ..Limits::default()
        },
        ..config()
    })
    .await;
    let agent = Agent::start(AGENT).await;
    let (client, agent_end) = site.session(CLIENT, "desk-1", &agent).await;
    drop((client, agent_end));
    site.until("the session to end", |site| {
        site.counters().ended.count(&EndReason::TcpClosed) == 1
    })
    .await;
    assert_eq!(site.gateway.session_count(), 0);
    let (mut late, _) = site.greet(CLIENT, Some("desk-1")).await;
    assert!(is_closed(&mut late).await);
    site.stop().await;
}

#[tokio::test]
async fn an_administrator_closes_both_ends() {
    let site = Site::start(config()).await;
    let agent = Agent::start(AGENT).await;
    let (mut client, mut agent_end) = site.session(CLIENT, "desk-1", &agent).await;
    let key = SessionKey::from_raw(site.gateway.sessions()[0].key);
    assert!(site.gateway.end_session(key));
    assert!(!site.gateway.end_session(key));
    assert!(is_closed(&mut client).await);
    assert!(is_closed(&mut agent_end).await);
    site.stop().await;
}

#[tokio::test]
async fn stopping_ends_sessions_and_unadmitted_connections() {
    let site = Site::start(config()).await;
    let agent = Agent::start(AGENT).await;
    let (mut client, mut agent_end) = site.session(CLIENT, "desk-1", &agent).await;
    let mut waiting = site.connect(OTHER_CLIENT).await;
    site.grant(OTHER_CLIENT, Some("desk-2"), &agent);
    let gateway = site.stop().await;
    assert!(is_closed(&mut client).await);
    assert!(is_closed(&mut agent_end).await);
    assert!(is_closed(&mut waiting).await);
    assert_eq!((gateway.session_count(), gateway.pending_count()), (0, 0));
    let ended = gateway.metrics().counters().ended;
    assert_eq!(ended.count(&EndReason::Shutdown), 1);
}
