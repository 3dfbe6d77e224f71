//! Every message: the document as it stands on the wire, the typed value, and back.

use super::*;

#[test]
fn probe_hello() {
    let golden = document(
        "<hello>
            <client-info>
                <product-name>QueryBrokerClient</product-name>
                <product-version>1.0</product-version>
                <platform>PCoIP</platform>
                <locale>en_US</locale>
                <hostname>nightingale</hostname>
                <serial-number>02-00-5E-10-00-01</serial-number>
                <device-name>nightingale</device-name>
                <pcoip-unique-id>02-00-5E-10-00-01</pcoip-unique-id>
            </client-info>
        </hello>",
    );
    let message = request(&golden);
    let Request::Hello(hello) = &message else {
        panic!("{message:?}")
    };
    assert!(hello.is_probe());
    assert_eq!(hello.caps, None);
    assert_eq!(hello.server_address, None);
    assert_eq!(hello.client_info.platform, some("PCoIP"));
    assert!(hello.rest.is_empty() && hello.client_info.rest.is_empty());
    assert_eq!(written_request(message), golden);
}

#[test]
fn full_hello() {
    let hello = Hello {
        client_info: ClientInfo {
            product_name: some("Teradici PCoIP Desktop Client"),
            product_version: some("19.11.0"),
            platform: some("Linux 5.4 & more"),
            locale: some("en_US"),
            hostname: some("lark"),
            serial_number: some("02-00-5E-10-00-02"),
            device_name: some("Lark's <desk>"),
            pcoip_unique_id: some("02-00-5E-10-00-02"),
            rest: Rest::default(),
        },
        caps: Some(vec![
            "CAP_DISCLAIMER_AUTHENTICATION".to_owned(),
            "CAP_DIALOG_AUTHENTICATION".to_owned(),
        ]),
        server_address: Some(ServerAddress {
            ip_address: some("2001:db8::10"),
            hostname: some("desktops.example.com"),
            rest: Rest::default(),
        }),
        pcm_info: Some(ProductInfo {
            product_name: some("Portcullis"),
            product_version: some("0.1.0"),
            platform: some("Linux"),
            locale: None,
            ip_address: some("192.0.2.10"),
            hostname: some("gate.example.com"),
            rest: Rest::default(),
        }),
        rest: Rest::default(),
    };
    let golden = document(
        "<hello>
            <client-info>
                <product-name>Teradici PCoIP Desktop Client</product-name>
                <product-version>19.11.0</product-version>
                <platform>Linux 5.4 &amp; more</platform>
                <locale>en_US</locale>
                <hostname>lark</hostname>
                <serial-number>02-00-5E-10-00-02</serial-number>
                <device-name>Lark's &lt;desk&gt;</device-name>
                <pcoip-unique-id>02-00-5E-10-00-02</pcoip-unique-id>
            </client-info>
            <caps>
                <cap>CAP_DISCLAIMER_AUTHENTICATION</cap>
                <cap>CAP_DIALOG_AUTHENTICATION</cap>
            </caps>
            <server-address>
                <ip-address>2001:db8::10</ip-address>
                <hostname>desktops.example.com</hostname>
            </server-address>
            <pcm-info>
                <product-name>Portcullis</product-name>
                <product-version>0.1.0</product-version>
                <platform>Linux</platform>
                <ip-address>192.0.2.10</ip-address>
                <hostname>gate.example.com</hostname>
            </pcm-info>
        </hello>",
    );
    assert_eq!(written_request(Request::Hello(hello.clone())), golden);
    assert!(!hello.is_probe());
    assert_eq!(request(&golden), Request::Hello(hello));
}

#[test]
fn hello_with_empty_caps_is_not_a_hello_without() {
    for caps in ["<caps/>", "<caps>\n</caps>"] {
        let golden = format!(
            r#"<pcoip-client version="2.1"><hello><client-info/>{caps}</hello></pcoip-client>"#
        );
        let message = request(&golden);
        let Request::Hello(hello) = &message else {
            panic!("{message:?}")
        };
        assert_eq!(hello.caps, Some(vec![]));
        assert!(written_request(message).contains("<client-info/><caps/></hello>"));
    }
    let made = Request::Hello(Hello {
        caps: Some(vec![]),
        ..Hello::default()
    });
    assert!(written_request(made).contains("<client-info/><caps/></hello>"));
}

#[test]
fn hello_resp() {
    let answer = HelloResp {
        brokers: vec![ProductInfo {
            product_name: some("Sample Broker"),
            product_version: some("3.2"),
            platform: some("Linux"),
            locale: some("en_US"),
            ip_address: some("192.0.2.20"),
            hostname: some("broker.example.com"),
            rest: Rest::default(),
        }],
        pcm_info: None,
        next_authentication: Some(NextAuthentication::password(vec![
            "EXAMPLE".to_owned(),
            "corp.example.com".to_owned(),
        ])),
        rest: Rest::default(),
    };
    let golden = document(
        "<hello-resp>
            <brokers-info>
                <broker-info>
                    <product-name>Sample Broker</product-name>
                    <product-version>3.2</product-version>
                    <platform>Linux</platform>
                    <locale>en_US</locale>
                    <ip-address>192.0.2.20</ip-address>
                    <hostname>broker.example.com</hostname>
                </broker-info>
            </brokers-info>
            <next-authentication>
                <authentication-methods>
                    <method>AUTHENTICATE_VIA_PASSWORD</method>
                </authentication-methods>
                <domains>
                    <domain>EXAMPLE</domain>
                    <domain>corp.example.com</domain>
                </domains>
            </next-authentication>
        </hello-resp>",
    );
    assert_eq!(written_response(Response::Hello(answer.clone())), golden);
    assert_eq!(response(&golden), Response::Hello(answer.clone()));

    let relayed = HelloResp {
        pcm_info: Some(ProductInfo {
            product_name: some("Portcullis"),
            ..ProductInfo::default()
        }),
        ..answer
    };
    let written = written_response(Response::Hello(relayed.clone()));
    assert!(written.contains(
        "</brokers-info><pcm-info><product-name>Portcullis</product-name></pcm-info><next-"
    ));
    assert_eq!(response(&written), Response::Hello(relayed));
}

#[test]
fn password_offer_without_domains_still_writes_the_list() {
    let answer = Response::Hello(HelloResp {
        next_authentication: Some(NextAuthentication::password(vec![])),
        ..HelloResp::default()
    });
    let written = written_response(answer.clone());
    assert!(written.contains("</authentication-methods><domains/></next-authentication>"));
    assert_eq!(response(&written), answer);
}

#[test]
fn authenticate() {
    let logon = PasswordLogon {
        username: "wren".to_owned(),
        password: SecretString::from(" p<ä>ss\r\n& "),
        domain: "EXAMPLE".to_owned(),
        rest: Rest::default(),
    };
    let golden = format!(
        "{DECLARATION}<pcoip-client version=\"2.1\"><authenticate method=\"password\"><username>wren</username>\
         <password> p&lt;ä&gt;ss&#13;\n&amp; </password><domain>EXAMPLE</domain></authenticate></pcoip-client>"
    );
    let message = Request::Authenticate(Authenticate::Password(logon));
    assert_eq!(written_request(message.clone()), golden);
    assert_eq!(request(&golden), message);
}

#[test]
fn authenticate_without_domain_gets_an_empty_one() {
    let message = request(&document(
        "<authenticate method='password'><password>x</password><username>wren</username></authenticate>",
    ));
    let Request::Authenticate(Authenticate::Password(logon)) = &message else {
        panic!("{message:?}")
    };
    assert_eq!(logon.domain, "");
    assert_eq!(
        written_request(message),
        document(
            r#"<authenticate method="password">
                <username>wren</username>
                <password>x</password>
                <domain/>
            </authenticate>"#
        )
    );
}

#[test]
fn white_space_around_a_password_is_kept() {
    for password in [" ", "  padded  ", "\t", "a\nb", "]]>", "&amp;", "\u{1f511}"] {
        let message = Request::Authenticate(Authenticate::Password(PasswordLogon {
            username: String::new(),
            password: SecretString::from(password),
            domain: String::new(),
            rest: Rest::default(),
        }));
        let Request::Authenticate(Authenticate::Password(logon)) =
            request(&written_request(message))
        else {
            panic!("{password:?}")
        };
        assert_eq!(logon.password.expose_secret(), password);
    }
}

#[test]
fn other_methods_are_kept_whole() {
    let golden = document(
        r#"<authenticate method="dialog" x="1">
            <entry name="token">123456</entry>
            <username>wren</username>
            <username>twice</username>
        </authenticate>"#,
    );
    let message = request(&golden);
    let Request::Authenticate(authenticate) = &message else {
        panic!("{message:?}")
    };
    assert_eq!(authenticate.method(), Some("dialog"));
    assert!(matches!(authenticate, Authenticate::Other(_)));
    assert_eq!(message.name(), "authenticate");
    assert_eq!(written_request(message), golden);

    let without = document("<authenticate><username>wren</username></authenticate>");
    let message = request(&without);
    assert!(matches!(&message, Request::Authenticate(other) if other.method().is_none()));
    assert_eq!(written_request(message), without);
}

#[test]
fn authenticate_resp() {
    let golden = document(
        r#"<authenticate-resp method="password">
            <result>
                <result-id>AUTH_FAILED_ACCESS_DENIED</result-id>
                <result-str>Try again</result-str>
            </result>
        </authenticate-resp>"#,
    );
    let answer = Response::Authenticate(AuthenticateResp {
        method: some("password"),
        result: Outcome::new(AuthResultId::AccessDenied, "Try again"),
        next_authentication: None,
        rest: Rest::default(),
    });
    assert_eq!(written_response(answer.clone()), golden);
    assert_eq!(response(&golden), answer);
}

#[test]
fn final_dialog_answer_has_no_method_and_gets_none() {
    let golden = document(
        "<authenticate-resp>
            <result>
                <result-id>AUTH_SUCCESSFUL_AND_COMPLETE</result-id>
            </result>
        </authenticate-resp>",
    );
    let message = response(&golden);
    let Response::Authenticate(answer) = &message else {
        panic!("{message:?}")
    };
    assert_eq!(answer.method, None);
    assert_eq!(answer.result.text, None);
    assert!(answer.result.id.is_success());
    assert_eq!(written_response(message), golden);
}

#[test]
fn incomplete_authentication_says_what_is_next() {
    let golden = document(
        r#"<authenticate-resp method="dialog">
            <result>
                <result-id>AUTH_SUCCESSFUL_AND_INCOMPLETE</result-id>
                <result-str/>
            </result>
            <next-authentication>
                <authentication-methods>
                    <method>AUTHENTICATE_VIA_DIALOG</method>
                </authentication-methods>
                <dialog title="One-time code">
                    <field secret="true">Code</field>
                </dialog>
            </next-authentication>
        </authenticate-resp>"#,
    );
    let message = response(&golden);
    let Response::Authenticate(answer) = &message else {
        panic!("{message:?}")
    };
    assert_eq!(answer.result.id, AuthResultId::Incomplete);
    assert_eq!(answer.result.text, some(""));
    let next = answer.next_authentication.as_ref().unwrap();
    assert_eq!(next.methods, ["AUTHENTICATE_VIA_DIALOG"]);
    assert_eq!(next.rest.children.len(), 1);
    assert_eq!(written_response(message), golden);
}

#[test]
fn get_resource_list() {
    let golden = document(
        "<get-resource-list>
            <protocols><protocol>PCOIP</protocol></protocols>
            <resource-types><resource-type>DESKTOP</resource-type></resource-types>
        </get-resource-list>",
    );
    let message = Request::GetResourceList(GetResourceList {
        protocols: vec![PCOIP.to_owned()],
        resource_types: vec!["DESKTOP".to_owned()],
        rest: Rest::default(),
    });
    assert_eq!(written_request(message.clone()), golden);
    assert_eq!(request(&golden), message);
}

#[test]
fn get_resource_list_resp() {
    let golden = document(
        r#"<get-resource-list-resp>
            <result>
                <result-id>LIST_SUCCESSFUL</result-id>
                <result-str>Two desktops</result-str>
            </result>
            <resource>
                <resource-name>Drawing office 1</resource-name>
                <resource-id>7f3a</resource-id>
                <resource-type session-type="VDI">DESKTOP</resource-type>
                <resource-state>UNKNOWN</resource-state>
                <protocols><protocol is-default="true">PCOIP</protocol></protocols>
            </resource>
            <resource>
                <resource-name>Drawing office 2</resource-name>
                <resource-id>7f3b</resource-id>
            </resource>
        </get-resource-list-resp>"#,
    );
    let message = Response::GetResourceList(GetResourceListResp {
        result: Outcome::new(ListResultId::Successful, "Two desktops"),
        resources: vec![
            Resource {
                name: "Drawing office 1".to_owned(),
                id: "7f3a".to_owned(),
                resource_type: some("DESKTOP"),
                session_type: some("VDI"),
                state: some("UNKNOWN"),
                protocols: vec![ResourceProtocol {
                    name: PCOIP.to_owned(),
                    is_default: some("true"),
                }],
                rest: Rest::default(),
            },
            Resource {
                name: "Drawing office 2".to_owned(),
                id: "7f3b".to_owned(),
                ..Resource::default()
            },
        ],
        rest: Rest::default(),
    });
    assert_eq!(written_response(message.clone()), golden);
    assert_eq!(response(&golden), message);
}

#[test]
fn a_list_of_three_thousand_desktops() {
    let list = GetResourceListResp {
        result: Outcome::new(ListResultId::Successful, ""),
        resources: (0..3000)
            .map(|number| Resource {
                name: format!("Drawing office {number}"),
                id: format!("{number:x}"),
                resource_type: some("DESKTOP"),
                session_type: some("VDI"),
                state: some("UNKNOWN"),
                protocols: vec![ResourceProtocol {
                    name: PCOIP.to_owned(),
                    is_default: some("true"),
                }],
                rest: Rest::default(),
            })
            .collect(),
        rest: Rest::default(),
    };
    let message = Response::GetResourceList(list);
    assert_eq!(response(&written_response(message.clone())), message);
}

#[test]
fn allocate_resource() {
    let golden = document(
        "<allocate-resource>
            <resource-id>7f3a</resource-id>
            <protocol>PCOIP</protocol>
            <client-info>
                <ip-address>198.51.100.7</ip-address>
                <mac-address>02-00-5E-10-00-02</mac-address>
            </client-info>
        </allocate-resource>",
    );
    let message = Request::AllocateResource(AllocateResource {
        resource_id: "7f3a".to_owned(),
        protocol: some(PCOIP),
        client_info: Some(AllocateClientInfo {
            ip_address: some("198.51.100.7"),
            mac_address: some("02-00-5E-10-00-02"),
            rest: Rest::default(),
        }),
        rest: Rest::default(),
    });
    assert_eq!(written_request(message.clone()), golden);
    assert_eq!(request(&golden), message);
}

#[test]
fn allocate_resource_resp() {
    let golden = document(
        "<allocate-resource-resp>
            <result>
                <result-id>ALLOC_SUCCESSFUL</result-id>
                <result-str>Ready</result-str>
            </result>
            <target>
                <ip-address>203.0.113.5</ip-address>
                <hostname>draw-1.example.com</hostname>
                <sni>DRAW-1</sni>
                <port>4172</port>
                <session-id>2305843009213693954</session-id>
                <connect-tag>SCS1dGFn+/=</connect-tag>
            </target>
            <resource-id>7f3a</resource-id>
            <protocol>PCOIP</protocol>
        </allocate-resource-resp>",
    );
    let message = Response::AllocateResource(AllocateResourceResp {
        result: Outcome::new(AllocResultId::Successful, "Ready"),
        target: Some(Target {
            ip_address: some("203.0.113.5"),
            hostname: some("draw-1.example.com"),
            sni: some("DRAW-1"),
            port: Some(4172),
            session_id: Some(SessionId(0x2000_0000_0000_0002)),
            connect_tag: ConnectTag::new("SCS1dGFn+/="),
            rest: Rest::default(),
        }),
        resource_id: some("7f3a"),
        protocol: some(PCOIP),
        rest: Rest::default(),
    });
    assert_eq!(written_response(message.clone()), golden);
    assert_eq!(response(&golden), message);
}

#[test]
fn target_of_a_broker_that_does_not_launch() {
    let message = response(&document(
        "<allocate-resource-resp>
            <result><result-id>ALLOC_SUCCESSFUL</result-id></result>
            <target>
                <ip-address>draw-1.example.com</ip-address>
                <port/>
                <session-id/>
                <connect-tag></connect-tag>
            </target>
        </allocate-resource-resp>",
    ));
    let Response::AllocateResource(answer) = message else {
        panic!("{message:?}")
    };
    // The discarded elements do not count for the place of what is kept.
    let kept = response(&document(
        "<allocate-resource-resp>
            <result><result-id>ALLOC_SUCCESSFUL</result-id></result>
            <target><port a='1'/><x/><session-id> </session-id><y/></target>
        </allocate-resource-resp>",
    ));
    assert!(written_response(kept).contains("<target><x/><y/></target>"));
    assert_eq!(
        answer.target,
        Some(Target {
            ip_address: some("draw-1.example.com"),
            ..Target::default()
        })
    );
}

#[test]
fn bye_and_its_answer_are_empty() {
    assert_eq!(
        written_request(Request::Bye(Bye::default())),
        document("<bye/>")
    );
    assert_eq!(
        written_response(Response::Bye(ByeResp::default())),
        document("<bye-resp/>")
    );
    assert_eq!(request(&document("<bye/>")), Request::Bye(Bye::default()));
    assert_eq!(
        request("<pcoip-client version='2.1'><bye> \n</bye></pcoip-client>"),
        Request::Bye(Bye::default())
    );
    assert_eq!(
        response(&document("<bye-resp></bye-resp>")),
        Response::Bye(ByeResp::default())
    );
}
