//! How sessions end, and who may have the desktop then.

use std::time::Duration;

use portcullis_endpoints::{
    agent::{AgentEvent, EndReason},
    client::{SessionError, SessionTarget, Signalled, Stage},
    signalling::{ByeReason, RefusalReason},
};
use portcullis_https::Authority;
use portcullis_protocol::broker::{ConnectTag, SessionId};

use crate::site::{Manners, Site, agent_config, until};

fn ended(reason: EndReason) -> impl Fn(&AgentEvent) -> bool {
    move |event| matches!(event, AgentEvent::Ended { reason: given, .. } if *given == reason)
}

async fn refused(target: &SessionTarget, site: &Site) {
    let opened = Signalled::open(target, &site.client()).await;
    assert!(
        matches!(
            opened,
            Err(SessionError::Refused(RefusalReason::NoSuchSession))
        ),
        "{opened:?}"
    );
}

#[tokio::test]
async fn a_tag_admits_once_even_while_its_session_lives() {
    let mut site = Site::plain().await;
    let target = site.launch("ada").await;
    let signalled = Signalled::open(&target, &site.client()).await.unwrap();
    refused(&target, &site).await;
    let session = signalled.invite().await.unwrap();
    refused(&target, &site).await;
    session.bye().await;
    refused(&target, &site).await;
    site.event(ended(EndReason::Bye)).await;
    // Counted once the refused client is gone.
    until(|| site.agent.stats().connections_refused == 3).await;
    site.stop().await;
}

#[tokio::test]
async fn a_wrong_tag_or_number_admits_nobody_and_spoils_nothing() {
    let site = Site::plain().await;
    let target = site.launch("ada").await;
    let mut wrong = target.clone();
    // The right certificate, but other random bytes.
    let mut text = target.connect_tag.expose().to_owned();
    let last = text.pop().unwrap();
    text.push(if last == 'A' { 'B' } else { 'A' });
    wrong.connect_tag = ConnectTag::new(&text).unwrap();
    refused(&wrong, &site).await;
    let mut wrong = target.clone();
    wrong.session_id = SessionId(target.session_id.0 + 1);
    refused(&wrong, &site).await;
    let session = Signalled::open(&target, &site.client())
        .await
        .unwrap()
        .invite()
        .await
        .unwrap();
    session.bye().await;
    site.stop().await;
}

#[tokio::test]
async fn an_expired_tag_admits_nobody() {
    let authority = Authority::generate("Test authority").unwrap();
    let mut agent = agent_config(&authority);
    agent.reservation = Duration::from_millis(50);
    let mut site = Site::start(&authority, agent, Manners::default()).await;
    let target = site.launch("ada").await;
    site.event(ended(EndReason::Unclaimed)).await;
    refused(&target, &site).await;
    assert_eq!(site.agent.stats().reserved, 0);
    site.stop().await;
}

#[tokio::test]
async fn a_running_session_keeps_everybody_out_its_own_user_too() {
    let site = Site::plain().await;
    let target = site.launch("ada").await;
    let session = Signalled::open(&target, &site.client())
        .await
        .unwrap()
        .invite()
        .await
        .unwrap();
    for user in ["ada", "bob"] {
        let mut config = site.client();
        config.user = user.to_owned();
        let report = site.connect(config).await;
        assert!(report.steps[3].ok && !report.steps[4].ok, "{user}");
        assert!(report.server_text.unwrap().contains("another session"));
    }
    session.bye().await;
    let mut config = site.client();
    config.user = "bob".to_owned();
    assert!(site.connect(config).await.ok);
    site.stop().await;
}

#[tokio::test]
async fn a_broken_connection_keeps_the_seat_for_the_grace_only() {
    let authority = Authority::generate("Test authority").unwrap();
    let mut agent = agent_config(&authority);
    agent.grace = Duration::from_millis(100);
    let mut site = Site::start(&authority, agent, Manners::default()).await;
    let mut config = site.client();
    config.stop_after = Some(Stage::FirstDatagram);
    site.connect(config).await;
    let event = site.event(ended(EndReason::Disconnected)).await;
    let AgentEvent::Ended { traffic, .. } = event else {
        unreachable!()
    };
    assert!(traffic.sent > 0 && traffic.received.packets > 0);
    let mut config = site.client();
    config.user = "bob".to_owned();
    assert!(site.connect(config).await.ok);
    site.stop().await;
}

#[tokio::test]
async fn a_client_that_falls_silent_over_udp_is_let_go() {
    let authority = Authority::generate("Test authority").unwrap();
    let mut agent = agent_config(&authority);
    agent.idle = Duration::from_millis(200);
    let mut site = Site::start(&authority, agent, Manners::default()).await;
    let target = site.launch("ada").await;
    let mut session = Signalled::open(&target, &site.client())
        .await
        .unwrap()
        .invite()
        .await
        .unwrap();
    // Nobody drives the session, so nothing is sent.
    site.event(ended(EndReason::Idle)).await;
    let streamed = session.stream(Duration::from_secs(10)).await;
    assert!(
        matches!(streamed, Err(SessionError::Bye(ByeReason::Idle))),
        "{streamed:?}"
    );
    site.stop().await;
}

#[tokio::test]
async fn a_client_that_never_sends_udp_is_let_go() {
    let authority = Authority::generate("Test authority").unwrap();
    let mut agent = agent_config(&authority);
    agent.idle = Duration::from_millis(200);
    let mut site = Site::start(&authority, agent, Manners::default()).await;
    let target = site.launch("ada").await;
    let signalled = Signalled::open(&target, &site.client()).await.unwrap();
    site.event(ended(EndReason::Idle)).await;
    drop(signalled);
    assert_eq!(site.agent.stats().connected, 0);
    site.stop().await;
}
