//! Round trips of arbitrary messages, and of documents that strangers have added to and shuffled.

use proptest::{collection::vec, option, prelude::*, sample::Index};

use super::*;
use crate::xml::{self, Limits, Node};

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{0,12}", "[<>&\"' \t\r\nä€🔑]{0,6}"]
}

fn maybe() -> impl Strategy<Value = Option<String>> {
    option::of(text())
}

fn client_info() -> impl Strategy<Value = ClientInfo> {
    (
        maybe(),
        maybe(),
        maybe(),
        maybe(),
        maybe(),
        maybe(),
        maybe(),
        maybe(),
    )
        .prop_map(|fields| ClientInfo {
            product_name: fields.0,
            product_version: fields.1,
            platform: fields.2,
            locale: fields.3,
            hostname: fields.4,
            serial_number: fields.5,
            device_name: fields.6,
            pcoip_unique_id: fields.7,
            rest: Rest::default(),
        })
}

fn product_info() -> impl Strategy<Value = ProductInfo> {
    (maybe(), maybe(), maybe(), maybe(), maybe(), maybe()).prop_map(|fields| ProductInfo {
        product_name: fields.0,
        product_version: fields.1,
        platform: fields.2,
        locale: fields.3,
        ip_address: fields.4,
        hostname: fields.5,
        rest: Rest::default(),
    })
}

fn next_authentication() -> impl Strategy<Value = NextAuthentication> {
    (vec(text(), 0..3), vec(text(), 0..3)).prop_map(|(methods, domains)| NextAuthentication {
        methods,
        domains,
        rest: Rest::default(),
    })
}

fn outcome<Id: From<String> + std::fmt::Debug>() -> impl Strategy<Value = Outcome<Id>> {
    let ids = vec![
        "AUTH_SUCCESSFUL_AND_COMPLETE",
        "AUTH_FAILED_ACCESS_DENIED",
        "LIST_SUCCESSFUL",
        "LIST_FAILED_NO_ENTITLEMENT",
        "ALLOC_SUCCESSFUL",
        "ALLOC_FAILED_NO_LICENSE",
    ];
    let id = prop_oneof![prop::sample::select(ids).prop_map(str::to_owned), text()];
    (id, maybe()).prop_map(|(id, text)| Outcome {
        id: id.into(),
        text,
        rest: Rest::default(),
    })
}

fn requests() -> impl Strategy<Value = Request> {
    let address = (maybe(), maybe()).prop_map(|(ip_address, hostname)| ServerAddress {
        ip_address,
        hostname,
        rest: Rest::default(),
    });
    let hello = (
        client_info(),
        option::of(vec(text(), 0..4)),
        option::of(address),
        option::of(product_info()),
    )
        .prop_map(|(client_info, caps, server_address, pcm_info)| {
            Request::Hello(Hello {
                client_info,
                caps,
                server_address,
                pcm_info,
                rest: Rest::default(),
            })
        });
    let authenticate = (text(), text(), text()).prop_map(|(username, password, domain)| {
        Request::Authenticate(Authenticate::Password(PasswordLogon {
            username,
            password: SecretString::from(password),
            domain,
            rest: Rest::default(),
        }))
    });
    let list = (vec(text(), 0..3), vec(text(), 0..3)).prop_map(|(protocols, resource_types)| {
        Request::GetResourceList(GetResourceList {
            protocols,
            resource_types,
            rest: Rest::default(),
        })
    });
    let client = (maybe(), maybe()).prop_map(|(ip_address, mac_address)| AllocateClientInfo {
        ip_address,
        mac_address,
        rest: Rest::default(),
    });
    let allocate =
        (text(), maybe(), option::of(client)).prop_map(|(resource_id, protocol, client_info)| {
            Request::AllocateResource(AllocateResource {
                resource_id,
                protocol,
                client_info,
                rest: Rest::default(),
            })
        });
    prop_oneof![
        hello,
        authenticate,
        list,
        allocate,
        Just(Request::Bye(Bye::default()))
    ]
}

fn resource() -> impl Strategy<Value = Resource> {
    let protocol =
        (text(), maybe()).prop_map(|(name, is_default)| ResourceProtocol { name, is_default });
    // The session type is an attribute of the element that holds the resource type, so it never comes alone.
    let resource_type = option::of((text(), maybe()));
    (text(), text(), resource_type, maybe(), vec(protocol, 0..3)).prop_map(
        |(name, id, resource_type, state, protocols)| {
            let (resource_type, session_type) =
                resource_type.map_or((None, None), |(kind, session)| (Some(kind), session));
            Resource {
                name,
                id,
                resource_type,
                session_type,
                state,
                protocols,
                rest: Rest::default(),
            }
        },
    )
}

fn target() -> impl Strategy<Value = Target> {
    let tag = option::of("[!-~]{1,20}");
    (
        maybe(),
        maybe(),
        maybe(),
        option::of(1..=u16::MAX),
        option::of(any::<u64>()),
        tag,
    )
        .prop_map(
            |(ip_address, hostname, sni, port, session_id, tag)| Target {
                ip_address,
                hostname,
                sni,
                port,
                session_id: session_id.map(SessionId),
                connect_tag: tag.and_then(|tag| ConnectTag::new(&tag)),
                rest: Rest::default(),
            },
        )
}

fn responses() -> impl Strategy<Value = Response> {
    let hello = (
        vec(product_info(), 0..3),
        option::of(product_info()),
        option::of(next_authentication()),
    )
        .prop_map(|(brokers, pcm_info, next_authentication)| {
            Response::Hello(HelloResp {
                brokers,
                pcm_info,
                next_authentication,
                rest: Rest::default(),
            })
        });
    let authenticate = (maybe(), outcome(), option::of(next_authentication())).prop_map(
        |(method, result, next_authentication)| {
            Response::Authenticate(AuthenticateResp {
                method,
                result,
                next_authentication,
                rest: Rest::default(),
            })
        },
    );
    let list = (outcome(), vec(resource(), 0..4)).prop_map(|(result, resources)| {
        Response::GetResourceList(GetResourceListResp {
            result,
            resources,
            rest: Rest::default(),
        })
    });
    let allocate = (outcome(), option::of(target()), maybe(), maybe()).prop_map(
        |(result, target, resource_id, protocol)| {
            Response::AllocateResource(AllocateResourceResp {
                result,
                target,
                resource_id,
                protocol,
                rest: Rest::default(),
            })
        },
    );
    prop_oneof![
        hello,
        authenticate,
        list,
        allocate,
        Just(Response::Bye(ByeResp::default()))
    ]
}

/// Visits every element of a tree with its path of indices, so that a place can be picked.
fn visit_mut(element: &mut Element, visitor: &mut impl FnMut(&mut Element)) {
    visitor(element);
    for node in &mut element.children {
        match node {
            Node::Element(child) => visit_mut(child, visitor),
            Node::Text(_) => {}
        }
    }
}

/// Adds attributes to any element and children to any element that has some, all of them unknown. The root is left alone:
/// it has one child by definition.
fn add_extras(root: &mut Element, places: &[(Index, Index, bool)]) {
    for (number, (which, place, as_attribute)) in places.iter().enumerate() {
        let mut total = 0;
        visit_mut(root, &mut |element| {
            total += usize::from(is_home(element, *as_attribute))
        });
        if total == 0 {
            continue;
        }
        let chosen = which.index(total);
        let mut current = 0;
        visit_mut(root, &mut |element| {
            if !is_home(element, *as_attribute) {
                return;
            }
            if current == chosen {
                if *as_attribute {
                    element
                        .attributes
                        .push((format!("x:a{number}"), format!("<{number}>\n")));
                } else {
                    let index = place.index(element.children.len() + 1);
                    let extra =
                        Element::with_text(format!("x:e{number}"), " kept ").attribute("y", "z");
                    element.children.insert(index, Node::Element(extra));
                }
            }
            current += 1;
        });
    }
}

fn is_home(element: &Element, as_attribute: bool) -> bool {
    // An extra element is not extended further, to keep the expected document plain.
    let is_root = element.name.starts_with("pcoip-");
    as_attribute || (!is_root && element.elements().next().is_some())
}

/// Reverses or rotates the children of every element whose children have different names: their order means nothing.
fn shuffle(root: &mut Element, turns: usize) {
    visit_mut(root, &mut |element| {
        let mut names: Vec<_> = element.elements().map(|child| child.name.clone()).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        if names.len() == count && count > 0 {
            element.children.rotate_left(turns % count);
            if turns % 2 == 1 {
                element.children.reverse();
            }
        }
    });
}

fn as_text(root: &Element) -> String {
    String::from_utf8(root.to_document().to_vec()).unwrap()
}

fn extras() -> impl Strategy<Value = Vec<(Index, Index, bool)>> {
    vec(any::<(Index, Index, bool)>(), 0..6)
}

proptest! {
    #[test]
    fn requests_round_trip(message in requests(), major in any::<u16>(), minor in any::<u16>(), broker in any::<bool>()) {
        let envelope = Envelope {
            root: if broker { Root::Broker } else { Root::Client },
            version: Version { major, minor },
            ..Envelope::new(message)
        };
        prop_assert_eq!(Envelope::<Request>::parse(&envelope.to_document()), Ok(envelope));
    }

    #[test]
    fn responses_round_trip(message in responses()) {
        let envelope = Envelope::new(message);
        prop_assert_eq!(Envelope::<Response>::parse(&envelope.to_document()), Ok(envelope));
    }

    /// A document in canonical order leaves the relay as it came, whatever strangers added to it.
    #[test]
    fn extras_of_requests_stay_where_they_stood(message in requests(), extras in extras()) {
        let mut root = Element::from(&Envelope::new(message));
        add_extras(&mut root, &extras);
        let relayed = Envelope::<Request>::parse(&root.to_document()).unwrap();
        prop_assert_eq!(as_text(&Element::from(&relayed)), as_text(&root));
    }

    /// The same for the way back.
    #[test]
    fn extras_of_responses_stay_where_they_stood(message in responses(), extras in extras()) {
        let mut root = Element::from(&Envelope::new(message));
        add_extras(&mut root, &extras);
        let relayed = Envelope::<Response>::parse(&root.to_document()).unwrap();
        prop_assert_eq!(as_text(&Element::from(&relayed)), as_text(&root));
    }

    #[test]
    fn order_means_nothing(request in requests(), response in responses(), turns in 0_usize..8) {
        let request = Envelope::new(request);
        let mut root = Element::from(&request);
        shuffle(&mut root, turns);
        prop_assert_eq!(Envelope::<Request>::parse(&root.to_document()), Ok(request));

        let response = Envelope::new(response);
        let mut root = Element::from(&response);
        shuffle(&mut root, turns);
        prop_assert_eq!(Envelope::<Response>::parse(&root.to_document()), Ok(response));
    }

    /// Shuffled and extended documents are read the same again after one relay.
    #[test]
    fn a_second_relay_changes_nothing(message in responses(), extras in extras(), turns in 0_usize..8) {
        let mut root = Element::from(&Envelope::new(message));
        add_extras(&mut root, &extras);
        shuffle(&mut root, turns);
        let first = Envelope::<Response>::parse(&root.to_document()).unwrap();
        let second = Envelope::<Response>::parse(&first.to_document()).unwrap();
        prop_assert_eq!(&second, &first);
        let mut kept = 0;
        visit_mut(&mut Element::from(&second), &mut |element| {
            kept += usize::from(element.name.starts_with("x:e"));
            kept += element.attributes.iter().filter(|(name, _)| name.starts_with("x:a")).count();
        });
        let mut added = 0;
        visit_mut(&mut root, &mut |element| {
            added += usize::from(element.name.starts_with("x:e"));
            added += element.attributes.iter().filter(|(name, _)| name.starts_with("x:a")).count();
        });
        prop_assert_eq!(kept, added);
    }

    /// Any tree under a known root is read or refused, and what is read is written so that it reads the same.
    #[test]
    fn scrambled_documents_do_no_harm(message in requests(), response in responses(), cut in any::<Index>(), byte in any::<u8>()) {
        for mut document in [Envelope::new(message).to_document().to_vec(), Envelope::new(response).to_document().to_vec()] {
            let index = cut.index(document.len());
            document[index] = byte;
            fuzz_request(&document);
            fuzz_response(&document);
            document.truncate(index);
            fuzz_request(&document);
            fuzz_response(&document);
        }
    }
}

#[test]
fn extras_do_reach_the_documents_under_test() {
    let mut root = Element::from(&Envelope::new(Request::GetResourceList(GetResourceList {
        protocols: vec![PCOIP.to_owned()],
        ..GetResourceList::default()
    })));
    let limits = Limits::default();
    assert_eq!(xml::parse(&root.to_document(), &limits), Ok(root.clone()));
    visit_mut(&mut root, &mut |element| {
        if is_home(element, false) {
            element.children.push(Node::Element(Element::new("x:e")));
        }
    });
    assert!(as_text(&root).contains(
        "<get-resource-list><protocols><protocol>PCOIP</protocol><x:e/></protocols><x:e/>"
    ));
}
