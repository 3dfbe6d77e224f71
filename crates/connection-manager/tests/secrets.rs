//! Everything logged at TRACE, and none of it a secret. A binary of its own, since a subscriber is for the whole process.

mod support;

use std::{
    io,
    sync::{Arc, Mutex},
};

use portcullis_connection_manager::ManagerConfig;
use portcullis_protocol::broker::{AuthResultId, Authenticate, ConnectTag, Request};
use tracing_subscriber::fmt::MakeWriter;

use self::support::{
    Front, documents,
    fakes::{FakeAgent, FakeBroker, Reaction, judged, launched, usual},
};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let poisoned = |_| io::Error::other("the log is poisoned");
        self.0.lock().map_err(poisoned)?.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn nothing_secret_is_logged_at_any_level() {
    let log = Log::default();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(log.clone())
        .init();
    let broker = FakeBroker::new(|exchange| {
        Reaction::Say(match &exchange.request.message {
            Request::Authenticate(Authenticate::Password(logon)) if logon.username == "ada" => {
                judged(AuthResultId::Complete)
            }
            Request::Hello(_)
            | Request::Authenticate(_)
            | Request::GetResourceList(_)
            | Request::AllocateResource(_)
            | Request::Bye(_)
            | Request::Unknown(_) => usual(exchange),
        })
    });
    let agent = FakeAgent::new(|_| {
        let mut answer = launched();
        if let Some(info) = &mut answer.session_info {
            info.session_tag = ConnectTag::new("MARKED-TAG").unwrap();
        }
        Some(Ok(answer))
    });
    let front = Front::between(ManagerConfig::default(), broker, agent, true).await;
    let mut caller = front.caller().await;
    caller.ok(documents::HELLO).await;
    caller.ok(&documents::password("eve", "MARKED-WRONG")).await;
    caller
        .ok(&documents::password("ada", "MARKED-PASSWORD"))
        .await;
    let allocated = caller.ok(documents::ALLOCATE).await;
    assert!(allocated.contains("MARKED-TAG"), "{allocated}");
    caller
        .post(
            "<pcoip-client version=\"2.1\"><authenticate method=\"MARKED-GARBAGE\"></pcoip-client>",
        )
        .await;
    let cookie = caller.cookie.clone().unwrap();
    caller.ok(documents::BYE).await;

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for line in [
        "request=\"authenticate\" result=\"AUTH_SUCCESSFUL_AND_COMPLETE\" user=\"CORP\\\\ada\"",
        "request=\"authenticate\" result=\"AUTH_FAILED_UNKNOWN_USERNAME_OR_PASSWORD\" user=\"CORP\\\\eve\"",
        "request=\"allocate-resource\" result=\"ALLOC_SUCCESSFUL\"",
        "request=\"bye\" result=\"OK\"",
        "Request rejected",
    ] {
        assert!(log.contains(line), "{line} in\n{log}");
    }
    let ours = log
        .lines()
        .filter(|line| line.contains("portcullis_connection_manager"));
    assert!(ours.count() >= 6, "{log}");
    for secret in ["MARKED", cookie.as_str(), "broker-1"] {
        let told: Vec<_> = log.lines().filter(|line| line.contains(secret)).collect();
        assert!(told.is_empty(), "{told:#?}");
    }
}
