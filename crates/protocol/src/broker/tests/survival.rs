//! What we do not know goes through unchanged, where it stood.

use super::*;

#[test]
fn unknown_parts_everywhere_in_a_hello() {
    let golden = format!(
        r#"{DECLARATION}<pcoip-client version="2.1" xmlns:v="urn:example" v:hop="2">{}</pcoip-client>"#,
        flat(
            r#"<hello v:first="1" second="&quot;2&#10;&quot;">
                <v:before/>
                <client-info kind="soft">
                    <product-name v:lang="en">Sample Client</product-name>
                    <organization-id>42</organization-id>
                    <hostname>lark</hostname>
                </client-info>
                <between><deep><er>text</er></deep></between>
                <caps v:set="3">
                    <v:head/>
                    <cap v:weight="1">CAP_NO_AUTHENTICATION</cap>
                    <v:note>one</v:note>
                    <cap>CAP_DIALOG_AUTHENTICATION</cap>
                    <v:tail/>
                </caps>
                <after/>
                <after>twice</after>
            </hello>"#
        )
    );
    let message = request(&golden);
    let Request::Hello(hello) = &message else {
        panic!("{message:?}")
    };
    assert_eq!(hello.client_info.product_name, some("Sample Client"));
    assert_eq!(
        hello.caps.as_deref(),
        Some(
            [
                "CAP_NO_AUTHENTICATION".to_owned(),
                "CAP_DIALOG_AUTHENTICATION".to_owned()
            ]
            .as_slice()
        )
    );
    assert_eq!(
        hello
            .rest
            .children
            .iter()
            .map(|(index, element)| (*index, element.name.as_str()))
            .collect::<Vec<_>>(),
        [(0, "v:before"), (2, "between"), (4, "after"), (5, "after")]
    );
    let envelope = Envelope::<Request>::parse(golden.as_bytes()).unwrap();
    assert_eq!(
        std::str::from_utf8(&envelope.to_document()).unwrap(),
        golden
    );
}

#[test]
fn unknown_parts_everywhere_in_responses() {
    for golden in [
        r#"<hello-resp a="1">
            <brokers-info b="2">
                <x/>
                <broker-info c="3">
                    <y/>
                    <product-name d="4">Sample</product-name>
                </broker-info>
                <z/>
                <broker-info/>
            </brokers-info>
            <pcm-info><load>3</load></pcm-info>
            <next-authentication>
                <authentication-methods e="5"><method>M</method></authentication-methods>
                <domains><domain f="6">EXAMPLE</domain></domains>
                <reader-name>r</reader-name>
            </next-authentication>
        </hello-resp>"#,
        r#"<get-resource-list-resp>
            <result a="1"><x/><result-id b="2">LIST_SUCCESSFUL</result-id><y/></result>
            <hint/>
            <resource c="3">
                <resource-name d="4">n</resource-name>
                <resource-id e="5">i</resource-id>
                <resource-type session-type="VDI" f="6">DESKTOP</resource-type>
                <icon>base64</icon>
                <protocols g="7"><protocol is-default="true" h="8">PCOIP</protocol><w/></protocols>
            </resource>
            <tail/>
        </get-resource-list-resp>"#,
        r#"<allocate-resource-resp>
            <result><result-id>ALLOC_SUCCESSFUL</result-id></result>
            <target a="1">
                <ip-address b="2">192.0.2.1</ip-address>
                <collaboration-port>64172</collaboration-port>
                <port c="3">4172</port>
                <session-id d="4">0</session-id>
                <connect-tag e="5">t</connect-tag>
            </target>
            <resource-id>i</resource-id>
        </allocate-resource-resp>"#,
        r#"<bye-resp a="1"><x>y</x></bye-resp>"#,
        r#"<set-disclaimer-resp a="1">text <b>mixed</b> text</set-disclaimer-resp>"#,
    ] {
        let golden = document(golden);
        assert_eq!(written_response(response(&golden)), golden);
    }
}

#[test]
fn unknown_parts_everywhere_in_requests() {
    for golden in [
        r#"<authenticate method="password" a="1">
            <username b="2">wren</username>
            <nonce/>
            <password c="3">secret</password>
            <domain d="4">EXAMPLE</domain>
        </authenticate>"#,
        r#"<get-resource-list>
            <protocols/>
            <resource-types><resource-type>DESKTOP</resource-type><x/></resource-types>
            <filter/>
        </get-resource-list>"#,
        r#"<allocate-resource a="1">
            <resource-id b="2">7f3a</resource-id>
            <client-info>
                <display-count>2</display-count>
                <ip-address>198.51.100.7</ip-address>
            </client-info>
        </allocate-resource>"#,
        r#"<bye><reason>logout</reason></bye>"#,
    ] {
        let golden = document(golden);
        assert_eq!(written_request(request(&golden)), golden);
    }
}

#[test]
fn any_order_reads_the_same_and_is_written_in_ours() {
    let shuffled = document(
        "<allocate-resource-resp>
            <protocol>PCOIP</protocol>
            <target>
                <connect-tag>tag</connect-tag>
                <x-first/>
                <sni>DRAW-1</sni>
                <ip-address>192.0.2.1</ip-address>
            </target>
            <resource-id>7f3a</resource-id>
            <result><result-str>fine</result-str><result-id>ALLOC_SUCCESSFUL</result-id></result>
        </allocate-resource-resp>",
    );
    assert_eq!(
        written_response(response(&shuffled)),
        document(
            "<allocate-resource-resp>
                <result><result-id>ALLOC_SUCCESSFUL</result-id><result-str>fine</result-str></result>
                <target>
                    <ip-address>192.0.2.1</ip-address>
                    <x-first/>
                    <sni>DRAW-1</sni>
                    <connect-tag>tag</connect-tag>
                </target>
                <resource-id>7f3a</resource-id>
                <protocol>PCOIP</protocol>
            </allocate-resource-resp>"
        )
    );
}

#[test]
fn extras_of_a_changed_field_stay_and_of_a_removed_one_go() {
    let mut message = response(&document(
        r#"<allocate-resource-resp>
            <result><result-id>ALLOC_SUCCESSFUL</result-id></result>
            <target>
                <ip-address family="4">192.0.2.1</ip-address>
                <sni kind="short">DRAW-1</sni>
            </target>
        </allocate-resource-resp>"#,
    ));
    let Response::AllocateResource(answer) = &mut message else {
        panic!("{message:?}")
    };
    let target = answer.target.as_mut().unwrap();
    target.ip_address = some("203.0.113.5");
    target.sni = None;
    let written = written_response(message);
    assert!(
        written.contains(r#"<target><ip-address family="4">203.0.113.5</ip-address></target>"#)
    );
}

#[test]
fn a_list_with_extras_can_shrink_and_grow() {
    let original = document(
        r#"<hello><client-info/><caps><a/><cap n="1">ONE</cap><b/><cap>TWO</cap><c/></caps></hello>"#,
    );
    let with_caps = |caps: &[&str]| {
        let mut message = request(&original);
        let Request::Hello(hello) = &mut message else {
            panic!("{message:?}")
        };
        hello.caps = Some(caps.iter().map(ToString::to_string).collect());
        let written = written_request(message);
        let (_, caps) = written.split_once("<caps>").unwrap();
        caps.split_once("</caps>").unwrap().0.to_owned()
    };
    assert_eq!(with_caps(&[]), "<a/><b/><c/>");
    assert_eq!(with_caps(&["X"]), r#"<a/><cap n="1">X</cap><b/><c/>"#);
    assert_eq!(
        with_caps(&["X", "Y", "Z"]),
        r#"<a/><cap n="1">X</cap><b/><cap>Y</cap><cap>Z</cap><c/>"#
    );
}

#[test]
fn hand_made_extras_cannot_double_a_known_attribute() {
    let answer = Response::Authenticate(AuthenticateResp {
        method: some("password"),
        result: Outcome::new(AuthResultId::Complete, "ok"),
        next_authentication: None,
        rest: Rest {
            attributes: vec![("method".to_owned(), "dialog".to_owned())],
            ..Rest::default()
        },
    });
    assert!(written_response(answer).contains(r#"<authenticate-resp method="password"><result>"#));
}

#[test]
fn unknown_messages_are_kept_whole() {
    let golden = document(r#"<set-disclaimer v="1">mixed <b/> text</set-disclaimer>"#);
    let message = request(&golden);
    assert!(matches!(&message, Request::Unknown(Element { name, .. }) if name == "set-disclaimer"));
    assert_eq!(written_request(message), golden);
    // A response where a request is due is not one of ours either, and left to the caller to refuse.
    assert!(matches!(
        request(&document("<bye-resp/>")),
        Request::Unknown(_)
    ));
    assert!(matches!(
        response(&document("<bye/>")),
        Response::Unknown(_)
    ));
    assert!(matches!(
        request(&document("<v:bye xmlns:v='urn:example'/>")),
        Request::Unknown(_)
    ));
}
