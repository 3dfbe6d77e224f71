//! HTTP as clients and balancers meet it: literal bytes, limits, orders, everything malformed.

use std::time::Duration;

use portcullis_connection_manager::ManagerConfig;
use tokio::io::AsyncWriteExt;

use crate::support::{Front, documents};

#[tokio::test]
async fn the_literal_bytes_are_the_ones_clients_insist_on() {
    let front = Front::usual().await;
    let mut wire = front.wire().await;
    let reply = wire.post("", documents::HELLO).await;
    for line in [
        "HTTP/1.1 200 OK\r\n",
        "\r\nSet-Cookie: JSESSIONID=",
        "; Secure; HttpOnly\r\n",
        "\r\nTransfer-Encoding: chunked\r\n",
        "\r\nContent-Type: application/xml; charset=UTF-8\r\n",
    ] {
        assert!(reply.head.contains(line), "{line:?} in {}", reply.head);
    }
    let value = reply.cookie().expect("the literal form");
    assert_eq!(value.len(), 32);
    assert!(
        value.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{value}"
    );
    assert!(!reply.head.contains("Content-Length"));
    assert!(
        reply
            .body
            .starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>"),
        "{}",
        reply.body
    );
}

#[tokio::test]
async fn replies_can_have_a_fixed_length() {
    let front = Front::with(ManagerConfig {
        chunked_replies: false,
        ..ManagerConfig::default()
    })
    .await;
    let mut wire = front.wire().await;
    let reply = wire.post("", documents::HELLO).await;
    assert!(
        reply.head.contains("\r\nContent-Length: "),
        "{}",
        reply.head
    );
    assert!(!reply.head.contains("Transfer-Encoding"), "{}", reply.head);
    assert!(reply.body.ends_with("</pcoip-client>"), "{}", reply.body);
}

#[tokio::test]
async fn no_content_type_is_needed_and_none_is_refused() {
    let front = Front::usual().await;
    for headers in [
        "",
        "Content-Type: text/xml; charset=UTF-8\r\n",
        "Content-Type: application/xml\r\n",
        "Content-Type: application/octet-stream\r\nUser-Agent: Mozilla/4.0 (compatible; MSIE 6.0)\r\n",
    ] {
        let reply = front.wire().await.post(headers, documents::HELLO).await;
        assert_eq!(reply.status, 200, "{headers}");
    }
}

#[tokio::test]
async fn our_cookie_is_found_among_others() {
    let front = Front::usual().await;
    let mut caller = front.authenticated().await;
    let ours = caller.cookie.take().unwrap();
    caller.headers +=
        &format!("Cookie: AWSALB=a=b; JSESSIONID=of-another-program; JSESSIONID={ours}; x=y\r\n");
    let reply = caller.post(documents::LIST).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert!(
        !reply.head.contains("AWSALB"),
        "foreign cookies are not echoed"
    );
}

#[tokio::test]
async fn what_is_out_of_order_is_rejected_and_harms_nothing() {
    let front = Front::usual().await;
    let mut caller = front.caller().await;
    let unknown = "<pcoip-client version=\"2.1\"><set-disclaimer/></pcoip-client>";
    for (document, sentence) in [
        (documents::LIST, "There is no session"),
        (documents::BYE, "There is no session"),
        (unknown, "There is no session"),
    ] {
        let reply = caller.post(document).await;
        assert_eq!(reply.status, 500);
        assert!(reply.body.contains(sentence), "{}", reply.body);
    }
    caller.cookie = Some("0123456789abcdef0123456789abcdef".into());
    assert_eq!(
        caller.post(documents::LIST).await.status,
        500,
        "a cookie made up"
    );
    caller.ok(documents::HELLO).await;
    for (document, sentence) in [
        (documents::LIST, "out of order"),
        (documents::ALLOCATE, "out of order"),
        (unknown, "not one of the broker protocol"),
    ] {
        let reply = caller.post(document).await;
        assert_eq!(reply.status, 500);
        assert!(reply.head.contains("text/plain"), "{}", reply.head);
        assert!(reply.body.contains(sentence), "{}", reply.body);
    }
    caller
        .ok(&documents::password("ada", "correct horse"))
        .await;
    assert_eq!(front.broker.count(), 2, "the broker was asked twice");
}

#[tokio::test]
async fn what_is_malformed_is_named_but_never_echoed() {
    let front = Front::usual().await;
    let mut wire = front.wire().await;
    let deep = format!("{}{}", "<a>".repeat(100), "</a>".repeat(100));
    let bomb = "<!DOCTYPE marked [<!ENTITY a \"aaaaaaaaaa\">]><pcoip-client version=\"2.1\"><hello>&a;</hello></pcoip-client>";
    let external = "<!DOCTYPE marked SYSTEM \"file:///etc/passwd\"><pcoip-client version=\"2.1\"><bye/></pcoip-client>";
    for (document, cause) in [
        ("", "no root element"),
        ("marked", "not well-formed"),
        ("<marked/>", "root element is not \"pcoip-client\""),
        ("<pcoip-client><hello/></pcoip-client>", "version"),
        ("<pcoip-client version=\"2.1\"/>", "0 messages"),
        (
            "<pcoip-client version=\"2.1\"><bye/><bye/></pcoip-client>",
            "2 messages",
        ),
        (
            "<pcoip-client version=\"2.1\"><hello><marked></hello></pcoip-client>",
            "not well-formed",
        ),
        (
            "<pcoip-client version=\"2.1\"><hello>&marked;</hello></pcoip-client>",
            "unknown entity",
        ),
        (deep.as_str(), "nested deeper"),
        (bomb, "DOCTYPE"),
        (external, "DOCTYPE"),
    ] {
        let reply = wire.post("", document).await;
        assert_eq!(reply.status, 400, "{document}");
        assert!(reply.body.contains(cause), "{cause:?} in {:?}", reply.body);
        assert!(!reply.body.contains("marked"), "{:?}", reply.body);
    }
    assert_eq!(front.broker.count(), 0);
    let reply = wire.post("", documents::HELLO).await;
    assert_eq!(reply.status, 200, "the connection is still good");
}

#[tokio::test]
async fn bytes_that_are_no_text_are_malformed() {
    let front = Front::usual().await;
    let mut wire = front.wire().await;
    wire.send(
        b"POST /pcoip-broker/xml HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n\xff\xfe<\0",
    )
    .await;
    assert_eq!(wire.reply().await.status, 400);
}

#[tokio::test]
async fn a_body_of_ten_mebibytes_is_refused_and_its_sender_told() {
    let front = Front::usual().await;
    let body = vec![b'x'; 10 * 1024 * 1024];
    // Sent whole before anything is read, as simple clients do.
    let mut wire = front.wire().await;
    let head = format!(
        "POST /pcoip-broker/xml HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    wire.send(head.as_bytes()).await;
    wire.send(&body).await;
    let reply = wire.reply().await;
    assert_eq!(reply.status, 413);
    assert!(reply.body.contains("65536 bytes"), "{}", reply.body);

    // In chunks, so that nothing announces the length.
    let mut wire = front.wire().await;
    wire.send(b"POST /pcoip-broker/xml HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    for chunk in body.chunks(1 << 20) {
        wire.send(format!("{:x}\r\n", chunk.len()).as_bytes()).await;
        wire.send(chunk).await;
        wire.send(b"\r\n").await;
    }
    wire.send(b"0\r\n\r\n").await;
    assert_eq!(wire.reply().await.status, 413);

    // Announced and asked for: nothing is sent at all.
    let mut wire = front.wire().await;
    wire.send(b"POST /pcoip-broker/xml HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 10485760\r\n\r\n")
        .await;
    let reply = wire.reply().await;
    assert_eq!(reply.status, 413);
    assert_eq!(front.broker.count(), 0);
}

#[tokio::test]
async fn a_client_that_asks_before_sending_is_let() {
    let front = Front::usual().await;
    let mut wire = front.wire().await;
    let head = format!(
        "POST /pcoip-broker/xml HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        documents::HELLO.len()
    );
    wire.send(head.as_bytes()).await;
    assert_eq!(wire.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    wire.send(documents::HELLO.as_bytes()).await;
    assert_eq!(wire.reply().await.status, 200);
}

#[tokio::test]
async fn a_slow_body_is_given_up() {
    let front = Front::with(ManagerConfig {
        body_wait: Duration::from_millis(50),
        ..ManagerConfig::default()
    })
    .await;
    let mut wire = front.wire().await;
    wire.send(b"POST /pcoip-broker/xml HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n<pcoip")
        .await;
    let reply = wire.reply().await;
    assert_eq!(reply.status, 408);
    assert!(
        reply.head.contains("\r\nConnection: close\r\n"),
        "{}",
        reply.head
    );
    assert_eq!(front.broker.count(), 0);
}

#[tokio::test]
async fn a_body_cut_off_harms_nobody() {
    let front = Front::usual().await;
    let mut wire = front.wire().await;
    wire.send(b"POST /pcoip-broker/xml HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n<pcoip")
        .await;
    wire.stream.shutdown().await.unwrap();
    drop(wire);
    let reply = front.wire().await.post("", documents::HELLO).await;
    assert_eq!(reply.status, 200);
    assert_eq!(front.broker.count(), 1);
}

#[tokio::test]
async fn other_paths_and_methods_are_told_apart() {
    let front = Front::usual().await;
    let mut wire = front.wire().await;
    for (method, path, status) in [
        ("GET", "/", 404),
        ("POST", "/", 404),
        ("POST", "/pcoip-broker/xml/", 404),
        ("POST", "/broker/xml", 404),
        ("POST", "/pcoip-agent/xml", 404),
        ("PUT", "/pcoip-broker/xml", 405),
        ("DELETE", "/pcoip-broker/xml", 405),
        ("POST", "/health", 405),
        ("POST", "/health/live", 405),
    ] {
        let reply = wire.request(method, path).await;
        assert_eq!(reply.status, status, "{method} {path}");
    }
}
