//! Whatever happened, in the end no file descriptor is left behind. Alone in its process, since it counts all of them.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say so at once"
)]

#[path = "sessions/site.rs"]
#[expect(dead_code, reason = "the other tests need more of it")]
mod site;

use portcullis_endpoints::{
    Agent, Client,
    agent::{Faults, LaunchFault},
    client::{Signalled, Stage},
};
use portcullis_https::Authority;
use portcullis_license_server::PoolConfig;
use site::{Manners, Site, agent_config, licenses, until};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

async fn everything_that_can_happen() {
    let authority = Authority::generate("Test authority").unwrap();
    let pool = licenses(&authority, PoolConfig::of_sessions(4)).await;
    let mut agent = agent_config(&authority);
    agent.max_sessions = 4;
    let manners = Manners {
        license_path: pool.path.clone(),
        ..Manners::default()
    };
    let site = Site::start(&authority, agent, manners).await;
    // A session from beginning to end, and one in a hurry.
    assert!(site.connect(site.client()).await.ok);
    Client::establish(site.client()).await.unwrap();
    // Clients that vanish at every stage.
    for stage in [
        Stage::Hello,
        Stage::Allocate,
        Stage::Signalling,
        Stage::FirstDatagram,
    ] {
        let mut config = site.client();
        config.stop_after = Some(stage);
        site.connect(config).await;
    }
    // A wrong password, and a used tag.
    let mut config = site.client();
    config.password = "wrong".into();
    assert!(!site.connect(config).await.ok);
    let target = site.launch("ada").await;
    let config = site.client();
    drop(Signalled::open(&target, &config).await.unwrap());
    assert!(Signalled::open(&target, &config).await.is_err());
    site.stop().await;
    assert_eq!(pool.used(), 0);
    pool.stop().await;

    // Agents that misbehave.
    for faults in [
        Faults {
            launch_reply: Some(LaunchFault::Garbage),
            ..Faults::default()
        },
        Faults {
            refuse_signalling: true,
            ..Faults::default()
        },
        Faults {
            mute_signalling: true,
            ..Faults::default()
        },
        Faults {
            deaf_udp: true,
            ..Faults::default()
        },
    ] {
        let mut agent = agent_config(&authority);
        agent.faults = faults;
        let site = Site::start(&authority, agent, Manners::default()).await;
        let mut config = site.client();
        config.limits.handshake = std::time::Duration::from_millis(100);
        config.limits.invite = std::time::Duration::from_millis(100);
        assert!(!site.connect(config).await.ok);
        site.stop().await;
    }

    // An agent that is dropped rather than stopped lets go of its ports all the same.
    let handle = Agent::start(agent_config(&authority)).await.unwrap();
    let addresses = handle.addresses();
    drop(handle);
    let mut again = agent_config(&authority);
    again.control_listen = addresses.control;
    again.data_listen = addresses.data;
    loop {
        if let Ok(handle) = Agent::start(again.clone()).await {
            handle.stop().await;
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn nothing_is_left_behind() {
    // The first round opens what stays open for good.
    everything_that_can_happen().await;
    let before = descriptors();
    for _ in 0..2 {
        everything_that_can_happen().await;
    }
    until(|| descriptors() <= before).await;
}
