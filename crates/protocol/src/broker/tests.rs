//! Golden documents, hand-written from the facts in `docs/protocol.md`; all names are made up.

use secrecy::{ExposeSecret, SecretString};

use super::*;
use crate::xml::Element;

const DECLARATION: &str = r#"<?xml version="1.0" encoding="UTF-8"?>"#;

/// Joins the lines of an indented document without the white space between them.
fn flat(document: &str) -> String {
    document.lines().map(str::trim).collect()
}

/// Wraps a message in the root.
fn document(message: &str) -> String {
    format!(
        r#"{DECLARATION}<pcoip-client version="2.1">{}</pcoip-client>"#,
        flat(message)
    )
}

/// Reads a request and checks that what is written again reads the same.
fn request(document: &str) -> Request {
    let envelope = Envelope::<Request>::parse(document.as_bytes()).unwrap();
    assert_eq!(
        Envelope::<Request>::parse(&envelope.to_document()).unwrap(),
        envelope
    );
    envelope.message
}

/// Reads a response and checks that what is written again reads the same.
fn response(document: &str) -> Response {
    let envelope = Envelope::<Response>::parse(document.as_bytes()).unwrap();
    assert_eq!(
        Envelope::<Response>::parse(&envelope.to_document()).unwrap(),
        envelope
    );
    envelope.message
}

fn request_error(message: &str) -> ParseMessageError {
    Envelope::<Request>::parse(document(message).as_bytes()).unwrap_err()
}

fn response_error(message: &str) -> ParseMessageError {
    Envelope::<Response>::parse(document(message).as_bytes()).unwrap_err()
}

fn written_request(message: Request) -> String {
    String::from_utf8(Envelope::<Request>::new(message).to_document().to_vec()).unwrap()
}

fn written_response(message: Response) -> String {
    String::from_utf8(Envelope::<Response>::new(message).to_document().to_vec()).unwrap()
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

mod envelope;
mod golden;
mod properties;
mod refusals;
mod survival;
