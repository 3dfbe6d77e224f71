//! What the gateway shows to Prometheus.

use portcullis_security_gateway::GatewayHandle;
use prometheus_client::{encoding::text::encode, registry::Registry};

use crate::harness::{Agent, CLIENT, Site, config, is_closed, noise, receive, udp};

/// The gateway's metrics as text.
pub(crate) fn exposition(gateway: &GatewayHandle) -> String {
    let mut registry = Registry::default();
    gateway.metrics().register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).expect("encoded");
    text
}

#[tokio::test]
async fn metrics_count_what_happened_and_name_nobody() {
    let site = Site::start(config()).await;
    let agent = Agent::start("127.0.1.1").await;
    let _control = site.session(CLIENT, "desk-1", &agent).await;
    let client = udp(CLIENT).await;
    client
        .send_to(&noise(100, 1), site.udp)
        .await
        .expect("sent");
    let (got, from) = agent.receive().await;
    agent.udp.send_to(&got[..50], from).await.expect("sent");
    receive(&client).await;
    let (mut refused, _) = site.greet(CLIENT, Some("desk-2")).await;
    assert!(is_closed(&mut refused).await);
    site.grant(CLIENT, Some("desk-3"), &agent);

    let text = exposition(&site.gateway);
    for line in [
        "portcullis_gateway_sessions 1",
        "portcullis_gateway_grants_pending 1",
        "portcullis_gateway_grants_total 2",
        "portcullis_gateway_admissions_total{kind=\"started\"} 1",
        "portcullis_gateway_connections_refused_total{reason=\"no_grant\"} 1",
        "portcullis_gateway_udp_packets_total{direction=\"up\"} 1",
        "portcullis_gateway_udp_bytes_total{direction=\"down\"} 50",
        "portcullis_gateway_sessions_ended_total{reason=\"superseded\"} 0",
        "portcullis_gateway_udp_dropped_total{reason=\"unknown_source\"} 0",
        "portcullis_gateway_udp_agent_socket_errors_total{reason=\"refused\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    assert!(
        text.lines()
            .all(|line| line.starts_with('#') || line.starts_with("portcullis_gateway_"))
    );
    let session = site.gateway.sessions().remove(0);
    for private in [&session.user, &session.session, &session.desktop] {
        assert!(!text.contains(private.as_str()), "{private} in {text}");
    }
    assert!(!text.contains(CLIENT), "{text}");
    site.stop().await;
}
