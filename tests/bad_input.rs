//! Bad input to a running stack: a clear answer or a silent drop, a counter, and nothing left behind.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use portcullis_https::{Client, ClientOptions, Trust, identity::read_certificates};
use serde_json::Value;

use crate::{
    demonstration::{Typed, connect, succeeded},
    support::{Test, portcullis, process::Process},
};

/// The tests of this file.
pub(crate) const TESTS: &[(&str, Test)] = &[
    (
        "bad_input::users_are_told_what_is_wrong",
        users_are_told_what_is_wrong,
    ),
    (
        "bad_input::nonsense_leaves_nothing_behind",
        nonsense_leaves_nothing_behind,
    ),
];

/// How long silence is listened to.
const SILENCE: Duration = Duration::from_millis(300);

fn users_are_told_what_is_wrong() -> Result<()> {
    let mut demo = Process::start(portcullis(&["demo", "--keep", "--json"]))?;
    let ready = demo.next_json()?;
    let failed = Some("AUTH_FAILED_UNKNOWN_USERNAME_OR_PASSWORD");
    for (typed, failing_step, result) in [
        (
            Typed {
                password: Some("not the password"),
                ..Typed::default()
            },
            2,
            failed,
        ),
        (
            Typed {
                user: Some("nobody"),
                ..Typed::default()
            },
            2,
            failed,
        ),
        (
            Typed {
                desktop: Some("no such desktop"),
                ..Typed::default()
            },
            4,
            None,
        ),
    ] {
        let report = connect(&ready, typed)?;
        let steps: Vec<&Value> = report["steps"].as_array().into_iter().flatten().collect();
        let first = steps
            .iter()
            .find(|step| step["ok"] != true)
            .context("all steps hold")?;
        ensure!(
            report["ok"] == false && first["step"] == failing_step,
            "{report}"
        );
        ensure!(
            report["problem"]
                .as_str()
                .is_some_and(|problem| problem.len() > 20),
            "no sentence: {report}"
        );
        if let Some(result) = result {
            ensure!(report["result_id"] == result, "{report}");
        }
    }
    let finished = demo.stop()?;
    ensure!(finished.status.success(), "{}", finished.log);
    ensure!(
        !finished.log.contains("not the password"),
        "a password was logged"
    );
    Ok(())
}

/// Everything that may come from the Internet, one after the other; then a session works, and nothing is held.
fn nonsense_leaves_nothing_behind() -> Result<()> {
    let mut demo = Process::start(portcullis(&["demo", "--keep", "--json"]))?;
    let ready = demo.next_json()?;
    // Warm kept connections, so that they do not count.
    succeeded(&connect(&ready, Typed::default())?)?;
    let descriptors =
        || -> Result<usize> { Ok(fs::read_dir(format!("/proc/{}/fd", demo.id()))?.count()) };
    let before = descriptors()?;

    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(nonsense_on_the_front_door(&ready))?;
    drop(runtime);
    let gateway: SocketAddr = ready["gateway"].as_str().context("no gateway")?.parse()?;
    nonsense_on_tcp_4172(gateway)?;
    nonsense_on_udp_4172(gateway)?;

    succeeded(&connect(&ready, Typed::default())?)?;
    eventually(
        || Ok(descriptors()? <= before),
        || {
            format!(
                "{before} file descriptors before, {:?} after",
                descriptors()
            )
        },
    )?;
    let console = ready["console"]
        .as_str()
        .context("no console")?
        .trim_start_matches("http://")
        .parse()?;
    for gauge in [
        "portcullis_manager_sessions",
        "portcullis_broker_sessions",
        "portcullis_gateway_sessions",
        "portcullis_gateway_grants_pending",
        "portcullis_license_used",
    ] {
        eventually(
            || Ok(value(&metrics(console)?, gauge) == Some(0.0)),
            || format!("{gauge} does not become 0"),
        )?;
    }
    let metrics = metrics(console)?;
    for counter in [
        "portcullis_manager_rejects_total",
        "portcullis_gateway_connections_refused_total",
        "portcullis_gateway_udp_dropped_total",
    ] {
        ensure!(
            value(&metrics, counter) > Some(0.0),
            "{counter} counted nothing"
        );
    }
    demo.stop()?;
    Ok(())
}

async fn nonsense_on_the_front_door(ready: &Value) -> Result<()> {
    let front_door = ready["front_door"].as_str().context("no front door")?;
    let authorities = read_certificates(ready["ca"].as_str().context("no ca")?.as_ref())?;
    let client = Client::new(
        &Trust::Authorities(authorities),
        None,
        ClientOptions::default(),
    )?;
    let uri = format!("{front_door}/pcoip-broker/xml");
    let document = |message: &str| {
        format!("<?xml version=\"1.0\"?><pcoip-client version=\"2.1\">{message}</pcoip-client>")
    };
    let entity = "<?xml version=\"1.0\"?><!DOCTYPE p [<!ENTITY x \"y\">]><pcoip-client version=\"2.1\"><bye>&x;</bye></pcoip-client>";
    for (what, body, status) in [
        ("nothing", String::new(), 400),
        ("no XML", "hello there".to_owned(), 400),
        ("an entity", entity.to_owned(), 400),
        (
            "a deep document",
            document(&("<a>".repeat(100) + &"</a>".repeat(100))),
            400,
        ),
        ("two messages", document("<bye/><bye/>"), 400),
        (
            "no version",
            "<pcoip-client><bye/></pcoip-client>".to_owned(),
            400,
        ),
        ("ten mebibytes", "x".repeat(10 * 1024 * 1024), 413),
        (
            "a list without a session",
            document("<get-resource-list/>"),
            500,
        ),
        (
            "an allocation without a session",
            document("<allocate-resource><resource-id>1</resource-id></allocate-resource>"),
            500,
        ),
        ("an unknown message", document("<surprise/>"), 500),
    ] {
        let request = http::Request::post(&uri)
            .header("Content-Type", "text/xml")
            .body(Bytes::from(body))?;
        match client.send(request).await {
            Ok(reply) => ensure!(
                reply.status == status,
                "{what} is answered {}",
                reply.status
            ),
            // The server may close before it has read ten mebibytes.
            Err(error) => ensure!(status == 413, "{what} is not answered: {error:?}"),
        }
    }
    let reply = client
        .send(http::Request::get(&uri).body(Bytes::new())?)
        .await?;
    ensure!(
        reply.status == 200,
        "a load balancer's probe is answered {}",
        reply.status
    );
    let reply = client
        .send(http::Request::get(format!("{front_door}/health")).body(Bytes::new())?)
        .await?;
    ensure!(
        reply.body.as_slice() == br#"{"code":200,"status":"success"}"#,
        "{:?}",
        String::from_utf8_lossy(&reply.body)
    );
    Ok(())
}

/// Connections without a grant are closed without a word.
fn nonsense_on_tcp_4172(gateway: SocketAddr) -> Result<()> {
    let hello = client_hello("nobody-granted-this")?;
    for (what, bytes) in [
        ("no TLS", &b"GET / HTTP/1.1\r\n\r\n"[..]),
        ("a server name nobody was granted", &hello),
        (
            "an endless ClientHello",
            &[
                &[0x16, 3, 1, 0x40, 0][..],
                &[1, 0, 0xff, 0xff],
                &[0; 17_000],
            ]
            .concat(),
        ),
    ] {
        let mut stream = TcpStream::connect(gateway)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        // The gateway may close while we still write.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => ensure!(answer.is_empty(), "{what} is answered {answer:?}"),
            Err(error) => ensure!(
                error.kind() == std::io::ErrorKind::ConnectionReset,
                "{what}: {error}"
            ),
        }
    }
    Ok(())
}

/// Datagrams of strangers are dropped without a word.
fn nonsense_on_udp_4172(gateway: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(SILENCE))?;
    for length in [0, 1, 11, 12, 100, 1172, 1472, 1473, 9000] {
        socket.send_to(&vec![0x5a; length], gateway)?;
    }
    let answer = socket.recv_from(&mut [0; 2048]);
    ensure!(answer.is_err(), "a stranger was answered: {answer:?}");
    Ok(())
}

fn client_hello(server_name: &str) -> Result<Vec<u8>> {
    let config = Trust::DangerAcceptAnyCertificate.client_config(None)?;
    let mut connection = rustls::ClientConnection::new(config, server_name.to_owned().try_into()?)?;
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes)?;
    Ok(bytes)
}

/// Waits for something to become true: servers notice closed connections in their own time.
fn eventually(
    mut holds: impl FnMut() -> Result<bool>,
    otherwise: impl Fn() -> String,
) -> Result<()> {
    for _ in 0..300 {
        if holds()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    anyhow::bail!("{}", otherwise())
}

fn metrics(console: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(console)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A metric summed over its labels; `None` when there is none of that name.
fn value(metrics: &str, name: &str) -> Option<f64> {
    let values = metrics
        .lines()
        .filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
        })
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}
