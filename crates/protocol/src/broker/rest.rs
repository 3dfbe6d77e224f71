//! What a typed message does not know, kept so that it can be written back.

use std::fmt;

use crate::xml::{AttributeNames, Element};

/// Unknown attributes and children of one element, with the places they stood at.
///
/// Attribute values are not shown by `Debug`, since a method we do not know may put a secret there.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Rest {
    /// Unknown attributes, in order.
    pub attributes: Vec<(String, String)>,
    /// Unknown children, each with its index among the element's children.
    pub children: Vec<(usize, Element)>,
    /// Unknown parts *inside* known children that have no [`Rest`] of their own: attributes of a plain text element such
    /// as `hostname`, and whatever a list such as `caps` holds beside its items. Each is the known child without the
    /// texts that became fields; on writing it is filled again. Empty for documents without such extras.
    pub nested: Vec<Element>,
}

impl Rest {
    /// Whether nothing unknown was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.attributes.is_empty() && self.children.is_empty() && self.nested.is_empty()
    }
}

impl fmt::Debug for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rest")
            .field("attributes", &AttributeNames(&self.attributes))
            .field("children", &self.children)
            .field("nested", &self.nested)
            .finish()
    }
}
