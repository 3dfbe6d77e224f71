//! What is read, what is refused, and that nothing is lost between.

use super::*;

fn read(document: &str) -> Result<Element, ParseXmlError> {
    parse(document.as_bytes(), &Limits::default())
}

#[test]
fn text_of_leaves_is_kept_and_white_space_between_elements_is_not() {
    let root = read("<a>\n  <b> x </b>\n  <c>  </c>\n</a>").unwrap();
    assert_eq!(
        root,
        Element::new("a")
            .child(Element::with_text("b", " x "))
            .child(Element::with_text("c", "  "))
    );
}
