//! Whole-system tests: the `portcullis` command as its users have it, one file per promise.
//!
//! Hosts are network namespaces around a firewall, which takes root and a few Debian packages; as root the packages are
//! installed. Without root those tests are listed as ignored, and counted. The rest runs for everybody.

#![expect(clippy::print_stderr, reason = "tests talk to their terminal")]

mod bad_input;
mod configuration;
mod demonstration;
mod firewall;
mod relay_bench;
mod seven_steps;
mod standing_grants;
mod support;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

/// Tests wait for time limits most of the time, so more of them than cores run at once.
const THREADS: usize = 8;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let without_hosts = if arguments.list {
        Ok(None)
    } else {
        support::prepare()
    };
    let without_hosts = match without_hosts {
        Ok(reason) => reason,
        Err(error) => {
            eprintln!("Cannot get ready for tests that need several hosts: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let mut trials = Vec::new();
    for (name, test) in [
        demonstration::TESTS,
        configuration::TESTS,
        bad_input::TESTS,
        standing_grants::TESTS,
        relay_bench::TESTS,
    ]
    .concat()
    {
        trials.push(trial(name, test));
    }
    for (name, test) in [seven_steps::TESTS, firewall::TESTS].concat() {
        trials.push(trial(name, test).with_ignored_flag(without_hosts.is_some()));
    }
    if let Some(reason) = without_hosts {
        eprintln!("Tests that need several hosts are skipped, and listed as ignored: {reason}");
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: &str, test: support::Test) -> Trial {
    Trial::test(name, move || {
        test().map_err(|error| Failed::from(format!("{error:#}")))
    })
}
