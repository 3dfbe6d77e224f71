//! Takes elements apart into fields and puts them together again, losing nothing on the way.

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::{ParseMessageError, Rest};
use crate::xml::{Element, Node};

/// Longest user name, password, domain and resource id in bytes of UTF-8: generous for people, useless for floods.
pub(crate) const MAX_FIELD_BYTES: usize = 1024;

/// An element being read: known parts are taken out by name, in whatever order they stand; what is left is the [`Rest`].
pub(crate) struct Fields {
    path: String,
    attributes: Vec<(String, String)>,
    children: Vec<(usize, Element)>,
    nested: Vec<Element>,
}

impl Fields {
    /// Opens an element. `parent` is the path above it, empty for a message.
    ///
    /// Text beside child elements has no place in these protocols and no place to be kept, so it is refused.
    pub(crate) fn open(element: Element, parent: &str) -> Result<Self, ParseMessageError> {
        let path = join(parent, &element.name);
        let mut children = Vec::with_capacity(element.children.len());
        for node in element.children {
            match node {
                Node::Element(child) => children.push((children.len(), child)),
                Node::Text(text) if text.trim_ascii().is_empty() => {}
                Node::Text(_) => {
                    return Err(invalid(path, "text stands where elements are expected"));
                }
            }
        }
        Ok(Self {
            path,
            attributes: element.attributes,
            children,
            nested: Vec::new(),
        })
    }

    /// Path of the element, for errors and for opening children.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn attribute(&mut self, name: &str) -> Option<String> {
        take_attribute(&mut self.attributes, name)
    }

    /// The child of that name, `None` when absent.
    pub(crate) fn element(&mut self, name: &str) -> Result<Option<Element>, ParseMessageError> {
        let mut found = self
            .children
            .extract_if(.., |(_, child)| child.name == name);
        let first = found.next();
        let second = found.next();
        drop(found);
        if second.is_some() {
            return Err(ParseMessageError::DuplicateElement {
                path: self.path_of(name),
            });
        }
        Ok(first.map(|(_, child)| child))
    }

    /// The child of that name.
    pub(crate) fn required(&mut self, name: &str) -> Result<Element, ParseMessageError> {
        self.element(name)?.ok_or_else(|| self.missing(name))
    }

    /// All children of that name.
    pub(crate) fn elements(&mut self, name: &str) -> Vec<Element> {
        self.children
            .extract_if(.., |(_, child)| child.name == name)
            .map(|(_, child)| child)
            .collect()
    }

    /// The text of the child of that name, `None` when absent.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, ParseMessageError> {
        let text = self.zeroizing_text(name)?;
        Ok(text.map(|mut text| std::mem::take(&mut *text)))
    }

    /// The text of the child of that name.
    pub(crate) fn required_text(&mut self, name: &str) -> Result<String, ParseMessageError> {
        self.text(name)?.ok_or_else(|| self.missing(name))
    }

    /// A text of at most [`MAX_FIELD_BYTES`].
    pub(crate) fn bounded_text(&mut self, name: &str) -> Result<Option<String>, ParseMessageError> {
        let text = self.text(name)?;
        if text
            .as_ref()
            .is_some_and(|text| text.len() > MAX_FIELD_BYTES)
        {
            return Err(self.too_long(name));
        }
        Ok(text)
    }

    /// A required text of at most [`MAX_FIELD_BYTES`].
    pub(crate) fn required_bounded_text(
        &mut self,
        name: &str,
    ) -> Result<String, ParseMessageError> {
        self.bounded_text(name)?.ok_or_else(|| self.missing(name))
    }

    /// A required secret of at most [`MAX_FIELD_BYTES`]; no unwiped copy of it stays behind.
    pub(crate) fn required_secret(
        &mut self,
        name: &str,
    ) -> Result<SecretString, ParseMessageError> {
        let text = self
            .zeroizing_text(name)?
            .ok_or_else(|| self.missing(name))?;
        if text.len() > MAX_FIELD_BYTES {
            return Err(self.too_long(name));
        }
        // From a `&str`, whose copy has no spare capacity: shrinking one could leave the old allocation unwiped.
        Ok(SecretString::from(text.as_str()))
    }

    /// A text that must satisfy `convert`; an empty element counts as an absent one.
    pub(crate) fn converted<T>(
        &mut self,
        name: &str,
        problem: &'static str,
        convert: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ParseMessageError> {
        self.discard_blank(name);
        match self.zeroizing_text(name)? {
            None => Ok(None),
            Some(text) => match convert(&text) {
                Some(value) => Ok(Some(value)),
                None => Err(invalid(self.path_of(name), problem)),
            },
        }
    }

    /// Removes the only child of that name if it holds nothing but white space, as if it had never been there.
    pub(crate) fn discard_blank(&mut self, name: &str) {
        let mut places = self.children.iter().filter(|(_, child)| child.name == name);
        let (Some((index, child)), None) = (places.next(), places.next()) else {
            return;
        };
        let blank = child.children.iter().all(|node| match node {
            Node::Element(_) => false,
            Node::Text(text) => text.trim_ascii().is_empty(),
        });
        if !blank {
            return;
        }
        let discarded = *index;
        self.children.retain(|(index, _)| *index != discarded);
        for (index, _) in &mut self.children {
            if *index > discarded {
                *index -= 1;
            }
        }
    }

    /// The items of a list element (`<wrapper><item/>…</wrapper>`), `None` when the wrapper is absent. What else the
    /// wrapper holds is kept for [`Composer::list`].
    pub(crate) fn list<T>(
        &mut self,
        wrapper: &str,
        item: &str,
        mut read: impl FnMut(&mut Element, &str) -> Result<T, ParseMessageError>,
    ) -> Result<Option<Vec<T>>, ParseMessageError> {
        let Some(mut element) = self.element(wrapper)? else {
            return Ok(None);
        };
        let path = self.path_of(wrapper);
        let mut items = Vec::new();
        let mut has_extras = !element.attributes.is_empty();
        for node in &mut element.children {
            match node {
                Node::Element(child) if child.name == item => {
                    items.push(read(child, &path)?);
                    has_extras |= !child.attributes.is_empty() || !child.children.is_empty();
                }
                Node::Element(_) => has_extras = true,
                Node::Text(text) if text.trim_ascii().is_empty() => {}
                Node::Text(_) => {
                    return Err(invalid(path, "text stands where elements are expected"));
                }
            }
        }
        if has_extras {
            element
                .children
                .retain(|node| matches!(node, Node::Element(_)));
            self.nested.push(element);
        }
        Ok(Some(items))
    }

    /// A list of plain texts, `None` when the wrapper is absent.
    pub(crate) fn texts(
        &mut self,
        wrapper: &str,
        item: &str,
    ) -> Result<Option<Vec<String>>, ParseMessageError> {
        self.list(wrapper, item, |element, path| {
            take_text(element, path).map(|mut text| std::mem::take(&mut *text))
        })
    }

    /// Turns an absent list into an empty one; that an empty one was there is kept for [`Composer::list`].
    pub(crate) fn or_empty<T>(&mut self, wrapper: &str, items: Option<Vec<T>>) -> Vec<T> {
        let was_empty = items.as_ref().is_some_and(Vec::is_empty);
        if was_empty && !self.nested.iter().any(|element| element.name == wrapper) {
            self.nested.push(Element::new(wrapper));
        }
        items.unwrap_or_default()
    }

    /// A list of plain texts, empty when the wrapper is absent.
    pub(crate) fn texts_or_empty(
        &mut self,
        wrapper: &str,
        item: &str,
    ) -> Result<Vec<String>, ParseMessageError> {
        let texts = self.texts(wrapper, item)?;
        Ok(self.or_empty(wrapper, texts))
    }

    /// Keeps extras of a known child that the caller took apart itself.
    pub(crate) fn keep_nested(&mut self, element: Element) {
        if !element.attributes.is_empty() || !element.children.is_empty() {
            self.nested.push(element);
        }
    }

    /// Everything that was not taken.
    pub(crate) fn rest(self) -> Rest {
        Rest {
            attributes: self.attributes,
            children: self.children,
            nested: self.nested,
        }
    }

    pub(crate) fn missing(&self, name: &str) -> ParseMessageError {
        ParseMessageError::MissingElement {
            path: self.path_of(name),
        }
    }

    fn too_long(&self, name: &str) -> ParseMessageError {
        invalid(self.path_of(name), "longer than 1024 bytes")
    }

    fn zeroizing_text(
        &mut self,
        name: &str,
    ) -> Result<Option<Zeroizing<String>>, ParseMessageError> {
        let Some(mut element) = self.element(name)? else {
            return Ok(None);
        };
        let text = take_text(&mut element, &self.path)?;
        self.keep_nested(element);
        Ok(Some(text))
    }

    fn path_of(&self, name: &str) -> String {
        join(&self.path, name)
    }
}

/// Takes the text out of an element that must hold nothing but text; `parent` is the path above it.
pub(crate) fn take_text(
    element: &mut Element,
    parent: &str,
) -> Result<Zeroizing<String>, ParseMessageError> {
    if element.elements().next().is_some() {
        return Err(invalid(
            join(parent, &element.name),
            "elements stand where text is expected",
        ));
    }
    let text = element.text();
    element.children.clear();
    Ok(text)
}

/// Takes an attribute out.
pub(crate) fn take_attribute(attributes: &mut Vec<(String, String)>, name: &str) -> Option<String> {
    let index = attributes.iter().position(|(key, _)| key == name)?;
    Some(attributes.remove(index).1)
}

pub(crate) fn invalid(path: impl Into<String>, problem: &'static str) -> ParseMessageError {
    ParseMessageError::InvalidValue {
        path: path.into(),
        problem,
    }
}

fn join(parent: &str, name: &str) -> String {
    let name = super::error::shortened(name);
    if parent.is_empty() {
        name
    } else {
        format!("{parent}/{name}")
    }
}

/// An element being written: known children in canonical order, then the [`Rest`] put back in between.
pub(crate) struct Composer<'a> {
    rest: &'a Rest,
    name: &'a str,
    attributes: Vec<(String, String)>,
    known: Vec<Element>,
}

impl<'a> Composer<'a> {
    pub(crate) fn new(name: &'a str, rest: &'a Rest) -> Self {
        Self {
            rest,
            name,
            attributes: Vec::new(),
            known: Vec::new(),
        }
    }

    pub(crate) fn attribute(mut self, name: &str, value: Option<&str>) -> Self {
        if let Some(value) = value {
            self.attributes.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// A plain text child.
    pub(crate) fn text(mut self, name: &str, text: &str) -> Self {
        let mut element = Element::with_text(name, text);
        if let Some(extras) = self.nested(name) {
            element.attributes.clone_from(&extras.attributes);
        }
        self.known.push(element);
        self
    }

    /// A plain text child that may be absent.
    pub(crate) fn optional(self, name: &str, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.text(name, text),
            None => self,
        }
    }

    /// A child that is composed elsewhere.
    pub(crate) fn element(mut self, element: Element) -> Self {
        self.known.push(element);
        self
    }

    /// A child that is composed elsewhere and may be absent.
    pub(crate) fn optional_element(self, element: Option<Element>) -> Self {
        match element {
            Some(element) => self.element(element),
            None => self,
        }
    }

    /// A list of `item` elements, written when it has items or was received empty.
    pub(crate) fn list(mut self, wrapper: &str, item: &str, items: Vec<Element>) -> Self {
        match self.nested(wrapper) {
            Some(extras) => self.known.push(refill(extras, item, items)),
            None if items.is_empty() => {}
            None => {
                let mut element = Element::new(wrapper);
                element.children = items.into_iter().map(Node::Element).collect();
                self.known.push(element);
            }
        }
        self
    }

    /// A list of plain texts.
    pub(crate) fn texts(self, wrapper: &str, item: &str, texts: &[String]) -> Self {
        let items = texts
            .iter()
            .map(|text| Element::with_text(item, text))
            .collect();
        self.list(wrapper, item, items)
    }

    /// A list of plain texts that is written even when empty.
    pub(crate) fn present_texts(mut self, wrapper: &str, item: &str, texts: &[String]) -> Self {
        if texts.is_empty() && self.nested(wrapper).is_none() {
            self.known.push(Element::new(wrapper));
            return self;
        }
        self.texts(wrapper, item, texts)
    }

    /// The extras kept for a known child.
    pub(crate) fn nested(&self, name: &str) -> Option<&'a Element> {
        self.rest.nested.iter().find(|element| element.name == name)
    }

    /// The element, the unknown children back at their indices as far as there are enough known ones.
    pub(crate) fn finish(self) -> Element {
        let mut attributes = self.attributes;
        merge_attributes(&mut attributes, &self.rest.attributes);
        let mut children: Vec<Node> =
            Vec::with_capacity(self.known.len() + self.rest.children.len());
        let mut unknown = self.rest.children.iter().peekable();
        for known in self.known {
            while let Some((_, element)) = unknown.next_if(|(index, _)| *index <= children.len()) {
                children.push(Node::Element(element.clone()));
            }
            children.push(Node::Element(known));
        }
        children.extend(unknown.map(|(_, element)| Node::Element(element.clone())));
        Element {
            name: self.name.to_owned(),
            attributes,
            children,
        }
    }
}

/// Adds the attributes that are not there yet.
pub(crate) fn merge_attributes(attributes: &mut Vec<(String, String)>, more: &[(String, String)]) {
    for (name, value) in more {
        if !attributes.iter().any(|(known, _)| known == name) {
            attributes.push((name.clone(), value.clone()));
        }
    }
}

/// Puts items back into the list they came from: each takes the place and the extra attributes of a former item, the
/// surplus follows the last of them, and what the list held beside its items stays.
fn refill(extras: &Element, item: &str, items: Vec<Element>) -> Element {
    let places = extras
        .elements()
        .filter(|element| element.name == item)
        .count();
    let mut items = items.into_iter();
    let mut children = Vec::new();
    let mut filled = 0;
    for place in extras.elements() {
        if place.name != item {
            children.push(Node::Element(place.clone()));
            continue;
        }
        filled += 1;
        if let Some(mut item) = items.next() {
            merge_attributes(&mut item.attributes, &place.attributes);
            children.push(Node::Element(item));
        }
        if filled == places {
            children.extend(items.by_ref().map(Node::Element));
        }
    }
    children.extend(items.map(Node::Element));
    Element {
        name: extras.name.clone(),
        attributes: extras.attributes.clone(),
        children,
    }
}

/// Reading and writing of an element whose known children are all optional plain texts.
macro_rules! plain_fields {
    ($type:ident { $($field:ident: $name:literal),* $(,)? }) => {
        impl $type {
            pub(crate) fn read(element: $crate::xml::Element, parent: &str) -> Result<Self, $crate::broker::ParseMessageError> {
                let mut fields = $crate::broker::fields::Fields::open(element, parent)?;
                Ok(Self {
                    $($field: fields.text($name)?,)*
                    rest: fields.rest(),
                })
            }

            pub(crate) fn write(&self, name: &str) -> $crate::xml::Element {
                $crate::broker::fields::Composer::new(name, &self.rest)
                    $(.optional($name, self.$field.as_deref()))*
                    .finish()
            }
        }
    };
}
pub(crate) use plain_fields;
