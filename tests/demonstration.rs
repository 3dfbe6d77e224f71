//! `portcullis demo`: the seven steps on one machine.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::support::{Test, portcullis, process::Process};

/// The tests of this file.
pub(crate) const TESTS: &[(&str, Test)] = &[
    ("demonstration::seven_ticked_steps", seven_ticked_steps),
    (
        "demonstration::the_last_line_is_json",
        the_last_line_is_json,
    ),
    ("demonstration::lan", lan),
    (
        "demonstration::kept_for_a_client_of_its_own",
        kept_for_a_client_of_its_own,
    ),
    (
        "demonstration::an_external_broker_and_an_agent_elsewhere",
        an_external_broker_and_an_agent_elsewhere,
    ),
    (
        "demonstration::a_manager_behind_a_manager",
        a_manager_behind_a_manager,
    ),
];

fn seven_ticked_steps() -> Result<()> {
    let finished = Process::start(portcullis(&["demo", "--seconds", "1"]))?.finish()?;
    let shown = finished.lines.join("\n");
    ensure!(
        finished.status.success(),
        "{}\n{shown}\n{}",
        finished.status,
        finished.log
    );
    for step in 1..=7 {
        ensure!(
            shown.contains(&format!("✓ {step} ")),
            "step {step} has no tick:\n{shown}"
        );
    }
    for port in ["TCP 443", "TCP 60443", "TCP 4172", "UDP 4172"] {
        ensure!(shown.contains(port), "{port} is not shown:\n{shown}");
    }
    Ok(())
}

fn the_last_line_is_json() -> Result<()> {
    let finished = Process::start(portcullis(&["demo", "--seconds", "1", "--json"]))?.finish()?;
    let report = finished.last_json()?;
    ensure!(finished.status.success(), "{report}");
    succeeded(&report)
}

fn lan() -> Result<()> {
    let finished =
        Process::start(portcullis(&["demo", "--seconds", "1", "--json", "--lan"]))?.finish()?;
    let report = finished.last_json()?;
    ensure!(finished.status.success(), "{report}");
    succeeded(&report)
}

fn kept_for_a_client_of_its_own() -> Result<()> {
    let mut demo = Process::start(portcullis(&["demo", "--keep", "--json"]))?;
    let ready = demo.next_json()?;
    for key in [
        "front_door",
        "ca",
        "user",
        "password",
        "desktop",
        "gateway",
        "agent",
    ] {
        ensure!(
            ready[key].as_str().is_some_and(|value| !value.is_empty()),
            "no {key}: {ready}"
        );
    }
    let report = connect(&ready, Typed::default())?;
    succeeded(&report)?;
    ensure!(
        report["via"] == ready["gateway"],
        "not through the gateway: {report}"
    );
    let finished = demo.stop()?;
    ensure!(
        finished.status.success(),
        "{}\n{}",
        finished.status,
        finished.log
    );
    let ca = ready["ca"].as_str().unwrap_or_default();
    ensure!(!fs::exists(ca)?, "{ca} is still there");
    Ok(())
}

/// Another process as the broker, and the agent at an address of its own, on the port agents have.
fn an_external_broker_and_an_agent_elsewhere() -> Result<()> {
    const AGENT: &str = "127.0.0.5";
    let folder = tempfile::tempdir()?;
    let password = folder.path().join("password");
    fs::write(&password, "a password of its own")?;
    let hash = portcullis(&["hash-password", "--password-file"])
        .arg(&password)
        .output()?;
    let file = folder.path().join("broker.toml");
    fs::write(
        &file,
        format!(
            "[broker]\nlisten = \"127.0.0.1:0\"\n[[broker.user]]\nname = \"grace\"\npassword_hash = \"{}\"\n\
             [[broker.desktop]]\nid = \"1\"\nname = \"Elsewhere\"\naddress = \"{AGENT}\"\n\
             [[broker.entitlement]]\nuser = \"grace\"\ndesktop = \"1\"\n",
            String::from_utf8(hash.stdout)?.trim()
        ),
    )?;
    let mut broker = Process::start({
        let mut command = portcullis(&["serve", "--json", "--config"]);
        command.arg(&file);
        command
    })?;
    let url = format!(
        "https://{}",
        broker.next_json()?["broker"]
            .as_str()
            .context("no broker")?
    );
    let mut command = portcullis(&[
        "demo",
        "--json",
        "--seconds",
        "1",
        "--broker-url",
        &url,
        "--user",
        "grace",
    ]);
    command
        .args([
            "--agent-listen",
            &format!("{AGENT}:60443"),
            "--password-file",
        ])
        .arg(&password);
    let finished = Process::start(command)?.finish()?;
    let report = finished.last_json()?;
    ensure!(finished.status.success(), "{report}\n{}", finished.log);
    ensure!(report["desktop"] == "Elsewhere", "{report}");
    succeeded(&report)?;
    ensure!(
        broker.stop()?.status.success(),
        "the broker did not end well"
    );
    Ok(())
}

/// One demonstration's front door as the broker of another: a Connection Manager behind a Connection Manager is refused, and
/// says so, instead of going round in circles.
fn a_manager_behind_a_manager() -> Result<()> {
    let mut inner = Process::start(portcullis(&["demo", "--keep", "--json"]))?;
    let url = inner.next_json()?["front_door"]
        .as_str()
        .context("no front door")?
        .to_owned();
    let finished = Process::start(portcullis(&[
        "demo",
        "--json",
        "--seconds",
        "1",
        "--broker-url",
        &url,
    ]))?
    .finish()?;
    let report = finished.last_json()?;
    ensure!(
        !finished.status.success() && report["ok"] == false,
        "a loop was called a success: {report}"
    );
    ensure!(
        report["problem"]
            .as_str()
            .is_some_and(|problem| problem.contains("Connection Manager")),
        "the loop is not named: {report}"
    );
    inner.stop()?;
    Ok(())
}

/// What a user types other than the demonstration says.
#[derive(Clone, Copy, Default)]
pub(crate) struct Typed {
    pub(crate) user: Option<&'static str>,
    pub(crate) password: Option<&'static str>,
    pub(crate) desktop: Option<&'static str>,
}

/// Runs the reference client against a kept demonstration.
pub(crate) fn connect(ready: &Value, typed: Typed) -> Result<Value> {
    let text = |key: &str| {
        ready[key]
            .as_str()
            .with_context(|| format!("no {key}: {ready}"))
    };
    let password = tempfile::NamedTempFile::new()?;
    fs::write(
        password.path(),
        typed.password.map_or_else(|| text("password"), Ok)?,
    )?;
    let mut command = portcullis(&["client", "connect", "--json", "--seconds", "1"]);
    command.args(["--server", text("front_door")?, "--ca", text("ca")?]);
    command.args(["--user", typed.user.map_or_else(|| text("user"), Ok)?]);
    command.args([
        "--desktop",
        typed.desktop.map_or_else(|| text("desktop"), Ok)?,
    ]);
    command.arg("--password-file").arg(password.path());
    Process::start(command)?.finish()?.last_json()
}

/// The form scripts rely on, and success.
pub(crate) fn succeeded(report: &Value) -> Result<()> {
    ensure!(report["ok"] == true, "{report}");
    let steps: Vec<&Value> = report["steps"]
        .as_array()
        .context("no steps")?
        .iter()
        .collect();
    ensure!(steps.len() == 7, "{report}");
    for (step, number) in steps.iter().zip(1..) {
        ensure!(
            step["step"] == number && step["ok"] == true && step["ms"].is_number(),
            "{step}"
        );
        ensure!(
            step["name"].as_str().is_some_and(|name| !name.is_empty()),
            "{step}"
        );
    }
    for direction in ["down", "up"] {
        let flow = &report["udp"][direction];
        ensure!(
            flow["sent"].as_u64() > Some(10),
            "hardly anything was sent {direction}: {report}"
        );
        ensure!(
            flow["received"] == flow["sent"] && flow["lost"] == 0,
            "packets were lost {direction}: {report}"
        );
    }
    Ok(())
}
