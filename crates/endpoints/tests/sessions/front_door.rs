//! The client against its server: what it sends, and what it makes of bad answers.

use std::time::Duration;

use axum::http::StatusCode;
use portcullis_endpoints::{Client, Report};
use portcullis_https::{Authority, Trust};
use portcullis_protocol::{
    LogId,
    broker::{RESPONSE_LIMITS, Target},
};

use crate::site::{DESKTOP, Site};

/// One byte more than any answer may have.
const TOO_LONG: &[u8] = &[b'x'; RESPONSE_LIMITS.bytes + 1];

fn first_failure(report: &Report) -> u8 {
    assert!(!report.ok);
    let failed = report.steps.iter().find(|step| !step.ok).unwrap();
    assert!(failed.ms.is_some(), "the step was reached: {report:?}");
    for later in &report.steps[usize::from(failed.step)..] {
        assert!(!later.ok && later.ms.is_none(), "{later:?}");
    }
    failed.step
}

#[tokio::test]
async fn requests_are_what_real_clients_send() {
    let site = Site::plain().await;
    let mut config = site.client();
    let log_id = LogId::random();
    config.log_id = Some(log_id);
    let report = site.connect(config).await;
    assert!(report.ok, "{report:?}");
    assert_eq!(report.session, log_id.to_string());

    let seen = site.seen.lock().unwrap().clone();
    let messages: Vec<_> = seen.iter().map(|seen| seen.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "hello",
            "hello",
            "authenticate",
            "get-resource-list",
            "allocate-resource",
            "bye"
        ]
    );
    assert!(
        seen.iter().all(|request| request.peer == seen[0].peer),
        "one kept connection"
    );
    for (index, request) in seen.iter().enumerate() {
        assert_eq!(
            request.header("content-type"),
            Some("text/xml; charset=UTF-8")
        );
        assert_eq!(
            request.header("user-agent"),
            Some("Mozilla/4.0 (compatible; MSIE 6.0)")
        );
        let nil = "00000000-0000-0000-0000-000000000000".to_owned();
        let expected = if index == 0 { nil } else { log_id.to_string() };
        assert_eq!(request.header("client-log-id"), Some(expected.as_str()));
        let cookie = request.header("cookie");
        if index < 2 {
            assert_eq!(cookie, None);
        } else {
            let cookie = cookie.unwrap();
            assert!(cookie.starts_with("AWSALB=sticky; JSESSIONID="), "{cookie}");
        }
    }
    site.stop().await;
}

#[tokio::test]
async fn a_wrong_password_fails_at_step_2_in_the_servers_words() {
    let site = Site::plain().await;
    let mut config = site.client();
    config.password = "not the password".into();
    let report = site.connect(config).await;
    assert_eq!(first_failure(&report), 2);
    assert_eq!(
        report.result_id.as_deref(),
        Some("AUTH_FAILED_UNKNOWN_USERNAME_OR_PASSWORD")
    );
    assert_eq!(
        report.server_text.as_deref(),
        Some("re-enter username, password, and/or domain")
    );
    let problem = report.problem.as_deref().unwrap();
    assert!(problem.contains("password"), "{problem}");
    assert!(!format!("{report:?}").contains("not the password"));
    // The server's session is not left behind.
    let last = site.seen.lock().unwrap().last().unwrap().message.clone();
    assert_eq!(last, "bye");
    site.stop().await;
}

#[tokio::test]
async fn an_unknown_desktop_fails_at_step_4_and_names_the_known_ones() {
    let site = Site::plain().await;
    let mut config = site.client();
    config.desktop = Some("no such desktop".to_owned());
    let report = site.connect(config).await;
    assert_eq!(first_failure(&report), 4);
    let problem = report.problem.unwrap();
    assert!(
        problem.contains("no such desktop") && problem.contains(DESKTOP),
        "{problem}"
    );
    site.stop().await;
}

#[tokio::test]
async fn a_pending_allocation_is_tried_again() {
    let site = Site::plain().await;
    site.manners(|manners| manners.pending = 3);
    let report = site.connect(site.client()).await;
    assert!(report.ok, "{report:?}");
    let asked = |site: &Site| {
        let seen = site.seen.lock().unwrap();
        seen.iter()
            .filter(|seen| seen.message == "allocate-resource")
            .count()
    };
    assert_eq!(asked(&site), 4);

    site.manners(|manners| manners.pending = 100);
    let report = site.connect(site.client()).await;
    assert_eq!(first_failure(&report), 5);
    assert_eq!(report.result_id.as_deref(), Some("ALLOC_PENDING_TRY_AGAIN"));
    assert_eq!(asked(&site), 4 + 6);
    site.stop().await;
}

#[tokio::test]
async fn domains_go_where_they_belong() {
    let site = Site::plain().await;
    // The front door knows "ada" only, so that a domain left in the name would fail.
    for (user, domain) in [("CORP\\ada", ""), ("ada", "CORP"), ("ada", "")] {
        let mut config = site.client();
        config.user = user.to_owned();
        config.domain = domain.to_owned();
        let report = site.connect(config).await;
        assert!(report.ok, "{user} {domain}: {report:?}");
    }
    site.stop().await;
}

#[tokio::test]
async fn unusable_answers_fail_the_step_and_say_so() {
    let site = Site::plain().await;
    let other = b"<?xml version=\"1.0\"?><pcoip-client version=\"2.1\"><bye-resp/></pcoip-client>";
    for (message, step) in [
        ("hello", 1),
        ("authenticate", 2),
        ("get-resource-list", 3),
        ("allocate-resource", 5),
    ] {
        for (status, body, named) in [
            (StatusCode::SERVICE_UNAVAILABLE, &b"out of order"[..], "503"),
            (StatusCode::NOT_FOUND, b"", "404"),
            (StatusCode::OK, b"<html>", "not the broker protocol"),
            (StatusCode::OK, b"", "not the broker protocol"),
            (StatusCode::OK, other, "bye-resp"),
            (StatusCode::OK, TOO_LONG, "longer than"),
        ] {
            site.manners(|manners| manners.instead = Some((message, status, body)));
            let report = site.connect(site.client()).await;
            assert_eq!(first_failure(&report), step, "{message} {named}");
            let problem = report.problem.unwrap();
            assert!(problem.contains(named), "{named:?} is not in {problem:?}");
            assert!(problem.contains("TCP 443"), "{problem}");
        }
    }
    site.manners(|manners| {
        manners.instead = Some((
            "hello",
            StatusCode::BAD_GATEWAY,
            b"no \x1b[31mbroker\n\nthere",
        ));
    });
    let problem = site.connect(site.client()).await.problem.unwrap();
    assert!(problem.contains("(\"no [31mbroker there\")"), "{problem}");
    assert!(problem.contains("its broker"), "{problem}");
    site.stop().await;
}

#[tokio::test]
async fn a_bye_that_is_not_answered_changes_nothing() {
    let site = Site::plain().await;
    site.manners(|manners| {
        manners.instead = Some(("bye", StatusCode::INTERNAL_SERVER_ERROR, b""));
    });
    let report = site.connect(site.client()).await;
    assert!(report.ok, "{report:?}");
    site.stop().await;
}

#[tokio::test]
async fn incomplete_targets_are_named() {
    let site = Site::plain().await;
    type Rewrite = fn(&mut Target);
    let cases: [(Rewrite, &str); 4] = [
        (|target| target.ip_address = None, "ip-address"),
        (|target| target.port = None, "port"),
        (|target| target.session_id = None, "session-id"),
        (|target| target.connect_tag = None, "connect-tag"),
    ];
    for (rewrite, missing) in cases {
        site.manners(|manners| manners.rewrite = Some(rewrite));
        let report = site.connect(site.client()).await;
        assert_eq!(first_failure(&report), 5);
        assert!(report.problem.unwrap().contains(missing));
    }
    site.stop().await;
}

#[tokio::test]
async fn a_server_that_is_not_there_fails_step_1() {
    let site = Site::plain().await;
    let client = site.client();
    site.stop().await;
    let report = Client::connect(client, |_| {}).await.unwrap();
    assert_eq!(first_failure(&report), 1);
    let problem = report.problem.unwrap();
    assert!(problem.contains("TCP 443"), "{problem}");
    assert!(problem.contains("refused"), "{problem}");
}

#[tokio::test]
async fn a_server_that_is_not_believed_fails_step_1() {
    let site = Site::plain().await;
    let mut config = site.client();
    let stranger = Authority::generate("Another authority").unwrap();
    config.trust = Trust::Authorities(vec![stranger.certificate()]);
    let report = site.connect(config).await;
    assert_eq!(first_failure(&report), 1);
    let problem = report.problem.unwrap();
    assert!(problem.contains("certificate"), "{problem}");
    assert!(site.seen.lock().unwrap().is_empty(), "nothing was sent");
    site.stop().await;
}

#[tokio::test]
async fn a_server_that_never_answers_fails_in_time() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let site = Site::plain().await;
    let mut config = site.client();
    config.server = format!("https://{}", silent.local_addr().unwrap())
        .parse()
        .unwrap();
    config.limits.connect = Duration::from_millis(200);
    config.limits.request = Duration::from_millis(400);
    let report = site.connect(config).await;
    assert_eq!(first_failure(&report), 1);
    assert!(report.problem.unwrap().contains("TCP 443"));
    site.stop().await;
}
