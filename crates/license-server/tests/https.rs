//! Server and client over real HTTPS on loopback.

use std::{net::SocketAddr, time::Duration};

use axum::{
    body::Bytes,
    http::{Method, Request, StatusCode},
};
use portcullis_https::{
    Authority, CertificateDer, Client, ClientOptions, Server, ServerLimits, Trust,
};
use portcullis_license_server::{
    AcquireError, AcquireRequest, Administrator, DEFAULT_FEATURE, FeatureConfig, Handle,
    LeaseClient, LicenseServer, LicenseServerConfig, PoolConfig, RenewError, ReturnError,
};
use portcullis_protocol::license_path::LicensePath;
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpSocket},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// A licence server on a loopback port, stopped when dropped.
struct Running {
    address: SocketAddr,
    authority: CertificateDer<'static>,
    handle: Handle,
    stop: CancellationToken,
    _tasks: JoinSet<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn start(pool: PoolConfig, administrator: Option<Administrator>) -> Running {
    let authority = Authority::generate("Test authority").expect("an authority");
    let identity = authority.issue(&["127.0.0.1"]).expect("a certificate");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = LicenseServer::new(LicenseServerConfig {
        pool,
        administrator,
    })
    .expect("a valid pool");
    let handle = server.handle();
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let https = Server::new(
        listener,
        Some(identity.server_config(&[b"http/1.1"])),
        ServerLimits::default(),
    );
    tasks.spawn(https.serve(server.router(), stop.clone()));
    let stopped = stop.clone();
    tasks.spawn(async move { server.run(stopped).await });
    Running {
        address,
        authority: authority.certificate(),
        handle,
        stop,
        _tasks: tasks,
    }
}

impl Running {
    fn trust(&self) -> Trust {
        Trust::Authorities(vec![self.authority.clone()])
    }

    fn path(&self) -> LicensePath {
        path(&format!("{}@127.0.0.1", self.address.port()))
    }

    fn client(&self) -> LeaseClient {
        LeaseClient::new(vec![self.path()], &self.trust()).expect("a client")
    }

    fn used(&self) -> u32 {
        self.handle.usage().iter().map(|feature| feature.used).sum()
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: impl Into<Bytes>,
    ) -> (StatusCode, Value) {
        let client = Client::new(&self.trust(), None, ClientOptions::default()).expect("a client");
        let mut request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.address));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let reply = client
            .send(request.body(body.into()).expect("a request"))
            .await
            .expect("an answer");
        let body = if reply.body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&reply.body).expect("JSON")
        };
        (reply.status, body)
    }

    async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        self.call(Method::POST, path, None, body.to_string()).await
    }
}

fn path(text: &str) -> LicensePath {
    LicensePath::parse(text).expect("a licence path")
}

fn request(session: &str) -> AcquireRequest {
    AcquireRequest {
        feature: DEFAULT_FEATURE.to_owned(),
        holder: "workstation-1".to_owned(),
        session: session.to_owned(),
    }
}

#[tokio::test]
async fn a_lease_is_acquired_renewed_and_given_back() {
    let server = start(PoolConfig::of_sessions(2), None).await;
    let client = server.client();
    let lease = client.acquire(request("s1")).await.expect("a lease");
    assert_eq!(lease.ttl(), Duration::from_secs(300));
    assert_eq!(server.used(), 1);
    lease.renew().await.expect("renewed");
    lease.give_back().await.expect("given back");
    assert_eq!(server.used(), 0);
    assert_eq!(server.handle.totals().returned, 1);
}

#[tokio::test]
async fn every_form_of_an_address_is_dialled_over_https() {
    let server = start(PoolConfig::of_sessions(1), None).await;
    let port = server.address.port();
    for text in [
        format!("{port}@127.0.0.1"),
        format!("http://127.0.0.1:{port}/request"),
        format!("https://127.0.0.1:{port}/request"),
    ] {
        let client = LeaseClient::new(vec![path(&text)], &server.trust()).expect("a client");
        let lease = client.acquire(request("s1")).await.expect("a lease");
        lease.give_back().await.expect("given back");
    }
}

#[tokio::test]
async fn an_empty_pool_says_so() {
    let server = start(PoolConfig::of_sessions(0), None).await;
    let error = server
        .client()
        .acquire(request("s1"))
        .await
        .expect_err("empty");
    assert!(matches!(error, AcquireError::NoneAvailable), "{error:?}");
    let (status, body) = server
        .post(
            "/api/1.0/leases",
            &json!({"feature": DEFAULT_FEATURE, "holder": "h", "session": "s"}),
        )
        .await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(body["error"], "none_available");
    assert_eq!(body["message"], "All 0 licences of the feature are in use.");
}

#[tokio::test]
async fn a_retry_takes_no_second_license() {
    let server = start(PoolConfig::of_sessions(1), None).await;
    let client = server.client();
    let first = client.acquire(request("s1")).await.expect("a lease");
    let second = client.acquire(request("s1")).await.expect("the same lease");
    assert_eq!(server.used(), 1);
    second.give_back().await.expect("given back");
    let error = first.renew().await.expect_err("it was the same lease");
    assert!(matches!(error, RenewError::Expired), "{error:?}");
    let error = first.give_back().await.expect_err("it was the same lease");
    assert!(matches!(error, ReturnError::Expired), "{error:?}");
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_expires() {
    let mut pool = PoolConfig::of_sessions(1);
    pool.lease_ttl = Duration::from_secs(1);
    let server = start(pool, None).await;
    let client = server.client();
    let lease = client.acquire(request("s1")).await.expect("a lease");
    // The pool is full until the lease expires, so polling for the place is waiting for the expiry.
    let next = loop {
        match client.acquire(request("s2")).await {
            Ok(lease) => break lease,
            Err(AcquireError::NoneAvailable) => tokio::task::yield_now().await,
            Err(other) => panic!("{other:?}"),
        }
    };
    assert!(matches!(lease.renew().await, Err(RenewError::Expired)));
    assert_eq!(server.handle.totals().expired, 1);
    drop(next);
}

#[tokio::test]
async fn of_a_hundred_at_once_exactly_ten_get_one_of_ten() {
    let server = start(PoolConfig::of_sessions(10), None).await;
    let client = server.client();
    let mut tasks = JoinSet::new();
    for number in 0..100 {
        let client = client.clone();
        tasks.spawn(async move { client.acquire(request(&format!("s{number}"))).await });
    }
    let outcomes = tasks.join_all().await;
    let granted = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let refused = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Err(AcquireError::NoneAvailable)))
        .count();
    assert_eq!((granted, refused), (10, 90));
    assert_eq!(server.used(), 10);
    for lease in outcomes.into_iter().flatten() {
        lease.give_back().await.expect("given back");
    }
    assert_eq!(server.used(), 0);
}

#[tokio::test]
async fn the_next_address_is_tried() {
    let empty = start(PoolConfig::of_sessions(0), None).await;
    let full = start(PoolConfig::of_sessions(1), None).await;
    // Bound but not listening: nobody else gets the port, and connections are refused.
    let refusing = TcpSocket::new_v4().expect("a socket");
    let any = "127.0.0.1:0".parse().expect("an address");
    refusing.bind(any).expect("a port");
    let dead = refusing.local_addr().expect("an address").port();
    let trust = Trust::Authorities(vec![empty.authority.clone(), full.authority.clone()]);
    let dead = path(&format!("{dead}@127.0.0.1"));
    let client =
        LeaseClient::new(vec![dead.clone(), empty.path(), full.path()], &trust).expect("a client");
    let lease = client.acquire(request("s1")).await.expect("from the last");
    assert!(lease.server().ends_with(&full.address.port().to_string()));
    let client = LeaseClient::new(vec![empty.path(), dead.clone()], &trust).expect("a client");
    let error = client.acquire(request("s1")).await.expect_err("none");
    assert!(matches!(error, AcquireError::NoneAvailable), "{error:?}");
    let client = LeaseClient::new(vec![dead], &trust).expect("a client");
    let error = client.acquire(request("s1")).await.expect_err("none");
    assert!(
        matches!(error, AcquireError::Unreachable { .. }),
        "{error:?}"
    );
    let client = LeaseClient::new(vec![], &trust).expect("a client");
    let error = client.acquire(request("s1")).await.expect_err("none");
    assert!(matches!(error, AcquireError::NoServer), "{error:?}");
}

#[tokio::test]
async fn a_server_that_is_not_trusted_is_not_asked() {
    let server = start(PoolConfig::of_sessions(1), None).await;
    let stranger = Authority::generate("Another authority").expect("an authority");
    let trust = Trust::Authorities(vec![stranger.certificate()]);
    let client = LeaseClient::new(vec![server.path()], &trust).expect("a client");
    let error = client
        .acquire(request("s1"))
        .await
        .expect_err("not trusted");
    assert!(
        matches!(error, AcquireError::Unreachable { .. }),
        "{error:?}"
    );
    assert_eq!(server.used(), 0);
}

#[tokio::test]
async fn a_feature_the_server_lacks_is_refused_with_its_words() {
    let server = start(PoolConfig::of_sessions(1), None).await;
    let mut wanted = request("s1");
    wanted.feature = "Agent-Graphics".to_owned();
    let error = server.client().acquire(wanted).await.expect_err("unknown");
    let AcquireError::Refused {
        status, message, ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(
        (status, message.as_str()),
        (404, "This server has no such feature.")
    );
}

#[tokio::test]
async fn bad_bodies_change_nothing() {
    let server = start(PoolConfig::of_sessions(5), None).await;
    let long = "x".repeat(257);
    let cases = [
        String::new(),
        "{".to_owned(),
        "[]".to_owned(),
        "\u{0}".to_owned(),
        json!({"feature": "Agent-Session", "holder": "h"}).to_string(),
        json!({"feature": "Agent-Session", "holder": "h", "session": 1}).to_string(),
        json!({"feature": "Agent-Session", "holder": "h", "session": "s", "more": 1}).to_string(),
        json!({"feature": "Agent-Session", "holder": "", "session": "s"}).to_string(),
        json!({"feature": "Agent-Session", "holder": long, "session": "s"}).to_string(),
        json!({"feature": "Agent-Session", "holder": "h\n", "session": "s"}).to_string(),
    ];
    for body in cases {
        let (status, answer) = server
            .call(Method::POST, "/api/1.0/leases", None, body.clone())
            .await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(answer["error"], "invalid_request", "{body}");
    }
    let (status, answer) = server
        .call(Method::POST, "/api/1.0/leases", None, vec![b' '; 4097])
        .await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer["error"], "too_long");
    assert_eq!(server.used(), 0);
}

#[tokio::test]
async fn bytes_that_are_no_tls_leave_the_server_serving() {
    let server = start(PoolConfig::of_sessions(1), None).await;
    let mut stream = tokio::net::TcpStream::connect(server.address)
        .await
        .expect("connected");
    stream
        .write_all(b"GET /api/1.0/health HTTP/1.1\r\n\r\n")
        .await
        .expect("sent");
    let (status, body) = server.call(Method::GET, "/api/1.0/health", None, "").await;
    assert_eq!((status, body), (StatusCode::OK, json!({"status": "ok"})));
}

#[tokio::test]
async fn unknown_leases_and_paths_are_not_found() {
    let server = start(PoolConfig::of_sessions(1), None).await;
    let nobody = "0".repeat(32);
    for (method, path) in [
        (Method::POST, format!("/api/1.0/leases/{nobody}/renew")),
        (Method::DELETE, format!("/api/1.0/leases/{nobody}")),
        (Method::DELETE, "/api/1.0/leases/../..".to_owned()),
        (Method::DELETE, "/api/1.0/leases/%00".to_owned()),
        (Method::GET, "/".to_owned()),
        // Without an administrator the read interface does not exist.
        (Method::GET, "/api/1.0/instances/~/features".to_owned()),
        (Method::POST, "/api/1.0/instances/~/authorize".to_owned()),
    ] {
        let (status, _) = server.call(method, &path, None, "").await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
    }
    let (status, _) = server.call(Method::GET, "/api/1.0/leases", None, "").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn the_vendors_binary_exchange_is_declined_in_words() {
    let server = start(PoolConfig::of_sessions(1), None).await;
    let (status, body) = server
        .call(Method::POST, "/request", None, vec![0_u8, 159, 146, 150])
        .await;
    assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
    let message = body["message"].as_str().expect("a sentence");
    assert!(message.contains("does not speak"), "{message}");
}

#[tokio::test]
async fn an_administrator_reads_features_and_holders() {
    let mut pool = PoolConfig::of_sessions(3);
    pool.features.push(FeatureConfig {
        name: "Agent-Graphics".to_owned(),
        count: 1,
    });
    let server = start(
        pool,
        Some(Administrator {
            user: "admin".into(),
            password: "correct horse".into(),
        }),
    )
    .await;
    let lease = server
        .client()
        .acquire(request("s1"))
        .await
        .expect("a lease");
    let base = "/api/1.0/instances/~";
    let paths = ["features", "features/1", "features/1/clients"];
    for path in paths {
        for token in [None, Some("00000000000000000000000000000000"), Some("")] {
            let (status, _) = server
                .call(Method::GET, &format!("{base}/{path}"), token, "")
                .await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{path} {token:?}");
        }
    }
    let (status, body) = server
        .post(
            &format!("{base}/authorize"),
            &json!({"user": "admin", "password": "wrong"}),
        )
        .await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(body["error"], "unauthorized");
    let (status, body) = server
        .post(
            &format!("{base}/authorize"),
            &json!({"user": "admin", "password": "correct horse"}),
        )
        .await;
    assert_eq!(status, StatusCode::OK);
    let token = body["token"].as_str().expect("a token");
    let mut read = Vec::new();
    for path in paths {
        let (status, body) = server
            .call(Method::GET, &format!("{base}/{path}"), Some(token), "")
            .await;
        assert_eq!(status, StatusCode::OK, "{path}");
        read.push(body);
    }
    let sessions = json!({"id": 1, "featureName": "Agent-Session", "featureCount": 3, "used": 1, "expiry": "permanent"});
    let graphics = json!({"id": 2, "featureName": "Agent-Graphics", "featureCount": 1, "used": 0, "expiry": "permanent"});
    assert_eq!(read[0], json!([sessions, graphics]));
    assert_eq!(read[1], sessions);
    assert_eq!(
        read[2],
        json!([{"hostName": "workstation-1", "session": "s1"}]),
        "and no lease id"
    );
    let (status, _) = server
        .call(Method::GET, &format!("{base}/features/3"), Some(token), "")
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    lease.give_back().await.expect("given back");
}

#[tokio::test]
async fn guessing_passwords_ends_after_ten() {
    let server = start(
        PoolConfig::of_sessions(1),
        Some(Administrator {
            user: "admin".into(),
            password: "correct horse".into(),
        }),
    )
    .await;
    let guess = json!({"user": "admin", "password": "wrong"});
    for _ in 0..10 {
        let (status, _) = server.post("/api/1.0/instances/~/authorize", &guess).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
    let (status, _) = server.post("/api/1.0/instances/~/authorize", &guess).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
}
