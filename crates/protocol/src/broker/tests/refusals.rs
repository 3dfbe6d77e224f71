//! What is refused, and what the error says and does not say.

use super::*;
use crate::xml::ParseXmlError;

fn missing(path: &str) -> ParseMessageError {
    ParseMessageError::MissingElement {
        path: path.to_owned(),
    }
}

fn duplicate(path: &str) -> ParseMessageError {
    ParseMessageError::DuplicateElement {
        path: path.to_owned(),
    }
}

fn invalid(path: &str, problem: &'static str) -> ParseMessageError {
    ParseMessageError::InvalidValue {
        path: path.to_owned(),
        problem,
    }
}

fn raw_error(document: &str) -> ParseMessageError {
    Envelope::<Request>::parse(document.as_bytes()).unwrap_err()
}

#[test]
fn the_root_and_its_version() {
    assert_eq!(
        raw_error("<pcoip-agent version='2.1'><bye/></pcoip-agent>"),
        ParseMessageError::Root {
            found: "pcoip-agent".to_owned(),
            expected: "pcoip-client"
        }
    );
    for version in [
        "", "2", "2.", ".1", "2.1.0", "+2.1", "2.-1", "02.1", "2.01", " 2.1", "65536.0", "a.b",
    ] {
        assert_eq!(
            raw_error(&format!(
                "<pcoip-client version='{version}'><bye/></pcoip-client>"
            )),
            ParseMessageError::Version,
            "{version:?}"
        );
    }
    assert_eq!(
        raw_error("<pcoip-client><bye/></pcoip-client>"),
        ParseMessageError::Version
    );
    assert_eq!(
        raw_error("<pcoip-client Version='2.1'><bye/></pcoip-client>"),
        ParseMessageError::Version
    );
}

#[test]
fn long_names_are_shortened_in_errors() {
    let long = "é".repeat(40);
    let ParseMessageError::Root { found, .. } = raw_error(&format!("<{long} version='2.1'/>"))
    else {
        panic!("not a root error")
    };
    assert_eq!(found, format!("{}…", "é".repeat(16)));
}

#[test]
fn exactly_one_message() {
    for (children, found) in [
        ("", 0),
        (" ", 0),
        ("text", 0),
        ("<bye/><bye/>", 2),
        ("<bye/>text", 2),
        ("<a/><b/><c/>", 3),
    ] {
        assert_eq!(
            raw_error(&format!(
                "<pcoip-client version='2.1'>{children}</pcoip-client>"
            )),
            ParseMessageError::MessageCount { found },
            "{children:?}"
        );
    }
}

#[test]
fn xml_errors_are_passed_on_as_source() {
    let error = raw_error("<!DOCTYPE x><pcoip-client version='2.1'><bye/></pcoip-client>");
    assert_eq!(error, ParseMessageError::Xml(ParseXmlError::Doctype));
    assert!(std::error::Error::source(&error).is_some());
    assert_eq!(error.to_string(), "the document is not acceptable XML");
}

#[test]
fn missing_parts() {
    for (message, path) in [
        (
            "<authenticate method='password'><password/></authenticate>",
            "authenticate/username",
        ),
        (
            "<authenticate method='password'><username/></authenticate>",
            "authenticate/password",
        ),
        ("<allocate-resource/>", "allocate-resource/resource-id"),
    ] {
        assert_eq!(request_error(message), missing(path));
    }
    for (message, path) in [
        ("<authenticate-resp/>", "authenticate-resp/result"),
        (
            "<authenticate-resp><result/></authenticate-resp>",
            "authenticate-resp/result/result-id",
        ),
        ("<get-resource-list-resp/>", "get-resource-list-resp/result"),
        (
            "<allocate-resource-resp><result/></allocate-resource-resp>",
            "allocate-resource-resp/result/result-id",
        ),
        (
            "<get-resource-list-resp><result><result-id/></result><resource><resource-name/></resource></get-resource-list-resp>",
            "get-resource-list-resp/resource/resource-id",
        ),
    ] {
        assert_eq!(response_error(message), missing(path));
    }
}

#[test]
fn a_known_element_twice_is_ambiguous() {
    for (message, path) in [
        (
            "<hello><client-info/><client-info/></hello>",
            "hello/client-info",
        ),
        ("<hello><caps/><x/><caps/></hello>", "hello/caps"),
        (
            "<hello><client-info><hostname>a</hostname><hostname>a</hostname></client-info></hello>",
            "hello/client-info/hostname",
        ),
        (
            "<authenticate method='password'><username>a</username><password>b</password><username>c</username></authenticate>",
            "authenticate/username",
        ),
        (
            "<authenticate method='password'><username>a</username><password>b</password><password>c</password></authenticate>",
            "authenticate/password",
        ),
        (
            "<allocate-resource><resource-id>a</resource-id><resource-id>b</resource-id></allocate-resource>",
            "allocate-resource/resource-id",
        ),
    ] {
        assert_eq!(request_error(message), duplicate(path));
    }
    assert_eq!(
        response_error(
            "<authenticate-resp><result><result-id>a</result-id></result><result/></authenticate-resp>"
        ),
        duplicate("authenticate-resp/result")
    );
}

#[test]
fn numbers_are_strict() {
    let target = |inner: &str| {
        response_error(&format!(
            "<allocate-resource-resp><result><result-id/></result><target>{inner}</target></allocate-resource-resp>"
        ))
    };
    for port in [
        "0",
        "65536",
        "-1",
        "+4172",
        " 4172",
        "4172 ",
        "04172",
        "0x10",
        "four",
        "４１７２",
    ] {
        assert_eq!(
            target(&format!("<port>{port}</port>")),
            invalid("allocate-resource-resp/target/port", "not a port number"),
            "{port:?}"
        );
    }
    for id in ["18446744073709551616", "-1", "+1", "1.0", "0x2", "00"] {
        assert_eq!(
            target(&format!("<session-id>{id}</session-id>")),
            invalid(
                "allocate-resource-resp/target/session-id",
                "not an unsigned 64-bit decimal number"
            ),
            "{id:?}"
        );
    }
    let long = "t".repeat(1025);
    for tag in ["a b", " a", "ä", long.as_str()] {
        assert_eq!(
            target(&format!("<connect-tag>{tag}</connect-tag>")),
            invalid(
                "allocate-resource-resp/target/connect-tag",
                "not 1 to 1024 printable ASCII characters"
            ),
        );
    }
    let largest = response(&document(
        "<allocate-resource-resp><result><result-id/></result>
        <target><port>65535</port><session-id>18446744073709551615</session-id></target></allocate-resource-resp>",
    ));
    assert!(matches!(
        largest,
        Response::AllocateResource(AllocateResourceResp {
            target: Some(Target {
                port: Some(65535),
                session_id: Some(SessionId(u64::MAX)),
                ..
            }),
            ..
        })
    ));
}

#[test]
fn long_fields_are_refused_at_one_byte_over() {
    let logon = |field: &str, value: &str| {
        let [mut username, mut password, mut domain] = ["u", "p", "d"];
        match field {
            "username" => username = value,
            "password" => password = value,
            _ => domain = value,
        }
        document(&format!(
            "<authenticate method='password'><username>{username}</username><password>{password}</password><domain>{domain}</domain></authenticate>"
        ))
    };
    let fits = "ü".repeat(512);
    let over = format!("{fits}x");
    for field in ["username", "password", "domain"] {
        request(&logon(field, &fits));
        assert_eq!(
            raw_error(&logon(field, &over)),
            invalid(&format!("authenticate/{field}"), "longer than 1024 bytes")
        );
    }
    let allocate = |id: &str| {
        document(&format!(
            "<allocate-resource><resource-id>{id}</resource-id></allocate-resource>"
        ))
    };
    request(&allocate(&fits));
    assert_eq!(
        raw_error(&allocate(&over)),
        invalid("allocate-resource/resource-id", "longer than 1024 bytes")
    );
}

#[test]
fn text_and_elements_in_each_others_place() {
    for (message, path, problem) in [
        (
            "<hello>text<client-info/></hello>",
            "hello",
            "text stands where elements are expected",
        ),
        (
            "<hello><client-info>x</client-info></hello>",
            "hello/client-info",
            "text stands where elements are expected",
        ),
        (
            "<hello><caps>x</caps></hello>",
            "hello/caps",
            "text stands where elements are expected",
        ),
        (
            "<hello><client-info><hostname>a<b/></hostname></client-info></hello>",
            "hello/client-info/hostname",
            "elements stand where text is expected",
        ),
        (
            "<authenticate method='password'><username/><password>top<x/>secret</password></authenticate>",
            "authenticate/password",
            "elements stand where text is expected",
        ),
        (
            "<hello><caps><cap><x/></cap></caps></hello>",
            "hello/caps/cap",
            "elements stand where text is expected",
        ),
        (
            "<bye>text</bye>",
            "bye",
            "text stands where elements are expected",
        ),
    ] {
        assert_eq!(request_error(message), invalid(path, problem));
    }
}

#[test]
fn no_error_and_no_debug_text_repeats_a_secret() {
    let secret = "hunter2-hunter2";
    let over = secret.repeat(100);
    for document in [
        document(&format!(
            "<authenticate method='password'><username/><password>{over}</password></authenticate>"
        )),
        document(&format!(
            "<authenticate method='password'><username/><password>{secret}<x/></password></authenticate>"
        )),
        document(&format!(
            "<authenticate method='password'><username/>{secret}<password/></authenticate>"
        )),
        document(&format!(
            "<authenticate method='password'><username/><password>&{secret};</password></authenticate>"
        )),
        document(&format!(
            "<authenticate method='password'><username/><password>{secret}</passwort></authenticate>"
        )),
        document(&format!(
            "<authenticate method='password'><username/><password>{secret}"
        )),
        document(&format!("<bye>{secret}</bye>")),
    ] {
        let error = raw_error(&document);
        let mut shown = format!("{error} {error:?}");
        if let Some(source) = std::error::Error::source(&error) {
            shown += &source.to_string();
        }
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    for message in [
        format!(
            "<authenticate method='password' x='{secret}'><username/><password>{secret}</password></authenticate>"
        ),
        format!(
            "<authenticate method='dialog' code='{secret}'><code>{secret}</code></authenticate>"
        ),
        format!("<unheard-of code='{secret}'>{secret}</unheard-of>"),
    ] {
        let shown = format!("{:?}", request(&document(&message)));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let tag = ConnectTag::new(secret);
    assert!(tag.is_some() && !format!("{tag:?}").contains("hunter2"));
}

#[test]
fn equality_sees_every_part_of_a_logon() {
    let logon = |username: &str, password: &str, domain: &str| PasswordLogon {
        username: username.to_owned(),
        password: SecretString::from(password),
        domain: domain.to_owned(),
        rest: Rest::default(),
    };
    let wren = logon("wren", "secret", "EXAMPLE");
    assert_eq!(wren, logon("wren", "secret", "EXAMPLE"));
    for other in [
        logon("lark", "secret", "EXAMPLE"),
        logon("wren", "secreT", "EXAMPLE"),
        logon("wren", "secret2", "EXAMPLE"),
        logon("wren", "", "EXAMPLE"),
        logon("wren", "secret", "example"),
    ] {
        assert_ne!(wren, other);
    }
    assert_eq!(ConnectTag::new("SCS1a"), ConnectTag::new("SCS1a"));
    assert_ne!(ConnectTag::new("SCS1a"), ConnectTag::new("SCS1b"));
    assert_ne!(ConnectTag::new("SCS1a"), ConnectTag::new("SCS1"));
}
