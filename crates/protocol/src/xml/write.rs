//! From a tree to bytes.

use zeroize::Zeroizing;

use super::{
    Element, Node,
    characters::{continues_name, is_allowed, starts_name},
};

const DECLARATION: &str = r#"<?xml version="1.0" encoding="UTF-8"?>"#;

pub(super) fn document(root: &Element) -> Zeroizing<Vec<u8>> {
    // The length is counted first, so that the buffer never grows and leaves unwiped copies behind.
    let mut length = Length(0);
    write_document(root, &mut length);
    let mut bytes = Zeroizing::new(Vec::with_capacity(length.0));
    write_document(root, &mut *bytes);
    bytes
}

/// Where the writer puts its output.
trait Sink {
    fn push(&mut self, text: &str);
}

struct Length(usize);

impl Sink for Length {
    fn push(&mut self, text: &str) {
        self.0 += text.len();
    }
}

impl Sink for Vec<u8> {
    fn push(&mut self, text: &str) {
        self.extend_from_slice(text.as_bytes());
    }
}

fn write_document(root: &Element, sink: &mut impl Sink) {
    sink.push(DECLARATION);
    write_element(root, sink);
}

fn write_element(element: &Element, sink: &mut impl Sink) {
    sink.push("<");
    write_name(&element.name, sink);
    for (name, value) in &element.attributes {
        sink.push(" ");
        write_name(name, sink);
        sink.push("=\"");
        value
            .chars()
            .for_each(|character| write_in_attribute(character, sink));
        sink.push("\"");
    }
    if element.children.is_empty() {
        sink.push("/>");
        return;
    }
    sink.push(">");
    for child in &element.children {
        match child {
            Node::Element(element) => write_element(element, sink),
            Node::Text(text) => text
                .chars()
                .for_each(|character| write_in_text(character, sink)),
        }
    }
    sink.push("</");
    write_name(&element.name, sink);
    sink.push(">");
}

/// A name made by a caller may hold anything; what is no name must not become markup.
fn write_name(name: &str, sink: &mut impl Sink) {
    if !name.chars().next().is_some_and(starts_name) {
        sink.push("_");
    }
    for character in name.chars() {
        let safe = if continues_name(character) {
            character
        } else {
            '_'
        };
        sink.push(safe.encode_utf8(&mut [0; 4]));
    }
}

/// A literal carriage return would be read back as a line feed, so it goes out as a reference.
fn write_in_text(character: char, sink: &mut impl Sink) {
    match character {
        '&' => sink.push("&amp;"),
        '<' => sink.push("&lt;"),
        '>' => sink.push("&gt;"),
        '\r' => sink.push("&#13;"),
        other => write_plain(other, sink),
    }
}

/// Literal white space other than the space would be read back as a space.
fn write_in_attribute(character: char, sink: &mut impl Sink) {
    match character {
        '"' => sink.push("&quot;"),
        '\t' => sink.push("&#9;"),
        '\n' => sink.push("&#10;"),
        other => write_in_text(other, sink),
    }
}

fn write_plain(character: char, sink: &mut impl Sink) {
    let safe = if is_allowed(character) {
        character
    } else {
        char::REPLACEMENT_CHARACTER
    };
    sink.push(safe.encode_utf8(&mut [0; 4]));
}
