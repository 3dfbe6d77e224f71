//! Who gets in, and what who does not learns.

use super::*;

#[test]
fn unknown_users_and_wrong_passwords_get_one_answer() {
    let mut bench = Bench::new();
    let session = bench.greet();
    let mut documents = Vec::new();
    for (username, password, domain) in [
        ("alice", "wrong", ""),
        ("alice", "", ""),
        ("nobody", "wrong", ""),
        ("nobody", PASSWORD, ""),
        ("", "", ""),
        ("alice", PASSWORD, "ELSEWHERE"),
        ("bob@elsewhere", PASSWORD, "STUDIO"),
    ] {
        let answer = bench
            .ask(Some(session), logon(username, password, domain))
            .expect("an answer");
        assert_eq!(answer.session, None);
        documents.push(answer.response.to_document());
        let answer = authentication(answer);
        assert_eq!(answer.result.id, AuthResultId::UnknownUsernameOrPassword);
        assert_eq!(answer.method.as_deref(), Some("password"));
    }
    assert!(documents.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn unknown_users_cost_a_hash_too() {
    let mut bench = Bench::new();
    let session = bench.greet();
    let step = bench
        .step(Some(session), Envelope::new(logon("nobody", PASSWORD, "")))
        .expect("a step");
    let Step::VerifyPassword(verification) = step else {
        panic!("answered without a check");
    };
    assert_eq!(verification.hash.params(), Argon2Params::cheap());
    assert_eq!(verification.pending.user(), None);
    // Not even a verdict of "right" lets in somebody who does not exist.
    let answer = bench
        .machine
        .verified(verification.pending, Verdict::Right, bench.now)
        .expect("an answer");
    assert!(matches!(
        answer.response.message,
        Response::Authenticate(answer) if answer.result.id == AuthResultId::UnknownUsernameOrPassword
    ));
    assert!(matches!(
        bench.list(session),
        Err(HandleError::OutOfOrder { .. })
    ));
}

#[test]
fn every_form_of_a_name_logs_on() {
    let mut bench = Bench::new();
    for (username, domain) in [
        ("bob", "STUDIO"),
        ("BOB", "studio"),
        ("bob", ""),
        ("studio\\bob", ""),
        ("STUDIO\\Bob", "anything"),
        ("bob@Studio", ""),
    ] {
        let session = bench.greet();
        let answer = bench.ask(Some(session), logon(username, PASSWORD, domain));
        let result = authentication(answer.expect("an answer")).result;
        assert_eq!(result.id, AuthResultId::Complete, "{username} {domain}");
        assert!(result.text.is_some());
        assert_eq!(bench.list(session).expect("a list"), ["Bear"]);
    }
}

#[test]
fn nobody_is_logged_on_while_a_password_is_checked() {
    let mut bench = Bench::new();
    let session = bench.greet_as("alice");
    let pending = bench.pending(session, PASSWORD);
    assert!(matches!(
        bench.list(session),
        Err(HandleError::OutOfOrder { .. })
    ));
    bench
        .machine
        .verified(pending, Verdict::Right, bench.now)
        .expect("an answer");
    assert!(bench.list(session).is_ok());
}

#[test]
fn only_the_latest_attempt_counts() {
    let mut bench = Bench::new();
    let session = bench.greet();
    let first = bench.pending(session, PASSWORD);
    let second = bench.pending(session, "wrong");
    let stale = bench.machine.verified(first, Verdict::Right, bench.now);
    assert!(matches!(stale, Err(HandleError::OutOfOrder { .. })));
    assert!(matches!(
        bench.list(session),
        Err(HandleError::OutOfOrder { .. })
    ));
    let answer = bench.machine.verified(second, Verdict::Wrong, bench.now);
    assert!(answer.is_ok());
}

#[test]
fn a_verdict_for_a_session_that_is_over_counts_nothing() {
    let mut bench = Bench::new();
    let session = bench.greet();
    let pending = bench.pending(session, PASSWORD);
    bench
        .ask(Some(session), Request::Bye(Bye::default()))
        .expect("an answer");
    let late = bench.machine.verified(pending, Verdict::Right, bench.now);
    assert!(matches!(late, Err(HandleError::NoSession { .. })));
}

#[test]
fn a_check_that_did_not_happen_is_no_miss() {
    let mut bench = Bench::new();
    let session = bench.greet();
    for _ in 0..2 * MAX_MISSES {
        let pending = bench.pending(session, PASSWORD);
        let answer = bench
            .machine
            .verified(pending, Verdict::NotChecked, bench.now)
            .expect("an answer");
        assert!(matches!(
            answer.response.message,
            Response::Authenticate(answer) if answer.result.id == AuthResultId::AccessDenied
        ));
    }
    assert_eq!(
        bench.log_on(session, "alice", PASSWORD),
        AuthResultId::Complete
    );
}

#[test]
fn other_methods_are_declined_with_their_own_name() {
    let mut bench = Bench::new();
    let session = bench.greet();
    for method in [Some("dialog"), None] {
        let mut element = Element::new("authenticate");
        if let Some(method) = method {
            element = element.attribute("method", method);
        }
        let request = Request::Authenticate(Authenticate::Other(element));
        let answer = authentication(bench.ask(Some(session), request).expect("an answer"));
        assert_eq!(answer.result.id, AuthResultId::AccessDenied);
        assert_eq!(answer.method.as_deref(), method);
    }
    assert_eq!(
        bench.log_on(session, "alice", PASSWORD),
        AuthResultId::Complete
    );
}
