//! Broker and agent over real HTTPS: what they are sent, and what becomes of every bad answer.

#![expect(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod support;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Response as HttpResponse, Uri},
};
use portcullis_connection_manager::{
    Agent, AgentAddress, AgentAnswer, AgentFailure, Broker, BrokerAnswer, BrokerCookies,
    BrokerExchange, BrokerFailure, ConnectionManager, HttpsAgent, HttpsBroker, ManagerConfig,
    adapters::{HttpsAgentOptions, HttpsBrokerOptions},
};
use portcullis_https::{Authority, Trust};
use portcullis_protocol::{
    LogId,
    agent::{LaunchResultId, LaunchSession, Logon},
    broker::{Bye, Envelope, Request, Response, Rest, Root},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use self::support::{Front, Running, documents, fakes::FakeGateway, wire::Caller, wire::Wire};

const LOG_ID: &str = "7cd13600-b190-1039-bfc7-1c697a6f50fb";
const BYE_RESP: &str =
    "<?xml version='1.0'?>\r\n<pcoip-client version='2.1'><bye-resp/></pcoip-client>";
const LAUNCHED: &str = "<pcoip-agent version=\"1.0\"><launch-session-resp><result-id>successful</result-id><session-info>\
    <ip-address>0.0.0.0</ip-address><sni>DESK-1</sni><port>4172</port><session-id>2305843009213693954</session-id>\
    <session-tag>SCS1+/tag==</session-tag></session-info></launch-session-resp></pcoip-agent>";

/// What a server was sent.
struct Seen {
    uri: Uri,
    headers: HeaderMap,
    body: String,
}

type Record = Arc<Mutex<Vec<Seen>>>;

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// A server that answers each request as told and keeps a record.
async fn server(
    answer: impl Fn(&Seen) -> HttpResponse<Body> + Clone + Send + Sync + 'static,
) -> (Running, Record) {
    let record = Record::default();
    let kept = Arc::clone(&record);
    let router = Router::new().fallback(async move |uri: Uri, headers: HeaderMap, body: Body| {
        let body = to_bytes(body, 1 << 20).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        let seen = Seen { uri, headers, body };
        let response = answer(&seen);
        kept.lock().unwrap().push(seen);
        response
    });
    (Running::start(router).await, record)
}

/// A server that reads a request and then sends these bytes, whatever they are.
async fn raw_server(bytes: &'static [u8]) -> (std::net::SocketAddr, Trust, JoinSet<()>) {
    let authority = Authority::generate("Raw").unwrap();
    let identity = authority.issue(&["127.0.0.1"]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = TlsAcceptor::from(identity.server_config(&[]));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = tls.accept(stream).await.unwrap();
            let mut request = vec![0; 64 * 1024];
            let _ = stream.read(&mut request).await;
            stream.write_all(bytes).await.unwrap();
            if bytes.is_empty() {
                // Silence: holds the connection until the test ends.
                std::future::pending::<()>().await;
            }
            stream.shutdown().await.unwrap();
        }
    });
    (
        address,
        Trust::Authorities(vec![authority.certificate()]),
        tasks,
    )
}

fn trust(server: &Running) -> Trust {
    Trust::Authorities(vec![server.authority.certificate()])
}

fn reply(status: u16, body: impl Into<Body>) -> HttpResponse<Body> {
    HttpResponse::builder()
        .status(status)
        .body(body.into())
        .unwrap()
}

fn broker_at(url: &str, trust: &Trust) -> HttpsBroker {
    let options = HttpsBrokerOptions {
        wait: Duration::from_secs(5),
        ..HttpsBrokerOptions::default()
    };
    HttpsBroker::new(url, trust, None, &options).unwrap()
}

fn exchange() -> BrokerExchange {
    BrokerExchange {
        log_id: LOG_ID.parse().unwrap(),
        cookies: BrokerCookies::new(),
        client: IpAddr::from([198, 51, 100, 7]),
        forwarded_for: vec![[1, 2, 3, 4].into(), [198, 51, 100, 7].into()],
        request: Envelope::new(Request::Bye(Bye::default())),
    }
}

fn launch() -> LaunchSession {
    LaunchSession {
        session_type: "UNSPECIFIED".into(),
        ip_address: "127.0.0.1".into(),
        hostname: "desk-1".into(),
        logon: Logon {
            method: "windows-password".into(),
            username: "ada".into(),
            password: "pä<&\"🔑".into(),
            domain: "CORP".into(),
            rest: Rest::default(),
        },
        client_mac: String::new(),
        client_ip: "198.51.100.7".into(),
        client_name: "laptop".into(),
        license_path: String::new(),
        session_log_id: LOG_ID.into(),
        time_zone_windows: None,
        rest: Rest::default(),
    }
}

async fn launch_at(
    address: std::net::SocketAddr,
    trust: &Trust,
    wait: Duration,
) -> Result<AgentAnswer, AgentFailure> {
    let options = HttpsAgentOptions {
        wait,
        ..HttpsAgentOptions::default()
    };
    let agent = HttpsAgent::new(trust, None, &options).unwrap();
    let address = AgentAddress {
        host: address.ip().to_string(),
        port: address.port(),
    };
    agent
        .launch(address, launch(), LOG_ID.parse().unwrap())
        .await
}

/// An address where nobody listens.
async fn nowhere() -> std::net::SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test]
async fn the_broker_is_sent_everything_and_its_cookies_come_back() {
    let (server, record) = server(|_| {
        let mut response = reply(200, BYE_RESP);
        for cookie in ["JSESSIONID=of-the-broker; Path=/; Secure", "lb=node2"] {
            response
                .headers_mut()
                .append("set-cookie", cookie.parse().unwrap());
        }
        response
            .headers_mut()
            .insert("content-type", "text/xml; charset=UTF-8".parse().unwrap());
        response
    })
    .await;
    let broker = broker_at(&server.url(), &trust(&server));
    let BrokerAnswer { cookies, response } = broker.ask(exchange()).await.unwrap();
    assert!(matches!(response.message, Response::Bye(_)));
    assert_eq!(cookies.value("JSESSIONID"), Some("of-the-broker"));
    broker
        .ask(BrokerExchange {
            cookies,
            ..exchange()
        })
        .await
        .unwrap();
    let record = record.lock().unwrap();
    let [first, second] = record.as_slice() else {
        panic!("two requests");
    };
    assert_eq!(first.uri.path(), "/pcoip-broker/xml");
    assert_eq!(first.header("client-log-id"), Some(LOG_ID));
    assert_eq!(
        first.header("x-forwarded-for"),
        Some("1.2.3.4, 198.51.100.7")
    );
    assert_eq!(
        first.header("content-type"),
        Some("text/xml; charset=UTF-8")
    );
    assert_eq!(first.header("cookie"), None);
    assert!(
        first.body.contains("<pcoip-client version=\"2.1\">"),
        "{}",
        first.body
    );
    assert_eq!(
        second.header("cookie"),
        Some("JSESSIONID=of-the-broker; lb=node2")
    );
}

#[tokio::test]
async fn a_broker_that_wants_the_other_root_gets_it() {
    let (server, record) = server(|_| {
        reply(
            200,
            "<pcoip-broker version=\"2.1\"><bye-resp/></pcoip-broker>",
        )
    })
    .await;
    let options = HttpsBrokerOptions {
        root: Root::Broker,
        ..HttpsBrokerOptions::default()
    };
    let broker = HttpsBroker::new(&server.url(), &trust(&server), None, &options).unwrap();
    broker.ask(exchange()).await.unwrap();
    let body = &record.lock().unwrap()[0].body;
    assert!(body.contains("<pcoip-broker version=\"2.1\">"), "{body}");
}

#[tokio::test]
async fn every_bad_answer_of_a_broker_has_its_name() {
    for (status, body) in [(404, BYE_RESP), (500, ""), (302, "")] {
        let (server, _) = server(move |_| reply(status, body)).await;
        let result = broker_at(&server.url(), &trust(&server))
            .ask(exchange())
            .await;
        assert!(
            matches!(result, Err(BrokerFailure::Refused { status: told }) if told == status),
            "{status}: {result:?}"
        );
    }
    for body in [
        "",
        "garbage",
        "<html>hello</html>",
        &BYE_RESP[..60],
        &"x".repeat(100_000),
    ] {
        let body = body.to_owned();
        let (server, _) = server(move |_| reply(200, body.clone())).await;
        let result = broker_at(&server.url(), &trust(&server))
            .ask(exchange())
            .await;
        assert!(
            matches!(result, Err(BrokerFailure::Garbage(_))),
            "{result:?}"
        );
    }
    for bytes in [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n<pcoip".as_slice(),
        b"not http at all\r\n\r\n",
    ] {
        let (address, trust, _tasks) = raw_server(bytes).await;
        let result = broker_at(&format!("https://{address}"), &trust)
            .ask(exchange())
            .await;
        assert!(
            matches!(result, Err(BrokerFailure::Garbage(_))),
            "{result:?}"
        );
    }
}

#[tokio::test]
async fn a_broker_that_is_away_untrusted_or_silent_has_its_name() {
    let (server, record) = server(|_| reply(200, BYE_RESP)).await;
    let away = format!("https://{}", nowhere().await);
    let result = broker_at(&away, &trust(&server)).ask(exchange()).await;
    assert!(
        matches!(result, Err(BrokerFailure::Unreachable(_))),
        "{result:?}"
    );

    let stranger = Authority::generate("Stranger").unwrap();
    let distrust = Trust::Authorities(vec![stranger.certificate()]);
    let result = broker_at(&server.url(), &distrust).ask(exchange()).await;
    assert!(
        matches!(result, Err(BrokerFailure::Unreachable(_))),
        "{result:?}"
    );
    assert!(
        record.lock().unwrap().is_empty(),
        "nothing is sent to a stranger"
    );

    let (address, trust, _tasks) = raw_server(b"").await;
    let options = HttpsBrokerOptions {
        wait: Duration::from_millis(200),
        ..HttpsBrokerOptions::default()
    };
    let broker = HttpsBroker::new(&format!("https://{address}"), &trust, None, &options).unwrap();
    let result = broker.ask(exchange()).await;
    assert!(
        matches!(result, Err(BrokerFailure::TimedOut { .. })),
        "{result:?}"
    );
}

#[tokio::test]
async fn health_is_a_probe_and_a_bye_for_the_session_it_opened() {
    let hello =
        "<pcoip-client version=\"2.1\"><hello-resp><brokers-info/></hello-resp></pcoip-client>";
    for cookie in [Some("JSESSIONID=1"), None] {
        let (server, record) = server(move |seen| {
            let body = if seen.body.contains("<bye") {
                BYE_RESP
            } else {
                hello
            };
            let mut response = reply(200, body);
            if let Some(cookie) = cookie {
                let headers = response.headers_mut();
                headers.insert("set-cookie", cookie.parse().unwrap());
            }
            response
        })
        .await;
        broker_at(&server.url(), &trust(&server))
            .health()
            .await
            .unwrap();
        let record = record.lock().unwrap();
        assert!(
            record[0]
                .body
                .contains("<product-name>QueryBrokerClient</product-name>")
        );
        let byes: Vec<_> = record[1..]
            .iter()
            .map(|seen| seen.header("cookie"))
            .collect();
        assert_eq!(byes, cookie.map(Some).into_iter().collect::<Vec<_>>());
    }
    let (server, _) = server(|_| reply(200, BYE_RESP)).await;
    assert!(
        broker_at(&server.url(), &trust(&server))
            .health()
            .await
            .is_err()
    );
    let away = format!("https://{}", nowhere().await);
    assert!(broker_at(&away, &trust(&server)).health().await.is_err());
}

#[tokio::test]
async fn the_agent_is_sent_everything_and_answers_in_any_case() {
    let (server, record) = server(|_| reply(200, LAUNCHED)).await;
    let wait = Duration::from_secs(5);
    let answer = launch_at(server.address, &trust(&server), wait)
        .await
        .unwrap();
    assert_eq!(answer.response.result, LaunchResultId::Successful);
    assert_eq!(answer.dialled, server.address.ip());
    let info = answer.response.session_info.unwrap();
    assert_eq!(info.session_tag.expose(), "SCS1+/tag==");
    let record = record.lock().unwrap();
    assert_eq!(record[0].uri.path(), "/pcoip-agent/xml");
    assert_eq!(record[0].header("client-log-id"), Some(LOG_ID));
    for element in [
        "<pcoip-agent version=\"1.0\"><launch-session><session-type>UNSPECIFIED</session-type>",
        "<logon method=\"windows-password\"><username>ada</username>",
        "<domain>CORP</domain>",
        "<client-ip>198.51.100.7</client-ip>",
        "<session-log-id>7cd13600-b190-1039-bfc7-1c697a6f50fb</session-log-id>",
    ] {
        assert!(
            record[0].body.contains(element),
            "{element} in {}",
            record[0].body
        );
    }
    assert!(
        record[0].body.contains("<password>pä&lt;&amp;"),
        "UTF-8, escaped"
    );
    assert!(record[0].body.contains("🔑</password>"), "UTF-8, escaped");
}

#[tokio::test]
async fn an_agent_known_by_name_tells_the_address_it_was_reached_at() {
    let (server, _) = server(|_| reply(200, LAUNCHED)).await;
    // The certificate is for the address, so the name is taken on trust here.
    let agent = HttpsAgent::new(&Trust::OnFirstUse, None, &HttpsAgentOptions::default()).unwrap();
    let address = AgentAddress {
        host: "localhost".into(),
        port: server.address.port(),
    };
    let answer = agent
        .launch(address, launch(), LogId::random())
        .await
        .unwrap();
    assert_eq!(answer.dialled, server.address.ip());
}

#[tokio::test]
async fn every_bad_answer_of_an_agent_is_garbage() {
    let wait = Duration::from_secs(5);
    for (status, body) in [
        (404, "<html>not found</html>"),
        (500, LAUNCHED),
        (200, ""),
        (200, "garbage"),
        (200, &LAUNCHED[..100]),
        (200, BYE_RESP),
        (200, "<!DOCTYPE x><pcoip-agent version=\"1.0\"/>"),
    ] {
        let (server, _) = server(move |_| reply(status, body)).await;
        let result = launch_at(server.address, &trust(&server), wait).await;
        assert!(
            matches!(result, Err(AgentFailure::Garbage(_))),
            "{status} {body}: {result:?}"
        );
    }
    let (server, _) = server(|seen| reply(200, seen.body.clone())).await;
    let result = launch_at(server.address, &trust(&server), wait).await;
    assert!(
        matches!(result, Err(AgentFailure::Garbage(_))),
        "an echo: {result:?}"
    );

    let (address, trust, _tasks) =
        raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n<pcoip-agent").await;
    let result = launch_at(address, &trust, wait).await;
    assert!(
        matches!(result, Err(AgentFailure::Garbage(_))),
        "cut off: {result:?}"
    );
}

#[tokio::test]
async fn an_agent_that_is_away_untrusted_or_slow_has_its_name() {
    let wait = Duration::from_secs(5);
    let (server, record) = server(|_| reply(200, LAUNCHED)).await;
    let result = launch_at(nowhere().await, &trust(&server), wait).await;
    assert!(
        matches!(result, Err(AgentFailure::Unreachable(_))),
        "{result:?}"
    );

    let stranger = Authority::generate("Stranger").unwrap();
    let distrust = Trust::Authorities(vec![stranger.certificate()]);
    let result = launch_at(server.address, &distrust, wait).await;
    assert!(
        matches!(result, Err(AgentFailure::Unreachable(_))),
        "{result:?}"
    );
    assert!(
        record.lock().unwrap().is_empty(),
        "no password goes to a stranger"
    );

    let agent = HttpsAgent::new(&trust(&server), None, &HttpsAgentOptions::default()).unwrap();
    let address = AgentAddress {
        host: "evil.example/path?".into(),
        port: 60443,
    };
    let result = agent.launch(address, launch(), LogId::random()).await;
    assert!(
        matches!(result, Err(AgentFailure::Unreachable(_))),
        "{result:?}"
    );

    let (address, trust, _tasks) = raw_server(b"").await;
    let result = launch_at(address, &trust, Duration::from_millis(200)).await;
    assert!(
        matches!(result, Err(AgentFailure::TimedOut { .. })),
        "{result:?}"
    );
}

#[tokio::test]
async fn a_session_goes_all_the_way_over_https_on_every_leg() {
    let (agent_server, agent_record) = server(|_| reply(200, LAUNCHED)).await;
    let (broker_server, broker_record) = server(|seen| {
        let message = if seen.body.contains("<hello") {
            "<hello-resp><brokers-info><broker-info><product-name>Far Broker</product-name></broker-info></brokers-info>\
             <next-authentication><authentication-methods><method>AUTHENTICATE_VIA_PASSWORD</method>\
             </authentication-methods><domains><domain>CORP</domain></domains></next-authentication></hello-resp>"
        } else if seen.body.contains("<authenticate") {
            "<authenticate-resp method=\"password\"><result><result-id>AUTH_SUCCESSFUL_AND_COMPLETE</result-id>\
             <result-str/></result></authenticate-resp>"
        } else if seen.body.contains("<get-resource-list") {
            "<get-resource-list-resp><result><result-id>LIST_SUCCESSFUL</result-id><result-str/></result><resource>\
             <resource-name>Desk</resource-name><resource-id>d-1</resource-id></resource></get-resource-list-resp>"
        } else if seen.body.contains("<allocate-resource") {
            "<allocate-resource-resp><result><result-id>ALLOC_SUCCESSFUL</result-id><result-str/></result><target>\
             <ip-address>127.0.0.1</ip-address><hostname>desk-1</hostname></target><resource-id>d-1</resource-id>\
             <protocol>PCOIP</protocol></allocate-resource-resp>"
        } else {
            "<bye-resp/>"
        };
        let mut response = reply(200, format!("<pcoip-client version=\"2.1\">{message}</pcoip-client>"));
        response
            .headers_mut()
            .insert("set-cookie", "SID=far".parse().unwrap());
        response
    })
    .await;
    let agents = HttpsAgent::new(&trust(&agent_server), None, &HttpsAgentOptions::default());
    let gateway = Arc::new(FakeGateway::usual());
    let manager = ConnectionManager::new(
        ManagerConfig {
            agent_port: agent_server.address.port(),
            ..ManagerConfig::default()
        },
        Arc::new(broker_at(&broker_server.url(), &trust(&broker_server))),
        Arc::new(agents.unwrap()),
        Some(Arc::clone(&gateway) as _),
    );
    let front = Running::start(manager.router()).await;
    let mut caller = Caller::new(Wire::connect(front.address).await);
    caller.headers += &format!("Client-Log-Id: {LOG_ID}\r\n");
    let hello = caller.ok(documents::HELLO).await;
    assert!(hello.contains("Far Broker"), "{hello}");
    caller
        .ok(&documents::password("ada", "correct horse"))
        .await;
    caller.ok(documents::LIST).await;
    let allocated = caller.ok(documents::ALLOCATE).await;
    assert!(
        allocated.contains("<connect-tag>SCS1+/tag==</connect-tag>"),
        "{allocated}"
    );
    assert!(
        allocated.contains("<ip-address>203.0.113.5</ip-address>"),
        "{allocated}"
    );
    caller.ok(documents::BYE).await;
    assert_eq!(manager.sessions(), 0);
    let health = caller.wire.request("GET", "/health").await;
    assert_eq!(health.status, 200, "{}", health.body);
    let order = &gateway.orders.lock().unwrap()[0];
    assert_eq!(
        order.agent,
        IpAddr::from([127, 0, 0, 1]),
        "0.0.0.0 is replaced by the address dialled"
    );
    let broker_record = broker_record.lock().unwrap();
    let (session, probe) = broker_record.split_at(5);
    assert_eq!(probe.len(), 2, "health is a hello and a bye");
    for seen in session {
        assert_eq!(seen.header("client-log-id"), Some(LOG_ID));
        assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    }
    for seen in &session[1..] {
        assert_eq!(seen.header("cookie"), Some("SID=far"));
    }
    assert_eq!(agent_record.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_manager_in_front_of_itself_is_noticed_over_https() {
    let front = Front::usual().await;
    let manager = ConnectionManager::new(
        ManagerConfig::default(),
        Arc::new(broker_at(&front.server.url(), &trust(&front.server))),
        Arc::clone(&front.agent) as _,
        None,
    );
    let outer = Running::start(manager.router()).await;
    let mut caller = Caller::new(Wire::connect(outer.address).await);
    let reply = caller.post(documents::HELLO).await;
    assert_eq!(reply.status, 503);
    assert_eq!(front.broker.count(), 0, "the hello went no further");
    assert_eq!((manager.sessions(), front.manager.sessions()), (0, 0));
}
