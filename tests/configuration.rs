//! `portcullis config check` on good and bad files: each bad one has the message it must give beside it.

use std::{ffi::OsStr, fs, path::Path};

use anyhow::{Context as _, Result, ensure};

use crate::support::{Test, portcullis, root};

/// The tests of this file.
pub(crate) const TESTS: &[(&str, Test)] = &[
    ("configuration::good_files_are_taken", good_files_are_taken),
    (
        "configuration::bad_files_name_line_key_and_remedy",
        bad_files_name_line_key_and_remedy,
    ),
    (
        "configuration::the_examples_of_the_page_are_good",
        the_examples_of_the_page_are_good,
    ),
];

fn good_files_are_taken() -> Result<()> {
    for file in files("valid")? {
        let (code, said) = check(&root().join("tests/config/valid"), &file)?;
        ensure!(code == Some(0), "{file} is refused:\n{said}");
    }
    Ok(())
}

fn bad_files_name_line_key_and_remedy() -> Result<()> {
    let folder = root().join("tests/config/invalid");
    for file in files("invalid")? {
        let (code, said) = check(&folder, &file)?;
        let expected = fs::read_to_string(folder.join(&file).with_extension("txt"))
            .with_context(|| format!("no expected message beside {file}; it says:\n{said}"))?;
        ensure!(code == Some(1), "{file} gives {code:?}:\n{said}");
        ensure!(
            said == expected,
            "{file} says\n{said}\ninstead of\n{expected}"
        );
    }
    Ok(())
}

/// Every TOML block of the configuration page is a whole file.
fn the_examples_of_the_page_are_good() -> Result<()> {
    let page = fs::read_to_string(root().join("docs/configuration.md"))?;
    let blocks: Vec<&str> = page
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    ensure!(!blocks.is_empty(), "no examples");
    for block in blocks {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("example.toml"), block)?;
        let (code, said) = check(folder.path(), "example.toml")?;
        ensure!(code == Some(0), "{block}\nis refused:\n{said}");
    }
    Ok(())
}

fn files(kind: &str) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root().join("tests/config").join(kind))? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("toml")) {
            files.push(
                path.file_name()
                    .context("a name")?
                    .to_string_lossy()
                    .into_owned(),
            );
        }
    }
    ensure!(!files.is_empty(), "no {kind} files");
    files.sort();
    Ok(files)
}

/// Exit code and standard error of a check from inside a folder.
fn check(folder: &Path, file: &str) -> Result<(Option<i32>, String)> {
    let output = portcullis(&["config", "check", "--config", file])
        .current_dir(folder)
        .output()?;
    Ok((output.status.code(), String::from_utf8(output.stderr)?))
}
