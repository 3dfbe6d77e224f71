//! Debian packages the whole-system tests need, installed when root asks for tests and they are not there.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Program looked for, and the package that brings it.
const NEEDED: [(&str, &str); 3] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("sysctl", "procps"),
];

/// Packages that are not there.
pub(crate) fn missing() -> Vec<&'static str> {
    let found = |program: &str| {
        ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|folder| std::path::Path::new(folder).join(program).exists())
    };
    NEEDED
        .iter()
        .filter(|(program, _)| !found(program))
        .map(|(_, package)| *package)
        .collect()
}

/// Installs packages. Needs root.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    eprintln!(
        "Installing {} for the whole-system tests",
        packages.join(", ")
    );
    for arguments in [
        vec!["update", "-q"],
        [
            &["install", "-q", "-y", "--no-install-recommends"],
            packages,
        ]
        .concat(),
    ] {
        let output = Command::new("apt-get")
            .args(&arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output()
            .context("cannot run apt-get")?;
        ensure!(
            output.status.success(),
            "apt-get {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
