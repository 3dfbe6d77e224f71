//! Replays the seeds of `fuzz/seeds/` through the fuzz entries, and checks that each is accepted or refused as its file
//! name says.

use std::{collections::BTreeSet, fs, path::PathBuf};

use portcullis_protocol::{
    FUZZ_TARGETS, agent,
    broker::{Envelope, Request, Response},
    client_hello::{self, Progress},
    esp,
    license_path::LicensePath,
    xml::{self, Limits},
};

fn seeds() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds")
}

/// Whether the parser behind a target takes the bytes.
fn accepts(target: &str, data: &[u8]) -> bool {
    match target {
        "agent_message" => agent::Message::parse(data).is_ok(),
        "broker_request" => Envelope::<Request>::parse(data).is_ok(),
        "broker_response" => Envelope::<Response>::parse(data).is_ok(),
        "client_hello" => matches!(client_hello::read(data), Ok(Progress::Complete(_))),
        "esp" => esp::is_relayable(data.len()),
        "license_path" => {
            std::str::from_utf8(data).is_ok_and(|text| LicensePath::parse_list(text).is_ok())
        }
        "xml" => xml::parse(data, &Limits::default()).is_ok(),
        other => panic!("no parser is known for {other}"),
    }
}

#[test]
fn every_seed_is_judged_as_its_name_says() {
    for (target, entry) in FUZZ_TARGETS {
        let mut seen = BTreeSet::new();
        for file in fs::read_dir(seeds().join(target)).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let data = fs::read(&path).unwrap();
            let (verdict, _) = name.split_once('-').unwrap();
            let expected = match verdict {
                "accepted" => true,
                "refused" => false,
                other => panic!("{target}/{name} starts with {other}"),
            };
            assert_eq!(accepts(target, &data), expected, "{target}/{name}");
            seen.insert(expected);
            entry(&data);
            for end in 0..data.len() {
                entry(&data[..end]);
            }
        }
        assert_eq!(seen.len(), 2, "{target} needs seeds of both kinds");
    }
}

#[test]
fn every_folder_of_seeds_and_every_binary_is_a_target() {
    let targets: BTreeSet<String> = FUZZ_TARGETS
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    let names = |folder: PathBuf| -> BTreeSet<String> {
        let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
        fs::read_dir(folder)
            .unwrap()
            .map(|file| stem(file.unwrap().path()))
            .collect()
    };
    assert_eq!(names(seeds()), targets);
    // Other crates have parsers, and so targets, of their own there.
    let binaries = names(seeds().join("../fuzz_targets"));
    assert!(binaries.is_superset(&targets), "{binaries:?}");
    let manifest = fs::read_to_string(seeds().join("../Cargo.toml")).unwrap();
    let declared: BTreeSet<String> = manifest
        .split("[[bin]]")
        .skip(1)
        .map(|bin| bin.split('"').nth(1).unwrap().to_owned())
        .collect();
    assert_eq!(binaries, declared);
}

#[test]
fn captured_hellos_carry_the_names_that_were_asked_for() {
    for (file, expected) in [
        ("accepted-openssl-ip-literal", Some("10.117.0.68")),
        ("accepted-openssl-netbios-tls12", Some("draw-w7p64-15")),
        ("accepted-openssl-no-name", None),
        ("accepted-handmade-v6", Some("2001:db8::17")),
        (
            "accepted-handmade-netbios-fragmented",
            Some("draw-w7p64-15"),
        ),
    ] {
        let data = fs::read(seeds().join("client_hello").join(file)).unwrap();
        for end in 0..data.len() {
            assert_eq!(
                client_hello::read(&data[..end]),
                Ok(Progress::Incomplete),
                "{file} at {end}"
            );
        }
        let Ok(Progress::Complete(hello)) = client_hello::read(&data) else {
            panic!("{file}")
        };
        assert_eq!(
            hello
                .server_name
                .as_ref()
                .map(client_hello::ServerName::as_str),
            expected,
            "{file}"
        );
    }
}
