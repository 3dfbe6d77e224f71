//! Agents that misbehave, and clients that are told why.

use std::time::Duration;

use portcullis_endpoints::{
    AgentConfig, Report,
    agent::{AgentEvent, EndReason, Faults, LaunchFault, LaunchRefusal},
    client::ClientConfig,
};
use portcullis_https::Authority;
use portcullis_protocol::broker::ConnectTag;

use crate::site::{Manners, Site, agent_config};

async fn with_faults(faults: Faults) -> Site {
    let authority = Authority::generate("Test authority").unwrap();
    let agent = AgentConfig {
        faults,
        ..agent_config(&authority)
    };
    Site::start(&authority, agent, Manners::default()).await
}

/// The client, with limits that do not try anyone's patience.
fn hasty(site: &Site) -> ClientConfig {
    let mut config = site.client();
    config.limits.handshake = Duration::from_millis(500);
    config.limits.invite = Duration::from_millis(600);
    config.limits.invite_every = Duration::from_millis(100);
    config
}

fn failed_at_7(report: &Report, named: &[&str]) {
    assert!(!report.ok);
    assert!(report.steps[..6].iter().all(|step| step.ok), "{report:?}");
    assert!(!report.steps[6].ok && report.steps[6].ms.is_some());
    let problem = report.problem.as_deref().unwrap();
    for text in named {
        assert!(problem.contains(text), "{text:?} is not in {problem:?}");
    }
}

#[tokio::test]
async fn wrong_answers_to_a_launch_fail_step_5_and_leave_nothing() {
    for fault in [
        LaunchFault::Garbage,
        LaunchFault::NotFound,
        LaunchFault::ServerError,
        LaunchFault::UnknownFailure,
        LaunchFault::Truncated,
    ] {
        let site = with_faults(Faults {
            launch_reply: Some(fault),
            ..Faults::default()
        })
        .await;
        let report = site.connect(site.client()).await;
        assert!(report.steps[3].ok && !report.steps[4].ok, "{fault:?}");
        assert_eq!(
            report.result_id.as_deref(),
            Some("ALLOC_FAILED_TO_ALLOCATE_AGENT"),
            "{fault:?}"
        );
        site.stop().await;
    }
}

#[tokio::test]
async fn success_in_lower_case_is_success() {
    let site = with_faults(Faults {
        launch_reply: Some(LaunchFault::LowerCase),
        ..Faults::default()
    })
    .await;
    assert!(site.connect(site.client()).await.ok);
    site.stop().await;
}

#[tokio::test]
async fn a_slow_agent_is_not_reached_and_a_slightly_slow_one_is() {
    let site = with_faults(Faults {
        launch_delay: Some(Duration::from_millis(300)),
        ..Faults::default()
    })
    .await;
    assert!(site.connect(site.client()).await.ok);
    site.manners(|manners| manners.agent_wait = Some(Duration::from_millis(100)));
    let report = site.connect(site.client()).await;
    assert_eq!(
        report.result_id.as_deref(),
        Some("ALLOC_FAILED_TO_ALLOCATE_BROKER_PORT_UNREACHABLE")
    );
    let problem = report.problem.unwrap();
    assert!(problem.contains("TCP 60443"), "{problem}");
    site.stop().await;
}

#[tokio::test]
async fn a_closed_tcp_port_is_named() {
    let site = with_faults(Faults {
        refuse_signalling: true,
        ..Faults::default()
    })
    .await;
    let report = site.connect(hasty(&site)).await;
    failed_at_7(&report, &["TCP 4172", "refused"]);
    assert_eq!(report.license, None);
    site.stop().await;
}

#[tokio::test]
async fn a_mute_tcp_port_is_named() {
    let site = with_faults(Faults {
        mute_signalling: true,
        ..Faults::default()
    })
    .await;
    let report = site.connect(hasty(&site)).await;
    failed_at_7(&report, &["TCP 4172", "TLS", "agent"]);
    site.stop().await;
}

#[tokio::test]
async fn udp_that_never_comes_is_named() {
    let mut site = with_faults(Faults {
        deaf_udp: true,
        ..Faults::default()
    })
    .await;
    let report = site.connect(hasty(&site)).await;
    failed_at_7(&report, &["TCP came, UDP never did", "UDP 4172", "blocked"]);
    assert!(report.license.is_some());
    // The client said good-bye, so the desktop is free at once.
    assert_eq!(site.agent.stats().disconnected, 0);
    site.event(|event| {
        matches!(
            event,
            AgentEvent::Ended {
                reason: EndReason::Bye,
                ..
            }
        )
    })
    .await;
    site.stop().await;
}

#[tokio::test]
async fn an_impostor_on_4172_is_found_out_by_the_tag() {
    let real = Site::plain().await;
    let impostor = Site::plain().await;
    let tag: &'static str = String::from(impostor.launch("bob").await.connect_tag.expose()).leak();
    let _ = TAG.set(tag);
    // A tag that names another certificate than the one shown.
    real.manners(|manners| {
        manners.rewrite = Some(|target| {
            target.connect_tag = TAG.get().and_then(|tag| ConnectTag::new(tag));
        });
    });
    let report = real.connect(real.client()).await;
    failed_at_7(&report, &["certificate", "TCP 4172"]);

    real.manners(|manners| {
        manners.rewrite = Some(|target| target.connect_tag = ConnectTag::new("SCS1unknown"));
    });
    // The first client's session waits for its reservation to expire; the same user takes it over.
    let report = real.connect(real.client()).await;
    failed_at_7(&report, &["connect-tag", "reference agent"]);
    real.stop().await;
    impostor.stop().await;
}

static TAG: std::sync::OnceLock<&str> = std::sync::OnceLock::new();

#[tokio::test]
async fn a_user_the_agent_does_not_know_is_refused_by_it() {
    let mut site = Site::plain().await;
    site.manners(|manners| manners.wrong_agent_password = true);
    let report = site.connect(site.client()).await;
    assert!(report.steps[3].ok && !report.steps[4].ok);
    assert!(
        report
            .server_text
            .unwrap()
            .contains("user name or password")
    );
    let refused = site
        .event(|event| matches!(event, AgentEvent::LaunchRefused { .. }))
        .await;
    assert_eq!(
        refused,
        AgentEvent::LaunchRefused {
            reason: LaunchRefusal::UserAuth
        }
    );
    assert_eq!(site.agent.stats().reserved, 0);
    site.stop().await;
}
