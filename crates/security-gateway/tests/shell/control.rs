//! The control link: the Connection Manager's word over HTTPS, with certificates on both sides.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use portcullis_https::{Authority, Client, ClientOptions, Identity, Server, ServerLimits, Trust};
use portcullis_security_gateway::{
    GrantRefusal, SessionKey,
    control::{self, AuthorizeError, ControlClient, ControlError},
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::harness::{Agent, CLIENT, Site, config, is_closed, request, within};

/// A gateway with its control link.
struct Link {
    site: Site,
    url: String,
    authority: Authority,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Link {
    async fn start(mutual: bool) -> Self {
        let site = Site::start(config()).await;
        let authority = Authority::generate("Control link").expect("an authority");
        let identity = authority.issue(&["127.0.0.1"]).expect("an identity");
        let tls = if mutual {
            identity
                .mutual_server_config(&[authority.certificate()])
                .expect("TLS")
        } else {
            identity.server_config(&[])
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let url = format!("https://{}", listener.local_addr().expect("address"));
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let server = Server::new(listener, Some(tls), ServerLimits::default());
        tasks.spawn(server.serve(control::router(site.gateway.clone()), stop.clone()));
        Self {
            site,
            url,
            authority,
            stop,
            tasks,
        }
    }

    fn trust(&self) -> Trust {
        Trust::Authorities(vec![self.authority.certificate()])
    }

    fn identity(&self) -> Identity {
        self.authority
            .issue(&["connection-manager"])
            .expect("an identity")
    }

    fn client(&self) -> ControlClient {
        ControlClient::new(&self.url, &self.trust(), &self.identity()).expect("a client")
    }

    /// Sends one request as it is.
    async fn raw(&self, method: Method, path: &str, body: Vec<u8>) -> (StatusCode, String) {
        let client = Client::new(
            &self.trust(),
            Some(&self.identity()),
            ClientOptions::default(),
        )
        .expect("a client");
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .body(Bytes::from(body))
            .expect("a request");
        let reply = client.send(request).await.expect("a reply");
        let body = String::from_utf8(reply.body.to_vec()).expect("text");
        (reply.status, body)
    }

    async fn stop(mut self) {
        self.stop.cancel();
        within(self.tasks.join_next()).await;
        self.site.stop().await;
    }
}

#[tokio::test]
async fn a_connection_manager_grants_lists_and_ends_sessions() {
    let link = Link::start(true).await;
    let control = link.client();
    let agent = Agent::start("127.0.1.1").await;
    let health = control.health().await.expect("health");
    assert_eq!((health.sessions, health.pending_grants), (0, 0));
    assert!(!health.draining);

    let wanted = request(CLIENT, Some("desk-1"), agent.endpoint);
    let granted = control.authorize(&wanted).await.expect("granted");
    assert_eq!(granted.address, link.site.tcp.ip());
    assert_eq!(granted.port, link.site.tcp.port());
    assert_eq!(granted.expires_in, Duration::from_secs(60));
    assert_eq!(control.health().await.expect("health").pending_grants, 1);

    let (mut client, hello) = link.site.greet(CLIENT, Some("desk-1")).await;
    let _agent_end = agent.accept(&hello).await;
    let sessions = control.sessions().await.expect("sessions");
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0].session, wanted.log_id.to_string());
    assert_eq!(sessions[0].user, wanted.user);
    assert_eq!(sessions[0].agent_tcp, agent.endpoint.tcp());

    let key = SessionKey::from_raw(sessions[0].key);
    assert!(control.end_session(key).await.expect("answered"));
    assert!(!control.end_session(key).await.expect("answered"));
    assert!(is_closed(&mut client).await);
    assert_eq!(control.sessions().await.expect("sessions"), []);
    link.stop().await;
}

#[tokio::test]
async fn refusals_arrive_as_they_were_meant() {
    let link = Link::start(true).await;
    let control = link.client();
    let agents = [
        Agent::start("127.0.1.1").await,
        Agent::start("127.0.1.2").await,
    ];
    let first = request(CLIENT, Some("desk"), agents[0].endpoint);
    let second = request(CLIENT, Some("desk"), agents[1].endpoint);
    let ipv6 = request("2001:db8::1", Some("desk"), agents[1].endpoint);
    control.authorize(&first).await.expect("granted");
    for (request, expected) in [
        (&second, GrantRefusal::Ambiguous),
        (&ipv6, GrantRefusal::AddressFamily),
    ] {
        match control.authorize(request).await {
            Err(AuthorizeError::Refused(refusal)) => assert_eq!(refusal, expected),
            other => panic!("{other:?}"),
        }
    }
    link.site.gateway.drain(true);
    let third = request(CLIENT, Some("other"), agents[1].endpoint);
    let refused = control.authorize(&third).await;
    assert!(matches!(
        refused,
        Err(AuthorizeError::Refused(GrantRefusal::Draining))
    ));
    assert!(control.health().await.expect("health").draining);
    link.stop().await;
}

#[tokio::test]
async fn without_a_certificate_of_the_authority_nothing_is_answered() {
    let link = Link::start(true).await;
    let strangers = Authority::generate("Strangers").expect("an authority");
    let strange = strangers
        .issue(&["connection-manager"])
        .expect("an identity");
    let control = ControlClient::new(&link.url, &link.trust(), &strange).expect("a client");
    let agent = Agent::start("127.0.1.1").await;
    let wanted = request(CLIENT, Some("desk-1"), agent.endpoint);
    assert!(matches!(
        control.authorize(&wanted).await,
        Err(AuthorizeError::Link(ControlError::Unreachable(_)))
    ));
    let bare = Client::new(&link.trust(), None, ClientOptions::default()).expect("a client");
    let get = Request::get(format!("{}/v1/sessions", link.url))
        .body(Bytes::new())
        .expect("a request");
    bare.send(get)
        .await
        .expect_err("no answer without certificate");
    assert_eq!(link.site.gateway.pending_count(), 0);
    link.stop().await;
}

#[tokio::test]
async fn a_listener_that_asks_for_no_certificate_opens_nothing() {
    let link = Link::start(false).await;
    let agent = Agent::start("127.0.1.1").await;
    let wanted = request(CLIENT, Some("desk-1"), agent.endpoint);
    match link.client().authorize(&wanted).await {
        Err(AuthorizeError::Link(ControlError::Unexpected { status, .. })) => {
            assert_eq!(status, StatusCode::FORBIDDEN);
        }
        other => panic!("{other:?}"),
    }
    for (method, path) in [
        (Method::GET, "/v1/sessions"),
        (Method::GET, "/v1/health"),
        (Method::DELETE, "/v1/sessions/1"),
        (Method::GET, "/nowhere"),
    ] {
        let (status, _) = link.raw(method, path, Vec::new()).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}");
    }
    link.stop().await;
}

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong() {
    let link = Link::start(true).await;
    let good = r#"{"session":"7cd13600-b190-1039-bfc7-1c697a6f50fb","client":"127.0.0.2",
        "agent":{"ip":"127.0.1.1","tcp_port":4172,"udp_port":4172},"user":"u","desktop":"d"}"#;
    let post = |body: String| link.raw(Method::POST, "/v1/grants", body.into_bytes());
    for (body, status, says) in [
        ("{".to_owned(), StatusCode::BAD_REQUEST, "EOF"),
        (
            good.replacen('{', r#"{"extra":1,"#, 1),
            StatusCode::BAD_REQUEST,
            "extra",
        ),
        (
            good.replace("7cd13600", "7cd1"),
            StatusCode::BAD_REQUEST,
            "session",
        ),
        (
            good.replacen('{', r#"{"server_name":"",#"#, 1)
                .replace('#', ""),
            StatusCode::BAD_REQUEST,
            "server_name",
        ),
        (
            good.replacen("4172", "0", 1),
            StatusCode::BAD_REQUEST,
            "agent",
        ),
        (
            good.replacen("127.0.1.1", "0.0.0.0", 1),
            StatusCode::BAD_REQUEST,
            "agent",
        ),
        (
            format!("{good}{}", " ".repeat(20_000)),
            StatusCode::PAYLOAD_TOO_LARGE,
            "16384",
        ),
    ] {
        let (found, text) = post(body).await;
        assert_eq!(found, status, "{text}");
        assert!(text.contains(says), "{says} in {text}");
    }
    assert_eq!(link.site.gateway.pending_count(), 0);
    let (status, _) = post(good.to_owned()).await;
    assert_eq!(status, StatusCode::CREATED);
    for (method, path, status) in [
        (Method::GET, "/v1/nothing", StatusCode::NOT_FOUND),
        (Method::GET, "/v1/grants", StatusCode::METHOD_NOT_ALLOWED),
        (Method::DELETE, "/v1/sessions/77", StatusCode::NOT_FOUND),
    ] {
        let (found, text) = link.raw(method, path, Vec::new()).await;
        assert_eq!(found, status, "{path}: {text}");
        assert!(text.contains("error"), "{text}");
    }
    link.stop().await;
}

#[tokio::test]
async fn a_gateway_that_is_not_there_is_unreachable() {
    let link = Link::start(true).await;
    let control = link.client();
    link.stop().await;
    assert!(matches!(
        control.health().await,
        Err(ControlError::Unreachable(_))
    ));
}

#[test]
fn only_https_addresses_are_taken() {
    let authority = Authority::generate("Control link").expect("an authority");
    let identity = authority
        .issue(&["connection-manager"])
        .expect("an identity");
    let trust = Trust::Authorities(vec![authority.certificate()]);
    for (url, taken) in [
        ("https://gateway.example:8443", true),
        ("https://gateway.example:8443/", true),
        ("http://gateway.example:8443", false),
        ("https://gateway.example/v1", false),
        ("gateway.example", false),
        ("https:// no", false),
    ] {
        assert_eq!(
            ControlClient::new(url, &trust, &identity).is_ok(),
            taken,
            "{url}"
        );
    }
}
