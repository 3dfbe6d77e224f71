//! `portcullis serve` and `portcullis config check`.

use std::{path::Path, process::ExitCode, time::Instant};

use anyhow::{Result, bail};
use serde::Serialize;
use tracing::{info, warn};

use crate::{
    cli::Serve,
    config::{self, Config},
    logging,
    roles::{Addresses, Roles, milliseconds_since},
    runtime, terminal,
};

/// What `serve --json` prints once it is ready.
#[derive(Serialize)]
struct Ready<'a> {
    ready: bool,
    ms: f64,
    #[serde(flatten)]
    addresses: &'a Addresses,
}

/// `portcullis serve`
pub(crate) fn run(arguments: &Serve) -> Result<ExitCode> {
    let started = Instant::now();
    let config = match config::load(&arguments.config) {
        Ok(config) => config,
        Err(mistakes) => {
            for mistake in mistakes {
                eprintln!("{mistake}");
            }
            return Ok(ExitCode::FAILURE);
        }
    };
    logging::start(
        config.log.level.as_deref().unwrap_or("info"),
        config.log.format,
    )?;
    runtime()?.block_on(serve(config, arguments.json, started))
}

/// `portcullis config check`
pub(crate) fn check(path: &Path) -> Result<ExitCode> {
    match config::load(path) {
        Ok(config) => {
            for warning in &config.warnings {
                eprintln!("warning: {warning}");
            }
            terminal::line(&format!(
                "{}: good; runs {}",
                path.display(),
                roles_of(&config).join(", ")
            ))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(mistakes) => {
            for mistake in mistakes {
                eprintln!("{mistake}");
            }
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn serve(config: Config, json: bool, started: Instant) -> Result<ExitCode> {
    for warning in &config.warnings {
        warn!(warning = %warning, "Configuration");
    }
    let mut roles = Roles::start(config).await?;
    let ready = Ready {
        ready: true,
        ms: milliseconds_since(started),
        addresses: &roles.addresses,
    };
    for (role, address) in roles.addresses.iter() {
        info!(role, %address, "Listening");
    }
    info!(milliseconds = ready.ms, "Ready");
    if json {
        terminal::json(&ready)?;
    }
    let ended = tokio::select! {
        told = terminal::told_to_end() => { told?; None }
        role = roles.first_ended() => Some(role),
    };
    roles.stop().await;
    match ended {
        Some(role) => bail!("the role {role} ended by itself; see the log"),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn roles_of(config: &Config) -> Vec<&'static str> {
    [
        (config.connection_manager.is_some(), "connection_manager"),
        (config.security_gateway.is_some(), "security_gateway"),
        (config.broker.is_some(), "broker"),
        (config.license_server.is_some(), "license_server"),
        (config.console.is_some(), "console"),
    ]
    .into_iter()
    .filter_map(|(runs, name)| runs.then_some(name))
    .collect()
}
