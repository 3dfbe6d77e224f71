//! How long each leg is waited for, on a stopped clock and without sockets: a test of minutes takes none.

mod support;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{Extension, Router, body::Body, http::Response as HttpResponse};
use futures_util::future::BoxFuture;
use http::{Request as HttpRequest, header};
use http_body_util::BodyExt;
use portcullis_connection_manager::{
    Agent, AgentAddress, AgentAnswer, AgentFailure, Broker, BrokerAnswer, BrokerExchange,
    BrokerFailure, ConnectionManager, ManagerConfig, neighbours::Cause,
};
use portcullis_https::Peer;
use portcullis_protocol::{LogId, agent::LaunchSession, broker::Request};
use tokio::time::{Instant, sleep};
use tower::ServiceExt;

use self::support::{
    documents,
    fakes::{FakeAgent, FakeBroker, Reaction, launched, usual},
};

/// An agent that answers after a while.
struct SlowAgent(Duration);

impl Agent for SlowAgent {
    fn launch(
        &self,
        _: AgentAddress,
        _: LaunchSession,
        _: LogId,
    ) -> BoxFuture<'_, Result<AgentAnswer, AgentFailure>> {
        Box::pin(async move {
            sleep(self.0).await;
            Ok(AgentAnswer {
                response: launched(),
                dialled: Ipv4Addr::LOCALHOST.into(),
            })
        })
    }
}

/// A broker that never answers anything.
struct HangingBroker;

impl Broker for HangingBroker {
    fn ask(&self, _: BrokerExchange) -> BoxFuture<'_, Result<BrokerAnswer, BrokerFailure>> {
        Box::pin(std::future::pending())
    }

    fn health(&self) -> BoxFuture<'_, Result<(), Cause>> {
        Box::pin(std::future::pending())
    }
}

/// A client of a router.
struct Caller {
    router: Router,
    cookie: Option<String>,
}

/// Status, body, and how long it took.
type Told = (u16, String, Duration);

impl Caller {
    fn new(manager: &ConnectionManager) -> Self {
        let peer = Peer {
            address: SocketAddr::from(([198, 51, 100, 7], 50000)),
            local: SocketAddr::from(([203, 0, 113, 1], 443)),
            certificate: None,
        };
        Self {
            router: manager.router().layer(Extension(peer)),
            cookie: None,
        }
    }

    async fn post(&mut self, document: &str) -> Told {
        let mut request = HttpRequest::post("/pcoip-broker/xml");
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, cookie);
        }
        let request = request.body(Body::from(document.to_owned()));
        let (told, response) = self.send(request.expect("a request")).await;
        let set = response.headers().get(header::SET_COOKIE);
        if let Some(pair) = set.and_then(|set| set.to_str().ok()?.split(';').next()) {
            self.cookie = Some(pair.into());
        }
        told
    }

    async fn health(&self) -> Told {
        let request = HttpRequest::get("/health").body(Body::empty());
        self.send(request.expect("a request")).await.0
    }

    async fn send(&self, request: HttpRequest<Body>) -> (Told, HttpResponse<Body>) {
        let started = Instant::now();
        let response = self.router.clone().oneshot(request).await;
        let (head, body) = response.expect("the router always answers").into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        let body = String::from_utf8(body.to_vec()).expect("text");
        let told = (head.status.as_u16(), body, started.elapsed());
        (told, HttpResponse::from_parts(head, Body::empty()))
    }

    async fn authenticate(&mut self) {
        assert_eq!(self.post(documents::HELLO).await.0, 200);
        let password = documents::password("ada", "correct horse");
        assert_eq!(self.post(&password).await.0, 200);
    }
}

fn manager(
    config: ManagerConfig,
    broker: FakeBroker,
    agent: impl Agent + 'static,
) -> ConnectionManager {
    ConnectionManager::new(config, Arc::new(broker), Arc::new(agent), None)
}

/// A broker that never answers one kind of message.
fn hangs_at(is: fn(&Request) -> bool) -> FakeBroker {
    FakeBroker::new(move |exchange| {
        if is(&exchange.request.message) {
            Reaction::Hang
        } else {
            Reaction::Say(usual(exchange))
        }
    })
}

/// Rounds down to whole seconds: the clock also moves by the millisecond a timer is late.
fn seconds(took: Duration) -> u64 {
    took.as_secs()
}

#[tokio::test(start_paused = true)]
async fn an_agent_has_thirty_seconds() {
    let slow = |seconds| {
        let agent = SlowAgent(Duration::from_secs(seconds));
        manager(ManagerConfig::default(), FakeBroker::usual(), agent)
    };
    let mut caller = Caller::new(&slow(29));
    caller.authenticate().await;
    let (_, body, took) = caller.post(documents::ALLOCATE).await;
    assert!(body.contains("ALLOC_SUCCESSFUL"), "{body}");
    assert_eq!(seconds(took), 29);

    let mut caller = Caller::new(&slow(31));
    caller.authenticate().await;
    let (_, body, took) = caller.post(documents::ALLOCATE).await;
    assert!(
        body.contains("ALLOC_FAILED_TO_ALLOCATE_BROKER_PORT_UNREACHABLE"),
        "{body}"
    );
    assert_eq!(seconds(took), 30);
}

#[tokio::test(start_paused = true)]
async fn a_broker_has_fifty_five_seconds_and_five_for_bye() {
    let broker =
        hangs_at(|request| matches!(request, Request::GetResourceList(_) | Request::Bye(_)));
    let manager = manager(ManagerConfig::default(), broker, FakeAgent::usual());
    let mut caller = Caller::new(&manager);
    caller.authenticate().await;
    let (status, _, took) = caller.post(documents::LIST).await;
    assert_eq!((status, seconds(took)), (503, 55));
    let (status, body, took) = caller.post(documents::BYE).await;
    assert_eq!((status, seconds(took)), (200, 5));
    assert!(body.contains("<bye-resp"), "{body}");
    assert_eq!(manager.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn all_legs_together_stay_within_the_clients_patience() {
    let broker = FakeBroker::usual();
    let config = ManagerConfig {
        agent_wait: Duration::from_secs(90),
        ..ManagerConfig::default()
    };
    let manager = manager(config, broker, SlowAgent(Duration::from_secs(80)));
    let mut caller = Caller::new(&manager);
    caller.authenticate().await;
    let (_, body, took) = caller.post(documents::ALLOCATE).await;
    assert!(body.contains("PORT_UNREACHABLE"), "{body}");
    assert_eq!(seconds(took), 57);
}

#[tokio::test(start_paused = true)]
async fn an_expired_session_is_gone_even_before_the_sweep() {
    // Nothing sweeps here: `run` does not run.
    let manager = manager(
        ManagerConfig::default(),
        FakeBroker::usual(),
        FakeAgent::usual(),
    );
    let mut caller = Caller::new(&manager);
    caller.authenticate().await;
    sleep(Duration::from_secs(599)).await;
    assert_eq!(caller.post(documents::LIST).await.0, 200);
    sleep(Duration::from_secs(601)).await;
    let (status, body, _) = caller.post(documents::LIST).await;
    assert_eq!(status, 500);
    assert!(body.contains("ended or expired"), "{body}");
    assert_eq!(manager.sessions(), 0);

    let mut caller = Caller::new(&manager);
    caller.authenticate().await;
    let old = caller.cookie.clone();
    sleep(Duration::from_secs(601)).await;
    assert_eq!(caller.post(documents::HELLO).await.0, 200);
    assert_ne!(caller.cookie, old);
    assert_eq!(manager.sessions(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_sweep_leaves_nothing_after_the_idle_limit() {
    let manager = manager(
        ManagerConfig::default(),
        FakeBroker::usual(),
        FakeAgent::usual(),
    );
    for _ in 0..10 {
        Caller::new(&manager).authenticate().await;
    }
    assert_eq!(manager.sessions(), 10);
    tokio::select! {
        () = manager.run(tokio_util::sync::CancellationToken::new()) => unreachable!("nobody stops it"),
        () = sleep(Duration::from_secs(606)) => {}
    }
    assert_eq!(manager.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_hangs_fails_a_health_check_before_the_balancer_gives_up() {
    let agent = Arc::new(FakeAgent::usual());
    let manager = ConnectionManager::new(
        ManagerConfig::default(),
        Arc::new(HangingBroker),
        agent,
        None,
    );
    let caller = Caller::new(&manager);
    let (status, body, took) = caller.health().await;
    assert_eq!((status, seconds(took)), (500, 4));
    assert!(body.contains("Cannot communicate with broker"), "{body}");
    let (status, _, took) = caller.health().await;
    assert_eq!(
        (status, seconds(took)),
        (500, 0),
        "the result is still fresh"
    );
    sleep(Duration::from_secs(2)).await;
    let (_, _, took) = caller.health().await;
    assert_eq!(seconds(took), 4, "it is asked again");
}
