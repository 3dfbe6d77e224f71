//! The broker as a service over real HTTPS on loopback.

use std::net::SocketAddr;

use axum::{
    body::Bytes,
    http::{Method, Request as HttpRequest, StatusCode},
};
use portcullis_broker::{
    Answer, Argon2Params, Broker, BrokerConfig, DesktopConfig, Directory, EntitlementConfig,
    Inquiry, SessionToken, UserConfig, hash_password,
};
use portcullis_https::{Authority, Client, ClientOptions, Reply, Server, ServerLimits, Trust};
use portcullis_protocol::{
    LogId,
    broker::{
        AllocResultId, AllocateResource, AuthResultId, Authenticate, Bye, ClientInfo, Envelope,
        GetResourceList, Hello, ListResultId, PATH, PROBE_PRODUCT, PasswordLogon, Request,
        Response, Rest, Root,
    },
};
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

const PASSWORD: &str = "correct horse";

/// A broker on a loopback port, stopped when dropped.
struct Running {
    address: SocketAddr,
    client: Client,
    broker: Broker,
    stop: CancellationToken,
    _tasks: JoinSet<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn directory() -> Directory {
    let hash = hash_password(&PASSWORD.into(), Argon2Params::cheap()).expect("hashed");
    Directory::new(
        vec![UserConfig {
            name: "alice".into(),
            domain: "STUDIO".into(),
            password_hash: hash.into(),
        }],
        vec![DesktopConfig {
            id: "d-1".into(),
            name: "Edit & Grade".into(),
            address: "192.0.2.1".into(),
            agent_port: None,
            hostname: None,
        }],
        vec![EntitlementConfig {
            user: "alice".into(),
            desktop: "d-1".into(),
        }],
    )
    .expect("valid")
}

async fn start(config: BrokerConfig) -> Running {
    let broker = Broker::new(directory(), config);
    let authority = Authority::generate("Test authority").expect("an authority");
    let identity = authority.issue(&["127.0.0.1"]).expect("a certificate");
    let trust = Trust::Authorities(vec![authority.certificate()]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let tls = identity.server_config(&[b"http/1.1"]);
    let server = Server::new(listener, Some(tls), ServerLimits::default());
    tasks.spawn(server.serve(broker.router(), stop.clone()));
    Running {
        address,
        client: Client::new(&trust, None, ClientOptions::default()).expect("a client"),
        broker,
        stop,
        _tasks: tasks,
    }
}

impl Running {
    async fn send(&self, cookie: Option<&str>, body: impl Into<Bytes>) -> Reply {
        let mut request = HttpRequest::builder()
            .method(Method::POST)
            .uri(format!("https://{}{PATH}", self.address))
            .header("content-type", "text/xml; charset=UTF-8");
        if let Some(cookie) = cookie {
            request = request.header("cookie", cookie);
        }
        self.client
            .send(request.body(body.into()).expect("a request"))
            .await
            .expect("an answer")
    }

    async fn ask(&self, cookie: Option<&str>, request: Request) -> (Reply, Response) {
        let document = Envelope::new(request).to_document();
        let reply = self.send(cookie, document.to_vec()).await;
        assert_eq!(reply.status, StatusCode::OK);
        let answer = Envelope::<Response>::parse(&reply.body).expect("a broker answer");
        (reply, answer.message)
    }

    /// Says hello and returns the cookie as clients send it back.
    async fn greet(&self) -> String {
        let (reply, _) = self.ask(None, hello("Test client")).await;
        let cookie = reply.headers["set-cookie"].to_str().expect("text");
        let value = cookie
            .strip_suffix("; Secure; HttpOnly")
            .expect("attributes");
        assert!(value.starts_with("JSESSIONID="), "{cookie}");
        value.to_owned()
    }
}

/// One request straight to the broker, without HTTPS.
async fn handle(broker: &Broker, session: Option<SessionToken>, request: Request) -> Answer {
    // Over the wire form, so that escaping is part of the test.
    let document = Envelope::new(request).to_document();
    let request = Envelope::<Request>::parse(&document).expect("what was written reads back");
    let inquiry = Inquiry {
        session,
        client: [127, 0, 0, 1].into(),
        log_id: LogId::random(),
        request,
    };
    broker.handle(inquiry).await.expect("an answer")
}

fn hello(product: &str) -> Request {
    Request::Hello(Hello {
        client_info: ClientInfo {
            product_name: Some(product.into()),
            ..ClientInfo::default()
        },
        ..Hello::default()
    })
}

fn logon(username: &str, password: &str) -> Request {
    Request::Authenticate(Authenticate::Password(PasswordLogon {
        username: username.into(),
        password: password.into(),
        domain: String::new(),
        rest: Rest::default(),
    }))
}

fn allocate(id: &str) -> Request {
    Request::AllocateResource(AllocateResource {
        resource_id: id.into(),
        protocol: Some("PCOIP".into()),
        ..AllocateResource::default()
    })
}

/// The outcome of a logon.
fn logon_result(answer: Response) -> AuthResultId {
    let Response::Authenticate(answer) = answer else {
        panic!("another answer");
    };
    answer.result.id
}

#[tokio::test]
async fn a_whole_session_over_https() {
    let server = start(BrokerConfig::default()).await;
    let (reply, _) = server.ask(None, hello(PROBE_PRODUCT)).await;
    assert!(
        !reply.headers.contains_key("set-cookie"),
        "a probe begins no session"
    );
    assert_eq!(server.broker.session_count(), 0);

    let cookie = server.greet().await;
    let cookies = format!("AWSALB=abc; {cookie}");
    let (reply, answer) = server.ask(Some(&cookies), logon("alice", PASSWORD)).await;
    assert!(!reply.headers.contains_key("set-cookie"), "set once");
    assert_eq!(logon_result(answer), AuthResultId::Complete);

    let list = Request::GetResourceList(GetResourceList::default());
    let (_, answer) = server.ask(Some(&cookies), list).await;
    let Response::GetResourceList(list) = answer else {
        panic!("another answer");
    };
    assert_eq!(list.result.id, ListResultId::Successful);
    assert_eq!(list.resources[0].name, "Edit & Grade");

    let (_, answer) = server.ask(Some(&cookies), allocate("d-1")).await;
    let Response::AllocateResource(allocation) = answer else {
        panic!("another answer");
    };
    assert_eq!(allocation.result.id, AllocResultId::Successful);
    let target = allocation.target.expect("a target");
    assert_eq!(target.ip_address.as_deref(), Some("192.0.2.1"));

    server
        .ask(Some(&cookies), Request::Bye(Bye::default()))
        .await;
    assert_eq!(server.broker.session_count(), 0);
    let document = Envelope::new(allocate("d-1")).to_document();
    let reply = server.send(Some(&cookies), document.to_vec()).await;
    assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn unknown_users_and_wrong_passwords_get_the_same_bytes() {
    let server = start(BrokerConfig::default()).await;
    let cookie = server.greet().await;
    let mut replies = Vec::new();
    for (username, password) in [("alice", "wrong"), ("nobody", PASSWORD), ("<&>\"'", "]]>")] {
        let (reply, answer) = server.ask(Some(&cookie), logon(username, password)).await;
        assert_eq!(
            logon_result(answer),
            AuthResultId::UnknownUsernameOrPassword
        );
        let mut headers = reply.headers.clone();
        headers.remove("date");
        replies.push((headers, reply.body));
    }
    assert!(replies.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn the_root_comes_back_as_it_went() {
    let server = start(BrokerConfig::default()).await;
    for root in [Root::Client, Root::Broker] {
        let request = Envelope {
            root,
            ..Envelope::new(hello("Test manager"))
        };
        let reply = server.send(None, request.to_document().to_vec()).await;
        let answer = Envelope::<Response>::parse(&reply.body).expect("an answer");
        assert_eq!(answer.root, root);
    }
}

#[tokio::test]
async fn what_is_no_message_is_refused_by_its_kind() {
    let server = start(BrokerConfig::default()).await;
    let cookie = server.greet().await;
    let doctype =
        "<!DOCTYPE a [<!ENTITY b \"c\">]><pcoip-client version=\"2.1\"><bye/></pcoip-client>";
    let too_long = vec![b' '; 64 * 1024 + 1];
    let out_of_order = Envelope::new(allocate("d-1")).to_document().to_vec();
    let cases = [
        ("", StatusCode::BAD_REQUEST),
        ("<pcoip-client", StatusCode::BAD_REQUEST),
        ("<pcoip-client version=\"2.1\"/>", StatusCode::BAD_REQUEST),
        (
            "<pcoip-client><bye/></pcoip-client>",
            StatusCode::BAD_REQUEST,
        ),
        (
            "<other version=\"2.1\"><bye/></other>",
            StatusCode::BAD_REQUEST,
        ),
        (doctype, StatusCode::BAD_REQUEST),
        (
            "<pcoip-client version=\"2.1\"><set-all/></pcoip-client>",
            StatusCode::INTERNAL_SERVER_ERROR,
        ),
    ];
    let mut cases: Vec<(Vec<u8>, StatusCode)> = cases
        .into_iter()
        .map(|(text, status)| (text.into(), status))
        .collect();
    cases.push((vec![0xff; 64], StatusCode::BAD_REQUEST));
    cases.push((too_long, StatusCode::PAYLOAD_TOO_LARGE));
    cases.push((out_of_order, StatusCode::INTERNAL_SERVER_ERROR));
    for (body, status) in cases {
        let shown = String::from_utf8_lossy(&body).into_owned();
        let reply = server.send(Some(&cookie), body).await;
        assert_eq!(reply.status, status, "{shown:.80}");
    }
    let (_, answer) = server
        .ask(Some(&cookie), logon("STUDIO\\Alice", PASSWORD))
        .await;
    assert_eq!(
        logon_result(answer),
        AuthResultId::Complete,
        "the session is unharmed"
    );
}

#[tokio::test]
async fn a_full_broker_says_unavailable() {
    let server = start(BrokerConfig {
        max_sessions: 1,
        ..BrokerConfig::default()
    })
    .await;
    let cookie = server.greet().await;
    server.ask(Some(&cookie), logon("alice", PASSWORD)).await;
    let document = Envelope::new(hello("Test client")).to_document();
    let reply = server.send(None, document.to_vec()).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn load_balancers_find_a_page_and_others_nothing() {
    let server = start(BrokerConfig::default()).await;
    for (method, path, status) in [
        (Method::GET, PATH, StatusCode::OK),
        (Method::PUT, PATH, StatusCode::METHOD_NOT_ALLOWED),
        (Method::GET, "/", StatusCode::NOT_FOUND),
    ] {
        let request = HttpRequest::builder()
            .method(method)
            .uri(format!("https://{}{path}", server.address))
            .body(Bytes::new())
            .expect("a request");
        let reply = server.client.send(request).await.expect("an answer");
        assert_eq!(reply.status, status, "{path}");
    }
}

/// Clients are particular about letter case and framing, so this looks at the bytes.
#[tokio::test]
async fn the_reply_on_the_wire_is_what_clients_insist_on() {
    let broker = Broker::new(directory(), BrokerConfig::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let server = Server::new(listener, None, ServerLimits::default());
    tasks.spawn(server.serve(broker.router(), stop.clone()));
    let document = Envelope::new(hello("Test client")).to_document();
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: broker\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        document.len()
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.write_all(&document).await.expect("sent");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.expect("an answer");
    let (head, _) = reply.split_once("\r\n\r\n").expect("a head");
    let lines: Vec<&str> = head.lines().collect();
    assert_eq!(lines[0], "HTTP/1.1 200 OK");
    assert!(lines.contains(&"Transfer-Encoding: chunked"), "{head}");
    assert!(
        lines.contains(&"Content-Type: application/xml; charset=UTF-8"),
        "{head}"
    );
    let cookie = lines
        .iter()
        .find(|line| line.starts_with("Set-Cookie: JSESSIONID="));
    assert!(
        cookie.is_some_and(|line| line.ends_with("; Secure; HttpOnly")),
        "{head}"
    );
    stop.cancel();
}

#[tokio::test]
async fn a_logon_storm_loses_nobody_and_is_counted() {
    let broker = Broker::new(directory(), BrokerConfig::default());
    let mut tasks = JoinSet::new();
    for _ in 0..50 {
        let broker = broker.clone();
        tasks.spawn(async move {
            let session = handle(&broker, None, hello("Test client")).await.session;
            let answer = handle(&broker, session, logon("alice", PASSWORD)).await;
            logon_result(answer.response.message)
        });
    }
    let results = tasks.join_all().await;
    assert!(results.iter().all(|id| *id == AuthResultId::Complete));
    let mut registry = prometheus_client::registry::Registry::default();
    broker.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
    for line in [
        "portcullis_broker_sessions 50",
        "portcullis_broker_answers_total{message=\"hello\",result=\"\"} 50",
        "portcullis_broker_answers_total{message=\"authenticate\",result=\"AUTH_SUCCESSFUL_AND_COMPLETE\"} 50",
        "portcullis_broker_password_check_seconds_count 50",
        "portcullis_broker_password_checks_refused_total 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever characters a user name and a password are made of, they are only wrong.
    #[test]
    fn hostile_names_are_only_wrong(username in "\\PC{0,64}", password in "\\PC{0,64}") {
        prop_assume!(password != PASSWORD);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let broker = Broker::new(directory(), BrokerConfig::default());
        let answer = runtime.block_on(async {
            let session = handle(&broker, None, hello("Test client")).await.session;
            handle(&broker, session, logon(&username, &password)).await
        });
        let result = logon_result(answer.response.message);
        prop_assert_eq!(result, AuthResultId::UnknownUsernameOrPassword);
    }
}
