//! Opening the ports, and what is said when that fails.

use std::error::Error;

use portcullis_security_gateway::{BindError, GatewayConfig, SecurityGateway, Upstream};
use tokio::net::{TcpListener, UdpSocket};

use crate::harness::{at, config, ip};

/// The error, and the one under it.
async fn refusal(config: GatewayConfig) -> (String, Option<String>) {
    let error = SecurityGateway::bind(config)
        .await
        .expect_err("cannot start");
    let source = error.source().map(ToString::to_string);
    (error.to_string(), source)
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_protocol() {
    let tcp = TcpListener::bind(at("127.0.0.1", 0)).await.expect("bound");
    let tcp_taken = tcp.local_addr().expect("address");
    let udp = UdpSocket::bind(at("127.0.0.1", 0)).await.expect("bound");
    let udp_taken = udp.local_addr().expect("address");
    for (config, says) in [
        (
            GatewayConfig {
                tcp_listen: tcp_taken,
                ..config()
            },
            format!("cannot listen for clients on TCP {tcp_taken}"),
        ),
        (
            GatewayConfig {
                udp_listen: udp_taken,
                ..config()
            },
            format!("cannot receive from clients on UDP {udp_taken}"),
        ),
        (
            GatewayConfig {
                upstream: Upstream::Fixed(udp_taken.port()),
                upstream_address: Some(udp_taken.ip()),
                ..config()
            },
            format!("cannot send to agents from UDP {udp_taken}"),
        ),
    ] {
        let (error, source) = refusal(config).await;
        assert_eq!(error, says);
        let source = source.expect("a source");
        assert!(source.contains("in use"), "{source}");
        assert!(!error.contains(&source), "{error}");
    }
}

#[tokio::test]
async fn a_public_address_must_be_one() {
    let none = GatewayConfig {
        public_addresses: Vec::new(),
        ..config()
    };
    assert!(matches!(
        SecurityGateway::bind(none).await,
        Err(BindError::NoPublicAddress)
    ));
    for unusable in ["0.0.0.0", "::", "224.0.0.1"] {
        let config = GatewayConfig {
            public_addresses: vec![ip("127.0.0.1"), ip(unusable)],
            ..config()
        };
        let (error, _) = refusal(config).await;
        assert!(error.contains(unusable), "{error}");
    }
}

#[tokio::test]
async fn both_ports_of_clients_have_one_number() {
    for _ in 0..20 {
        let gateway = SecurityGateway::bind(config()).await.expect("bound");
        assert_eq!(gateway.tcp_address().port(), gateway.udp_address().port());
    }
}

#[tokio::test]
async fn the_public_port_is_what_clients_are_told() {
    let gateway = SecurityGateway::bind(GatewayConfig {
        public_port: Some(14_172),
        ..config()
    })
    .await
    .expect("bound");
    let agent = crate::harness::Agent::start("127.0.1.1").await;
    let request = crate::harness::request("127.0.0.2", Some("desk"), agent.endpoint);
    let granted = gateway.handle().authorize(request).expect("granted");
    assert_eq!(granted.port, 14_172);
}
