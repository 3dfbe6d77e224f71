//! Sessions: the whole way of one, who owns which, and that none is left behind.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use portcullis_connection_manager::{GatewayFailure, ManagerConfig};
use portcullis_protocol::{
    broker::{AuthResultId, Authenticate, Request, Response},
    xml::{Element, Node},
};
use secrecy::ExposeSecret;
use tokio::{io::AsyncWriteExt, sync::Notify};

use crate::support::{
    Front, documents,
    fakes::{FakeAgent, FakeBroker, Reaction, allocated, complete_target, judged, usual},
    soon,
};

const LOG_ID: &str = "7cd13600-b190-1039-bfc7-1c697a6f50fb";

fn is_bye(request: &Request) -> bool {
    matches!(request, Request::Bye(_))
}

#[tokio::test]
async fn a_client_goes_all_the_way_on_one_connection() {
    let front = Front::usual().await;
    let mut caller = front.caller().await;
    caller.headers += &format!("Client-Log-Id: {LOG_ID}\r\n");

    let hello = caller.ok(documents::HELLO).await;
    assert!(
        hello.contains("<product-name>Test Broker</product-name>"),
        "{hello}"
    );
    assert!(
        hello.contains("<pcm-info><product-name>Portcullis</product-name>"),
        "{hello}"
    );
    assert!(!hello.contains("Direct-Connect Broker"));
    let first_cookie = caller.cookie.clone().expect("hello sets the cookie");
    assert_eq!(front.manager.sessions(), 1);

    let reply = caller.post(&documents::password("ada", "wrong")).await;
    assert!(
        reply
            .body
            .contains("AUTH_FAILED_UNKNOWN_USERNAME_OR_PASSWORD")
    );
    assert!(reply.cookie().is_none(), "only hello sets the cookie");
    caller
        .ok(&documents::password("ada", "correct horse"))
        .await;
    let list = caller.ok(documents::LIST).await;
    assert!(list.contains("<resource-id>d-1</resource-id>"), "{list}");

    let allocated = caller.ok(documents::ALLOCATE).await;
    for element in [
        "<result-id>ALLOC_SUCCESSFUL</result-id>",
        "<target><ip-address>203.0.113.5</ip-address><hostname>desk-1</hostname><sni>DESK-1</sni><port>4172</port>\
         <session-id>7</session-id><connect-tag>SCS1agent</connect-tag></target>",
        "<resource-id>d-1</resource-id>",
        "<protocol>PCOIP</protocol>",
    ] {
        assert!(allocated.contains(element), "{element} in {allocated}");
    }
    let bye = caller.ok(documents::BYE).await;
    assert!(bye.contains("<bye-resp"), "{bye}");
    assert_eq!(caller.cookie, Some(first_cookie));
    assert_eq!(front.manager.sessions(), 0, "nothing is left behind");

    let exchanges = front.broker.exchanges.lock().unwrap();
    let log_ids: Vec<_> = exchanges.iter().map(|e| e.log_id.to_string()).collect();
    assert_eq!(log_ids, [LOG_ID; 6]);
    assert!(exchanges[0].cookies.is_empty());
    for exchange in &exchanges[1..] {
        assert_eq!(exchange.cookies.value("JSESSIONID"), Some("broker-1"));
    }
    let launches = front.agent.launches.lock().unwrap();
    let [(address, launch, log_id)] = launches.as_slice() else {
        panic!("one launch, not {launches:?}");
    };
    assert_eq!((address.host.as_str(), address.port), ("127.0.0.1", 60443));
    assert_eq!(log_id.to_string(), LOG_ID);
    assert_eq!(launch.session_log_id, LOG_ID);
    assert_eq!(launch.client_ip, "127.0.0.1");
    assert_eq!(launch.client_mac, "AA-BB-CC-DD-EE-FF");
    assert_eq!(launch.client_name, "laptop");
    assert_eq!(launch.logon.password.expose_secret(), "correct horse");
    let orders = front.gateway.orders.lock().unwrap();
    let [order] = orders.as_slice() else {
        panic!("one grant, not {orders:?}");
    };
    assert_eq!(order.log_id.to_string(), LOG_ID);
    assert_eq!(order.client.to_string(), "127.0.0.1");
    assert_eq!(order.server_name.as_deref(), Some("DESK-1"));
    assert_eq!(order.agent.to_string(), "10.0.0.21");
    assert_eq!(order.desktop, "Ada's desk");
    assert_eq!(order.user, "CORP\\ada");
}

#[tokio::test]
async fn without_a_gateway_the_client_is_given_the_agent() {
    let front = Front::between(
        ManagerConfig::default(),
        FakeBroker::usual(),
        FakeAgent::usual(),
        false,
    )
    .await;
    let mut caller = front.authenticated().await;
    let allocated = caller.ok(documents::ALLOCATE).await;
    assert!(
        allocated.contains("<ip-address>10.0.0.21</ip-address>"),
        "{allocated}"
    );
    assert!(front.gateway.orders.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_complete_target_of_the_broker_is_not_launched_again() {
    let front = Front::with_broker(FakeBroker::new(|exchange| {
        Reaction::Say(match &exchange.request.message {
            Request::AllocateResource(_) => allocated(complete_target()),
            _ => usual(exchange),
        })
    }))
    .await;
    let mut caller = front.authenticated().await;
    let allocated = caller.ok(documents::ALLOCATE).await;
    assert!(
        allocated.contains("<ip-address>203.0.113.5</ip-address>"),
        "{allocated}"
    );
    assert!(allocated.contains("<session-id>2305843009213693954</session-id>"));
    assert!(allocated.contains("<connect-tag>SCS1broker</connect-tag>"));
    assert!(front.agent.launches.lock().unwrap().is_empty());
    assert_eq!(front.gateway.orders.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_ambiguous_client_tries_again_without_a_second_launch() {
    let front = Front::usual().await;
    front
        .gateway
        .refusals
        .lock()
        .unwrap()
        .push(GatewayFailure::Ambiguous);
    let mut caller = front.authenticated().await;
    let pending = caller.ok(documents::ALLOCATE).await;
    assert!(pending.contains("ALLOC_PENDING_TRY_AGAIN"), "{pending}");
    assert!(
        !pending.contains("10.0.0.21"),
        "the agent's address leaks: {pending}"
    );
    let allocated = caller.ok(documents::ALLOCATE).await;
    assert!(allocated.contains("ALLOC_SUCCESSFUL"), "{allocated}");
    assert_eq!(front.agent.launches.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_probe_leaves_no_session_and_touches_none() {
    let front = Front::usual().await;
    let mut caller = front.caller().await;
    caller.headers += "Client-Log-Id: 00000000-0000-0000-0000-000000000000\r\n";
    let reply = caller.post(documents::PROBE).await;
    assert_eq!(reply.status, 200);
    assert!(reply.body.contains("<hello-resp>"), "{}", reply.body);
    assert!(
        !reply.head.to_lowercase().contains("set-cookie"),
        "{}",
        reply.head
    );
    assert_eq!(front.manager.sessions(), 0);
    let probe = front.broker.asked(|_| true).await;
    assert!(matches!(probe.request.message, Request::Hello(_)));
    let bye = front.broker.asked(is_bye).await;
    assert_eq!(bye.cookies.value("JSESSIONID"), Some("broker-1"));

    let mut caller = front.authenticated().await;
    let reply = caller.post(documents::PROBE).await;
    assert!(reply.cookie().is_none());
    let list = caller.ok(documents::LIST).await;
    assert!(
        list.contains("LIST_SUCCESSFUL"),
        "the probe did not disturb: {list}"
    );
}

#[tokio::test]
async fn a_log_id_is_made_when_none_came_and_stays() {
    let front = Front::usual().await;
    for headers in [
        "",
        "Client-Log-Id: nonsense\r\n",
        "Client-Log-Id: 00000000-0000-0000-0000-000000000000\r\n",
    ] {
        let mut caller = front.caller().await;
        caller.headers = headers.into();
        caller.ok(documents::HELLO).await;
        let made = front.broker.last().log_id;
        assert!(!made.is_nil());
        caller.headers = "Client-Log-Id: 11111111-1111-1111-1111-111111111111\r\n".into();
        caller
            .ok(&documents::password("ada", "correct horse"))
            .await;
        assert_eq!(front.broker.last().log_id, made, "a session has one log id");
    }
}

#[tokio::test]
async fn what_nobody_knows_is_relayed_unharmed_both_ways() {
    let note = || {
        let mut note = Element::new("note");
        note.attributes.push(("to".into(), "client".into()));
        note.children
            .push(Node::Text("größer & mehr".to_owned().into()));
        note
    };
    let front = Front::with_broker(FakeBroker::new(move |exchange| {
        let mut answer = usual(exchange);
        match &mut answer {
            Response::Hello(resp) => resp.rest.children.push((0, note())),
            Response::AllocateResource(resp) => {
                resp.rest.children.push((0, note()));
                let target = resp.target.as_mut().unwrap();
                target.rest.children.push((0, note()));
            }
            _ => {}
        }
        Reaction::Say(answer)
    }))
    .await;
    let relayed = "<note to=\"client\">größer &amp; mehr</note>";
    let mut caller = front.caller().await;
    let hello = caller.ok(documents::HELLO).await;
    assert!(hello.contains(relayed), "{hello}");
    let sent = String::from_utf8(front.broker.last().request.to_document().to_vec()).unwrap();
    for element in [
        "<new-thing depth=\"1\"><inner>kept</inner></new-thing>",
        "<caps><cap>CAP_DIALOG_AUTHENTICATION</cap></caps>",
        "<hostname>cm.example</hostname>",
        "<pcm-info><product-name>Portcullis</product-name>",
    ] {
        assert!(sent.contains(element), "{element} in {sent}");
    }
    caller
        .ok(&documents::password("ada", "correct horse"))
        .await;
    let allocated = caller.ok(documents::ALLOCATE).await;
    assert_eq!(allocated.matches(relayed).count(), 2, "{allocated}");
}

#[tokio::test]
async fn a_dialog_is_relayed_as_it_is() {
    const DIALOG: &str = "<authenticate method=\"dialog\" step=\"2\"><dialog-id>7</dialog-id><answers><answer id=\"code\">\
        123456</answer></answers></authenticate>";
    let front = Front::with_broker(FakeBroker::new(|exchange| {
        Reaction::Say(match &exchange.request.message {
            Request::Authenticate(Authenticate::Password(_)) => judged(AuthResultId::Incomplete),
            Request::Authenticate(_) => {
                let Response::Authenticate(mut resp) = judged(AuthResultId::Complete) else {
                    unreachable!("it is an authenticate-resp");
                };
                resp.method = None;
                Response::Authenticate(resp)
            }
            _ => usual(exchange),
        })
    }))
    .await;
    let mut caller = front.caller().await;
    caller.ok(documents::HELLO).await;
    let incomplete = caller
        .ok(&documents::password("ada", "correct horse"))
        .await;
    assert!(incomplete.contains("AUTH_SUCCESSFUL_AND_INCOMPLETE"));
    let document = format!("<pcoip-client version=\"2.1\">{DIALOG}</pcoip-client>");
    let complete = caller.ok(&document).await;
    assert!(
        complete.contains("<authenticate-resp>"),
        "no method is made up: {complete}"
    );
    let sent = String::from_utf8(front.broker.last().request.to_document().to_vec()).unwrap();
    assert!(sent.contains(DIALOG), "{sent}");
    let allocated = caller.ok(documents::ALLOCATE).await;
    assert!(
        allocated.contains("ALLOC_SUCCESSFUL"),
        "the password was kept: {allocated}"
    );
}

#[tokio::test]
async fn a_second_hello_starts_over_and_parts_with_the_old_broker_session() {
    let front = Front::usual().await;
    let mut caller = front.authenticated().await;
    let cookie = caller.cookie.clone();
    caller.ok(documents::HELLO).await;
    assert_eq!(caller.cookie, cookie, "it is the same session");
    assert_eq!(front.manager.sessions(), 1);
    let bye = front.broker.asked(is_bye).await;
    assert_eq!(bye.cookies.value("JSESSIONID"), Some("broker-1"));
    let reply = caller.post(documents::LIST).await;
    assert_eq!(reply.status, 500, "the user has to sign in again");
    caller
        .ok(&documents::password("ada", "correct horse"))
        .await;
}

#[tokio::test]
async fn requests_of_one_session_wait_for_each_other() {
    let go = Arc::new(Notify::new());
    let at_once = Arc::new(AtomicUsize::new(0));
    let front = Front::with_broker(FakeBroker::new({
        let (go, at_once) = (Arc::clone(&go), Arc::clone(&at_once));
        move |exchange| {
            if matches!(exchange.request.message, Request::GetResourceList(_)) {
                at_once.fetch_add(1, Ordering::SeqCst);
                Reaction::Await(Arc::clone(&go), usual(exchange))
            } else {
                Reaction::Say(usual(exchange))
            }
        }
    }))
    .await;
    let mut first = front.authenticated().await;
    let mut second = front.caller().await;
    second.cookie.clone_from(&first.cookie);
    let is_list = |request: &Request| matches!(request, Request::GetResourceList(_));
    let conduct = async {
        front.broker.asked(is_list).await;
        // The other list cannot have reached the broker: it waits for this one.
        assert_eq!(at_once.load(Ordering::SeqCst), 1);
        go.notify_one();
        front.broker.asked(is_list).await;
        go.notify_one();
    };
    let (first, second, ()) = tokio::join!(
        first.ok(documents::LIST),
        second.ok(documents::LIST),
        conduct
    );
    assert!(first.contains("LIST_SUCCESSFUL") && second.contains("LIST_SUCCESSFUL"));
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_undo_its_request() {
    let go = Arc::new(Notify::new());
    let front = Front::with_broker(FakeBroker::new({
        let go = Arc::clone(&go);
        move |exchange| match exchange.request.message {
            Request::Authenticate(_) => Reaction::Await(Arc::clone(&go), usual(exchange)),
            _ => Reaction::Say(usual(exchange)),
        }
    }))
    .await;
    let mut caller = front.caller().await;
    caller.ok(documents::HELLO).await;
    let cookie = caller.cookie.clone().unwrap();
    let document = documents::password("ada", "correct horse");
    let request = format!(
        "POST /pcoip-broker/xml HTTP/1.1\r\nHost: x\r\nCookie: JSESSIONID={cookie}\r\nContent-Length: {}\r\n\r\n{document}",
        document.len()
    );
    caller.wire.send(request.as_bytes()).await;
    front
        .broker
        .asked(|request| matches!(request, Request::Authenticate(_)))
        .await;
    caller.wire.stream.shutdown().await.unwrap();
    drop(caller);
    go.notify_one();
    let mut again = front.caller().await;
    again.cookie = Some(cookie);
    let list = again.ok(documents::LIST).await;
    assert!(list.contains("LIST_SUCCESSFUL"), "{list}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_clients_at_once_each_have_their_session_and_leave_none() {
    let front = Front::usual().await;
    let sessions = (0..64).map(|_| async {
        let mut caller = front.authenticated().await;
        let allocated = caller.ok(documents::ALLOCATE).await;
        assert!(allocated.contains("ALLOC_SUCCESSFUL"), "{allocated}");
        caller.ok(documents::BYE).await;
        caller.cookie.unwrap()
    });
    let mut cookies = futures_util::future::join_all(sessions).await;
    cookies.sort_unstable();
    cookies.dedup();
    assert_eq!(cookies.len(), 64);
    assert_eq!(front.manager.sessions(), 0);
}

#[tokio::test]
async fn an_idle_session_is_gone_and_the_broker_told() {
    let front = Front::with(ManagerConfig {
        idle: Duration::from_millis(50),
        ..ManagerConfig::default()
    })
    .await;
    let mut caller = front.caller().await;
    caller.ok(documents::HELLO).await;
    let bye = front.broker.asked(is_bye).await;
    assert_eq!(bye.cookies.value("JSESSIONID"), Some("broker-1"));
    assert_eq!(front.manager.sessions(), 0);
    let reply = caller
        .post(&documents::password("ada", "correct horse"))
        .await;
    assert_eq!(reply.status, 500);
    assert!(reply.body.contains("ended or expired"), "{}", reply.body);
    let old = caller.cookie.clone();
    caller.ok(documents::HELLO).await;
    assert_ne!(
        caller.cookie, old,
        "an old cookie does not come back to life"
    );
}

#[tokio::test]
async fn sessions_are_bounded_and_make_room_when_they_end() {
    let front = Front::with(ManagerConfig {
        max_sessions: 1,
        ..ManagerConfig::default()
    })
    .await;
    let mut first = front.caller().await;
    first.ok(documents::HELLO).await;
    let mut second = front.caller().await;
    let reply = second.post(documents::HELLO).await;
    assert_eq!(reply.status, 503);
    assert!(reply.body.contains("Too many sessions"), "{}", reply.body);
    assert_eq!(front.broker.count(), 1, "the broker was not bothered");
    let probe = second.post(documents::PROBE).await;
    assert_eq!(probe.status, 200, "a probe needs no session");
    first.ok(documents::HELLO).await;
    first.ok(documents::BYE).await;
    second.ok(documents::HELLO).await;
}

#[tokio::test]
async fn a_lost_cookie_can_be_made_up_by_log_id_and_address_if_allowed() {
    let trusting = |client_log_id_fallback| ManagerConfig {
        client_log_id_fallback,
        trusted_proxies: vec!["127.0.0.1/32".parse().unwrap()],
        ..ManagerConfig::default()
    };
    let headers = |log_id: &str, address: &str| {
        format!("Client-Log-Id: {log_id}\r\nX-Forwarded-For: {address}\r\n")
    };
    for allowed in [true, false] {
        let front = Front::with(trusting(allowed)).await;
        let mut caller = front.caller().await;
        caller.headers = headers(LOG_ID, "198.51.100.7");
        caller.ok(documents::HELLO).await;
        let cookie = caller.cookie.take();
        let password = documents::password("ada", "correct horse");
        let other_id = "11111111-1111-1111-1111-111111111111";
        for (headers, cookie) in [
            (headers(LOG_ID, "198.51.100.8"), None),
            (headers(other_id, "198.51.100.7"), None),
            (headers(LOG_ID, "198.51.100.7"), Some("0".repeat(32))),
        ] {
            let mut other = front.caller().await;
            other.headers = headers;
            other.cookie = cookie;
            assert_eq!(other.post(&password).await.status, 500);
        }
        let reply = caller.post(&password).await;
        assert_eq!(reply.status, if allowed { 200 } else { 500 });
        caller.cookie = cookie;
        if allowed {
            caller.cookie = None;
            caller.ok(documents::HELLO).await;
            assert_eq!(front.manager.sessions(), 1, "the same session starts over");
        }
    }
}

#[tokio::test]
async fn a_second_hello_can_bring_another_log_id() {
    let front = Front::with(ManagerConfig {
        client_log_id_fallback: true,
        ..ManagerConfig::default()
    })
    .await;
    let mut caller = front.caller().await;
    caller.headers = format!("Client-Log-Id: {LOG_ID}\r\n");
    caller.ok(documents::HELLO).await;
    let other = "11111111-1111-1111-1111-111111111111";
    caller.headers = format!("Client-Log-Id: {other}\r\n");
    caller.ok(documents::HELLO).await;
    assert_eq!(front.broker.last().log_id.to_string(), other);
    caller.cookie = None;
    let password = documents::password("ada", "correct horse");
    caller.headers = format!("Client-Log-Id: {LOG_ID}\r\n");
    assert_eq!(
        caller.post(&password).await.status,
        500,
        "the old id names nobody"
    );
    caller.headers = format!("Client-Log-Id: {other}\r\n");
    caller.ok(&password).await;
}

#[tokio::test]
async fn the_gateway_admits_the_address_the_client_had_last() {
    let front = Front::with(ManagerConfig {
        trusted_proxies: vec!["127.0.0.1/32".parse().unwrap()],
        ..ManagerConfig::default()
    })
    .await;
    let mut caller = front.caller().await;
    caller.headers = "X-Forwarded-For: 198.51.100.7\r\n".into();
    caller.ok(documents::HELLO).await;
    caller
        .ok(&documents::password("ada", "correct horse"))
        .await;
    caller.headers = "X-Forwarded-For: 198.51.100.8\r\n".into();
    caller.ok(documents::ALLOCATE).await;
    let client = front.gateway.orders.lock().unwrap()[0].client;
    assert_eq!(client.to_string(), "198.51.100.8");
}

#[tokio::test]
async fn the_nil_log_id_names_nobody() {
    let front = Front::with(ManagerConfig {
        client_log_id_fallback: true,
        ..ManagerConfig::default()
    })
    .await;
    let nil = "Client-Log-Id: 00000000-0000-0000-0000-000000000000\r\n";
    let mut caller = front.caller().await;
    caller.headers = nil.into();
    caller.ok(documents::HELLO).await;
    let mut stranger = front.caller().await;
    stranger.headers = nil.into();
    let reply = stranger
        .post(&documents::password("ada", "correct horse"))
        .await;
    assert_eq!(reply.status, 500);
}

#[tokio::test]
async fn the_real_address_comes_from_trusted_proxies_only() {
    for (trusted, forwarded, client, way) in [
        (&[][..], "198.51.100.7", "127.0.0.1", &["127.0.0.1"][..]),
        (
            &["127.0.0.0/8"],
            "198.51.100.7",
            "198.51.100.7",
            &["198.51.100.7"],
        ),
        (
            &["127.0.0.0/8"],
            "1.2.3.4, 198.51.100.7, 127.0.0.9",
            "198.51.100.7",
            &["1.2.3.4", "198.51.100.7"],
        ),
    ] {
        let front = Front::with(ManagerConfig {
            trusted_proxies: trusted.iter().map(|net| net.parse().unwrap()).collect(),
            ..ManagerConfig::default()
        })
        .await;
        let mut caller = front.caller().await;
        caller.headers += &format!("X-Forwarded-For: {forwarded}\r\n");
        caller.ok(documents::HELLO).await;
        caller
            .ok(&documents::password("ada", "correct horse"))
            .await;
        let exchange = front.broker.last();
        assert_eq!(exchange.client.to_string(), client);
        let relayed: Vec<_> = exchange
            .forwarded_for
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(relayed, way);
        caller.ok(documents::ALLOCATE).await;
        assert_eq!(
            front.gateway.orders.lock().unwrap()[0].client.to_string(),
            client
        );
        assert_eq!(front.agent.launches.lock().unwrap()[0].1.client_ip, client);
    }
}

#[tokio::test]
async fn a_shutdown_ends_the_sweep() {
    let front = Front::usual().await;
    let shutdown = tokio_util::sync::CancellationToken::new();
    shutdown.cancel();
    // The one that serves holds the queue of byes; a second one waits for it, so ask a manager of its own.
    let manager = portcullis_connection_manager::ConnectionManager::new(
        ManagerConfig::default(),
        Arc::clone(&front.broker) as _,
        Arc::clone(&front.agent) as _,
        None,
    );
    soon(manager.run(shutdown)).await;
}
