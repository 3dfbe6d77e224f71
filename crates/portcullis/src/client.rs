//! `portcullis client connect`: the reference client on a terminal.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use portcullis_endpoints::{
    Client, ClientConfig, Report,
    client::{ServerUrl, StepEvent, StepReport},
};
use portcullis_https::{Trust, identity::read_certificates};

use crate::{cli::Connect, logging, password, terminal};

/// `portcullis client connect`
pub(crate) async fn run(arguments: Connect) -> Result<ExitCode> {
    logging::start("warn", crate::config::LogFormat::Text)?;
    let server: ServerUrl = arguments.server.parse()?;
    let mut config = ClientConfig::new(
        server,
        arguments.user,
        password::read_file(&arguments.password_file)?,
    );
    config.domain = arguments.domain;
    config.desktop = arguments.desktop;
    config.stream = Duration::from_secs(arguments.seconds);
    config.local_address = arguments.local_address;
    config.transport_header = !arguments.no_transport_header;
    config.trust = match &arguments.ca {
        Some(path) => Trust::Authorities(read_certificates(path)?),
        None if arguments.insecure => Trust::DangerAcceptAnyCertificate,
        None => Trust::System,
    };
    let report = watch(config, arguments.json).await?;
    if arguments.json {
        terminal::json(&report)?;
    } else {
        summary(&report)?;
    }
    Ok(if report.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the client and shows each step as it happens, unless `quiet`.
pub(crate) async fn watch(config: ClientConfig, quiet: bool) -> Result<Report> {
    let mut shown = Ok(());
    let report = Client::connect(config, |event| {
        if !quiet && shown.is_ok() {
            shown = show(&event);
        }
    })
    .await
    .context("cannot run the client")?;
    shown?;
    Ok(report)
}

/// What came of it, below the steps.
pub(crate) fn summary(report: &Report) -> Result<()> {
    if let Some(problem) = &report.problem {
        let sentence = report
            .server_text
            .as_deref()
            .filter(|text| !problem.contains(text));
        terminal::line("")?;
        terminal::line(&format!("  {problem}"))?;
        for (label, text) in [
            ("result", report.result_id.as_deref()),
            ("the server says", sentence),
        ] {
            if let Some(text) = text {
                terminal::line(&format!("  {label}: {text}"))?;
            }
        }
    }
    if report.stream_ms.is_some() {
        terminal::line("")?;
        terminal::line("             sent  received  lost  late  duplicated")?;
        for (direction, flow) in [("down", &report.udp.down), ("up", &report.udp.up)] {
            terminal::line(&format!(
                "  {direction:<5}{:>10}{:>10}{:>6}{:>6}{:>12}",
                flow.sent, flow.received, flow.lost, flow.late, flow.duplicated
            ))?;
        }
        if let (Some(p50), Some(p99)) = (report.rtt_us.p50, report.rtt_us.p99) {
            terminal::line(&format!(
                "  round trip through the whole path: median {p50} µs, 99th percentile {p99} µs ({} samples)",
                report.rtt_us.samples
            ))?;
        }
    }
    terminal::line(&format!("  session log id {}", report.session))
}

fn show(event: &StepEvent) -> Result<()> {
    match event {
        StepEvent::Finished(StepReport {
            step,
            name,
            ok,
            ms,
            detail,
            flows,
        }) => {
            let tick = if *ok { "✓" } else { "✗" };
            let time = ms.map_or_else(String::new, |ms| {
                format!("{:.1} ms", ms.0.as_secs_f64() * 1000.0)
            });
            terminal::line(&format!("  {tick} {step} {name:<52}{time:>12}"))?;
            for flow in flows {
                terminal::line(&format!("        {flow}"))?;
            }
            if let Some(detail) = detail {
                terminal::line(&format!("        {detail}"))?;
            }
            Ok(())
        }
        StepEvent::Streaming(time) => {
            terminal::line(&format!("    streaming for {} s", time.as_secs()))
        }
        StepEvent::Started { .. } | _ => Ok(()),
    }
}
