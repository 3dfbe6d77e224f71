//! The console over real sockets.

use std::{net::SocketAddr, sync::Arc};

use portcullis_console::{ConsoleSources, PATHS, router};
use portcullis_https::{Server, ServerLimits};
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// A console on a loopback port, stopped when dropped.
struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    _tasks: JoinSet<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A reply, taken apart.
struct Reply {
    status: u16,
    head: String,
    body: String,
}

async fn start(token: Option<SecretString>) -> Running {
    let mut registry = Registry::default();
    let counter = Counter::<u64>::default();
    counter.inc_by(3);
    registry.register("portcullis_tests", "Tests", counter);
    let sources = ConsoleSources {
        registry: Arc::new(registry),
        sessions: Arc::new(|| vec![json!({"session": "7cd13600-b190-1039-bfc7-1c697a6f50fb"})]),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let server = Server::new(listener, None, ServerLimits::default());
    tasks.spawn(server.serve(router(sources, token), stop.clone()));
    Running {
        address,
        stop,
        _tasks: tasks,
    }
}

impl Running {
    async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|&(name, _)| name == "Host") {
            request += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += "\r\n";
        let mut stream = TcpStream::connect(self.address).await.expect("connected");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.expect("an answer");
        let (head, body) = reply.split_once("\r\n\r\n").expect("a head");
        let status = head.get(9..12).and_then(|code| code.parse().ok());
        Reply {
            status: status.expect("a status"),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }
}

#[tokio::test]
async fn each_path_shows_its_part() {
    let console = start(None).await;
    let page = console.call("GET", "/", &[]).await;
    assert_eq!(page.status, 200);
    for path in PATHS {
        assert!(page.body.contains(path), "{path} is on the page");
    }
    let metrics = console.call("GET", "/metrics", &[]).await;
    assert_eq!(metrics.status, 200);
    let kind = "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(
        metrics.head.lines().any(|line| line == kind),
        "{}",
        metrics.head
    );
    assert!(
        metrics.body.contains("portcullis_tests_total 3\n"),
        "{}",
        metrics.body
    );
    assert!(metrics.body.ends_with("# EOF\n"));
    let sessions = console.call("GET", "/api/v1/sessions", &[]).await;
    assert_eq!(sessions.status, 200);
    let sessions: Value = serde_json::from_str(&sessions.body).expect("JSON");
    assert_eq!(
        sessions,
        json!([{"session": "7cd13600-b190-1039-bfc7-1c697a6f50fb"}])
    );
}

#[tokio::test]
async fn with_a_token_nothing_is_shown_without_it() {
    let console = start(Some("s3cret".into())).await;
    for path in PATHS.into_iter().chain(["/nothing", "/metrics/", "//"]) {
        for method in ["GET", "HEAD", "POST", "OPTIONS"] {
            for headers in [&[][..], &[("Authorization", "Bearer wrong!")]] {
                let reply = console.call(method, path, headers).await;
                assert_eq!(reply.status, 401, "{method} {path}");
                let challenge = |line: &str| line.eq_ignore_ascii_case("www-authenticate: bearer");
                assert!(reply.head.lines().any(challenge), "{}", reply.head);
            }
        }
    }
    for path in PATHS {
        let reply = console
            .call("GET", path, &[("Authorization", "Bearer s3cret")])
            .await;
        assert_eq!(reply.status, 200, "{path}");
    }
}

#[tokio::test]
async fn with_a_token_any_host_name_will_do() {
    let console = start(Some("s3cret".into())).await;
    let headers = [
        ("Authorization", "Bearer s3cret"),
        ("Host", "console.example"),
    ];
    assert_eq!(console.call("GET", "/metrics", &headers).await.status, 200);
}

#[tokio::test]
async fn without_a_token_a_rebound_name_learns_nothing() {
    let console = start(None).await;
    for path in PATHS {
        let reply = console.call("GET", path, &[("Host", "evil.example")]).await;
        assert_eq!(reply.status, 421, "{path}");
        assert!(!reply.body.contains("7cd13600"), "{path}");
    }
}

#[tokio::test]
async fn nothing_can_be_changed_or_cached() {
    let console = start(None).await;
    for path in PATHS {
        for method in ["POST", "PUT", "DELETE"] {
            assert_eq!(
                console.call(method, path, &[]).await.status,
                405,
                "{method} {path}"
            );
        }
        let reply = console.call("GET", path, &[]).await;
        assert!(
            reply
                .head
                .lines()
                .any(|line| line == "Cache-Control: no-store"),
            "{}",
            reply.head
        );
    }
    assert_eq!(console.call("GET", "/nothing", &[]).await.status, 404);
}
