//! HTTP by hand over real TLS, so that tests see the very bytes.

use std::net::SocketAddr;

use portcullis_https::Trust;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::soon;

/// One connection.
pub(crate) struct Wire {
    pub(crate) stream: TlsStream<TcpStream>,
    read: Vec<u8>,
}

/// One response: its head as it stood on the wire, and its body, put together if it came in chunks.
#[derive(Debug)]
pub(crate) struct WireReply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Wire {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let tls = TlsConnector::from(Trust::OnFirstUse.client_config(None).unwrap());
        let tcp = TcpStream::connect(address).await.unwrap();
        let stream = tls
            .connect(ServerName::from(address.ip()), tcp)
            .await
            .unwrap();
        Self {
            stream,
            read: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// `headers` each end with CRLF.
    pub(crate) async fn post(&mut self, headers: &str, body: &str) -> WireReply {
        let length = body.len();
        let request = format!(
            "POST /pcoip-broker/xml HTTP/1.1\r\nHost: cm.example\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        );
        self.send(request.as_bytes()).await;
        self.reply().await
    }

    pub(crate) async fn request(&mut self, method: &str, path: &str) -> WireReply {
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: cm.example\r\nContent-Length: 0\r\n\r\n");
        self.send(request.as_bytes()).await;
        let head = self.head().await;
        self.rest(head, method == "HEAD").await
    }

    pub(crate) async fn reply(&mut self) -> WireReply {
        let head = self.head().await;
        self.rest(head, false).await
    }

    /// The next head, which may be an interim one.
    pub(crate) async fn head(&mut self) -> String {
        let end = loop {
            match find(&self.read, b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => self.more().await,
            }
        };
        String::from_utf8(self.read.drain(..end).collect()).unwrap()
    }

    async fn rest(&mut self, head: String, is_empty: bool) -> WireReply {
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = if is_empty {
            Vec::new()
        } else if head.contains("Transfer-Encoding: chunked") {
            let mut body = Vec::new();
            loop {
                let line = self.line().await;
                let length = usize::from_str_radix(&line, 16).unwrap();
                let chunk = self.take(length + 2).await;
                body.extend_from_slice(&chunk[..length]);
                if length == 0 {
                    break body;
                }
            }
        } else {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("Content-Length: "))
                .expect("a length or chunks");
            self.take(length.parse().unwrap()).await
        };
        WireReply {
            status,
            head,
            body: String::from_utf8(body).unwrap(),
        }
    }

    async fn line(&mut self) -> String {
        let end = loop {
            match find(&self.read, b"\r\n") {
                Some(end) => break end,
                None => self.more().await,
            }
        };
        let line = String::from_utf8(self.take(end).await).unwrap();
        self.take(2).await;
        line
    }

    async fn take(&mut self, length: usize) -> Vec<u8> {
        while self.read.len() < length {
            self.more().await;
        }
        self.read.drain(..length).collect()
    }

    async fn more(&mut self) {
        let mut buffer = vec![0; 16 * 1024];
        let length = soon(self.stream.read(&mut buffer)).await.unwrap();
        assert!(
            length > 0,
            "the connection was closed: {:?}",
            String::from_utf8_lossy(&self.read)
        );
        self.read.extend_from_slice(&buffer[..length]);
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

/// A client: one connection, its cookie and its headers.
pub(crate) struct Caller {
    pub(crate) wire: Wire,
    pub(crate) cookie: Option<String>,
    /// Each ends with CRLF.
    pub(crate) headers: String,
}

impl Caller {
    pub(crate) fn new(wire: Wire) -> Self {
        Self {
            wire,
            cookie: None,
            headers: "Content-Type: text/xml; charset=UTF-8\r\n".into(),
        }
    }

    pub(crate) async fn post(&mut self, document: &str) -> WireReply {
        let cookie = self
            .cookie
            .iter()
            .map(|value| format!("Cookie: JSESSIONID={value}\r\n"));
        let headers = cookie.collect::<String>() + &self.headers;
        let reply = self.wire.post(&headers, document).await;
        if let Some(value) = reply.cookie() {
            self.cookie = Some(value.into());
        }
        reply
    }

    /// A request that must be answered 200.
    pub(crate) async fn ok(&mut self, document: &str) -> String {
        let reply = self.post(document).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.body
    }
}

impl WireReply {
    /// The value of our cookie, if one is set in the literal form.
    pub(crate) fn cookie(&self) -> Option<&str> {
        self.head
            .lines()
            .find_map(|line| line.strip_prefix("Set-Cookie: JSESSIONID="))?
            .strip_suffix("; Secure; HttpOnly")
    }
}
