//! What goes well.

use std::time::Duration;

use portcullis_endpoints::{
    Client,
    agent::{AgentEvent, AgentStats, EndReason},
    client::{AgentCertificate, Signalled, Stage, StepEvent, report::STEPS},
    load::{Downstream, Load, PacketLoad},
    signalling::{Cipher, License},
};
use portcullis_https::{Authority, Trust};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::site::{DESKTOP, HOSTNAME, Manners, Site, USER, agent_config, until};

#[tokio::test]
async fn all_seven_hold_and_nothing_is_lost() {
    let mut site = Site::plain().await;
    let report = site.connect(site.client()).await;
    assert_eq!(report.problem, None);
    assert!(report.ok);
    assert!(report.steps.iter().all(|step| step.ok && step.ms.is_some()));
    for direction in [report.udp.down, report.udp.up] {
        assert!(direction.sent > 10, "{direction:?}");
        assert_eq!(direction.received, direction.sent);
        assert_eq!(direction.lost, 0);
    }
    assert!(report.frames > 0);
    assert!(report.rtt_us.samples > 0);
    assert!(report.rtt_us.p50.is_some() && report.rtt_us.p50 <= report.rtt_us.p99);
    assert_eq!(report.license, Some(License::NotConfigured));
    assert_eq!(report.cipher, Some(Cipher::Aes128Gcm));
    assert_eq!(report.transport_header, Some(true));
    assert_eq!(report.desktop.as_deref(), Some("Something else"));
    let data = site.agent.addresses().data.to_string();
    assert_eq!(report.via, Some(data));

    let launched = site
        .event(|event| matches!(event, AgentEvent::Launched { .. }))
        .await;
    let AgentEvent::Launched {
        session,
        log_id,
        user,
    } = launched
    else {
        unreachable!()
    };
    assert_eq!(session.0, 0x2000_0000_0000_0001);
    assert_eq!(log_id, report.session);
    assert_eq!(user, USER);
    let connected = site
        .event(|event| matches!(event, AgentEvent::Connected { .. }))
        .await;
    assert!(
        matches!(connected, AgentEvent::Connected { server_name: Some(name), .. } if name == HOSTNAME)
    );
    let ended = site
        .event(|event| matches!(event, AgentEvent::Ended { .. }))
        .await;
    let AgentEvent::Ended {
        reason, traffic, ..
    } = ended
    else {
        unreachable!()
    };
    assert_eq!(reason, EndReason::Bye);
    assert_eq!(traffic.sent, report.udp.down.sent);
    assert_eq!(traffic.received.packets, report.udp.up.received);
    assert_eq!(
        site.agent.stats(),
        AgentStats {
            launched: 1,
            packets_sent: report.udp.down.sent,
            packets_received: report.udp.up.received,
            ..AgentStats::default()
        }
    );
    site.stop().await;
}

#[tokio::test]
async fn packets_that_wait_for_a_busy_client_are_not_lost() {
    let site = Site::plain().await;
    let mut config = site.client();
    config.load.down = Downstream::Packets(PacketLoad {
        pps: 1000,
        bytes: 20,
    });
    let target = site.launch(USER).await;
    let signalled = Signalled::open(&target, &config).await.unwrap();
    let mut session = signalled.invite().await.unwrap();
    // More than the client takes at once.
    until(|| site.agent.stats().packets_sent > 150).await;
    let account = session.stop().await.unwrap();
    assert!(account.agent.sent > 150);
    assert_eq!(account.received.packets, account.agent.sent);
    assert_eq!(account.agent.received.packets, account.sent);
    session.bye().await;
    site.stop().await;
}

#[tokio::test]
async fn the_report_has_the_form_scripts_rely_on() {
    let site = Site::plain().await;
    let report = site.connect(site.client()).await;
    let json: Value = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!(json["ok"], true);
    let steps = json["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 7);
    for (step, number) in steps.iter().zip(1..) {
        assert_eq!(step["step"], number);
        assert_eq!(step["name"], STEPS[number - 1]);
        assert_eq!(step["ok"], true);
        assert!(step["ms"].is_number(), "{step}");
    }
    for direction in ["down", "up"] {
        for figure in ["sent", "received", "lost"] {
            assert!(json["udp"][direction][figure].is_u64(), "{json}");
        }
    }
    assert!(json["problem"].is_null());
    site.stop().await;
}

#[tokio::test]
async fn each_step_is_told_as_it_happens() {
    let site = Site::plain().await;
    let mut told = Vec::new();
    let mut config = site.client();
    config.stream = Duration::from_millis(20);
    let report = Client::connect(config, |event| told.push(event))
        .await
        .unwrap();
    let expected: Vec<_> = report
        .steps
        .iter()
        .flat_map(|step| {
            [
                StepEvent::Started {
                    step: step.step,
                    name: step.name,
                },
                StepEvent::Finished(step.clone()),
            ]
        })
        .chain([StepEvent::Streaming(Duration::from_millis(20))])
        .collect();
    assert_eq!(told, expected);
    let flows = report
        .steps
        .iter()
        .flat_map(|step| step.flows.clone())
        .collect::<Vec<_>>()
        .join("\n");
    for port in ["TCP 443", "TCP 60443", "TCP 4172", "UDP 4172"] {
        assert!(flows.contains(port), "{port} is missing in {flows}");
    }
    site.stop().await;
}

#[tokio::test]
async fn a_desktop_is_chosen_without_regard_to_case() {
    let site = Site::plain().await;
    let mut config = site.client();
    config.desktop = Some(DESKTOP.to_uppercase());
    config.load = Load::SILENT;
    let report = site.connect(config).await;
    assert!(report.ok, "{report:?}");
    assert_eq!(report.desktop.as_deref(), Some(DESKTOP));
    site.stop().await;
}

#[tokio::test]
async fn the_clients_wishes_hold_where_the_agent_agrees() {
    let site = Site::plain().await;
    let mut config = site.client();
    config.ciphers = vec![Cipher::Aes256Gcm, Cipher::Aes128Gcm];
    config.transport_header = false;
    config.mtu = 500;
    let report = site.connect(config).await;
    assert!(report.ok, "{report:?}");
    assert_eq!(report.cipher, Some(Cipher::Aes256Gcm));
    assert_eq!(report.transport_header, Some(false));
    assert!(report.udp.down.bytes <= report.udp.down.received * 472);
    assert_eq!(report.udp.down.lost, 0);
    site.stop().await;
}

#[tokio::test]
async fn the_agents_limits_hold_against_the_clients_wishes() {
    let authority = Authority::generate("Test authority").unwrap();
    let mut agent = agent_config(&authority);
    agent.ciphers = vec![Cipher::Aes256Gcm];
    agent.transport_header = false;
    agent.mtu = 600;
    let site = Site::start(&authority, agent, Manners::default()).await;
    let report = site.connect(site.client()).await;
    assert!(report.ok, "{report:?}");
    assert_eq!(report.cipher, Some(Cipher::Aes256Gcm));
    assert_eq!(report.transport_header, Some(false));
    assert!(report.udp.down.bytes <= report.udp.down.received * 572);

    let mut config = site.client();
    config.ciphers = vec![Cipher::Aes128Gcm];
    let report = site.connect(config).await;
    assert!(!report.ok);
    assert!(report.problem.unwrap().contains("NoCommonCipher"));
    site.stop().await;
}

#[tokio::test]
async fn every_connection_comes_from_the_local_address_asked_for() {
    let mut site = Site::plain().await;
    let mut config = site.client();
    let local = "127.0.0.2".parse().unwrap();
    config.local_address = Some(local);
    let report = site.connect(config).await;
    assert!(report.ok, "{report:?}");
    assert!(
        site.seen
            .lock()
            .unwrap()
            .iter()
            .all(|seen| seen.peer.ip() == local)
    );
    site.event(|event| matches!(event, AgentEvent::Connected { peer, .. } if peer.ip() == local))
        .await;
    site.event(|event| matches!(event, AgentEvent::FlowOpened { peer, .. } if peer.ip() == local))
        .await;
    site.stop().await;
}

#[tokio::test]
async fn a_server_name_that_is_an_address_is_not_sent() {
    let mut site = Site::plain().await;
    site.manners(|manners| {
        manners.rewrite = Some(|target| target.sni = Some("192.0.2.1".to_owned()));
    });
    let report = site.connect(site.client()).await;
    assert!(report.ok, "{report:?}");
    let connected = site
        .event(|event| matches!(event, AgentEvent::Connected { .. }))
        .await;
    assert!(matches!(
        connected,
        AgentEvent::Connected {
            server_name: None,
            ..
        }
    ));
    site.stop().await;
}

#[tokio::test]
async fn an_agents_certificate_may_be_judged_by_a_policy_of_its_own() {
    let authority = Authority::generate("Test authority").unwrap();
    let mut agent = agent_config(&authority);
    agent.identity = Some(authority.issue(&[HOSTNAME]).unwrap());
    let site = Site::start(&authority, agent, Manners::default()).await;
    let mut config = site.client();
    config.agent_certificate = AgentCertificate::Trust(site.trust.clone());
    assert!(site.connect(config).await.ok);

    let stranger = Authority::generate("Another authority").unwrap();
    let mut config = site.client();
    let trust = Trust::Authorities(vec![stranger.certificate()]);
    config.agent_certificate = AgentCertificate::Trust(trust);
    let report = site.connect(config).await;
    assert!(!report.ok && report.steps[5].ok && !report.steps[6].ok);
    assert!(report.problem.unwrap().contains("certificate"));
    site.stop().await;
}

#[tokio::test]
async fn many_sessions_are_established_at_a_time() {
    const SESSIONS: usize = 40;
    let authority = Authority::generate("Test authority").unwrap();
    let mut agent = agent_config(&authority);
    agent.max_sessions = SESSIONS;
    agent.unique_sni = true;
    let mut site = Site::start(&authority, agent, Manners::default()).await;
    let mut clients = JoinSet::new();
    for _ in 0..SESSIONS {
        clients.spawn(Client::establish(site.client()));
    }
    while let Some(established) = clients.join_next().await {
        let established = established.unwrap().unwrap();
        assert!(!established.elapsed.is_zero());
    }
    let mut names = Vec::new();
    for _ in 0..SESSIONS {
        let connected = site
            .event(|event| matches!(event, AgentEvent::Connected { .. }))
            .await;
        let AgentEvent::Connected { server_name, .. } = connected else {
            unreachable!()
        };
        names.push(server_name.unwrap());
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), SESSIONS);
    assert!(names.contains(&format!("s1.{HOSTNAME}")), "{names:?}");
    let stats = site.agent.stats();
    assert_eq!((stats.connected, stats.reserved), (0, 0));
    assert_eq!(stats.launched, SESSIONS as u64);
    site.stop().await;
}

#[tokio::test]
async fn a_client_stops_where_it_is_told_to() {
    let authority = Authority::generate("Test authority").unwrap();
    let mut agent = agent_config(&authority);
    agent.max_sessions = 10;
    let site = Site::start(&authority, agent, Manners::default()).await;
    for (stage, reached) in [
        (Stage::Probe, 0),
        (Stage::Hello, 1),
        (Stage::Authenticate, 2),
        (Stage::List, 3),
        (Stage::Allocate, 5),
        (Stage::Bye, 5),
        (Stage::Signalling, 6),
        (Stage::FirstDatagram, 7),
    ] {
        let mut config = site.client();
        config.stop_after = Some(stage);
        let report = site.connect(config).await;
        assert!(!report.ok);
        assert_eq!(report.problem, None);
        let held = report.steps.iter().filter(|step| step.ok).count();
        assert_eq!(held, reached, "{stage:?}");
        let last = site.seen.lock().unwrap().last().unwrap().message.clone();
        let expected = match stage {
            Stage::Probe | Stage::Hello => "hello",
            Stage::Authenticate => "authenticate",
            Stage::List => "get-resource-list",
            Stage::Allocate => "allocate-resource",
            Stage::Bye | Stage::Signalling | Stage::FirstDatagram => "bye",
        };
        assert_eq!(last, expected, "{stage:?}");
    }
    site.stop().await;
}
