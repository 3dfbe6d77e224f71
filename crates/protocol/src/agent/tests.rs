//! Golden documents and refusals of the agent protocol; all names are made up.

use super::*;

const LAUNCH: &str = concat!(
    r#"<?xml version="1.0" encoding="UTF-8"?><pcoip-agent version="1.0"><launch-session>"#,
    "<session-type>UNSPECIFIED</session-type><ip-address>192.0.2.30</ip-address><hostname>draw-1.example.com</hostname>",
    r#"<logon method="windows-password"><username>wren</username><password> p&lt;ä </password><domain>EXAMPLE</domain></logon>"#,
    "<client-mac/><client-ip>198.51.100.7</client-ip><client-name>lark</client-name><license-path/>",
    "<session-log-id>7cd13600-b190-1039-bfc7-02005e100002</session-log-id>",
    "</launch-session></pcoip-agent>",
);

const READY: &str = concat!(
    r#"<?xml version="1.0" encoding="UTF-8"?><pcoip-agent version="1.0"><launch-session-resp>"#,
    "<result-id>SUCCESSFUL</result-id><session-info><ip-address>192.0.2.30</ip-address><sni>DRAW-1</sni><port>4172</port>",
    "<session-id>2305843009213693961</session-id><session-tag>SCS1dGFn</session-tag></session-info>",
    "</launch-session-resp></pcoip-agent>",
);

fn launch() -> LaunchSession {
    LaunchSession {
        session_type: UNSPECIFIED.to_owned(),
        ip_address: "192.0.2.30".to_owned(),
        hostname: "draw-1.example.com".to_owned(),
        logon: Logon {
            method: WINDOWS_PASSWORD.to_owned(),
            username: "wren".to_owned(),
            password: SecretString::from(" p<ä "),
            domain: "EXAMPLE".to_owned(),
            rest: Rest::default(),
        },
        client_mac: String::new(),
        client_ip: "198.51.100.7".to_owned(),
        client_name: "lark".to_owned(),
        license_path: String::new(),
        session_log_id: "7cd13600-b190-1039-bfc7-02005e100002".to_owned(),
        time_zone_windows: None,
        rest: Rest::default(),
    }
}

fn session_info() -> SessionInfo {
    SessionInfo {
        ip_address: "192.0.2.30".to_owned(),
        sni: "DRAW-1".to_owned(),
        port: 4172,
        session_id: SessionId(0x2000_0000_0000_0009),
        session_tag: ConnectTag::new("SCS1dGFn").unwrap(),
        rest: Rest::default(),
    }
}

fn written(message: &Message) -> String {
    String::from_utf8(message.to_document().to_vec()).unwrap()
}

fn read(document: &str) -> Message {
    let message = Message::parse(document.as_bytes()).unwrap();
    assert_eq!(Message::parse(&message.to_document()).unwrap(), message);
    message
}

fn answer(inner: &str) -> LaunchSessionResp {
    let document = format!(
        "<pcoip-agent version='1.0'><launch-session-resp>{inner}</launch-session-resp></pcoip-agent>"
    );
    match read(&document) {
        Message::LaunchSessionResp(answer) => answer,
        Message::LaunchSession(_) => panic!("a request"),
    }
}

fn error(document: &str) -> ParseMessageError {
    Message::parse(document.as_bytes()).unwrap_err()
}

#[test]
fn launch_session() {
    let message = Message::LaunchSession(launch());
    assert_eq!(message.name(), "launch-session");
    assert_eq!(written(&message), LAUNCH);
    assert_eq!(read(LAUNCH), message);

    let zoned = Message::LaunchSession(LaunchSession {
        time_zone_windows: Some("W. Europe Standard Time".to_owned()),
        ..launch()
    });
    assert_eq!(
        written(&zoned),
        LAUNCH.replace(
            "</launch-session>",
            "<time-zone-windows>W. Europe Standard Time</time-zone-windows></launch-session>"
        )
    );
    assert_eq!(read(&written(&zoned)), zoned);
}

#[test]
fn a_launch_needs_no_more_than_a_logon() {
    let message = read(
        "<pcoip-agent version='1.0'><launch-session><logon method='windows-password'><username>wren</username>\
         <password/></logon></launch-session></pcoip-agent>",
    );
    let Message::LaunchSession(launch) = &message else {
        panic!("{message:?}")
    };
    assert_eq!(
        (launch.logon.domain.as_str(), launch.hostname.as_str()),
        ("", "")
    );
    for empty in [
        "<domain/>",
        "<client-mac/>",
        "<client-ip/>",
        "<license-path/>",
        "<session-log-id/>",
        "<hostname/>",
    ] {
        assert!(written(&message).contains(empty), "{empty}");
    }
}

#[test]
fn launch_session_resp() {
    let message = Message::LaunchSessionResp(LaunchSessionResp {
        result: LaunchResultId::Successful,
        fail_reason: None,
        session_info: Some(session_info()),
        rest: Rest::default(),
    });
    assert_eq!(message.name(), "launch-session-resp");
    assert_eq!(written(&message), READY);
    assert_eq!(read(READY), message);
}

#[test]
fn failures() {
    let failed =
        answer("<result-id>failed_user_auth</result-id><fail-reason>no such user</fail-reason>");
    assert_eq!(failed.result, LaunchResultId::UserAuth);
    assert_eq!(failed.fail_reason.as_deref(), Some("no such user"));
    assert_eq!(failed.session_info, None);

    let blank = answer(
        "<result-id>FAILED_ANOTHER_SESSION_STARTED</result-id><session-info>\n</session-info>",
    );
    assert_eq!(blank.result, LaunchResultId::AnotherSessionStarted);
    assert_eq!(blank.session_info, None);
}

#[test]
fn result_ids() {
    for (text, id, license) in [
        ("Successful", LaunchResultId::Successful, false),
        (
            "failed_another_session_started",
            LaunchResultId::AnotherSessionStarted,
            false,
        ),
        (
            "FAILED_NO_LICENSE",
            LaunchResultId::Other("FAILED_NO_LICENSE".to_owned()),
            true,
        ),
        (
            "failed_license_server",
            LaunchResultId::Other("failed_license_server".to_owned()),
            true,
        ),
        (
            "FAILED_LICENCE",
            LaunchResultId::Other("FAILED_LICENCE".to_owned()),
            false,
        ),
        ("", LaunchResultId::Other(String::new()), false),
    ] {
        let read = answer(&format!("<result-id>{text}</result-id>")).result;
        assert_eq!(read, id);
        assert_eq!(read.is_license_failure(), license, "{text:?}");
    }
    assert_eq!(LaunchResultId::UserAuth.to_string(), "FAILED_USER_AUTH");
}

#[test]
fn unknown_parts_survive() {
    let document = READY
        .replace("<result-id>", "<x a='1'>y</x><result-id b=\"2\">")
        .replace(
            "<port>",
            "<collaboration-port>64172</collaboration-port><port c=\"3\">",
        )
        .replace('\'', "\"");
    assert_eq!(written(&read(&document)), document);
    let document = LAUNCH
        .replace("<launch-session>", "<launch-session d=\"4\">")
        .replace("<username>", "<sso/><username e=\"5\">")
        .replace(
            "<license-path/>",
            "<license-path f=\"6\"/><features><f/></features>",
        );
    assert_eq!(written(&read(&document)), document);
}

#[test]
fn refused() {
    assert!(matches!(
        error("<pcoip-agent version='1.0'>"),
        ParseMessageError::Xml(_)
    ));
    assert_eq!(
        error("<pcoip-client version='1.0'><launch-session/></pcoip-client>"),
        ParseMessageError::Root {
            found: "pcoip-client".to_owned(),
            expected: "pcoip-agent"
        }
    );
    for attribute in [
        "",
        "version=''",
        "version='1'",
        "version='2.0'",
        "version='0.9'",
    ] {
        let document = format!("<pcoip-agent {attribute}><launch-session/></pcoip-agent>");
        assert_eq!(
            error(&document),
            ParseMessageError::Version,
            "{attribute:?}"
        );
    }
    assert_eq!(
        error("<pcoip-agent version='1.0'/>"),
        ParseMessageError::MessageCount { found: 0 }
    );
    assert_eq!(
        error("<pcoip-agent version='1.0'><end-session/></pcoip-agent>"),
        ParseMessageError::UnknownMessage {
            found: "end-session".to_owned()
        }
    );
}

#[test]
fn missing_and_doubled_parts() {
    let missing = |path: &str| ParseMessageError::MissingElement {
        path: path.to_owned(),
    };
    assert_eq!(
        error(&LAUNCH.replace(" method=\"windows-password\"", "")),
        missing("launch-session/logon/@method")
    );
    assert_eq!(
        error(&LAUNCH.replace("<username>wren</username>", "")),
        missing("launch-session/logon/username")
    );
    assert_eq!(
        error("<pcoip-agent version='1.0'><launch-session/></pcoip-agent>"),
        missing("launch-session/logon")
    );
    assert_eq!(
        error("<pcoip-agent version='1.0'><launch-session-resp/></pcoip-agent>"),
        missing("launch-session-resp/result-id")
    );
    for (name, value) in [
        ("ip-address", "192.0.2.30"),
        ("sni", "DRAW-1"),
        ("port", "4172"),
        ("session-id", "2305843009213693961"),
        ("session-tag", "SCS1dGFn"),
    ] {
        let element = format!("<{name}>{value}</{name}>");
        let path = format!("launch-session-resp/session-info/{name}");
        assert_eq!(error(&READY.replace(&element, "")), missing(&path));
        assert_eq!(
            error(&READY.replace(&element, &element.repeat(2))),
            ParseMessageError::DuplicateElement { path }
        );
    }
    let over = "p".repeat(1025);
    assert!(matches!(
        error(&LAUNCH.replace(" p&lt;ä ", &over)),
        ParseMessageError::InvalidValue { path, .. } if path == "launch-session/logon/password"
    ));
}

#[test]
fn debug_output_hides_the_secrets() {
    let mut launch = launch();
    launch.logon.password = SecretString::from("hunter2");
    let info = SessionInfo {
        session_tag: ConnectTag::new("hunter2").unwrap(),
        ..session_info()
    };
    let shown = format!("{:?} {info:?}", Message::LaunchSession(launch));
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn equality_sees_the_password() {
    let mut other = launch();
    assert_eq!(other, launch());
    other.logon.password = SecretString::from("another");
    assert_ne!(other, launch());
}
