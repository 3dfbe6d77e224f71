//! Neighbours that fail, through the whole shell: status, result id, sentence, and what is left behind.

use std::time::Duration;

use portcullis_connection_manager::{
    AgentFailure, BrokerFailure, GatewayFailure, ManagerConfig, neighbours::Cause,
};
use portcullis_protocol::broker::Request;
use prometheus_client::{encoding::text::encode, registry::Registry};

use crate::support::{
    Front, documents,
    fakes::{FakeAgent, FakeBroker, Reaction, usual},
};

fn cause() -> Cause {
    "made up".into()
}

/// A broker that fails at one kind of message.
fn failing(
    at: fn(&Request) -> bool,
    failure: impl Fn() -> Reaction + Send + Sync + 'static,
) -> FakeBroker {
    FakeBroker::new(move |exchange| {
        if at(&exchange.request.message) {
            failure()
        } else {
            Reaction::Say(usual(exchange))
        }
    })
}

fn unreachable_broker() -> Reaction {
    Reaction::Fail(BrokerFailure::Unreachable(cause()))
}

#[tokio::test]
async fn without_a_broker_hello_and_list_are_503_and_authentication_has_a_sentence() {
    let front = Front::with_broker(failing(|_| true, unreachable_broker)).await;
    let mut caller = front.caller().await;
    for document in [documents::HELLO, documents::PROBE] {
        let reply = caller.post(document).await;
        assert_eq!(reply.status, 503);
        assert!(
            reply.body.contains("broker is unavailable"),
            "{}",
            reply.body
        );
        assert!(!reply.body.contains("made up"), "causes are for the log");
        assert!(reply.cookie().is_none());
    }
    assert_eq!(front.manager.sessions(), 0);

    let at_authenticate = failing(
        |request| matches!(request, Request::Authenticate(_)),
        unreachable_broker,
    );
    let front = Front::with_broker(at_authenticate).await;
    let mut caller = front.caller().await;
    caller.ok(documents::HELLO).await;
    let denied = caller
        .ok(&documents::password("ada", "correct horse"))
        .await;
    assert!(denied.contains("AUTH_FAILED_ACCESS_DENIED"), "{denied}");
    assert!(denied.contains("your entry was not checked"), "{denied}");

    let at_list = failing(
        |request| matches!(request, Request::GetResourceList(_)),
        unreachable_broker,
    );
    let front = Front::with_broker(at_list).await;
    let mut caller = front.authenticated().await;
    assert_eq!(caller.post(documents::LIST).await.status, 503);
    let allocated = caller.ok(documents::ALLOCATE).await;
    assert!(
        allocated.contains("ALLOC_SUCCESSFUL"),
        "the session lives on"
    );
}

#[tokio::test]
async fn a_hello_that_starts_over_without_a_broker_ends_the_session() {
    let hellos = std::sync::atomic::AtomicUsize::new(0);
    let front = Front::with_broker(FakeBroker::new(move |exchange| {
        let is_hello = matches!(exchange.request.message, Request::Hello(_));
        if is_hello && hellos.fetch_add(1, std::sync::atomic::Ordering::SeqCst) > 0 {
            unreachable_broker()
        } else {
            Reaction::Say(usual(exchange))
        }
    }))
    .await;
    let mut caller = front.authenticated().await;
    assert_eq!(caller.post(documents::HELLO).await.status, 503);
    assert_eq!(front.manager.sessions(), 0);
}

#[tokio::test]
async fn a_silent_broker_is_given_up() {
    let is_slow = |request: &Request| {
        matches!(
            request,
            Request::Authenticate(_) | Request::AllocateResource(_)
        )
    };
    let front = Front::between(
        ManagerConfig {
            broker_wait: Duration::from_millis(50),
            ..ManagerConfig::default()
        },
        failing(is_slow, || Reaction::Hang),
        FakeAgent::usual(),
        true,
    )
    .await;
    let mut caller = front.caller().await;
    caller.ok(documents::HELLO).await;
    let denied = caller
        .ok(&documents::password("ada", "correct horse"))
        .await;
    assert!(denied.contains("AUTH_FAILED_ACCESS_DENIED"), "{denied}");
    caller.ok(documents::BYE).await;
    assert_eq!(front.manager.sessions(), 0);
}

#[tokio::test]
async fn a_failed_allocation_says_what_to_do_and_can_be_repeated() {
    for (failure, id, sentence) in [
        (
            (|| AgentFailure::Unreachable(cause())) as fn() -> AgentFailure,
            "ALLOC_FAILED_TO_ALLOCATE_BROKER_PORT_UNREACHABLE",
            "The desktop desk-1 cannot be reached on port 60443",
        ),
        (
            || AgentFailure::Garbage(cause()),
            "ALLOC_FAILED_TO_ALLOCATE_AGENT",
            "cannot be understood",
        ),
    ] {
        let agent = FakeAgent::new(move |_| Some(Err(failure())));
        let front =
            Front::between(ManagerConfig::default(), FakeBroker::usual(), agent, true).await;
        let mut caller = front.authenticated().await;
        for _ in 0..2 {
            let failed = caller.ok(documents::ALLOCATE).await;
            assert!(
                failed.contains(&format!("<result-id>{id}</result-id>")),
                "{failed}"
            );
            assert!(failed.contains(sentence), "{failed}");
            assert!(!failed.contains("<target>"), "{failed}");
        }
        assert!(front.gateway.orders.lock().unwrap().is_empty());
        caller.ok(documents::BYE).await;
        assert_eq!(front.manager.sessions(), 0);
    }
}

#[tokio::test]
async fn a_silent_agent_is_given_up_by_its_limit_or_by_the_clients_patience() {
    for config in [
        ManagerConfig {
            agent_wait: Duration::from_millis(50),
            ..ManagerConfig::default()
        },
        ManagerConfig {
            answer_within: Duration::from_millis(300),
            ..ManagerConfig::default()
        },
    ] {
        let agent = FakeAgent::new(|_| None);
        let front = Front::between(config, FakeBroker::usual(), agent, true).await;
        let mut caller = front.authenticated().await;
        let failed = caller.ok(documents::ALLOCATE).await;
        assert!(failed.contains("PORT_UNREACHABLE"), "{failed}");
        assert!(
            failed.contains("did not answer on port 60443 in time"),
            "{failed}"
        );
    }
}

#[tokio::test]
async fn a_full_gateway_is_told() {
    let front = Front::usual().await;
    front
        .gateway
        .refusals
        .lock()
        .unwrap()
        .push(GatewayFailure::Full);
    let mut caller = front.authenticated().await;
    let failed = caller.ok(documents::ALLOCATE).await;
    assert!(
        failed.contains("ALLOC_FAILED_TO_ALLOCATE_BROKER<"),
        "{failed}"
    );
    assert!(failed.contains("is full"), "{failed}");
}

#[tokio::test]
async fn a_manager_behind_itself_is_refused() {
    let front = Front::usual().await;
    let looped = documents::HELLO.replace(
        "</hello>",
        "<pcm-info><product-name>Portcullis</product-name></pcm-info></hello>",
    );
    let reply = front.wire().await.post("", &looped).await;
    assert_eq!(reply.status, 500);
    assert!(
        reply.body.contains("points at a Connection Manager"),
        "{}",
        reply.body
    );
    assert_eq!(front.manager.sessions(), 0);
    assert_eq!(front.broker.count(), 0);
}

#[tokio::test]
async fn everything_is_counted() {
    let front = Front::usual().await;
    let mut caller = front.authenticated().await;
    caller.post("garbage").await;
    caller
        .post(&documents::password("ada", "correct horse"))
        .await;
    caller.ok(documents::ALLOCATE).await;
    let mut registry = Registry::default();
    front.manager.metrics().register(&mut registry);
    let text = || {
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    };
    let shown = text();
    for line in [
        "portcullis_manager_requests_total{message=\"hello\",outcome=\"ok\"} 1",
        "portcullis_manager_requests_total{message=\"authenticate\",outcome=\"ok\"} 1",
        "portcullis_manager_requests_total{message=\"authenticate\",outcome=\"rejected\"} 1",
        "portcullis_manager_requests_total{message=\"unread\",outcome=\"rejected\"} 1",
        "portcullis_manager_rejects_total{reason=\"malformed\"} 1",
        "portcullis_manager_rejects_total{reason=\"out_of_order\"} 1",
        "portcullis_manager_allocations_total{result=\"ALLOC_SUCCESSFUL\"} 1",
        "portcullis_manager_sessions 1",
        "portcullis_manager_broker_seconds_count 3",
        "portcullis_manager_agent_seconds_count 1",
        "portcullis_manager_gateway_seconds_count 1",
    ] {
        assert!(shown.contains(line), "{line} in\n{shown}");
    }
    assert!(!shown.contains("ada") && !shown.contains("127.0.0.1"));
    caller.ok(documents::BYE).await;
    assert!(text().contains("portcullis_manager_sessions 0"));
}
