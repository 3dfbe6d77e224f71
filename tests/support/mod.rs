//! What the tests stand on.

pub(crate) mod debian;
pub(crate) mod lab;
pub(crate) mod process;
pub(crate) mod site;

use std::{path::PathBuf, process::Command};

use anyhow::Result;

/// A test: it fails with an error.
pub(crate) type Test = fn() -> Result<()>;

/// The command under test.
pub(crate) const PORTCULLIS: &str = env!("CARGO_BIN_EXE_portcullis");

/// Gets this machine ready for several hosts; the reason when it cannot have any.
///
/// # Errors
/// When this machine should be able to, but something went wrong.
pub(crate) fn prepare() -> Result<Option<String>> {
    let missing = debian::missing();
    if !is_root() {
        let packages = if missing.is_empty() {
            String::new()
        } else {
            format!(" and {}", missing.join(", "))
        };
        return Ok(Some(format!("they need root{packages}")));
    }
    debian::install(&missing)?;
    Ok(lab::possible()
        .err()
        .map(|error| format!("this root may not create network namespaces: {error:#}")))
}

/// A `portcullis` command on this host.
pub(crate) fn portcullis(arguments: &[&str]) -> Command {
    let mut command = Command::new(PORTCULLIS);
    command.args(arguments).env("PORTCULLIS_LOG", "info");
    command
}

/// Where the project stands.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
