//! Passwords on their way in: from files and standard input, never from the command line, where others could read them.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail, ensure};
use portcullis_broker::{Argon2Params, hash_password};
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::{cli::HashPassword, terminal};

/// Longest password, in bytes of UTF-8.
const MAX_BYTES: u64 = 1024;

/// `portcullis hash-password`
pub(crate) fn hash(arguments: &HashPassword) -> Result<ExitCode> {
    let password = match &arguments.password_file {
        Some(path) => read_file(path)?,
        None => read(io::stdin().lock()).context("cannot read a password from standard input")?,
    };
    terminal::line(&hash_password(&password, Argon2Params::default())?)?;
    Ok(ExitCode::SUCCESS)
}

/// Reads a password from a file; one line break at the end does not count.
pub(crate) fn read_file(path: &Path) -> Result<SecretString> {
    let file = File::open(path)
        .with_context(|| format!("cannot open the password file {}", path.display()))?;
    read(file).with_context(|| format!("cannot read a password from {}", path.display()))
}

fn read(source: impl Read) -> Result<SecretString> {
    let mut bytes = Zeroizing::new(Vec::new());
    source.take(MAX_BYTES + 2).read_to_end(&mut bytes)?;
    let Ok(text) = std::str::from_utf8(&bytes) else {
        bail!("the password is not UTF-8")
    };
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    ensure!(!text.is_empty(), "the password is empty");
    ensure!(
        text.len() as u64 <= MAX_BYTES,
        "the password is longer than {MAX_BYTES} bytes"
    );
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn one_line_break_does_not_count() {
        for (file, password) in [
            ("pass", "pass"),
            ("pass\n", "pass"),
            ("pass\r\n", "pass"),
            (" p \n\n", " p \n"),
        ] {
            assert_eq!(read(file.as_bytes()).unwrap().expose_secret(), password);
        }
    }

    #[test]
    fn what_cannot_be_a_password_is_refused() {
        for file in [&b""[..], b"\n", b"\xff", "x".repeat(1025).as_bytes()] {
            assert!(read(file).is_err(), "{file:?}");
        }
        assert!(read("x".repeat(1024).as_bytes()).is_ok());
    }
}
