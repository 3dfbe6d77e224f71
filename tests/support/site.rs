//! A small company: a client outside, a gateway host, a broker host, a desktop with its licence server, and a firewall in
//! the middle of them.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use portcullis_https::Authority;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tempfile::TempDir;

use super::{
    PORTCULLIS,
    lab::{Lab, Row},
    portcullis,
    process::{Finished, Process},
};

/// How long the gateway may take to let go of a session: its grace for a closed connection, and then some.
const PATIENCE: Duration = Duration::from_secs(40);

/// The client, out in the world.
pub(crate) const CLIENT: &str = "198.51.100.10";
/// Connection Manager and Security Gateway.
pub(crate) const GATEWAY: &str = "203.0.113.7";
/// A Connection Manager on a host of its own, where a test wants one.
pub(crate) const MANAGER: &str = "192.0.2.5";
/// The connection broker.
pub(crate) const BROKER: &str = "10.77.1.2";
/// The desktop.
pub(crate) const AGENT: &str = "10.77.2.3";
/// The licence server, on the desktops' own network: the mission's table has no row for it.
pub(crate) const LICENSES: &str = "10.77.3.4";

/// The user's password; it must never be seen in any log.
pub(crate) const PASSWORD: &str = "Zwölf Boxkämpfer jagen Viktor";

/// The rows of the mission's firewall table, in its order.
pub(crate) const TABLE: [Row; 7] = [
    row(
        "client to Connection Manager",
        CLIENT,
        None,
        GATEWAY,
        "tcp",
        443,
    ),
    row(
        "Connection Manager to broker",
        GATEWAY,
        None,
        BROKER,
        "tcp",
        443,
    ),
    row(
        "Connection Manager to agent",
        GATEWAY,
        None,
        AGENT,
        "tcp",
        60443,
    ),
    row(
        "client to gateway, data",
        CLIENT,
        None,
        GATEWAY,
        "udp",
        4172,
    ),
    row(
        "client to gateway, control",
        CLIENT,
        None,
        GATEWAY,
        "tcp",
        4172,
    ),
    row(
        "gateway to agent, control",
        GATEWAY,
        None,
        AGENT,
        "tcp",
        4172,
    ),
    row(
        "gateway to agent, data",
        GATEWAY,
        Some(55_000),
        AGENT,
        "udp",
        4172,
    ),
];

/// One row.
pub(crate) const fn row(
    name: &'static str,
    source: &'static str,
    source_port: Option<u16>,
    destination: &'static str,
    protocol: &'static str,
    port: u16,
) -> Row {
    Row {
        name,
        source,
        source_port,
        destination,
        protocol,
        port,
    }
}

/// The hosts, and what runs on them.
pub(crate) struct Site {
    /// The hosts themselves.
    pub(crate) lab: Lab,
    processes: Vec<(&'static str, Process)>,
    authority: Authority,
    folder: TempDir,
}

impl Site {
    /// Hosts for everybody, and the firewall's table. Nothing runs yet.
    pub(crate) fn new(rows: &[Row]) -> Result<Self> {
        let mut lab = Lab::new()?;
        for (name, address) in [
            ("client", CLIENT),
            ("gateway", GATEWAY),
            ("manager", MANAGER),
            ("broker", BROKER),
            ("agent", AGENT),
        ] {
            lab.host(name, address)?;
        }
        lab.neighbour("licenses", LICENSES, "agent", "10.77.3.254")?;
        lab.allow(rows)?;
        let folder = tempfile::tempdir()?;
        let authority = Authority::generate("Test site")?;
        fs::write(folder.path().join("ca.pem"), authority.certificate_pem())?;
        fs::write(folder.path().join("password"), PASSWORD)?;
        Ok(Self {
            lab,
            processes: Vec::new(),
            authority,
            folder,
        })
    }

    /// Starts what is not under test: a server with so many licences, desktop and broker.
    pub(crate) fn start_back_office(&mut self, licenses: u32) -> Result<()> {
        self.serve(
            "licenses",
            LICENSES,
            &format!("[license_server]\nlisten = \"{LICENSES}:7071\"\ncertificate = \"licenses.pem\"\nkey = \"licenses.key\"\n\
                      features = {{ Agent-Session = {licenses} }}\n[console]\n"),
        )?;
        let ca = self.path("ca.pem");
        let mut agent = self.lab.command("agent", PORTCULLIS);
        agent.args([
            "agent",
            "--listen",
            "0.0.0.0:60443",
            "--data",
            "0.0.0.0:4172",
            "--address",
            AGENT,
        ]);
        agent
            .args([
                "--hostname",
                "WS-17",
                "--require-license",
                "--json",
                "--license-ca",
            ])
            .arg(ca);
        self.start("agent", agent)?;
        let hash = portcullis(&["hash-password", "--password-file"])
            .arg(self.path("password"))
            .output()?;
        ensure!(
            hash.status.success(),
            "{}",
            String::from_utf8_lossy(&hash.stderr)
        );
        let hash = String::from_utf8(hash.stdout)?;
        self.serve(
            "broker",
            BROKER,
            &format!(
                "[broker]\nlisten = \"{BROKER}:443\"\ncertificate = \"broker.pem\"\nkey = \"broker.key\"\n\
                 trusted_proxies = [\"{GATEWAY}\", \"{MANAGER}\"]\n\
                 [[broker.user]]\nname = \"ada\"\npassword_hash = \"{}\"\n\
                 [[broker.desktop]]\nid = \"ws-17\"\nname = \"Workstation 17\"\naddress = \"{AGENT}\"\n\
                 [[broker.entitlement]]\nuser = \"ada\"\ndesktop = \"ws-17\"\n[console]\n",
                hash.trim()
            ),
        )
    }

    /// Starts `portcullis serve` on a host, with a certificate for its address in `HOST.pem` and `HOST.key`.
    pub(crate) fn serve(
        &mut self,
        host: &'static str,
        address: &str,
        configuration: &str,
    ) -> Result<()> {
        let issued = self.authority.issue_pem(&[address])?;
        fs::write(self.path(&format!("{host}.pem")), &issued.certificate)?;
        fs::write(
            self.path(&format!("{host}.key")),
            issued.key.expose_secret(),
        )?;
        let file = self.path(&format!("{host}.toml"));
        fs::write(&file, configuration)?;
        let mut command = self.lab.command(host, PORTCULLIS);
        command.args(["serve", "--json", "--config"]).arg(file);
        self.start(host, command)
    }

    /// Runs the reference client until it is done, and returns its report and how it ended.
    pub(crate) fn connect(&self, server: &str, seconds: u32) -> Result<(Value, Finished)> {
        let mut command = self.lab.command("client", PORTCULLIS);
        command
            .args([
                "client",
                "connect",
                "--server",
                &format!("https://{server}"),
                "--user",
                "ada",
                "--json",
            ])
            .args([
                "--desktop",
                "workstation 17",
                "--seconds",
                &seconds.to_string(),
                "--ca",
            ])
            .arg(self.path("ca.pem"))
            .arg("--password-file")
            .arg(self.path("password"));
        let finished = Process::start(command)?.finish()?;
        Ok((finished.last_json()?, finished))
    }

    /// A metric of a host's console, summed over its labels.
    pub(crate) fn metric(&self, host: &str, name: &str) -> Result<f64> {
        let script = "exec 3<>/dev/tcp/127.0.0.1/9172 && printf 'GET /metrics HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\nConnection: close\\r\\n\\r\\n' >&3 && cat <&3";
        let output = self
            .lab
            .command(host, "bash")
            .args(["-c", script])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let values: Vec<f64> = text
            .lines()
            .filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with([' ', '{']))
            })
            .filter_map(|line| line.rsplit_once(' ')?.1.parse().ok())
            .collect();
        ensure!(!values.is_empty(), "no metric {name} on {host}:\n{text}");
        Ok(values.iter().sum())
    }

    /// Waits until a metric is 0.
    pub(crate) fn falls_to_zero(&self, host: &str, name: &str) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let value = self.metric(host, name)?;
            if value == 0.0 {
                return Ok(());
            }
            ensure!(
                Instant::now() < until,
                "{name} is still {value} on {host} after {PATIENCE:?}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// File descriptors the process on a host holds.
    pub(crate) fn file_descriptors(&self, host: &str) -> Result<usize> {
        let (_, process) = self
            .processes
            .iter()
            .find(|(name, _)| *name == host)
            .context("nothing runs there")?;
        Ok(fs::read_dir(format!("/proc/{}/fd", process.id()))?.count())
    }

    /// Ends everything with SIGTERM and returns all logs by host. Everything must have ended well.
    pub(crate) fn stop(mut self) -> Result<Vec<(&'static str, String)>> {
        let mut logs = Vec::new();
        for (host, process) in std::mem::take(&mut self.processes).into_iter().rev() {
            let finished = process.stop()?;
            ensure!(
                finished.status.success(),
                "{host} ended with {}:\n{}",
                finished.status,
                finished.log
            );
            logs.push((host, finished.log));
        }
        Ok(logs)
    }

    fn start(&mut self, host: &'static str, mut command: Command) -> Result<()> {
        command.env("PORTCULLIS_LOG", "trace");
        let mut process = Process::start(command)?;
        let ready = process
            .next_json()
            .with_context(|| format!("{host} did not get ready"))?;
        ensure!(ready["ready"] == true, "{host} said {ready}");
        self.processes.push((host, process));
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}
