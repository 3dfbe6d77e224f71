//! `portcullis bench`: figures from the command as its users have it, as processes of their own.

mod nginx;
mod relay;
mod subject;

use std::{
    net::{IpAddr, Ipv4Addr},
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use portcullis_broker::{Argon2Params, hash_password};
use portcullis_endpoints::{
    Client, ClientConfig,
    client::{EstablishError, ServerUrl},
};
use portcullis_https::Trust;
use secrecy::SecretString;
use serde::Serialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    task::JoinSet,
};
use uuid::Uuid;

use crate::{cli::Establish, config::LogFormat, logging, roles::milliseconds_since, terminal};

pub(crate) use relay::relay;

/// How long a process may take to be ready.
const READY: Duration = Duration::from_secs(30);
/// How long a process may take to end.
const END: Duration = Duration::from_secs(15);
/// Establishments before those that are measured: connections to broker and agent are made, caches are filled.
const WARM_UP: u32 = 8;
/// Largest latency that is told apart, in microseconds.
const MAX_MICROSECONDS: u64 = 120_000_000;

/// What `bench establish --json` prints; scripts rely on the first four keys.
#[derive(Serialize)]
struct Figures {
    establishments_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    failed: u64,
    users: u32,
    concurrency: u32,
    full_hashing: bool,
    /// From the start of the process to the moment it serves.
    ready_ms: f64,
}

/// `portcullis bench establish`
pub(crate) async fn establish(arguments: Establish) -> Result<ExitCode> {
    logging::start("error", LogFormat::Text)?;
    let folder = TempDir::with_prefix("portcullis-bench-")?;
    let password = SecretString::from(Uuid::new_v4().simple().to_string());
    let sessions = arguments.concurrency * 4 + arguments.users;
    let mut agent = Role::start(&[
        "agent",
        "--listen",
        "127.0.0.1:0",
        "--data",
        "127.0.0.1:0",
        "--sessions",
        &sessions.to_string(),
        "--require-license",
        "--json",
    ])
    .await
    .context("cannot start the agent")?;
    let agent_port = port(&agent.ready, "control")?;
    let file = folder.path().join("portcullis.toml");
    std::fs::write(&file, configuration(&arguments, &password, agent_port)?)?;
    let started = Instant::now();
    let mut server = Role::start(&["serve", "--json", "--config", &file.to_string_lossy()])
        .await
        .context("cannot start the server")?;
    let ready_ms = milliseconds_since(started);

    let outcome = measure(
        &arguments,
        &password,
        port(&server.ready, "connection_manager")?,
    )
    .await;
    server.stop().await?;
    agent.stop().await?;
    let (elapsed, latencies, failures) = outcome?;
    let milliseconds =
        |microseconds: u64| Duration::from_micros(microseconds).as_secs_f64() * 1000.0;
    let figures = Figures {
        establishments_per_s: f64::from(u32::try_from(latencies.len())?) / elapsed.as_secs_f64(),
        p50_ms: milliseconds(latencies.value_at_quantile(0.50)),
        p99_ms: milliseconds(latencies.value_at_quantile(0.99)),
        failed: failures.len() as u64,
        users: arguments.users,
        concurrency: arguments.concurrency,
        full_hashing: arguments.full_hashing,
        ready_ms,
    };
    for failure in failures.iter().take(3) {
        eprintln!("failed: {failure}");
    }
    if arguments.json {
        terminal::json(&figures)?;
    } else {
        let hashing = if arguments.full_hashing {
            "at full cost"
        } else {
            "at the lowest cost"
        };
        terminal::line(&format!(
            "{} users, {} at a time, each through all seven steps to the first UDP round trip; passwords hashed {hashing}",
            figures.users, figures.concurrency
        ))?;
        terminal::line(&format!(
            "  establishments/s   {:>10.1}",
            figures.establishments_per_s
        ))?;
        terminal::line(&format!("  median             {:>10.1} ms", figures.p50_ms))?;
        terminal::line(&format!("  99th percentile    {:>10.1} ms", figures.p99_ms))?;
        terminal::line(&format!("  failed             {:>10}", figures.failed))?;
        terminal::line(&format!(
            "  process ready in   {:>10.1} ms",
            figures.ready_ms
        ))?;
    }
    Ok(if figures.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Everything but the agent in one process, with a desktop for each user.
fn configuration(
    arguments: &Establish,
    password: &SecretString,
    agent_port: u16,
) -> Result<String> {
    use std::fmt::Write as _;
    let cost = if arguments.full_hashing {
        Argon2Params::default()
    } else {
        Argon2Params::cheap()
    };
    let hash = hash_password(password, cost)?;
    let licenses = free_port()?;
    let total = arguments.users + WARM_UP;
    let mut text = format!(
        "[log]\nlevel = \"error\"\n\
         [connection_manager]\nlisten = \"127.0.0.1:0\"\nagent_port = {agent_port}\nlicense_servers = [\"{licenses}@127.0.0.1\"]\n\
         [security_gateway]\nlisten = \"127.0.0.1:0\"\npublic_addresses = [\"127.0.0.1\"]\nupstream = \"ephemeral\"\n\
         max_sessions = {}\n\
         [license_server]\nlisten = \"127.0.0.1:{licenses}\"\nfeatures = {{ Agent-Session = {} }}\n[broker]\n",
        2 * total,
        2 * total
    );
    for user in 0..total {
        write!(
            text,
            "[[broker.user]]\nname = \"user-{user}\"\npassword_hash = \"{}\"\n\
             [[broker.desktop]]\nid = \"desktop-{user}\"\naddress = \"127.0.0.1\"\n\
             [[broker.entitlement]]\nuser = \"user-{user}\"\ndesktop = \"desktop-{user}\"\n",
            hash
        )?;
    }
    Ok(text)
}

/// Elapsed time, latencies in microseconds, and what failed.
async fn measure(
    arguments: &Establish,
    password: &SecretString,
    port: u16,
) -> Result<(Duration, Histogram<u64>, Vec<String>)> {
    let server: ServerUrl = format!("https://127.0.0.1:{port}").parse()?;
    let client = |user: u32| {
        let mut config =
            ClientConfig::new(server.clone(), format!("user-{user}"), password.clone());
        config.trust = Trust::DangerAcceptAnyCertificate;
        config.local_address = Some(address(user));
        Client::establish(config)
    };
    for user in arguments.users..arguments.users + WARM_UP {
        client(user)
            .await
            .map_err(|error| anyhow::anyhow!("warm-up: {}", sentence(&error)))?;
    }
    let mut latencies = Histogram::new_with_max(MAX_MICROSECONDS, 3)?;
    let mut failures = Vec::new();
    let mut running = JoinSet::new();
    let mut users = 0..arguments.users;
    let started = Instant::now();
    for user in users.by_ref().take(arguments.concurrency as usize) {
        running.spawn(client(user));
    }
    while let Some(ended) = running.join_next().await {
        match ended? {
            Ok(established) => latencies.record(u64::try_from(established.elapsed.as_micros())?)?,
            Err(error) => failures.push(sentence(&error)),
        }
        if let Some(user) = users.next() {
            running.spawn(client(user));
        }
    }
    Ok((started.elapsed(), latencies, failures))
}

fn sentence(error: &EstablishError) -> String {
    error.to_string()
}

/// Each user comes from an address of its own, as users do; all of 127.0.0.0/8 is this machine.
fn address(user: u32) -> IpAddr {
    let [_, high, middle, low] = (user + 0x0001_0001).to_be_bytes();
    Ipv4Addr::new(127, high.saturating_add(1), middle, low).into()
}

fn port(ready: &Value, role: &str) -> Result<u16> {
    let address = ready[role]
        .as_str()
        .with_context(|| format!("{role} is missing in {ready}"))?;
    let (_, port) = address
        .rsplit_once(':')
        .context("an address without a port")?;
    Ok(port.parse()?)
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// A process of this same command.
struct Role {
    child: Child,
    ready: Value,
}

impl Role {
    async fn start(arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .env("PORTCULLIS_LOG", "error")
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let line = tokio::time::timeout(READY, lines.next_line())
            .await
            .context("not ready in time")??;
        let ready: Value = serde_json::from_str(&line.context("it ended before it was ready")?)?;
        ensure!(ready["ready"] == true, "it said {ready}");
        // Its events are nobody's business here, but the pipe must not fill.
        let mut rest = lines.into_inner();
        let mut drain = JoinSet::new();
        drain.spawn(async move { tokio::io::copy(&mut rest, &mut tokio::io::sink()).await });
        drain.detach_all();
        Ok(Self { child, ready })
    }

    async fn stop(&mut self) -> Result<()> {
        let Some(id) = self.child.id() else {
            return Ok(());
        };
        Command::new("kill")
            .args(["-TERM", &id.to_string()])
            .status()
            .await?;
        let status = tokio::time::timeout(END, self.child.wait())
            .await
            .context("a process did not end in time")??;
        ensure!(status.success(), "a process ended with {status}");
        Ok(())
    }
}
