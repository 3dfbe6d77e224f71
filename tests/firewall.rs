//! What a user is told when one row of the firewall's table is missing.

use anyhow::{Result, ensure};

use crate::support::{
    Test,
    lab::Row,
    site::{BROKER, GATEWAY, Site, TABLE},
};

/// The tests of this file: one a row.
pub(crate) const TESTS: &[(&str, Test)] = &[
    ("firewall::without_client_to_manager", || {
        without("client to Connection Manager", 1, "TCP 443")
    }),
    ("firewall::without_manager_to_broker", || {
        without("Connection Manager to broker", 1, "broker")
    }),
    ("firewall::without_manager_to_agent", || {
        without("Connection Manager to agent", 5, "60443")
    }),
    ("firewall::without_data_to_gateway", || {
        without("client to gateway, data", 7, "UDP 4172")
    }),
    ("firewall::without_control_to_gateway", || {
        without("client to gateway, control", 7, "TCP 4172")
    }),
    ("firewall::without_control_to_agent", || {
        without("gateway to agent, control", 7, "TCP 4172")
    }),
    ("firewall::without_data_to_agent", || {
        without("gateway to agent, data", 7, "UDP 4172")
    }),
];

/// Drops one row: the given step is the first to fail, and the client names the flow concerned.
fn without(missing: &str, failing_step: u64, named: &str) -> Result<()> {
    let rows: Vec<Row> = TABLE
        .iter()
        .filter(|row| row.name != missing)
        .cloned()
        .collect();
    ensure!(rows.len() == TABLE.len() - 1, "no row {missing:?}");
    let mut site = Site::new(&rows)?;
    site.start_back_office(1)?;
    site.serve(
        "gateway",
        GATEWAY,
        &format!(
            "[connection_manager]\nlisten = \"{GATEWAY}:443\"\ncertificate = \"gateway.pem\"\nkey = \"gateway.key\"\n\
             broker_url = \"https://{BROKER}\"\nbroker_trust = {{ ca = \"ca.pem\" }}\nbroker_wait_seconds = 5\n\
             agent_wait_seconds = 5\nlicense_servers = [\"7071@10.77.3.4\"]\n\
             [security_gateway]\npublic_addresses = [\"{GATEWAY}\"]\nidle_seconds = 20\ntcp_grace_seconds = 1\ngrant_seconds = 5\n[console]\n"
        ),
    )?;
    let (report, finished) = site.connect(GATEWAY, 1)?;
    ensure!(
        !finished.status.success(),
        "the client called it a success: {report}"
    );
    let steps: Vec<_> = report["steps"].as_array().into_iter().flatten().collect();
    let first = steps.iter().find(|step| step["ok"] != true);
    ensure!(
        first.is_some_and(|step| step["step"] == failing_step),
        "step {failing_step} should fail first: {report}"
    );
    ensure!(
        report["problem"]
            .as_str()
            .is_some_and(|text| text.contains(named)),
        "{named:?} is not named: {report}"
    );
    ensure!(
        site.lab.counted("dropped")? > 0,
        "the firewall had nothing to drop"
    );

    // The gateway lets go of what did not come about.
    site.falls_to_zero("gateway", "portcullis_gateway_sessions")?;
    site.stop()?;
    Ok(())
}
