//! Result ids, names, and the document around a message.

use super::*;

#[test]
fn result_ids_ignore_case_and_are_written_as_documented() {
    let answer = |id: &str| {
        let message = response(&document(&format!(
            "<authenticate-resp><result><result-id>{id}</result-id></result></authenticate-resp>"
        )));
        let Response::Authenticate(answer) = message else {
            panic!("{message:?}")
        };
        answer.result.id
    };
    for id in [
        AuthResultId::Complete,
        AuthResultId::Incomplete,
        AuthResultId::UnknownUsernameOrPassword,
        AuthResultId::AccessDenied,
        AuthResultId::UserHasNoResource,
        AuthResultId::ExpiredPassword,
        AuthResultId::DialogInvalidUserEntry,
    ] {
        assert_eq!(answer(id.as_str()), id);
        assert_eq!(answer(&id.as_str().to_lowercase()), id);
        assert_eq!(id.to_string(), id.as_str());
    }
    assert_eq!(
        answer("Auth_Something_New"),
        AuthResultId::Other("Auth_Something_New".to_owned())
    );
    assert!(AuthResultId::Incomplete.is_success() && AuthResultId::Complete.is_success());
    assert!(
        !AuthResultId::AccessDenied.is_success()
            && !AuthResultId::Other("AUTH_SUCCESSFUL".into()).is_success()
    );

    let allocation: Vec<String> = [
        AllocResultId::Successful,
        AllocResultId::PendingTryAgain,
        AllocResultId::Broker,
        AllocResultId::BrokerPortUnreachable,
        AllocResultId::Agent,
        AllocResultId::NoLicense,
    ]
    .iter()
    .map(ToString::to_string)
    .collect();
    assert_eq!(
        allocation,
        [
            "ALLOC_SUCCESSFUL",
            "ALLOC_PENDING_TRY_AGAIN",
            "ALLOC_FAILED_TO_ALLOCATE_BROKER",
            "ALLOC_FAILED_TO_ALLOCATE_BROKER_PORT_UNREACHABLE",
            "ALLOC_FAILED_TO_ALLOCATE_AGENT",
            "ALLOC_FAILED_NO_LICENSE",
        ]
    );
    assert_eq!(
        ListResultId::from("list_failed_no_entitlement"),
        ListResultId::NoEntitlement
    );
    assert_eq!(ListResultId::Successful.as_str(), "LIST_SUCCESSFUL");
}

#[test]
fn names_for_logs() {
    for name in [
        "hello",
        "authenticate",
        "get-resource-list",
        "bye",
        "set-disclaimer",
    ] {
        assert_eq!(request(&document(&format!("<{name}/>"))).name(), name);
    }
    assert_eq!(
        request(&document(
            "<allocate-resource><resource-id/></allocate-resource>"
        ))
        .name(),
        "allocate-resource"
    );
    let result = "<result><result-id>X</result-id></result>";
    for name in [
        "hello-resp",
        "authenticate-resp",
        "get-resource-list-resp",
        "allocate-resource-resp",
        "bye-resp",
        "set-disclaimer-resp",
    ] {
        let body = if name.starts_with("bye") || name.starts_with("hello") {
            ""
        } else {
            result
        };
        assert_eq!(
            response(&document(&format!("<{name}>{body}</{name}>"))).name(),
            name
        );
    }
}

#[test]
fn a_reply_keeps_the_root_and_never_claims_a_newer_version() {
    for (sent, answered) in [
        ("1.0", "1.0"),
        ("2.0", "2.0"),
        ("2.1", "2.1"),
        ("2.2", "2.1"),
        ("10.0", "2.1"),
    ] {
        let document = format!("<pcoip-broker version='{sent}'><bye/></pcoip-broker>");
        let envelope = Envelope::<Request>::parse(document.as_bytes()).unwrap();
        let reply = envelope.reply(Response::Bye(ByeResp::default()));
        let written = reply.to_document();
        assert_eq!(
            std::str::from_utf8(&written).unwrap(),
            format!(
                r#"{DECLARATION}<pcoip-broker version="{answered}"><bye-resp/></pcoip-broker>"#
            )
        );
    }
}

#[test]
fn either_quote_style_a_byte_order_mark_and_leading_white_space() {
    let plain = "<?xml version='1.0' encoding='utf-8'?>\r\n<pcoip-client version='2.1'>\r\n\t<bye />\r\n</pcoip-client>\r\n";
    for prefix in ["", " ", "\r\n\t ", "\u{feff}", "\u{feff}\n"] {
        assert_eq!(
            request(&format!("{prefix}{plain}")),
            Request::Bye(Bye::default()),
            "{prefix:?}"
        );
    }
    assert_eq!(
        request(&plain.replace('\'', "\"")),
        Request::Bye(Bye::default())
    );
}

#[test]
fn a_request_of_more_than_64_kibibytes_is_refused() {
    let document = |padding: usize| {
        format!(
            "<pcoip-client version='2.1'><bye/></pcoip-client>{}",
            " ".repeat(padding)
        )
    };
    let room = 64 * 1024 - document(0).len();
    assert!(Envelope::<Request>::parse(document(room).as_bytes()).is_ok());
    assert_eq!(
        Envelope::<Request>::parse(document(room + 1).as_bytes()),
        Err(ParseMessageError::Xml(crate::xml::ParseXmlError::TooLong {
            limit: 65536
        }))
    );
}
