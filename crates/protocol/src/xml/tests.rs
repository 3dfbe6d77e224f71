//! What is read, what is refused, and that nothing is lost between.

use proptest::{collection::vec, prelude::*};

use super::*;

fn read(document: &str) -> Result<Element, ParseXmlError> {
    parse(document.as_bytes(), &Limits::default())
}

fn text_of(document: &str) -> String {
    read(document).unwrap().text().to_string()
}

fn malformed(document: &str) -> (usize, &'static str) {
    match read(document) {
        Err(ParseXmlError::Malformed { position, problem }) => (position, problem),
        other => panic!("{document:?} gave {other:?}"),
    }
}

#[test]
fn text_of_leaves_is_kept_and_white_space_between_elements_is_not() {
    let root = read("<a>\n  <b> x </b>\n  <c>  </c>\n<d></d><e/></a>").unwrap();
    assert_eq!(
        root,
        Element::new("a")
            .child(Element::with_text("b", " x "))
            .child(Element::with_text("c", "  "))
            .child(Element::new("d"))
            .child(Element::new("e"))
    );
}

#[test]
fn mixed_content_keeps_its_order() {
    let root = read("<a>one <b>two</b> three</a>").unwrap();
    assert_eq!(root.children.len(), 3);
    assert_eq!(*root.text(), "one  three");
    assert_eq!(root.find("b"), Some(&Element::with_text("b", "two")));
    assert_eq!(
        std::str::from_utf8(&root.to_document()).unwrap(),
        r#"<?xml version="1.0" encoding="UTF-8"?><a>one <b>two</b> three</a>"#
    );
}

#[test]
fn comments_instructions_and_cdata_vanish_into_the_text_around_them() {
    assert_eq!(
        text_of("<a>x<!-- y --><?z?>&amp;<![CDATA[<&amp;]]>&#x41;&#66;</a>"),
        "x&<&amp;AB"
    );
    assert_eq!(read("<a><![CDATA[]]></a>").unwrap(), Element::new("a"));
    assert_eq!(
        read("<!-- before --><?pi data?><a/><!-- after -->\n<?pi?> ").unwrap(),
        Element::new("a")
    );
}

#[test]
fn line_ends_are_normalised_and_references_are_not() {
    assert_eq!(
        text_of("<a>1\r\n2\r3\n4&#13;5&#13;&#10;6</a>"),
        "1\n2\n3\n4\r5\r\n6"
    );
    assert_eq!(text_of("<a>\r<![CDATA[\r\n]]>\r</a>"), "\n\n\n");
    assert_eq!(text_of("<a>\r\r\n\r</a>"), "\n\n\n");
    let root = read("<a b='1\r\n2\r3\n4\t5&#13;6&#10;7&#9;8'/>").unwrap();
    assert_eq!(root.attribute_value("b"), Some("1 2 3 4 5\r6\n7\t8"));
}

#[test]
fn the_five_entities_and_no_other() {
    assert_eq!(text_of("<a>&lt;&gt;&amp;&quot;&apos;</a>"), "<>&\"'");
    let root = read("<a b='&lt;&gt;&amp;&quot;&apos;'/>").unwrap();
    assert_eq!(root.attribute_value("b"), Some("<>&\"'"));
    for entity in ["nbsp", "AMP", "x", "", "a b"] {
        let in_text = read(&format!("<a>12&{entity};</a>"));
        assert_eq!(
            in_text,
            Err(ParseXmlError::UnknownEntity { position: 5 }),
            "{entity:?}"
        );
        let in_attribute = read(&format!(" <a b='&{entity};'/>"));
        assert_eq!(
            in_attribute,
            Err(ParseXmlError::UnknownEntity { position: 1 }),
            "{entity:?}"
        );
    }
}

#[test]
fn numeric_references_name_allowed_characters_only() {
    assert_eq!(
        text_of("<a>&#65;&#x1F511;&#x10ffff;&#xD7FF;&#9;</a>"),
        "A\u{1f511}\u{10ffff}\u{d7ff}\t"
    );
    for number in [
        "0",
        "x0",
        "8",
        "11",
        "x1F",
        "xD800",
        "xDFFF",
        "xFFFE",
        "65535",
        "x110000",
        "99999999999",
        "",
        "x",
        "+65",
        "x+41",
        "-1",
        " 65",
        "6 5",
        "X41",
    ] {
        assert_eq!(
            read(&format!("<a>&#{number};</a>")),
            Err(ParseXmlError::InvalidCharacter { position: 3 }),
            "{number:?}"
        );
        assert!(
            read(&format!("<a b='&#{number};'/>")).is_err(),
            "{number:?}"
        );
    }
}

#[test]
fn characters_xml_does_not_have() {
    for character in ['\0', '\u{8}', '\u{b}', '\u{1f}', '\u{fffe}', '\u{ffff}'] {
        for document in [
            format!("<a>{character}</a>"),
            format!("<!--{character}--><a/>"),
            format!("<a b='{character}'/>"),
        ] {
            let position = document.find(character).unwrap();
            assert_eq!(
                read(&document),
                Err(ParseXmlError::InvalidCharacter { position })
            );
        }
    }
}

#[test]
fn a_document_type_is_refused_wherever_it_stands() {
    for document in [
        "<!DOCTYPE a><a/>",
        "<!doctype a><a/>",
        "<?xml version='1.0'?><!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>",
        "<!DOCTYPE a SYSTEM 'http://192.0.2.1/'><a/>",
        "<!DOCTYPE",
        "<!DOCTYPE a [",
        "<!DOCTYPE>",
        "<a><!DOCTYPE b></a>",
        "<a/><!DOCTYPE a>",
    ] {
        assert_eq!(read(document), Err(ParseXmlError::Doctype), "{document:?}");
    }
}

#[test]
fn encodings() {
    for declaration in [
        "version='1.0'",
        "version='1.0' encoding='utf-8'",
        "version=\"1.0\" encoding=\"US-ASCII\" standalone='yes'",
        "version='1.1' encoding='UTF-8'",
    ] {
        assert!(
            read(&format!("<?xml {declaration}?><a/>")).is_ok(),
            "{declaration:?}"
        );
    }
    for encoding in ["UTF-16", "ISO-8859-1", "utf8", ""] {
        assert_eq!(
            read(&format!("<?xml version='1.0' encoding='{encoding}'?><a/>")),
            Err(ParseXmlError::Encoding),
            "{encoding:?}"
        );
    }
    let utf16: Vec<u8> = "<a/>".encode_utf16().flat_map(u16::to_be_bytes).collect();
    assert!(matches!(
        parse(&utf16, &Limits::default()),
        Err(ParseXmlError::InvalidCharacter { position: 0 })
    ));
    assert_eq!(
        parse(b"\xfe\xff\0<\0a\0/\0>", &Limits::default()),
        Err(ParseXmlError::NotUtf8 { position: 0 })
    );
    assert_eq!(
        parse(b"<a>\xc3\x28</a>", &Limits::default()),
        Err(ParseXmlError::NotUtf8 { position: 3 })
    );
}

#[test]
fn the_declaration_stands_first_if_at_all() {
    assert_eq!(malformed("<!-- x --><?xml version='1.0'?><a/>").0, 10);
    assert_eq!(
        malformed("<?xml version='1.0'?><?xml version='1.0'?><a/>").0,
        21
    );
    assert_eq!(malformed("<a><?xml version='1.0'?></a>").0, 3);
    assert_eq!(malformed("<?XML version='1.0'?><a/>").0, 0);
    assert_eq!(
        malformed("<?xml?><a/>"),
        (0, "the XML declaration has no version")
    );
    assert_eq!(
        malformed("<?xml version='2.0'?><a/>"),
        (0, "the XML version is not 1.0")
    );
    assert!(read("\u{feff} \r\n\t<?xml version='1.0'?> <a/>").is_ok());
}

#[test]
fn attributes() {
    let root = read("<a b = \"1'2\"\n\tc='3\"4' x:d=''></a>").unwrap();
    assert_eq!(
        root.attributes,
        [("b", "1'2"), ("c", "3\"4"), ("x:d", "")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    assert_eq!(
        read("<r><a b='1' c='2' b='3'/></r>"),
        Err(ParseXmlError::DuplicateAttribute { position: 3 })
    );
    for (document, problem) in [
        ("<a b/>", "an attribute has no \"=\""),
        ("<a b=/>", "an attribute has no value"),
        ("<a b=c/>", "an attribute value is not quoted"),
        (
            "<a b='1'c='2'/>",
            "white space is missing between attributes",
        ),
        ("<a b='<'/>", "\"<\" stands in an attribute value"),
        ("<a b='&amp'/>", "a reference is not closed"),
        ("<a 1='2'/>", "an attribute's name is not a name"),
        ("<a ='2'/>", "an attribute has no \"=\""),
    ] {
        assert_eq!(malformed(document), (0, problem), "{document:?}");
    }
}

#[test]
fn not_well_formed() {
    for (document, position) in [
        ("<a>", 3),
        ("<a><b></a>", 6),
        ("</a>", 0),
        ("<a></a></b>", 7),
        ("<a></A>", 3),
        ("<1a/>", 0),
        ("<a><></></a>", 3),
        ("< a/>", 0),
        ("<a>]]></a>", 3),
        ("<a>x & y</a>", 5),
        ("<a><!-- -- --></a>", 8),
        ("<a><!ELEMENT b></a>", 3),
        ("<a><?1?></a>", 3),
        ("text", 0),
        ("text<a/>", 0),
        ("&amp;<a/>", 0),
        ("<![CDATA[x]]><a/>", 0),
        ("<a", 0),
        ("<a><!-- ", 3),
    ] {
        assert_eq!(malformed(document).0, position, "{document:?}");
    }
    for document in ["", " ", "\u{feff}", "<!-- x -->", "<?xml version='1.0'?>"] {
        assert_eq!(read(document), Err(ParseXmlError::NoRoot), "{document:?}");
    }
}

#[test]
fn nothing_follows_the_root() {
    for (document, position) in [
        ("<a/><b/>", 4),
        ("<a/>text", 4),
        ("<a></a> text", 7),
        ("<a/>&amp;", 4),
        ("<a/><![CDATA[]]>", 4),
    ] {
        assert_eq!(
            read(document),
            Err(ParseXmlError::TrailingContent { position }),
            "{document:?}"
        );
    }
}

#[test]
fn limits_hold_to_the_last_one() {
    let limits = Limits {
        bytes: 60,
        depth: 3,
        nodes: 6,
        attributes: 2,
    };
    let with = |document: &str| parse(document.as_bytes(), &limits);

    let longest = format!("<a>{}</a>", "x".repeat(53));
    assert!(with(&longest).is_ok());
    assert_eq!(
        with(&format!("{longest} ")),
        Err(ParseXmlError::TooLong { limit: 60 })
    );

    assert!(with("<a><b><c/></b></a>").is_ok());
    assert_eq!(
        with("<a><b><c><d/></c></b></a>"),
        Err(ParseXmlError::TooDeep { limit: 3 })
    );
    assert_eq!(
        with("<a><b><c><d></d></c></b></a>"),
        Err(ParseXmlError::TooDeep { limit: 3 })
    );

    assert!(with("<a><b/><!----><?p?>x<c/></a>").is_ok());
    for seventh in ["<d/>", "<!---->", "<?p?>", "y", "<![CDATA[y]]>", "&lt;"] {
        assert_eq!(
            with(&format!("<a><b/><!----><?p?>x<c/>{seventh}</a>")),
            Err(ParseXmlError::TooManyNodes { limit: 6 }),
            "{seventh:?}"
        );
    }

    assert!(with("<a b='' c=''/>").is_ok());
    assert_eq!(
        with("<a b='' c='' d=''/>"),
        Err(ParseXmlError::TooManyAttributes { limit: 2 })
    );
}

#[test]
fn an_attack_of_nested_elements_costs_little() {
    let deep = "<a>".repeat(20_000);
    assert_eq!(read(&deep), Err(ParseXmlError::TooDeep { limit: 16 }));
    let wide = format!("<a>{}</a>", "<b/>".repeat(15_000));
    assert_eq!(
        read(&wide),
        Err(ParseXmlError::TooManyNodes { limit: 4096 })
    );
}

#[test]
fn what_xml_cannot_say_is_replaced() {
    let odd = Element::with_text("1 <b>", "\0x\u{ffff}").attribute("a=\"", "\u{1}");
    let written = odd.to_document();
    assert_eq!(
        std::str::from_utf8(&written).unwrap(),
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><_1__b_ a__=\"\u{fffd}\">\u{fffd}x\u{fffd}</_1__b_>"
    );
    assert!(parse(&written, &Limits::default()).is_ok());
    assert_eq!(
        std::str::from_utf8(&Element::new("").to_document()).unwrap(),
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><_/>"
    );
}

#[test]
fn the_written_buffer_never_grows() {
    let element = Element::with_text("ä", "<\r\0>").attribute("b", "\t\"&");
    let written = element.child(Element::new("c")).to_document();
    assert_eq!(written.capacity(), written.len());
}

#[test]
fn debug_output_shows_names_and_sizes_only() {
    let element = Element::with_text("password", "hunter2").attribute("hint", "hunter2");
    assert_eq!(
        format!("{element:?}"),
        r#"Element { name: "password", attributes: ["hint"], children: [Text(7 bytes)] }"#
    );
}

#[test]
fn growing_text_is_moved_and_not_reallocated() {
    let mut text = Zeroizing::new(String::new());
    let mut expected = String::new();
    for index in 0..200 {
        let piece = index.to_string();
        push_wiped(&mut text, &piece);
        expected += &piece;
    }
    assert_eq!(*text, expected);
}

/// Characters with a meaning in XML more often than others.
fn text() -> impl Strategy<Value = String> {
    let character = prop_oneof![
        4 => prop::sample::select(vec!['<', '>', '&', '"', '\'', '\t', '\n', '\r', ' ', ']', '[', ';', '#', '-', '!']),
        3 => prop::char::range('a', 'z'),
        1 => any::<char>().prop_filter("allowed in XML", |character| characters::is_allowed(*character)),
    ];
    vec(character, 1..12).prop_map(String::from_iter)
}

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z_é][a-z0-9._-]{0,8}(:[a-z]{1,4})?"
}

/// A tree as [`parse`] makes them: no two texts in a row, no white space between elements.
fn tree() -> impl Strategy<Value = Element> {
    let attributes = || {
        prop::collection::btree_map(name(), text(), 0..4)
            .prop_map(|map| map.into_iter().collect::<Vec<_>>())
    };
    let leaf =
        (name(), attributes(), prop::option::of(text())).prop_map(|(name, attributes, text)| {
            Element {
                name,
                attributes,
                children: text
                    .into_iter()
                    .map(|text| Node::Text(Zeroizing::new(text)))
                    .collect(),
            }
        });
    leaf.prop_recursive(5, 40, 6, move |inner| {
        let children = vec((inner, prop::option::of(text())), 1..6);
        (name(), attributes(), prop::option::of(text()), children).prop_map(
            |(name, attributes, first, pairs)| {
                let mut children = Vec::new();
                let add_text = |children: &mut Vec<Node>, text: Option<String>| {
                    if let Some(text) = text.filter(|text| !text.chars().all(characters::is_space))
                    {
                        children.push(Node::Text(Zeroizing::new(text)));
                    }
                };
                add_text(&mut children, first);
                for (element, text) in pairs {
                    children.push(Node::Element(element));
                    add_text(&mut children, text);
                }
                Element {
                    name,
                    attributes,
                    children,
                }
            },
        )
    })
}

proptest! {
    #[test]
    fn what_is_written_reads_the_same(tree in tree()) {
        prop_assert_eq!(read(std::str::from_utf8(&tree.to_document()).unwrap()), Ok(tree));
    }

    #[test]
    fn anything_is_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        fuzz(&bytes);
    }

    #[test]
    fn markup_soup_is_read_or_refused(pieces in vec(prop::sample::select(vec![
        "<", ">", "/", "a", "b", "=", "'", "\"", " ", "<a>", "</a>", "<a/>", "<!--", "-->", "<![CDATA[", "]]>", "<?", "?>",
        "&", ";", "#", "amp", "xml", "<!DOCTYPE", "\r", "\n", "é", "\u{feff}",
    ]), 0..40)) {
        fuzz(pieces.concat().as_bytes());
    }

    #[test]
    fn a_damaged_document_is_read_or_refused(tree in tree(), place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut document = tree.to_document().to_vec();
        let index = place.index(document.len());
        document[index] = byte;
        fuzz(&document);
    }
}
