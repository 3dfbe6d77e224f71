//! Log lines: on standard error, as text or JSON, at the level the configuration or `PORTCULLIS_LOG` asks for.

use std::io;

use anyhow::{Context as _, Result};
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Overrides the level of the configuration; same syntax.
const VARIABLE: &str = "PORTCULLIS_LOG";

/// Starts logging. `level` is a level, or directives by module such as `info,portcullis_security_gateway=debug`.
pub(crate) fn start(level: &str, format: LogFormat) -> Result<()> {
    let directives = std::env::var(VARIABLE).unwrap_or_else(|_| level.to_owned());
    let filter = parse(&directives).with_context(|| format!("{directives:?} is no log level"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Reads a level or directives by module.
pub(crate) fn parse(directives: &str) -> Result<EnvFilter> {
    Ok(EnvFilter::builder().parse(directives)?)
}
