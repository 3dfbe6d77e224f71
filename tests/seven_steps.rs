//! The seven steps, between hosts, through a firewall that lets exactly the mission's table pass.

use anyhow::{Result, ensure};

use crate::{
    demonstration::succeeded,
    support::{
        Test,
        lab::Row,
        site::{AGENT, BROKER, CLIENT, GATEWAY, MANAGER, PASSWORD, Site, TABLE, row},
    },
};

/// The tests of this file.
pub(crate) const TESTS: &[(&str, Test)] = &[
    ("seven_steps::the_table_is_enough", the_table_is_enough),
    ("seven_steps::roles_apart", roles_apart),
    ("seven_steps::lan", lan),
    (
        "seven_steps::an_empty_pool_of_licences",
        an_empty_pool_of_licences,
    ),
];

/// Through the gateway, with nothing open but the table's rows; each row is used, nothing else is tried, and afterwards
/// nothing is left.
fn the_table_is_enough() -> Result<()> {
    let mut site = Site::new(&TABLE)?;
    site.start_back_office(1)?;
    site.serve("gateway", GATEWAY, &gateway_host("7071@10.77.3.4"))?;
    let (report, _) = site.connect(GATEWAY, 2)?;
    succeeded(&report)?;
    ensure!(
        report["via"]
            .as_str()
            .is_some_and(|via| via.starts_with(GATEWAY)),
        "not through the gateway: {report}"
    );
    for row in &TABLE {
        ensure!(
            site.lab.counted(row.name)? > 0,
            "the row {:?} was not needed",
            row.name
        );
    }
    ensure!(
        site.lab.counted("dropped")? == 0,
        "something tried to pass outside the table"
    );

    // A second session on the same desktop shows that the first one's licence, of which there is one, came back. Connections to
    // broker and agent are kept between the two, so that descriptors can be compared.
    left_nothing(&site)?;
    let before = site.file_descriptors("gateway")?;
    let (report, _) = site.connect(GATEWAY, 1)?;
    succeeded(&report)?;
    left_nothing(&site)?;
    let after = site.file_descriptors("gateway")?;
    ensure!(
        after <= before,
        "{before} file descriptors before, {after} after"
    );
    no_secret_in(site.stop()?)
}

/// Connection Manager and Security Gateway as processes on hosts of their own, with the control link between them.
fn roles_apart() -> Result<()> {
    let moved = |row: &Row| match row.name {
        "client to Connection Manager" => Row {
            destination: MANAGER,
            ..row.clone()
        },
        "Connection Manager to broker" | "Connection Manager to agent" => Row {
            source: MANAGER,
            ..row.clone()
        },
        _ => row.clone(),
    };
    let mut rows: Vec<Row> = TABLE.iter().map(moved).collect();
    rows.push(row(
        "Connection Manager to gateway",
        MANAGER,
        None,
        GATEWAY,
        "tcp",
        4173,
    ));
    let mut site = Site::new(&rows)?;
    site.start_back_office(1)?;
    site.serve(
        "gateway",
        GATEWAY,
        &format!(
            "[security_gateway]\npublic_addresses = [\"{GATEWAY}\"]\n\
             [security_gateway.control]\nlisten = \"{GATEWAY}:4173\"\ncertificate = \"gateway.pem\"\nkey = \"gateway.key\"\n\
             ca = \"ca.pem\"\n[console]\n"
        ),
    )?;
    site.serve(
        "manager",
        MANAGER,
        &format!(
            "[connection_manager]\nlisten = \"{MANAGER}:443\"\ncertificate = \"manager.pem\"\nkey = \"manager.key\"\n\
             broker_url = \"https://{BROKER}\"\nbroker_trust = {{ ca = \"ca.pem\" }}\n\
             license_servers = [\"https://10.77.3.4:7071/request\"]\n\
             [connection_manager.gateway]\ncontrol_url = \"https://{GATEWAY}:4173\"\nca = \"ca.pem\"\n\
             certificate = \"manager.pem\"\nkey = \"manager.key\"\n"
        ),
    )?;
    let (report, _) = site.connect(MANAGER, 1)?;
    succeeded(&report)?;
    ensure!(
        report["via"]
            .as_str()
            .is_some_and(|via| via.starts_with(GATEWAY)),
        "not through the gateway: {report}"
    );
    ensure!(
        site.lab.counted("dropped")? == 0,
        "something tried to pass outside the table"
    );
    left_nothing(&site)?;
    no_secret_in(site.stop()?)
}

/// With the gateway off, client and agent talk to each other directly.
fn lan() -> Result<()> {
    let rows = [
        TABLE[0].clone(),
        TABLE[1].clone(),
        TABLE[2].clone(),
        row("client to agent, data", CLIENT, None, AGENT, "udp", 4172),
        row("client to agent, control", CLIENT, None, AGENT, "tcp", 4172),
    ];
    let mut site = Site::new(&rows)?;
    site.start_back_office(1)?;
    site.serve(
        "gateway",
        GATEWAY,
        &format!(
            "[connection_manager]\nlisten = \"{GATEWAY}:443\"\ncertificate = \"gateway.pem\"\nkey = \"gateway.key\"\n\
             broker_url = \"https://{BROKER}\"\nbroker_trust = {{ ca = \"ca.pem\" }}\nsecurity_gateway_enabled = false\n\
             license_servers = [\"7071@10.77.3.4\"]\n"
        ),
    )?;
    let (report, _) = site.connect(GATEWAY, 1)?;
    succeeded(&report)?;
    ensure!(
        report["via"]
            .as_str()
            .is_some_and(|via| via.starts_with(AGENT)),
        "not straight to the agent: {report}"
    );
    ensure!(
        site.lab.counted("dropped")? == 0,
        "something tried to pass outside the table"
    );
    no_secret_in(site.stop()?)
}

/// Without a free licence the user is told so, and neither session nor grant stays behind.
fn an_empty_pool_of_licences() -> Result<()> {
    let mut site = Site::new(&TABLE)?;
    site.start_back_office(0)?;
    site.serve("gateway", GATEWAY, &gateway_host("7071@10.77.3.4"))?;
    let (report, finished) = site.connect(GATEWAY, 1)?;
    ensure!(
        !finished.status.success() && report["ok"] == false,
        "{report}"
    );
    ensure!(report["result_id"] == "ALLOC_FAILED_NO_LICENSE", "{report}");
    ensure!(
        report["server_text"]
            .as_str()
            .is_some_and(|text| text.contains("licence")),
        "{report}"
    );
    left_nothing(&site)?;
    no_secret_in(site.stop()?)
}

/// Connection Manager and Security Gateway on one host, as the mission's table has them.
fn gateway_host(license_server: &str) -> String {
    format!(
        "[connection_manager]\nlisten = \"{GATEWAY}:443\"\ncertificate = \"gateway.pem\"\nkey = \"gateway.key\"\n\
         broker_url = \"https://{BROKER}\"\nbroker_trust = {{ ca = \"ca.pem\" }}\n\
         license_servers = [\"{license_server}\"]\n\
         [security_gateway]\nlisten = \"0.0.0.0:4172\"\npublic_addresses = [\"{GATEWAY}\"]\n[console]\n"
    )
}

/// No session, grant or licence is held any more, once the gateway's grace for a closed connection is over.
fn left_nothing(site: &Site) -> Result<()> {
    for (host, metric) in [
        ("gateway", "portcullis_gateway_sessions"),
        ("gateway", "portcullis_gateway_grants_pending"),
        ("licenses", "portcullis_license_used"),
        ("broker", "portcullis_broker_sessions"),
    ] {
        site.falls_to_zero(host, metric)?;
    }
    Ok(())
}

/// No log of any host, all at the finest level, holds the password.
fn no_secret_in(logs: Vec<(&'static str, String)>) -> Result<()> {
    for (host, log) in logs {
        ensure!(!log.is_empty(), "{host} logged nothing");
        ensure!(!log.contains(PASSWORD), "{host} logged the password");
    }
    Ok(())
}
