//! What a gateway leaves behind: nothing. Alone in its process, since it counts the process's file descriptors and tasks.

#[expect(
    dead_code,
    reason = "this binary needs less of the harness than the other"
)]
#[path = "shell/harness.rs"]
mod harness;

use std::time::Duration;

use harness::{Agent, CLIENT, Site, config, is_closed, noise, receive, udp};
use portcullis_security_gateway::{GatewayConfig, Limits, SessionKey, Upstream};
use tokio::runtime::Handle;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd")
        .expect("readable")
        .count()
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// A gateway's life: sessions served, refused, broken and idled out, then stopped.
async fn live(upstream: Upstream) {
    let site = Site::start(GatewayConfig {
        upstream,
        client_hello: Duration::from_millis(300),
        limits: Limits {
            grant_window: Duration::from_millis(300),
            tcp_closed_grace: Duration::from_millis(50),
            ..Limits::default()
        },
        ..config()
    })
    .await;
    // Once it has answered it runs; its task for this connection ended in the step that reset it.
    let (mut stranger, _) = site.greet(CLIENT, Some("desk-1")).await;
    assert!(is_closed(&mut stranger).await);
    drop(stranger);
    let (while_idle, descriptors_idle) = (tasks(), descriptors());
    let mut silent = site.connect(CLIENT).await;
    assert!(is_closed(&mut silent).await);
    drop(silent);
    for round in 1..=3 {
        let agent = Agent::start("127.0.1.1").await;
        let (client_tcp, agent_tcp) = site.session(CLIENT, "desk-1", &agent).await;
        let client = udp(CLIENT).await;
        client
            .send_to(&noise(100, 1), site.udp)
            .await
            .expect("sent");
        let (got, from) = agent.receive().await;
        agent.udp.send_to(&got, from).await.expect("sent");
        receive(&client).await;
        let (mut refused, _) = site.greet(CLIENT, Some("desk-2")).await;
        assert!(is_closed(&mut refused).await);
        drop((client_tcp, agent_tcp));
        site.until("the session to end", |site| {
            site.counters().ended.total() == 2 * round - 1
        })
        .await;
        site.grant(CLIENT, Some("desk-3"), &agent);
        let (_client, hello) = site.greet(CLIENT, Some("desk-3")).await;
        let _agent_end = agent.accept(&hello).await;
        for session in site.gateway.sessions() {
            assert!(site.gateway.end_session(SessionKey::from_raw(session.key)));
        }
    }
    // While it still runs: connections and sessions gone, only the gateway's own tasks left.
    let idle = async {
        while tasks() > while_idle || descriptors() > descriptors_idle {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    harness::within(idle).await;
    site.stop().await;
}

#[tokio::test]
async fn nothing_is_left_behind() {
    for upstream in [Upstream::Fixed(0), Upstream::Ephemeral] {
        // The first life opens what the process keeps.
        live(upstream).await;
        let (descriptors_before, tasks_before) = (descriptors(), tasks());
        live(upstream).await;
        assert_eq!(descriptors(), descriptors_before, "{upstream:?}");
        assert_eq!(tasks(), tasks_before, "{upstream:?}");
    }
}
