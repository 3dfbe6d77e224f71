//! Many sessions at once, on several threads.

use std::sync::Arc;

use portcullis_security_gateway::{GatewayConfig, SessionKey, Upstream, core::EndReason};
use tokio::{io::AsyncWriteExt, task::JoinSet};

use crate::harness::{Agent, Site, config, is_closed, noise, read, receive, udp, within};

const SESSIONS: u8 = 60;
const ROUNDS: u32 = 20;

/// One user's session: bytes and datagrams there and back, each checked.
async fn use_session(site: Arc<Site>, number: u8) {
    let client_address = format!("127.0.2.{number}");
    let agent = Agent::start(&format!("127.0.3.{number}")).await;
    let (mut client_tcp, mut agent_tcp) = site.session(&client_address, "desk", &agent).await;
    let client = udp(&client_address).await;
    for round in 0..ROUNDS {
        let sent = noise(200 + usize::from(number), round * 1000 + u32::from(number));
        client_tcp.write_all(&sent).await.expect("sent");
        assert!(read(&mut agent_tcp, sent.len()).await == sent);
        client.send_to(&sent, site.udp).await.expect("sent");
        let (got, from) = agent.receive().await;
        assert!(got == sent);
        agent.udp.send_to(&got, from).await.expect("sent");
        assert_eq!(receive(&client).await, (sent, site.udp));
    }
    let client_end = client_tcp.local_addr().expect("address");
    let session = site
        .gateway
        .sessions()
        .into_iter()
        .find(|session| session.client == client_end)
        .expect("listed");
    let packets = u64::from(ROUNDS);
    assert_eq!(
        (session.up.packets, session.down.packets),
        (packets, packets)
    );
    assert!(site.gateway.end_session(SessionKey::from_raw(session.key)));
    assert!(is_closed(&mut client_tcp).await);
    assert!(is_closed(&mut agent_tcp).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sessions_do_not_get_in_each_others_way() {
    for upstream in [Upstream::Fixed(0), Upstream::Ephemeral] {
        let site = Arc::new(
            Site::start(GatewayConfig {
                upstream,
                ..config()
            })
            .await,
        );
        let mut users = JoinSet::new();
        for number in 1..=SESSIONS {
            users.spawn(use_session(Arc::clone(&site), number));
        }
        within(users.join_all()).await;
        let site = Arc::into_inner(site).expect("nobody else");
        let counters = site.counters();
        let sessions = u64::from(SESSIONS);
        assert_eq!(counters.ended.count(&EndReason::Administrator), sessions);
        assert_eq!(counters.forwarded.up.packets, sessions * u64::from(ROUNDS));
        assert_eq!(counters.dropped.total(), 0);
        assert_eq!(site.gateway.session_count(), 0);
        site.stop().await;
    }
}
