//! What load balancers and supervisors ask.

use std::time::Duration;

use portcullis_connection_manager::ManagerConfig;

use crate::support::{
    Front,
    fakes::{FakeAgent, FakeBroker},
};

const SUCCESS: &str = r#"{"code":200,"status":"success"}"#;
const NO_BROKER: &str =
    r#"{"code":500,"status":"Error","reason":"Cannot communicate with broker"}"#;
const NO_GATEWAY: &str =
    r#"{"code":500,"status":"Error","reason":"Security Gateway is enabled but does not respond"}"#;

fn always_fresh() -> ManagerConfig {
    ManagerConfig {
        health_fresh: Duration::ZERO,
        ..ManagerConfig::default()
    }
}

#[tokio::test]
async fn health_tells_what_is_wrong_in_the_documented_words() {
    let front = Front::with(always_fresh()).await;
    let mut wire = front.wire().await;
    let reply = wire.request("GET", "/health").await;
    assert_eq!((reply.status, reply.body.as_str()), (200, SUCCESS));
    assert!(
        reply
            .head
            .contains("\r\nContent-Type: application/json\r\n"),
        "{}",
        reply.head
    );

    *front.gateway.healthy.lock().unwrap() = Err("gone");
    let reply = wire.request("GET", "/health").await;
    assert_eq!((reply.status, reply.body.as_str()), (500, NO_GATEWAY));

    *front.broker.healthy.lock().unwrap() = Err("gone");
    let reply = wire.request("GET", "/health").await;
    assert_eq!((reply.status, reply.body.as_str()), (500, NO_BROKER));

    *front.gateway.healthy.lock().unwrap() = Ok(());
    *front.broker.healthy.lock().unwrap() = Ok(());
    front
        .manager
        .set_configuration_fault(Some("The public address is \"private\"".into()));
    let reply = wire.request("GET", "/health").await;
    assert_eq!(reply.status, 500);
    assert_eq!(
        reply.body,
        r#"{"code":500,"status":"Error","reason":"The public address is \"private\""}"#
    );
    front.manager.set_configuration_fault(None);
    assert_eq!(wire.request("GET", "/health").await.body, SUCCESS);
}

#[tokio::test]
async fn without_a_gateway_its_health_does_not_matter() {
    let broker = FakeBroker::usual();
    let front = Front::between(always_fresh(), broker, FakeAgent::usual(), false).await;
    *front.gateway.healthy.lock().unwrap() = Err("gone");
    assert_eq!(
        front.wire().await.request("GET", "/health").await.body,
        SUCCESS
    );
}

#[tokio::test]
async fn many_health_checks_are_one_question_to_the_broker() {
    let front = Front::with(ManagerConfig {
        health_fresh: Duration::from_secs(3600),
        ..ManagerConfig::default()
    })
    .await;
    let mut wires = Vec::new();
    for _ in 0..5 {
        wires.push(front.wire().await);
    }
    let asked = wires.iter_mut().map(|wire| wire.request("GET", "/health"));
    for reply in futures_util::future::join_all(asked).await {
        assert_eq!(reply.body, SUCCESS);
    }
    assert_eq!(*front.broker.probes.lock().unwrap(), 1);
}

#[tokio::test]
async fn the_page_and_the_sign_of_life_do_not_depend_on_the_broker() {
    let front = Front::with(always_fresh()).await;
    *front.broker.healthy.lock().unwrap() = Err("gone");
    let mut wire = front.wire().await;
    let page = wire.request("GET", "/pcoip-broker/xml").await;
    assert_eq!(page.status, 200);
    assert!(page.head.contains("text/html"), "{}", page.head);
    assert!(page.body.contains("PCoIP client"), "{}", page.body);
    let head = wire.request("HEAD", "/pcoip-broker/xml").await;
    assert_eq!(head.status, 200);
    let live = wire.request("GET", "/health/live").await;
    assert_eq!((live.status, live.body.as_str()), (200, SUCCESS));
    assert_eq!(wire.request("HEAD", "/health").await.status, 500);
    assert_eq!(front.broker.count(), 0);
}
