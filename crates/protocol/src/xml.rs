//! A small, strict, lossless-enough XML tree: elements, attributes and text, nothing else.

use thiserror::Error;
use zeroize::Zeroizing;

/// Bounds on a document. Exceeding one is an error, never a truncation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest document in bytes.
    pub bytes: usize,
    /// Deepest nesting of elements, the root being depth 1.
    pub depth: usize,
    /// Most elements and text runs in all.
    pub nodes: usize,
    /// Most attributes on one element.
    pub attributes: usize,
}

impl Default for Limits {
    /// 64 KiB, 16 deep, 4096 nodes, 32 attributes: far above any message seen, far below harm.
    fn default() -> Self {
        Self {
            bytes: 64 * 1024,
            depth: 16,
            nodes: 4096,
            attributes: 32,
        }
    }
}

/// One element with everything it holds, in document order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Tag name as written, prefix included.
    pub name: String,
    /// Attributes in document order.
    pub attributes: Vec<(String, String)>,
    /// Children in document order.
    pub children: Vec<Node>,
}

/// A child of an element.
#[derive(Clone, PartialEq, Eq)]
pub enum Node {
    /// A nested element.
    Element(Element),
    /// Character data, unescaped. Wiped on drop, since any text may be a password.
    Text(Zeroizing<String>),
}

/// Why a document was refused.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseXmlError {
    /// Larger than [`Limits::bytes`].
    #[error("the document is larger than {limit} bytes")]
    TooLong {
        /// The limit in force.
        limit: usize,
    },
    /// A document type declaration, which this protocol never needs and which can hide entity attacks.
    #[error("the document has a DOCTYPE")]
    Doctype,
    // further variants: TooDeep, TooManyNodes, TooManyAttributes, NotUtf8, Malformed{position, …}, UnknownEntity, DuplicateAttribute, NoRoot, TrailingContent …
}

/// Parses one document.
///
/// # Errors
/// See [`ParseXmlError`].
pub fn parse(document: &[u8], limits: &Limits) -> Result<Element, ParseXmlError> {
    let _ = (document, limits);
    todo!()
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Element(element) => element.fmt(f),
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
        }
    }
}

impl Element {
    /// An empty element.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// The document as UTF-8 bytes with an XML declaration. Wiped on drop.
    #[must_use]
    pub fn to_document(&self) -> Zeroizing<Vec<u8>> {
        todo!()
    }
}
