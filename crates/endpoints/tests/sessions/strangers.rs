//! What comes from people who have no business here.

use std::{net::Ipv4Addr, time::Duration};

use bytes::Bytes;
use portcullis_endpoints::{
    agent::{AgentEvent, EndReason},
    client::{Signalled, StepEvent},
    signalling::{ClientMessage, Stop, encode},
};
use portcullis_https::{Client as Https, ClientOptions, Trust};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    task::JoinSet,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::site::{HOSTNAME, Site};

async fn tls(site: &Site) -> TlsStream<TcpStream> {
    let config = Trust::DangerAcceptAnyCertificate
        .client_config(None)
        .unwrap();
    let tcp = TcpStream::connect(site.agent.addresses().data)
        .await
        .unwrap();
    let name = ServerName::try_from(HOSTNAME).unwrap();
    TlsConnector::from(config).connect(name, tcp).await.unwrap()
}

fn refused(event: &AgentEvent) -> bool {
    matches!(event, AgentEvent::ConnectionRefused { .. })
}

#[tokio::test]
async fn a_stream_is_not_disturbed_by_udp_from_strangers() {
    let site = Site::plain().await;
    let data = site.agent.addresses().data;
    let mut config = site.client();
    config.stream = Duration::from_millis(500);
    let (told, mut streaming) = tokio::sync::mpsc::unbounded_channel();
    let client = JoinSet::from_iter([portcullis_endpoints::Client::connect(
        config,
        move |event| {
            if matches!(event, StepEvent::Streaming(_)) {
                let _ = told.send(());
            }
        },
    )]);
    streaming.recv().await.unwrap();
    let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    for length in [0_usize, 1, 7, 8, 12, 40, 1172, 1472] {
        for fill in [0_u8, 0xff, 0x5a] {
            stranger.send_to(&vec![fill; length], data).await.unwrap();
        }
    }
    let report = client.join_all().await.remove(0).unwrap();
    assert!(report.ok, "{report:?}");
    assert_eq!(report.udp.down.lost + report.udp.up.lost, 0);
    assert_eq!(site.agent.stats().dropped_unknown_spi, 24);
    let mut answer = [0; 1];
    assert!(
        stranger.try_recv(&mut answer).is_err(),
        "strangers get no answer"
    );
    site.stop().await;
}

#[tokio::test]
async fn what_is_no_session_signalling_is_closed_and_counted() {
    let mut site = Site::plain().await;
    // No TLS at all.
    let mut stream = TcpStream::connect(site.agent.addresses().data)
        .await
        .unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    site.event(refused).await;
    // TLS, then nonsense; too long; out of order; closed at once.
    let stop = encode(&ClientMessage::Stop(Stop { sent: 1 }));
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 4],
        &[0, 0, 0, 4, b'n', b'u', b'l', b'l'],
        &stop,
        &[],
    ] {
        let mut stream = tls(&site).await;
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert_eq!(answer, b"", "a stranger is told nothing");
        site.event(refused).await;
    }
    assert_eq!(site.agent.stats().connections_refused, 6);
    site.stop().await;
}

#[tokio::test]
async fn a_client_that_breaks_the_rules_loses_its_session() {
    let mut site = Site::plain().await;
    let target = site.launch("ada").await;
    let mut stream = tls(&site).await;
    let connect = ClientMessage::Connect(portcullis_endpoints::signalling::Connect {
        session_id: target.session_id.0,
        connect_tag: target.connect_tag.expose().into(),
        client_spi: 4711,
        transport_header: true,
        ciphers: site.client().ciphers,
        mtu: 1200,
        load: portcullis_endpoints::load::Load::SILENT,
    });
    stream.write_all(&encode(&connect)).await.unwrap();
    stream.write_all(&encode(&connect)).await.unwrap();
    site.event(|event| {
        matches!(
            event,
            AgentEvent::Ended {
                reason: EndReason::ProtocolError,
                ..
            }
        )
    })
    .await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let text = String::from_utf8_lossy(&answer);
    assert!(
        text.contains("accepted") && text.contains("protocol-error"),
        "{text}"
    );
    site.stop().await;
}

#[tokio::test]
async fn proposals_out_of_range_are_refused_and_do_not_use_up_the_tag() {
    let site = Site::plain().await;
    let target = site.launch("ada").await;
    let mut config = site.client();
    config.mtu = 100;
    assert!(Signalled::open(&target, &config).await.is_err());
    let mut config = site.client();
    config.load.up.pps = u32::MAX;
    assert!(Signalled::open(&target, &config).await.is_err());
    let signalled = Signalled::open(&target, &site.client()).await.unwrap();
    signalled.invite().await.unwrap().bye().await;
    site.stop().await;
}

#[tokio::test]
async fn the_control_port_answers_launch_requests_and_nothing_else() {
    let site = Site::plain().await;
    let https = Https::new(
        &Trust::DangerAcceptAnyCertificate,
        None,
        ClientOptions::default(),
    )
    .unwrap();
    let control = site.agent.addresses().control;
    let document = |inner: &str| format!("<pcoip-agent version=\"1.0\">{inner}</pcoip-agent>");
    for (method, path, body, status) in [
        ("GET", "/pcoip-agent/xml", String::new(), 405),
        ("POST", "/", String::new(), 404),
        ("POST", "/pcoip-agent/xml", String::new(), 400),
        ("POST", "/pcoip-agent/xml", "x".repeat(70_000), 413),
        ("POST", "/pcoip-agent/xml", document(""), 400),
        (
            "POST",
            "/pcoip-agent/xml",
            document(
                "<launch-session-resp><result-id>SUCCESSFUL</result-id></launch-session-resp>",
            ),
            400,
        ),
    ] {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("https://{control}{path}"))
            .body(Bytes::from(body))
            .unwrap();
        let reply = https.send(request).await.unwrap();
        assert_eq!(reply.status, status, "{method} {path}");
    }
    assert_eq!(site.agent.stats().launched, 0);
    site.stop().await;
}
