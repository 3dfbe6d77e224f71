//! What makes a directory, and whom it knows.

use super::*;
use crate::hash_password;

fn user(name: &str, domain: &str) -> UserConfig {
    let hash = hash_password(&"secret".into(), Argon2Params::cheap()).expect("hashed");
    UserConfig {
        name: name.into(),
        domain: domain.into(),
        password_hash: hash.into(),
    }
}

fn desktop(id: &str, name: &str) -> DesktopConfig {
    DesktopConfig {
        id: id.into(),
        name: name.into(),
        address: "192.0.2.1".into(),
        agent_port: None,
        hostname: None,
    }
}

fn entitlement(user: &str, desktop: &str) -> EntitlementConfig {
    EntitlementConfig {
        user: user.into(),
        desktop: desktop.into(),
    }
}

fn label(directory: &Directory, username: &str, domain: &str) -> Option<String> {
    let user = directory.resolve(username, domain)?;
    directory.user(user).map(|user| user.label().to_owned())
}

#[test]
fn users_go_by_every_form_of_their_name() {
    let directory = Directory::new(
        vec![
            user("Alice", "Studio.example"),
            user("bob", ""),
            user("Zoë", ""),
        ],
        vec![],
        vec![],
    )
    .expect("valid");
    for (username, domain) in [
        ("alice", "studio.example"),
        ("ALICE", "STUDIO.EXAMPLE"),
        ("alice", ""),
        ("studio.example\\alice", ""),
        ("Studio.Example\\Alice", "elsewhere"),
        ("alice@studio.example", ""),
        ("Alice@STUDIO.example", "elsewhere"),
    ] {
        let found = label(&directory, username, domain);
        assert_eq!(
            found.as_deref(),
            Some("Studio.example\\Alice"),
            "{username} {domain}"
        );
    }
    assert_eq!(label(&directory, "ZOË", "").as_deref(), Some("Zoë"));
    assert_eq!(label(&directory, "\\bob", "").as_deref(), Some("bob"));
    for (username, domain) in [
        ("alice", "elsewhere"),
        ("alice@elsewhere", "studio.example"),
        ("elsewhere\\alice", "studio.example"),
        ("bob", "studio.example"),
        ("", ""),
        ("\\", ""),
        ("@", ""),
        ("alice ", ""),
        ("alice@studio.example@", ""),
    ] {
        assert_eq!(
            label(&directory, username, domain),
            None,
            "{username} {domain}"
        );
    }
}

#[test]
fn a_name_in_two_domains_needs_its_domain() {
    let directory = Directory::new(vec![user("alice", "A"), user("Alice", "B")], vec![], vec![])
        .expect("valid");
    assert_eq!(label(&directory, "alice", ""), None);
    assert_eq!(label(&directory, "alice", "b").as_deref(), Some("B\\Alice"));
    assert_eq!(directory.domains(), ["A", "B"]);
}

#[test]
fn a_user_without_domain_comes_before_a_namesake() {
    let directory =
        Directory::new(vec![user("alice", "A"), user("alice", "")], vec![], vec![]).expect("valid");
    assert_eq!(label(&directory, "alice", "").as_deref(), Some("alice"));
}

#[test]
fn desktops_are_listed_by_name_to_whom_they_are_entitled() {
    let directory = Directory::new(
        vec![user("alice", "A"), user("bob", "")],
        vec![
            desktop("1", "zebra"),
            desktop("2", "Ape"),
            desktop("3", "bear"),
        ],
        vec![
            entitlement("A\\alice", "1"),
            entitlement("alice@a", "2"),
            entitlement("BOB", "3"),
        ],
    )
    .expect("valid");
    let alice = directory.resolve("alice", "").expect("known");
    let names: Vec<&str> = directory.desktops_of(alice).map(Desktop::name).collect();
    assert_eq!(names, ["Ape", "zebra"]);
    assert_eq!(directory.entitled(alice, "1").map(Desktop::id), Some("1"));
    assert!(directory.entitled(alice, "3").is_none());
    assert!(directory.entitled(alice, "4").is_none());
    assert_eq!(directory.desktop("3").map(Desktop::name), Some("bear"));
}

#[test]
fn nobody_costs_what_most_users_cost() {
    let mut dear = user("carol", "");
    dear.password_hash = hash_password(&"x".into(), Argon2Params::default())
        .expect("hashed")
        .into();
    let users = vec![dear.clone(), user("alice", ""), user("bob", "")];
    let directory = Directory::new(users, vec![], vec![]).expect("valid");
    assert_eq!(directory.nobody().params(), Argon2Params::cheap());
    let directory = Directory::new(vec![user("alice", ""), dear], vec![], vec![]).expect("valid");
    assert_eq!(directory.nobody().params(), Argon2Params::default());
    let directory = Directory::new(vec![], vec![], vec![]).expect("valid");
    assert_eq!(directory.nobody().params(), Argon2Params::default());
}

#[test]
fn every_mistake_names_its_offender() {
    let mut no_hash = user("dave", "D");
    no_hash.password_hash = "secret".into();
    let refused = |users, desktops, entitlements| {
        Directory::new(users, desktops, entitlements)
            .expect_err("invalid")
            .to_string()
    };
    let at = |address: &str| DesktopConfig {
        address: address.into(),
        ..desktop("1", "one")
    };
    let cases = [
        (
            refused(vec![user("", "")], vec![], vec![]),
            "the user name \"\" is not usable: it is empty",
        ),
        (
            refused(vec![user("a@b", "")], vec![], vec![]),
            "the user name \"a@b\" is not usable: it holds \\ or @, which divide name and domain",
        ),
        (
            refused(vec![user("a", "b\n")], vec![], vec![]),
            "the domain \"b\\n\" is not usable: it holds control characters",
        ),
        (
            refused(vec![user("alice", "A"), user("ALICE", "a")], vec![], vec![]),
            "the user \"a\\\\ALICE\" is defined twice",
        ),
        (
            refused(vec![no_hash], vec![], vec![]),
            "the password hash of user \"D\\\\dave\" is not usable",
        ),
        (
            refused(
                vec![],
                vec![desktop("1", "one"), desktop("1", "two")],
                vec![],
            ),
            "the desktop id \"1\" is used twice",
        ),
        (
            refused(
                vec![],
                vec![desktop("1", "one"), desktop("2", "ONE")],
                vec![],
            ),
            "the desktop name \"ONE\" is used twice",
        ),
        (
            refused(vec![], vec![at("999.1.1.1")], vec![]),
            "the address \"999.1.1.1\" of desktop \"1\" is neither an IP address nor a host name",
        ),
        (
            refused(vec![], vec![], vec![entitlement("alice", "1")]),
            "the entitlement of user \"alice\" is to desktop \"1\", which is not defined",
        ),
        (
            refused(
                vec![],
                vec![desktop("1", "one")],
                vec![entitlement("alice", "1")],
            ),
            "the entitlement to desktop \"1\" is for \"alice\", who is not a user",
        ),
        (
            refused(
                vec![user("alice", "A"), user("alice", "B")],
                vec![desktop("1", "one")],
                vec![entitlement("alice", "1")],
            ),
            "the entitlement to desktop \"1\" is for \"alice\", which names several users: add the domain",
        ),
        (
            refused(
                vec![user("alice", "A")],
                vec![desktop("1", "one")],
                vec![entitlement("alice", "1"), entitlement("A\\alice", "1")],
            ),
            "the entitlement of user \"A\\\\alice\" to desktop \"1\" is defined twice",
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(message, expected);
    }
}

#[test]
fn addresses_are_addresses_or_host_names() {
    for good in [
        "127.0.0.1",
        "2001:db8::7",
        "ws-1",
        "WS_1.studio.example",
        "ws.example.",
        "1a",
    ] {
        assert!(is_desktop_address(good), "{good}");
    }
    let long = format!("{}.example", "x".repeat(64));
    for bad in [
        "",
        ".",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "1.2.3",
        "-a",
        "a-",
        "a..b",
        "a b",
        "a:1",
        "[::1]",
        "http://a",
        "ä",
        &long,
    ] {
        assert!(!is_desktop_address(bad), "{bad}");
    }
}
