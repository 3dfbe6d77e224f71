//! Why a document is not a message.

use thiserror::Error;

use crate::xml::ParseXmlError;

/// Longest piece of a document that an error repeats, in bytes.
const SHOWN_BYTES: usize = 32;

/// Why a document is not a broker or agent message.
///
/// Paths name elements from the message down, `/`-separated, attributes with `@`. Values are never repeated, since one of
/// them is the password; names are, shortened.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseMessageError {
    /// Not acceptable XML.
    #[error("the document is not acceptable XML")]
    Xml(#[from] ParseXmlError),
    /// The root is none of this protocol's.
    #[error("the root element is {found:?}, not {expected:?}")]
    Root {
        /// What stands there, shortened.
        found: String,
        /// What should stand there.
        expected: &'static str,
    },
    /// The root has no `version`, or one this protocol does not have.
    #[error("the version of the protocol is absent or malformed")]
    Version,
    /// The root does not hold exactly one message.
    #[error("the document holds {found} messages instead of one")]
    MessageCount {
        /// How many there are.
        found: usize,
    },
    /// A message this protocol does not have, where one cannot be relayed unread.
    #[error("the message {found:?} is not known")]
    UnknownMessage {
        /// Its name, shortened.
        found: String,
    },
    /// Something a message cannot do without is not there.
    #[error("{path} is missing")]
    MissingElement {
        /// What is missing.
        path: String,
    },
    /// An element that may stand once stands twice, so that its value is ambiguous.
    #[error("{path} is given more than once")]
    DuplicateElement {
        /// What is doubled.
        path: String,
    },
    /// A value outside its range, alphabet or length.
    #[error("the value of {path} is not acceptable: {problem}")]
    InvalidValue {
        /// Where it stands.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// The start of a name, for an error.
pub(crate) fn shortened(name: &str) -> String {
    let mut end = name.len().min(SHOWN_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let start = name.get(..end).unwrap_or_default();
    if end < name.len() {
        format!("{start}…")
    } else {
        start.to_owned()
    }
}
