//! The server and the client against each other, and against raw sockets, over real TLS on loopback.

#![expect(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    http::{HeaderMap, StatusCode, header},
    routing::post,
};
use bytes::Bytes;
use portcullis_https::{
    Authority, Client, ClientOptions, Fingerprint, Identity, Peer, SendError, Server, ServerLimits,
    Trust,
    server::{ReadBodyError, chunked, read_body},
};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

/// A server on an ephemeral port, stopped and awaited by [`Running::stop`].
struct Running {
    address: SocketAddr,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

impl Running {
    async fn start(
        tls: Option<Arc<rustls::ServerConfig>>,
        limits: ServerLimits,
        router: Router,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(Server::new(listener, tls, limits).serve(router, shutdown.clone()));
        Self {
            address,
            shutdown,
            tasks,
        }
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }

    fn request(&self, path: &str) -> http::Request<Bytes> {
        http::Request::post(format!("https://{}{path}", self.address))
            .body(Bytes::from_static(b"question"))
            .unwrap()
    }
}

fn echo() -> Router {
    async fn handler(
        Extension(peer): Extension<Peer>,
        body: Body,
    ) -> (StatusCode, HeaderMap, Body) {
        let (status, reply) = match read_body(body, 1024, Duration::from_millis(300)).await {
            Ok(body) => (StatusCode::OK, body.to_vec()),
            Err(ReadBodyError::TooLong { .. }) => (StatusCode::PAYLOAD_TOO_LARGE, b"long".to_vec()),
            Err(ReadBodyError::TimedOut) => (StatusCode::REQUEST_TIMEOUT, b"slow".to_vec()),
            Err(_) => (StatusCode::BAD_REQUEST, b"broken".to_vec()),
        };
        let mut headers = HeaderMap::new();
        headers.insert(
            header::SET_COOKIE,
            "JSESSIONID=1; Secure; HttpOnly".parse().unwrap(),
        );
        headers.insert(
            "X-Certificate",
            peer.certificate.is_some().to_string().parse().unwrap(),
        );
        (status, headers, chunked(reply))
    }
    Router::new().route("/", post(handler))
}

fn client(trust: &Trust) -> Client {
    Client::new(trust, None, ClientOptions::default()).unwrap()
}

#[tokio::test]
async fn each_trust_policy_believes_what_it_says_and_nothing_else() {
    let authority = Authority::generate("Right").unwrap();
    let identity = authority.issue(&["127.0.0.1"]).unwrap();
    let server = Running::start(
        Some(identity.server_config(&[b"http/1.1"])),
        ServerLimits::default(),
        echo(),
    )
    .await;
    let elsewhere = Authority::generate("Wrong").unwrap();
    let misnamed = authority.issue(&["127.0.0.9"]).unwrap();

    let shown = Fingerprint::of(&identity.chain()[0]);
    for good in [
        Trust::Authorities(vec![elsewhere.certificate(), authority.certificate()]),
        Trust::Pinned(vec![shown]),
        Trust::OnFirstUse,
        Trust::DangerAcceptAnyCertificate,
    ] {
        let reply = client(&good).send(server.request("/")).await.unwrap();
        assert_eq!(
            (reply.status, reply.body.as_slice()),
            (StatusCode::OK, b"question".as_slice()),
            "{good:?}"
        );
        assert_eq!(reply.remote, Some(server.address));
    }
    let other = Fingerprint::of(&misnamed.chain()[0]);
    for bad in [
        Trust::Authorities(vec![elsewhere.certificate()]),
        Trust::Pinned(vec![other]),
    ] {
        let refused = client(&bad).send(server.request("/")).await;
        assert!(
            matches!(refused, Err(SendError::Connect(_))),
            "{bad:?}: {refused:?}"
        );
    }
    server.stop().await;

    let server = Running::start(
        Some(misnamed.server_config(&[])),
        ServerLimits::default(),
        echo(),
    )
    .await;
    let refused = client(&Trust::Authorities(vec![authority.certificate()]))
        .send(server.request("/"))
        .await;
    assert!(
        matches!(refused, Err(SendError::Connect(_))),
        "a certificate for another address: {refused:?}"
    );
    server.stop().await;
}

#[tokio::test]
async fn trust_on_first_use_notices_a_changed_certificate() {
    let believer = client(&Trust::OnFirstUse);
    let router = echo();
    let first = Identity::self_signed(&["one.test"]).unwrap();
    let server = Running::start(
        Some(first.server_config(&[])),
        ServerLimits::default(),
        router.clone(),
    )
    .await;
    believer.send(server.request("/")).await.unwrap();
    server.stop().await;

    let second = Identity::self_signed(&["one.test"]).unwrap();
    let server = Running::start(
        Some(second.server_config(&[])),
        ServerLimits::default(),
        router,
    )
    .await;
    let refused = believer.send(server.request("/")).await;
    assert!(matches!(refused, Err(SendError::Connect(_))), "{refused:?}");
    server.stop().await;
}

#[tokio::test]
async fn mutual_tls_admits_only_clients_of_the_authority() {
    let authority = Authority::generate("Control").unwrap();
    let tls = authority
        .issue(&["127.0.0.1"])
        .unwrap()
        .mutual_server_config(&[authority.certificate()])
        .unwrap();
    let server = Running::start(Some(tls), ServerLimits::default(), echo()).await;
    let trust = Trust::Authorities(vec![authority.certificate()]);

    let known = authority.issue(&["manager.test"]).unwrap();
    let reply = Client::new(&trust, Some(&known), ClientOptions::default())
        .unwrap()
        .send(server.request("/"))
        .await;
    assert_eq!(reply.unwrap().headers["x-certificate"], "true");
    let stranger = Identity::self_signed(&["manager.test"]).unwrap();
    for identity in [Some(&stranger), None] {
        let client = Client::new(&trust, identity, ClientOptions::default()).unwrap();
        assert!(
            client.send(server.request("/")).await.is_err(),
            "{identity:?}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn the_wire_shows_title_case_names_and_chunks() {
    let identity = Identity::self_signed(&["127.0.0.1"]).unwrap();
    let server = Running::start(
        Some(identity.server_config(&[b"http/1.1"])),
        ServerLimits::default(),
        echo(),
    )
    .await;
    let tls = TlsConnector::from(Trust::OnFirstUse.client_config(None).unwrap());
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let mut stream = tls
        .connect(ServerName::from(server.address.ip()), tcp)
        .await
        .unwrap();
    stream
        .write_all(
            b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi",
        )
        .await
        .unwrap();
    let mut wire = String::new();
    stream.read_to_string(&mut wire).await.unwrap();
    for expected in [
        "HTTP/1.1 200 OK\r\n",
        "\r\nSet-Cookie: JSESSIONID=1; Secure; HttpOnly\r\n",
        "\r\nTransfer-Encoding: chunked\r\n",
        "\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    ] {
        assert!(wire.contains(expected), "{expected:?} in {wire}");
    }
    server.stop().await;
}

#[tokio::test]
async fn long_and_slow_bodies_are_told_so() {
    let server = Running::start(None, ServerLimits::default(), echo()).await;
    for (sent, status) in [
        (
            "content-length: 2000\r\n\r\n".to_owned() + &"x".repeat(2000),
            "HTTP/1.1 413 ",
        ),
        (
            "content-length: 20\r\n\r\nonly this".to_owned(),
            "HTTP/1.1 408 ",
        ),
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream
            .write_all(
                format!("POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{sent}").as_bytes(),
            )
            .await
            .unwrap();
        let mut start = [0; 13];
        stream.read_exact(&mut start).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&start), status);
    }
    server.stop().await;
}

#[tokio::test]
async fn silence_is_ended_in_the_handshake_and_in_the_head() {
    let limits = ServerLimits {
        handshake: Duration::from_millis(100),
        header: Duration::from_millis(100),
        ..ServerLimits::default()
    };
    let identity = Identity::self_signed(&["127.0.0.1"]).unwrap();
    for tls in [Some(identity.server_config(&[])), None] {
        let server = Running::start(tls, limits.clone(), echo()).await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "{rest:?}");
        server.stop().await;
    }
}

#[tokio::test]
async fn one_address_cannot_take_every_connection() {
    let limits = ServerLimits {
        connections_per_address: 2,
        ..ServerLimits::default()
    };
    let server = Running::start(None, limits, echo()).await;
    let ask = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(ask).await.unwrap();
        assert_ne!(stream.read(&mut [0; 64]).await.unwrap(), 0);
        kept.push(stream);
    }
    let mut third = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(
        third.read(&mut [0; 64]).await.unwrap_or(0),
        0,
        "the third connection is closed at once"
    );

    drop(kept);
    // The server notices the closed ones in its own time; a new connection is then served again.
    for attempt in 0.. {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let served = stream.write_all(ask).await.is_ok()
            && stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0);
        if served {
            break;
        }
        assert!(attempt < 1000, "no connection was ever freed");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_handler_runs_to_its_end_when_the_client_hangs_up() {
    let (entered, go_on, finished) = (
        Arc::new(Notify::new()),
        Arc::new(Notify::new()),
        Arc::new(Notify::new()),
    );
    let handler = {
        let (entered, go_on, finished) = (
            Arc::clone(&entered),
            Arc::clone(&go_on),
            Arc::clone(&finished),
        );
        move || async move {
            entered.notify_one();
            go_on.notified().await;
            finished.notify_one();
        }
    };
    let server = Running::start(
        None,
        ServerLimits::default(),
        Router::new().route("/", post(handler)),
    )
    .await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        .await
        .unwrap();
    entered.notified().await;
    drop(stream);
    // Once this second connection is served, the server has had its turn to see the first one close.
    drop(TcpStream::connect(server.address).await.unwrap());
    tokio::task::yield_now().await;
    go_on.notify_one();
    tokio::time::timeout(Duration::from_secs(10), finished.notified())
        .await
        .expect("the handler was cancelled");
    server.stop().await;
}

#[tokio::test]
async fn the_client_keeps_its_limits() {
    async fn slow() {
        std::future::pending::<()>().await;
    }
    let long = || async { "x".repeat(2000) };
    let router = Router::new()
        .route("/slow", post(slow))
        .route("/long", post(long));
    let identity = Identity::self_signed(&["127.0.0.1"]).unwrap();
    let server = Running::start(
        Some(identity.server_config(&[])),
        ServerLimits::default(),
        router,
    )
    .await;
    let options = ClientOptions {
        connect: Duration::from_millis(200),
        total: Duration::from_millis(400),
        body_bytes: 1000,
        local_address: Some("127.0.0.3".parse().unwrap()),
    };
    let client = Client::new(&Trust::OnFirstUse, None, options).unwrap();
    let slow = client.send(server.request("/slow")).await;
    assert!(
        matches!(
            slow,
            Err(SendError::TimedOut {
                connected: true,
                ..
            })
        ),
        "{slow:?}"
    );
    let long = client.send(server.request("/long")).await;
    assert!(
        matches!(long, Err(SendError::TooLong { limit: 1000 })),
        "{long:?}"
    );

    // Accepts TCP, never speaks TLS.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("https://{}/", mute.local_addr().unwrap());
    let mute_answer = client
        .send(http::Request::get(&uri).body(Bytes::new()).unwrap())
        .await;
    assert!(
        matches!(mute_answer, Err(SendError::Connect(_))),
        "{mute_answer:?}"
    );
    drop(mute);
    let refused = client
        .send(http::Request::get(&uri).body(Bytes::new()).unwrap())
        .await;
    assert!(matches!(refused, Err(SendError::Connect(_))), "{refused:?}");
    drop(server);
}
