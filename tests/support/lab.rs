//! Hosts as network namespaces, one leg each to a firewall that forwards between them what its table allows.

use std::{
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, ensure};

/// Labs built by this process, so that several can stand side by side.
static BUILT: AtomicU32 = AtomicU32::new(0);

/// A row of a firewall's table: who may open what to whom.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// What the row is for; also its name in tests.
    pub(crate) name: &'static str,
    /// Source address.
    pub(crate) source: &'static str,
    /// Source port, where only one is allowed.
    pub(crate) source_port: Option<u16>,
    /// Destination address.
    pub(crate) destination: &'static str,
    /// `tcp` or `udp`.
    pub(crate) protocol: &'static str,
    /// Destination port.
    pub(crate) port: u16,
}

/// Some hosts around a firewall. Dropped, it removes its namespaces by name, and with them links, rules and addresses.
pub(crate) struct Lab {
    prefix: String,
    namespaces: Vec<String>,
}

impl Lab {
    /// A lab with its firewall and no hosts, which forwards nothing yet.
    pub(crate) fn new() -> Result<Self> {
        let number = BUILT.fetch_add(1, Ordering::Relaxed);
        let mut lab = Self {
            prefix: format!("portcullis-{}-{number}", std::process::id()),
            namespaces: Vec::new(),
        };
        lab.add_namespace("firewall")?;
        let firewall = lab.namespace("firewall");
        in_namespace(&firewall, "sysctl", &["-qw", "net.ipv4.ip_forward=1"])?;
        Ok(lab)
    }

    /// Adds a host with an address in a /24 of its own; the firewall's leg there ends in .254.
    pub(crate) fn host(&mut self, name: &str, address: &str) -> Result<()> {
        self.add_namespace(name)?;
        let (host, firewall) = (self.namespace(name), self.namespace("firewall"));
        let (network, _) = address.rsplit_once('.').context("an IPv4 address")?;
        let router = format!("{network}.254");
        ip(&[
            "link", "add", "eth0", "netns", &host, "type", "veth", "peer", "name", name, "netns",
            &firewall,
        ])?;
        ip(&[
            "-n",
            &firewall,
            "address",
            "add",
            &format!("{router}/24"),
            "dev",
            name,
        ])?;
        ip(&["-n", &firewall, "link", "set", name, "up"])?;
        ip(&[
            "-n",
            &host,
            "address",
            "add",
            &format!("{address}/24"),
            "dev",
            "eth0",
        ])?;
        ip(&["-n", &host, "link", "set", "eth0", "up"])?;
        ip(&["-n", &host, "route", "add", "default", "via", &router])
    }

    /// Adds a host on a wire of its own to another one, out of the firewall's sight.
    pub(crate) fn neighbour(
        &mut self,
        name: &str,
        address: &str,
        of: &str,
        their_address: &str,
    ) -> Result<()> {
        self.add_namespace(name)?;
        let (host, other) = (self.namespace(name), self.namespace(of));
        ip(&[
            "link", "add", "eth0", "netns", &host, "type", "veth", "peer", "name", name, "netns",
            &other,
        ])?;
        for (namespace, device, address) in
            [(&host, "eth0", address), (&other, name, their_address)]
        {
            ip(&[
                "-n",
                namespace,
                "address",
                "add",
                &format!("{address}/24"),
                "dev",
                device,
            ])?;
            ip(&["-n", namespace, "link", "set", device, "up"])?;
        }
        Ok(())
    }

    /// Replaces the firewall's table: `rows` and answers to what they let through, nothing else.
    pub(crate) fn allow(&self, rows: &[Row]) -> Result<()> {
        let mut rules =
            String::from("flush ruleset\ntable ip table_of_the_mission {\n  chain forward {\n");
        rules.push_str("    type filter hook forward priority filter; policy drop;\n");
        rules.push_str("    ct state established,related accept\n");
        for row in rows {
            let Row {
                name,
                source,
                source_port,
                destination,
                protocol,
                port,
            } = row;
            let source_port = source_port
                .map(|port| format!("{protocol} sport {port} "))
                .unwrap_or_default();
            rules.push_str(&format!(
                "    ip saddr {source} ip daddr {destination} {source_port}{protocol} dport {port} counter accept comment \"{name}\"\n"
            ));
        }
        rules.push_str("    counter comment \"dropped\"\n  }\n}\n");
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), rules)?;
        in_namespace(
            &self.namespace("firewall"),
            "nft",
            &["-f", &file.path().to_string_lossy()],
        )?;
        Ok(())
    }

    /// Packets the named row (or `dropped`) has counted. Only first packets of a flow pass a row; the rest are answers.
    pub(crate) fn counted(&self, row: &str) -> Result<u64> {
        let output = in_namespace(
            &self.namespace("firewall"),
            "nft",
            &["-j", "list", "ruleset"],
        )?;
        let ruleset: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let rule = ruleset["nftables"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|item| &item["rule"])
            .find(|rule| rule["comment"] == row)
            .with_context(|| format!("no row {row:?}"))?;
        let counter = rule["expr"]
            .as_array()
            .into_iter()
            .flatten()
            .find_map(|part| part["counter"]["packets"].as_u64());
        counter.context("a row without a counter")
    }

    /// A command that runs on a host.
    pub(crate) fn command(&self, host: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(host), program]);
        command
    }

    fn add_namespace(&mut self, name: &str) -> Result<()> {
        let namespace = self.namespace(name);
        ip(&["netns", "add", &namespace])?;
        self.namespaces.push(namespace.clone());
        ip(&["-n", &namespace, "link", "set", "lo", "up"])
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            if let Err(error) = ip(&["netns", "delete", namespace]) {
                eprintln!("Cannot remove {namespace}: {error:#}");
            }
        }
    }
}

/// Whether this process may build labs at all.
pub(crate) fn possible() -> Result<()> {
    drop(Lab::new()?);
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<()> {
    run(Command::new("ip").args(arguments)).map(drop)
}

fn in_namespace(namespace: &str, program: &str, arguments: &[&str]) -> Result<Output> {
    run(Command::new("ip")
        .args(["netns", "exec", namespace, program])
        .args(arguments))
}

fn run(command: &mut Command) -> Result<Output> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output)
}
