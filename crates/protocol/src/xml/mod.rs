//! A small, strict XML tree: elements, attributes and text, nothing else.
//!
//! Reading is stricter than most libraries and more patient than XML itself in one point: a byte order mark and white
//! space may stand before the XML declaration, since clients exist that send it. Comments and processing instructions are
//! skipped, CDATA sections become text. White space between elements is dropped; the text of an element without element
//! children is kept exactly, since a password may begin or end with a space.
//!
//! Secrets: text is wiped on drop and never shown by `Debug`; attribute values are not shown either, but not wiped.

mod characters;
mod read;
mod write;

use std::fmt;

use thiserror::Error;
use zeroize::Zeroizing;

pub use read::parse;

/// Bounds on a document. Exceeding one is an error, never a truncation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest document in bytes.
    pub bytes: usize,
    /// Deepest nesting of elements, the root being depth 1.
    pub depth: usize,
    /// Most elements, text runs, comments and processing instructions in all.
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
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Element {
    /// Tag name as written, prefix included.
    pub name: String,
    /// Attributes in document order, values unescaped.
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
///
/// Positions are byte offsets from the start of the document. No variant carries text of the document, which may hold a
/// password.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseXmlError {
    /// Larger than [`Limits::bytes`].
    #[error("the document is larger than {limit} bytes")]
    TooLong {
        /// The limit in force.
        limit: usize,
    },
    /// Elements nested deeper than [`Limits::depth`].
    #[error("elements are nested deeper than {limit} levels")]
    TooDeep {
        /// The limit in force.
        limit: usize,
    },
    /// More nodes than [`Limits::nodes`].
    #[error("the document has more than {limit} nodes")]
    TooManyNodes {
        /// The limit in force.
        limit: usize,
    },
    /// One element has more attributes than [`Limits::attributes`].
    #[error("an element has more than {limit} attributes")]
    TooManyAttributes {
        /// The limit in force.
        limit: usize,
    },
    /// A document type declaration, which this protocol never needs and which can hide entity attacks.
    #[error("the document has a DOCTYPE")]
    Doctype,
    /// Bytes that are not UTF-8.
    #[error("the document is not UTF-8 at byte {position}")]
    NotUtf8 {
        /// First offending byte.
        position: usize,
    },
    /// The XML declaration names an encoding other than UTF-8 or US-ASCII.
    #[error("the document declares an encoding other than UTF-8")]
    Encoding,
    /// A reference to an entity other than the five predefined ones.
    #[error("an unknown entity is referred to at byte {position}")]
    UnknownEntity {
        /// The ampersand, or the tag that holds it.
        position: usize,
    },
    /// A character XML does not allow, written out or as a numeric reference such as `&#0;`.
    #[error("a character that XML does not allow stands at byte {position}")]
    InvalidCharacter {
        /// The character, its reference, or the tag that holds it.
        position: usize,
    },
    /// The same attribute twice on one element.
    #[error("an attribute is given twice at byte {position}")]
    DuplicateAttribute {
        /// The tag.
        position: usize,
    },
    /// No element at all.
    #[error("the document has no root element")]
    NoRoot,
    /// Something other than comments and white space after the root element.
    #[error("content follows the root element at byte {position}")]
    TrailingContent {
        /// Where it starts.
        position: usize,
    },
    /// Not well-formed in any other way.
    #[error("the document is not well-formed at byte {position}: {problem}")]
    Malformed {
        /// Where it was noticed.
        position: usize,
        /// What is wrong.
        problem: &'static str,
    },
}

impl Element {
    /// An empty element. `name` is to be an XML name; characters that are none are written as `_`.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// An element around one text; no text node when `text` is empty.
    #[must_use]
    pub fn with_text(name: impl Into<String>, text: &str) -> Self {
        let mut element = Self::new(name);
        if !text.is_empty() {
            element
                .children
                .push(Node::Text(Zeroizing::new(text.to_owned())));
        }
        element
    }

    /// Adds an attribute.
    #[must_use]
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.push((name.into(), value.into()));
        self
    }

    /// Adds a nested element at the end.
    #[must_use]
    pub fn child(mut self, child: Self) -> Self {
        self.children.push(Node::Element(child));
        self
    }

    /// The value of an attribute, by its name as written.
    #[must_use]
    pub fn attribute_value(&self, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The nested elements, in order.
    pub fn elements(&self) -> impl Iterator<Item = &Self> {
        self.children.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// The first nested element of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Self> {
        self.elements().find(|element| element.name == name)
    }

    /// The element's own text, all runs joined; that of nested elements is not included.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        let mut all = Zeroizing::new(String::new());
        for node in &self.children {
            match node {
                Node::Text(text) => push_wiped(&mut all, text),
                Node::Element(_) => {}
            }
        }
        all
    }

    /// The document as UTF-8 bytes with an XML declaration. Wiped on drop.
    ///
    /// Characters that XML cannot express (such as U+0000) are written as U+FFFD.
    #[must_use]
    pub fn to_document(&self) -> Zeroizing<Vec<u8>> {
        write::document(self)
    }
}

impl fmt::Debug for Element {
    /// Names and sizes only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Element")
            .field("name", &self.name)
            .field("attributes", &AttributeNames(&self.attributes))
            .field("children", &self.children)
            .finish()
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Element(element) => element.fmt(f),
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
        }
    }
}

/// Fuzz entry: whatever is read, is written so that it reads the same.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    if let Ok(tree) = parse(data, &Limits::default()) {
        assert_eq!(parse(&tree.to_document(), &REREAD_LIMITS), Ok(tree));
    }
}

/// Limits for reading again what was written after reading under any of the others: escaping makes it longer.
pub(crate) const REREAD_LIMITS: Limits = Limits {
    bytes: 16 * 1024 * 1024,
    depth: 16,
    nodes: 128 * 1024,
    attributes: 32,
};

/// Shows the names of attributes and hides their values, which may be secrets of a method we do not know.
pub(crate) struct AttributeNames<'a>(pub(crate) &'a [(String, String)]);

impl fmt::Debug for AttributeNames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

/// Appends without leaving an unwiped copy behind when the buffer has to grow.
pub(crate) fn push_wiped(buffer: &mut Zeroizing<String>, more: &str) {
    let needed = buffer.len().saturating_add(more.len());
    if needed > buffer.capacity() {
        let mut larger = Zeroizing::new(String::with_capacity(needed.saturating_mul(2)));
        larger.push_str(buffer);
        *buffer = larger;
    }
    buffer.push_str(more);
}

#[cfg(test)]
mod tests;
