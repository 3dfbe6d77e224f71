//! Licences: taken before the session is offered, given back however it ends.

use std::time::Duration;

use portcullis_endpoints::{
    Client,
    agent::{AgentEvent, EndReason, LaunchRefusal},
    client::{Stage, StepEvent},
    signalling::License,
};
use portcullis_https::Authority;
use portcullis_license_server::{DEFAULT_FEATURE, FeatureConfig, PoolConfig, pool::MIN_LEASE_TTL};
use tokio::task::JoinSet;

use crate::site::{Licenses, Manners, Site, agent_config, licenses, licenses_at, until};

async fn site_with_pool(pool: PoolConfig) -> (Site, Licenses) {
    let authority = Authority::generate("Test authority").unwrap();
    let licenses = licenses(&authority, pool).await;
    let manners = Manners {
        license_path: licenses.path.clone(),
        ..Manners::default()
    };
    let site = Site::start(&authority, agent_config(&authority), manners).await;
    (site, licenses)
}

fn ended(reason: EndReason) -> impl Fn(&AgentEvent) -> bool {
    move |event| matches!(event, AgentEvent::Ended { reason: given, .. } if *given == reason)
}

fn returned(event: &AgentEvent) -> bool {
    matches!(event, AgentEvent::LicenseReturned { .. })
}

#[tokio::test]
async fn one_licence_serves_one_session_after_the_other() {
    let (mut site, licenses) = site_with_pool(PoolConfig::of_sessions(1)).await;
    for _ in 0..3 {
        let report = site.connect(site.client()).await;
        assert!(report.ok, "{report:?}");
        assert_eq!(report.license, Some(License::Leased));
        assert!(
            report.steps[5]
                .detail
                .as_deref()
                .unwrap()
                .contains("Leased")
        );
        // The client waits for the agent to let go, so nothing needs waiting for here.
        assert_eq!(licenses.used(), 0);
        assert_eq!(site.agent.stats().leases, 0);
        for wanted in [
            "license-acquired",
            "launched",
            "connected",
            "flow-opened",
            "ended",
            "license-returned",
        ] {
            let event = site.event(|_| true).await;
            let name = serde_json::to_value(&event).unwrap()["event"].clone();
            assert_eq!(name, wanted);
        }
    }
    site.stop().await;
    licenses.stop().await;
}

#[tokio::test]
async fn both_forms_of_address_work_and_the_first_that_answers_counts() {
    let (site, licenses) = site_with_pool(PoolConfig::of_sessions(1)).await;
    let port = licenses.path.split('@').next().unwrap();
    for path in [
        format!("https://127.0.0.1:{port}/request"),
        format!("http://127.0.0.1:{port}/request"),
        format!("1@127.0.0.1;{port}@127.0.0.1"),
    ] {
        site.manners(|manners| manners.license_path.clone_from(&path));
        let report = site.connect(site.client()).await;
        assert!(report.ok, "{path}: {report:?}");
        assert_eq!(report.license, Some(License::Leased));
    }
    site.stop().await;
    licenses.stop().await;
}

#[tokio::test]
async fn an_empty_pool_fails_step_6_and_frees_the_seat() {
    let (mut site, licenses) = site_with_pool(PoolConfig {
        features: vec![FeatureConfig {
            name: DEFAULT_FEATURE.to_owned(),
            count: 0,
        }],
        ..PoolConfig::of_sessions(1)
    })
    .await;
    let report = site.connect(site.client()).await;
    assert!(report.steps[..5].iter().all(|step| step.ok));
    assert!(!report.steps[5].ok && report.steps[5].ms.is_some());
    assert!(report.steps[6].ms.is_none());
    assert_eq!(report.result_id.as_deref(), Some("ALLOC_FAILED_NO_LICENSE"));
    assert!(report.server_text.unwrap().contains("no licence"));
    let refused = site
        .event(|event| matches!(event, AgentEvent::LaunchRefused { .. }))
        .await;
    assert_eq!(
        refused,
        AgentEvent::LaunchRefused {
            reason: LaunchRefusal::NoLicense
        }
    );
    let stats = site.agent.stats();
    assert_eq!(
        (stats.reserved, stats.leases, stats.launches_refused),
        (0, 0, 1)
    );
    site.stop().await;
    licenses.stop().await;
}

#[tokio::test]
async fn a_licence_server_that_is_down_or_misnamed_is_a_missing_licence() {
    let site = Site::plain().await;
    for (path, said) in [
        ("1@127.0.0.1", "cannot be reached"),
        ("nonsense", "port@host"),
    ] {
        site.manners(|manners| manners.license_path = path.to_owned());
        let report = site.connect(site.client()).await;
        assert_eq!(report.result_id.as_deref(), Some("ALLOC_FAILED_NO_LICENSE"));
        let text = report.server_text.unwrap();
        assert!(text.contains(said), "{text}");
    }
    assert_eq!(site.agent.stats().reserved, 0);
    site.stop().await;
}

#[tokio::test]
async fn an_agent_that_insists_on_a_licence_refuses_without_a_server() {
    let authority = Authority::generate("Test authority").unwrap();
    let mut agent = agent_config(&authority);
    agent.license.require = true;
    let site = Site::start(&authority, agent, Manners::default()).await;
    let report = site.connect(site.client()).await;
    assert_eq!(report.result_id.as_deref(), Some("ALLOC_FAILED_NO_LICENSE"));
    site.stop().await;
}

#[tokio::test]
async fn an_agents_own_servers_go_before_those_it_is_told() {
    let authority = Authority::generate("Test authority").unwrap();
    let licenses = licenses(&authority, PoolConfig::of_sessions(1)).await;
    let mut agent = agent_config(&authority);
    agent.license.addresses = Some(vec![licenses.path.parse().unwrap()]);
    let manners = Manners {
        license_path: "1@127.0.0.1".to_owned(),
        ..Manners::default()
    };
    let site = Site::start(&authority, agent, manners).await;
    let report = site.connect(site.client()).await;
    assert!(report.ok, "{report:?}");
    assert_eq!(report.license, Some(License::Leased));
    site.stop().await;
    licenses.stop().await;
}

#[tokio::test]
async fn an_unclaimed_reservation_gives_its_licence_back() {
    let authority = Authority::generate("Test authority").unwrap();
    let licenses = licenses(&authority, PoolConfig::of_sessions(1)).await;
    let mut agent = agent_config(&authority);
    agent.reservation = Duration::from_millis(100);
    let manners = Manners {
        license_path: licenses.path.clone(),
        ..Manners::default()
    };
    let mut site = Site::start(&authority, agent, manners).await;
    site.launch("ada").await;
    site.event(ended(EndReason::Unclaimed)).await;
    site.event(returned).await;
    assert_eq!(licenses.used(), 0);
    site.stop().await;
    licenses.stop().await;
}

#[tokio::test]
async fn a_take_over_works_with_the_only_licence_there_is() {
    let (mut site, licenses) = site_with_pool(PoolConfig::of_sessions(1)).await;
    let mut config = site.client();
    config.stop_after = Some(Stage::FirstDatagram);
    site.connect(config).await;
    until(|| site.agent.stats().disconnected == 1).await;
    assert_eq!(licenses.used(), 1);

    let mut other = site.client();
    other.user = "bob".to_owned();
    let report = site.connect(other).await;
    assert!(!report.steps[4].ok);
    assert!(report.server_text.unwrap().contains("another session"));

    let report = site.connect(site.client()).await;
    assert!(report.ok, "{report:?}");
    assert_eq!(report.license, Some(License::Leased));
    site.event(ended(EndReason::TakenOver)).await;
    site.event(ended(EndReason::Bye)).await;
    assert_eq!(licenses.used(), 0);
    site.stop().await;
    licenses.stop().await;
}

#[tokio::test]
async fn stopping_the_agent_gives_every_licence_back() {
    let authority = Authority::generate("Test authority").unwrap();
    let licenses = licenses(&authority, PoolConfig::of_sessions(3)).await;
    let mut agent = agent_config(&authority);
    agent.max_sessions = 3;
    let manners = Manners {
        license_path: licenses.path.clone(),
        ..Manners::default()
    };
    let site = Site::start(&authority, agent, manners).await;
    // One reserved, one disconnected, one connected.
    site.launch("ada").await;
    let mut config = site.client();
    config.stop_after = Some(Stage::FirstDatagram);
    site.connect(config).await;
    let mut config = site.client();
    config.stream = Duration::from_secs(3600);
    let (told, mut streaming) = tokio::sync::mpsc::unbounded_channel();
    let client = JoinSet::from_iter([Client::connect(config, move |event| {
        if matches!(event, StepEvent::Streaming(_)) {
            let _ = told.send(());
        }
    })]);
    streaming.recv().await.unwrap();
    assert_eq!(licenses.used(), 3);
    site.stop().await;
    assert_eq!(licenses.used(), 0);
    let report = client.join_all().await.remove(0).unwrap();
    assert!(!report.ok && !report.steps[6].ok);
    let problem = report.problem.unwrap();
    assert!(problem.contains("ShuttingDown"), "{problem}");
    licenses.stop().await;
}

#[tokio::test]
async fn a_lease_the_server_forgot_is_replaced_or_ends_the_session() {
    // The shortest lease there is, so that renewals come three times a second.
    let pool = PoolConfig {
        lease_ttl: MIN_LEASE_TTL,
        ..PoolConfig::of_sessions(1)
    };
    let authority = Authority::generate("Test authority").unwrap();
    let first = licenses(&authority, pool.clone()).await;
    let address = first.address;
    let manners = Manners {
        license_path: first.path.clone(),
        ..Manners::default()
    };
    let mut site = Site::start(&authority, agent_config(&authority), manners).await;
    let mut config = site.client();
    config.stream = Duration::from_secs(3600);
    let client = JoinSet::from_iter([Client::connect(config, |_| {})]);
    site.event(|event| matches!(event, AgentEvent::FlowOpened { .. }))
        .await;
    first.stop().await;

    // A restarted server knows nothing of the lease, but has one to give.
    let restarted = licenses_at(address, &authority, pool.clone()).await;
    until(|| restarted.used() == 1).await;
    assert_eq!(site.agent.stats().connected, 1);
    restarted.stop().await;

    // Another one has none.
    let features = vec![FeatureConfig {
        name: DEFAULT_FEATURE.to_owned(),
        count: 0,
    }];
    let empty = licenses_at(address, &authority, PoolConfig { features, ..pool }).await;
    site.event(ended(EndReason::LicenseLost)).await;
    let report = client.join_all().await.remove(0).unwrap();
    assert!(report.problem.unwrap().contains("LicenseLost"));
    assert_eq!(site.agent.stats().leases, 0);
    site.stop().await;
    empty.stop().await;
}
