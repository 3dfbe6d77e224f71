//! What administrators are shown of the quality of a session.

use crate::harness::{Agent, CLIENT, Site, config, receive, udp};
use crate::metrics::exposition;

/// A datagram with an ESP header behind a transport header.
fn esp(sequence: u32) -> Vec<u8> {
    let mut packet = vec![0, 0, 0, 2, 0, 0, 0x0a, 0x0b];
    packet.extend(sequence.to_be_bytes());
    packet.resize(100, 0x5a);
    packet
}

#[tokio::test]
async fn a_session_shows_what_was_lost_each_way_and_the_node_the_sum() {
    let site = Site::start(config()).await;
    let agent = Agent::start("127.0.1.1").await;
    let _control = site.session(CLIENT, "desk-1", &agent).await;
    let client = udp(CLIENT).await;
    for sequence in (1..=300).filter(|sequence| ![50, 51, 100].contains(sequence)) {
        client
            .send_to(&esp(sequence), site.udp)
            .await
            .expect("sent");
        let (_, from) = agent.receive().await;
        if sequence != 7 {
            agent.udp.send_to(&esp(sequence), from).await.expect("sent");
            receive(&client).await;
        }
    }
    let sessions = serde_json::to_value(site.gateway.sessions()).expect("JSON");
    let (up, down) = (
        &sessions[0]["up"]["quality"],
        &sessions[0]["down"]["quality"],
    );
    assert_eq!(up["layout"], "transport_header");
    for (field, up_expected, down_expected) in [
        ("received", 297, 296),
        ("lost", 3, 4),
        ("missing", 0, 0),
        ("reordered", 0, 0),
        ("duplicated", 0, 0),
        ("late", 0, 0),
    ] {
        assert_eq!(up[field], up_expected, "{field} in {sessions}");
        assert_eq!(down[field], down_expected, "{field} in {sessions}");
    }
    assert!(up["jitter_us"].is_u64(), "{sessions}");
    let text = exposition(&site.gateway);
    for line in [
        "portcullis_gateway_udp_sequence_received_total{direction=\"up\"} 297",
        "portcullis_gateway_udp_sequence_lost_total{direction=\"down\"} 4",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    site.stop().await;
}

#[tokio::test]
async fn a_client_whose_port_changes_hears_its_agent_at_once_and_the_old_port_still_does() {
    let site = Site::start(config()).await;
    let agent = Agent::start("127.0.1.1").await;
    let _control = site.session(CLIENT, "desk-1", &agent).await;
    let (old, new) = (udp(CLIENT).await, udp(CLIENT).await);
    for sequence in 1..=10 {
        old.send_to(&esp(sequence), site.udp).await.expect("sent");
        let (_, from) = agent.receive().await;
        agent.udp.send_to(&esp(sequence), from).await.expect("sent");
        receive(&old).await;
    }
    new.send_to(&esp(11), site.udp).await.expect("sent");
    let (got, from) = agent.receive().await;
    assert!(got == esp(11), "changed on the way to the agent");
    agent.udp.send_to(&esp(11), from).await.expect("sent");
    for socket in [&new, &old] {
        assert!(
            receive(socket).await.0 == esp(11),
            "changed on the way back"
        );
    }
    site.stop().await;
}
