//! What is wrong with a configuration: where, what, and what to do.

use std::{fmt, ops::Range, path::PathBuf};

/// One mistake in a configuration file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    /// The file.
    pub(crate) file: PathBuf,
    /// Line, counted from 1; `None` when the file could not be read.
    pub(crate) line: Option<usize>,
    /// The key, with its sections, such as `security_gateway.public_addresses`.
    pub(crate) key: String,
    /// What is wrong.
    pub(crate) problem: String,
    /// What to do.
    pub(crate) remedy: String,
}

/// A mistake at a place of the text, before the line is counted.
#[derive(Debug)]
pub(super) struct Mistake {
    pub(super) at: Range<usize>,
    pub(super) key: String,
    pub(super) problem: String,
    pub(super) remedy: String,
}

impl Mistake {
    pub(super) fn new(
        at: Range<usize>,
        key: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            at,
            key: key.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    pub(super) fn located(self, file: PathBuf, text: &str) -> ConfigError {
        ConfigError {
            file,
            line: Some(line_of(text, self.at.start)),
            key: self.key,
            problem: self.problem,
            remedy: self.remedy,
        }
    }
}

/// The line a byte offset is on, counted from 1.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    1 + text
        .bytes()
        .take(offset)
        .filter(|byte| *byte == b'\n')
        .count()
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}; {}", self.problem, self.remedy)
    }
}

impl std::error::Error for ConfigError {}
