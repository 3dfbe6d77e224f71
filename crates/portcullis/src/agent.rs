//! `portcullis agent`: the reference agent as a process.

use std::{path::Path, process::ExitCode};

use anyhow::{Context as _, Result};
use portcullis_endpoints::{
    Agent, AgentConfig,
    agent::{AgentEvent, LicensePolicy},
};
use portcullis_https::{Trust, identity::read_certificates};
use secrecy::SecretString;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use crate::{cli, config::LogFormat, logging, terminal};

/// `portcullis agent`
pub(crate) async fn run(arguments: cli::Agent) -> Result<ExitCode> {
    logging::start("info", LogFormat::Text)?;
    let trust = match &arguments.license_ca {
        Some(path) => Trust::Authorities(read_certificates(path)?),
        None => Trust::OnFirstUse,
    };
    let agent = Agent::start(AgentConfig {
        control_listen: arguments.listen,
        data_listen: arguments.data,
        advertised: arguments.address,
        hostname: arguments.hostname,
        unique_sni: arguments.sessions > 1,
        users: arguments
            .users_file
            .as_deref()
            .map(read_users)
            .transpose()?,
        max_sessions: arguments.sessions,
        license: LicensePolicy {
            trust,
            addresses: None,
            require: arguments.require_license,
        },
        ..AgentConfig::default()
    })
    .await?;
    let mut events = agent.events();
    let addresses = agent.addresses();
    if arguments.json {
        let (control, data) = (addresses.control.to_string(), addresses.data.to_string());
        terminal::json(&json!({ "ready": true, "control": control, "data": data }))?;
    }
    let told = terminal::told_to_end();
    tokio::pin!(told);
    loop {
        tokio::select! {
            told = &mut told => break told?,
            event = events.recv() => match event {
                Ok(event) if arguments.json => terminal::json(&json!({ "event": name(&event), "detail": format!("{event:?}") }))?,
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => break,
            },
        }
    }
    agent.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// Reads `name:password` lines; empty lines and lines that begin with `#` do not count.
fn read_users(path: &Path) -> Result<Vec<(String, SecretString)>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read users from {}", path.display()))?;
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|(index, line)| {
            let (name, password) = line.split_once(':').with_context(|| {
                format!(
                    "{}:{}: not of the form name:password",
                    path.display(),
                    index + 1
                )
            })?;
            Ok((name.trim().to_owned(), SecretString::from(password)))
        })
        .collect()
}

fn name(event: &AgentEvent) -> &'static str {
    match event {
        AgentEvent::Launched { .. } => "launched",
        AgentEvent::LaunchRefused { .. } => "launch-refused",
        AgentEvent::LicenseAcquired { .. } => "license-acquired",
        AgentEvent::LicenseReturned { .. } => "license-returned",
        AgentEvent::Connected { .. } => "connected",
        AgentEvent::FlowOpened { .. } => "flow-opened",
        AgentEvent::ConnectionRefused { .. } => "connection-refused",
        AgentEvent::Ended { .. } => "ended",
        _ => "other",
    }
}
