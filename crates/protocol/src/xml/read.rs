//! From bytes to a tree.

use quick_xml::{
    Reader,
    errors::{Error, IllFormedError, SyntaxError},
    events::{BytesDecl, BytesStart, Event, attributes::AttrError},
};
use zeroize::Zeroizing;

use super::{
    Element, Limits, Node, ParseXmlError,
    characters::{is_allowed, is_name, is_space},
    push_wiped,
};

const BYTE_ORDER_MARK: char = '\u{feff}';

/// Parses one document.
///
/// # Errors
/// See [`ParseXmlError`].
pub fn parse(document: &[u8], limits: &Limits) -> Result<Element, ParseXmlError> {
    if document.len() > limits.bytes {
        return Err(ParseXmlError::TooLong {
            limit: limits.bytes,
        });
    }
    let text = std::str::from_utf8(document).map_err(|error| ParseXmlError::NotUtf8 {
        position: error.valid_up_to(),
    })?;
    let body = text
        .strip_prefix(BYTE_ORDER_MARK)
        .unwrap_or(text)
        .trim_start_matches(is_space);
    let skipped = text.len() - body.len();
    if let Some((index, _)) = body
        .char_indices()
        .find(|(_, character)| !is_allowed(*character))
    {
        return Err(ParseXmlError::InvalidCharacter {
            position: skipped + index,
        });
    }

    let mut reader = Reader::from_str(body);
    reader.config_mut().check_comments = true;
    let mut builder = Builder::new(limits);
    loop {
        let offset = reader.buffer_position();
        let position = skipped + usize::try_from(offset).unwrap_or(usize::MAX - skipped);
        let event = match reader.read_event() {
            Ok(event) => event,
            Err(error) => {
                let at = usize::try_from(reader.error_position()).unwrap_or(0);
                return Err(reader_error(&error, skipped.saturating_add(at)));
            }
        };
        match event {
            Event::Start(start) => builder.open(&start, position)?,
            Event::Empty(start) => {
                builder.open(&start, position)?;
                builder.close();
            }
            Event::End(_) => builder.close(),
            Event::Text(text) => {
                if text.contains("]]>") {
                    return Err(malformed(position, "\"]]>\" stands in text"));
                }
                builder.text(&text, position)?;
            }
            Event::CData(text) => builder.cdata(&text, position)?,
            Event::GeneralRef(reference) => {
                let character = resolve(&reference).map_err(|problem| problem.at(position))?;
                builder.reference(character, position)?;
            }
            Event::Comment(_) => builder.count()?,
            Event::PI(instruction) => {
                builder.count()?;
                if !is_name(instruction.target())
                    || instruction.target().eq_ignore_ascii_case("xml")
                {
                    return Err(malformed(
                        position,
                        "the name of a processing instruction is not allowed",
                    ));
                }
            }
            Event::Decl(declaration) => {
                if offset != 0 {
                    return Err(malformed(
                        position,
                        "the XML declaration is not at the start",
                    ));
                }
                check_declaration(&declaration, position)?;
            }
            Event::DocType(_) => return Err(ParseXmlError::Doctype),
            Event::Eof => return builder.finish(position),
        }
    }
}

fn malformed(position: usize, problem: &'static str) -> ParseXmlError {
    ParseXmlError::Malformed { position, problem }
}

/// The tree under construction: the open elements, and the root once it is closed.
struct Builder<'a> {
    limits: &'a Limits,
    nodes: usize,
    open: Vec<Element>,
    root: Option<Element>,
}

impl<'a> Builder<'a> {
    fn new(limits: &'a Limits) -> Self {
        Self {
            limits,
            nodes: 0,
            open: Vec::new(),
            root: None,
        }
    }

    fn count(&mut self) -> Result<(), ParseXmlError> {
        self.nodes += 1;
        if self.nodes > self.limits.nodes {
            return Err(ParseXmlError::TooManyNodes {
                limit: self.limits.nodes,
            });
        }
        Ok(())
    }

    fn open(&mut self, start: &BytesStart<'_>, position: usize) -> Result<(), ParseXmlError> {
        if self.root.is_some() {
            return Err(ParseXmlError::TrailingContent { position });
        }
        if self.open.len() >= self.limits.depth {
            return Err(ParseXmlError::TooDeep {
                limit: self.limits.depth,
            });
        }
        self.count()?;
        let name = start.name().into_inner();
        if !is_name(name) {
            return Err(malformed(position, "an element's name is not a name"));
        }
        self.open.push(Element {
            name: name.to_owned(),
            attributes: attributes(start, self.limits, position)?,
            children: Vec::new(),
        });
        Ok(())
    }

    /// Closes the innermost element. The reader has checked that there is one and that the names match.
    fn close(&mut self) {
        let Some(mut element) = self.open.pop() else {
            return;
        };
        if element.elements().next().is_some() {
            element.children.retain(|node| match node {
                Node::Element(_) => true,
                Node::Text(text) => !text.chars().all(is_space),
            });
        }
        match self.open.last_mut() {
            Some(parent) => parent.children.push(Node::Element(element)),
            None => self.root = Some(element),
        }
    }

    /// Literal text, with line ends as XML wants them (section 2.11).
    fn text(&mut self, text: &str, position: usize) -> Result<(), ParseXmlError> {
        if self.open.is_empty() && text.chars().all(is_space) {
            return Ok(());
        }
        let mut lines = text.split("\r\n").flat_map(|part| part.split('\r'));
        let first = lines.next().unwrap_or_default();
        self.append(first, position)?;
        for line in lines {
            self.append("\n", position)?;
            self.append(line, position)?;
        }
        Ok(())
    }

    fn cdata(&mut self, text: &str, position: usize) -> Result<(), ParseXmlError> {
        if self.open.is_empty() {
            return Err(self.outside(position));
        }
        self.text(text, position)
    }

    fn reference(&mut self, character: char, position: usize) -> Result<(), ParseXmlError> {
        self.append(character.encode_utf8(&mut [0; 4]), position)
    }

    fn append(&mut self, text: &str, position: usize) -> Result<(), ParseXmlError> {
        let Some(element) = self.open.last_mut() else {
            return Err(self.outside(position));
        };
        if text.is_empty() {
            return Ok(());
        }
        if let Some(Node::Text(run)) = element.children.last_mut() {
            push_wiped(run, text);
            return Ok(());
        }
        element
            .children
            .push(Node::Text(Zeroizing::new(text.to_owned())));
        self.count()
    }

    fn outside(&self, position: usize) -> ParseXmlError {
        if self.root.is_some() {
            ParseXmlError::TrailingContent { position }
        } else {
            malformed(position, "text stands before the root element")
        }
    }

    fn finish(self, position: usize) -> Result<Element, ParseXmlError> {
        if !self.open.is_empty() {
            return Err(malformed(position, "the document ends inside an element"));
        }
        self.root.ok_or(ParseXmlError::NoRoot)
    }
}

fn attributes(
    start: &BytesStart<'_>,
    limits: &Limits,
    position: usize,
) -> Result<Vec<(String, String)>, ParseXmlError> {
    let raw = start.attributes_raw();
    let mut all = Vec::new();
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|error| attribute_error(&error, position))?;
        if all.len() >= limits.attributes {
            return Err(ParseXmlError::TooManyAttributes {
                limit: limits.attributes,
            });
        }
        let name = attribute.key.into_inner();
        if !is_name(name) {
            return Err(malformed(position, "an attribute's name is not a name"));
        }
        // The library takes `a="1"b="2"`; XML wants white space between attributes.
        let index = (name.as_ptr() as usize).wrapping_sub(raw.as_ptr() as usize);
        if !raw
            .get(..index)
            .is_some_and(|before| before.ends_with(is_space))
        {
            return Err(malformed(
                position,
                "white space is missing between attributes",
            ));
        }
        let value = attribute_value(&attribute.value, position)?;
        all.push((name.to_owned(), value));
    }
    Ok(all)
}

/// Unescapes and normalises (section 3.3.3): literal white space becomes a space, references stay what they name.
fn attribute_value(raw: &str, position: usize) -> Result<String, ParseXmlError> {
    let mut value = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(character) = rest.chars().next() {
        rest = rest.get(character.len_utf8()..).unwrap_or_default();
        match character {
            '<' => return Err(malformed(position, "\"<\" stands in an attribute value")),
            '&' => {
                let Some((reference, after)) = rest.split_once(';') else {
                    return Err(malformed(position, "a reference is not closed"));
                };
                value.push(resolve(reference).map_err(|problem| problem.at(position))?);
                rest = after;
            }
            '\r' => {
                rest = rest.strip_prefix('\n').unwrap_or(rest);
                value.push(' ');
            }
            '\t' | '\n' => value.push(' '),
            other => value.push(other),
        }
    }
    Ok(value)
}

enum BadReference {
    Unknown,
    Invalid,
}

impl BadReference {
    fn at(self, position: usize) -> ParseXmlError {
        match self {
            Self::Unknown => ParseXmlError::UnknownEntity { position },
            Self::Invalid => ParseXmlError::InvalidCharacter { position },
        }
    }
}

/// What stands between `&` and `;`: one of the five predefined entities or a numeric reference.
fn resolve(reference: &str) -> Result<char, BadReference> {
    let Some(number) = reference.strip_prefix('#') else {
        return match reference {
            "amp" => Ok('&'),
            "lt" => Ok('<'),
            "gt" => Ok('>'),
            "quot" => Ok('"'),
            "apos" => Ok('\''),
            _ => Err(BadReference::Unknown),
        };
    };
    let (digits, radix) = match number.strip_prefix('x') {
        Some(digits) => (digits, 16),
        None => (number, 10),
    };
    // `from_str_radix` alone would take a sign.
    if !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(BadReference::Invalid);
    }
    u32::from_str_radix(digits, radix)
        .ok()
        .and_then(char::from_u32)
        .filter(|character| is_allowed(*character))
        .ok_or(BadReference::Invalid)
}

fn check_declaration(declaration: &BytesDecl<'_>, position: usize) -> Result<(), ParseXmlError> {
    match declaration.version() {
        Ok(version) if version.starts_with("1.") => {}
        Ok(_) => return Err(malformed(position, "the XML version is not 1.0")),
        Err(_) => return Err(malformed(position, "the XML declaration has no version")),
    }
    match declaration.encoding() {
        None => Ok(()),
        Some(Ok(name))
            if name.eq_ignore_ascii_case("utf-8") || name.eq_ignore_ascii_case("us-ascii") =>
        {
            Ok(())
        }
        Some(Ok(_)) => Err(ParseXmlError::Encoding),
        Some(Err(error)) => Err(attribute_error(&error, position)),
    }
}

fn attribute_error(error: &AttrError, position: usize) -> ParseXmlError {
    match error {
        AttrError::Duplicated(..) => ParseXmlError::DuplicateAttribute { position },
        AttrError::ExpectedEq(_) => malformed(position, "an attribute has no \"=\""),
        AttrError::ExpectedValue(_) => malformed(position, "an attribute has no value"),
        AttrError::UnquotedValue(_) => malformed(position, "an attribute value is not quoted"),
        AttrError::ExpectedQuote(..) => {
            malformed(position, "an attribute value has no closing quote")
        }
    }
}

fn reader_error(error: &Error, position: usize) -> ParseXmlError {
    let problem = match error {
        Error::Syntax(SyntaxError::UnclosedDoctype)
        | Error::IllFormed(IllFormedError::MissingDoctypeName) => {
            return ParseXmlError::Doctype;
        }
        Error::Syntax(_) => "markup is not closed or not known",
        Error::IllFormed(IllFormedError::MismatchedEndTag { .. }) => {
            "an end tag does not match its start tag"
        }
        Error::IllFormed(IllFormedError::UnmatchedEndTag(_)) => "an end tag has no start tag",
        Error::IllFormed(IllFormedError::DoubleHyphenInComment) => "\"--\" stands in a comment",
        Error::IllFormed(IllFormedError::UnclosedReference) => "a reference is not closed",
        Error::IllFormed(_)
        | Error::Io(_)
        | Error::InvalidAttr(_)
        | Error::Encoding(_)
        | Error::Escape(_)
        | Error::Namespace(_) => "the markup is not well-formed",
    };
    malformed(position, problem)
}
