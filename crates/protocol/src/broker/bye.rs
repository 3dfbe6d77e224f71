//! `bye` and `bye-resp`, both empty.

use super::{
    ParseMessageError, Rest,
    fields::{Composer, Fields},
};
use crate::xml::Element;

/// Ends the broker session; not the PCoIP session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bye {
    /// Everything.
    pub rest: Rest,
}

/// Answer to [`Bye`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByeResp {
    /// Everything.
    pub rest: Rest,
}

impl Bye {
    pub(super) fn read(element: Element) -> Result<Self, ParseMessageError> {
        Fields::open(element, "").map(|fields| Self {
            rest: fields.rest(),
        })
    }

    pub(super) fn write(&self) -> Element {
        Composer::new("bye", &self.rest).finish()
    }
}

impl ByeResp {
    pub(super) fn read(element: Element) -> Result<Self, ParseMessageError> {
        Fields::open(element, "").map(|fields| Self {
            rest: fields.rest(),
        })
    }

    pub(super) fn write(&self) -> Element {
        Composer::new("bye-resp", &self.rest).finish()
    }
}
