//! `get-resource-list` and its answer.

use super::{
    ListResultId, Outcome, ParseMessageError, Rest,
    fields::{Composer, Fields, merge_attributes, take_attribute, take_text},
};
use crate::xml::Element;

/// Asks for the desktops the user is entitled to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GetResourceList {
    /// `protocols/protocol`
    pub protocols: Vec<String>,
    /// `resource-types/resource-type`
    pub resource_types: Vec<String>,
    /// Everything else.
    pub rest: Rest,
}

/// Answer to [`GetResourceList`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetResourceListResp {
    /// `result`
    pub result: Outcome<ListResultId>,
    /// `resource`, in the broker's order.
    pub resources: Vec<Resource>,
    /// Everything else.
    pub rest: Rest,
}

/// One desktop of the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// `resource-name`, shown to the user
    pub name: String,
    /// `resource-id`, opaque
    pub id: String,
    /// `resource-type`, usually `DESKTOP`
    pub resource_type: Option<String>,
    /// `resource-type/@session-type`, usually `VDI`
    pub session_type: Option<String>,
    /// `resource-state`
    pub state: Option<String>,
    /// `protocols/protocol`
    pub protocols: Vec<ResourceProtocol>,
    /// Everything else.
    pub rest: Rest,
}

/// A protocol a desktop can be reached with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceProtocol {
    /// `PCOIP`
    pub name: String,
    /// `@is-default`, as received
    pub is_default: Option<String>,
}

impl GetResourceList {
    pub(super) fn read(element: Element) -> Result<Self, ParseMessageError> {
        let mut fields = Fields::open(element, "")?;
        Ok(Self {
            protocols: fields.texts_or_empty("protocols", "protocol")?,
            resource_types: fields.texts_or_empty("resource-types", "resource-type")?,
            rest: fields.rest(),
        })
    }

    pub(super) fn write(&self) -> Element {
        Composer::new("get-resource-list", &self.rest)
            .texts("protocols", "protocol", &self.protocols)
            .texts("resource-types", "resource-type", &self.resource_types)
            .finish()
    }
}

impl GetResourceListResp {
    pub(super) fn read(element: Element) -> Result<Self, ParseMessageError> {
        let mut fields = Fields::open(element, "")?;
        let result = Outcome::read_in(&mut fields)?;
        let mut resources = Vec::new();
        for element in fields.elements("resource") {
            resources.push(Resource::read(element, fields.path())?);
        }
        Ok(Self {
            result,
            resources,
            rest: fields.rest(),
        })
    }

    pub(super) fn write(&self) -> Element {
        self.resources
            .iter()
            .fold(
                Composer::new("get-resource-list-resp", &self.rest).element(self.result.write()),
                |composer, resource| composer.element(resource.write()),
            )
            .finish()
    }
}

impl Resource {
    fn read(element: Element, parent: &str) -> Result<Self, ParseMessageError> {
        let mut fields = Fields::open(element, parent)?;
        let name = fields.required_text("resource-name")?;
        let id = fields.required_bounded_text("resource-id")?;
        let (resource_type, session_type) = match fields.element("resource-type")? {
            Some(mut element) => {
                let session_type = take_attribute(&mut element.attributes, "session-type");
                let mut text = take_text(&mut element, fields.path())?;
                fields.keep_nested(element);
                (Some(std::mem::take(&mut *text)), session_type)
            }
            None => (None, None),
        };
        let state = fields.text("resource-state")?;
        let protocols = fields.list("protocols", "protocol", |element, path| {
            Ok(ResourceProtocol {
                is_default: take_attribute(&mut element.attributes, "is-default"),
                name: std::mem::take(&mut *take_text(element, path)?),
            })
        })?;
        Ok(Self {
            name,
            id,
            resource_type,
            session_type,
            state,
            protocols: fields.or_empty("protocols", protocols),
            rest: fields.rest(),
        })
    }

    fn write(&self) -> Element {
        let protocols = self.protocols.iter().map(ResourceProtocol::write).collect();
        let composer = Composer::new("resource", &self.rest)
            .text("resource-name", &self.name)
            .text("resource-id", &self.id);
        let resource_type = self.write_type(composer.nested("resource-type"));
        composer
            .optional_element(resource_type)
            .optional("resource-state", self.state.as_deref())
            .list("protocols", "protocol", protocols)
            .finish()
    }

    /// The element that carries the resource's type and, as an attribute, the session's; absent when both are.
    fn write_type(&self, extras: Option<&Element>) -> Option<Element> {
        if self.resource_type.is_none() && self.session_type.is_none() {
            return None;
        }
        let mut element = Element::with_text(
            "resource-type",
            self.resource_type.as_deref().unwrap_or_default(),
        );
        if let Some(session_type) = &self.session_type {
            element = element.attribute("session-type", session_type);
        }
        if let Some(extras) = extras {
            merge_attributes(&mut element.attributes, &extras.attributes);
        }
        Some(element)
    }
}

impl ResourceProtocol {
    fn write(&self) -> Element {
        let element = Element::with_text("protocol", &self.name);
        match &self.is_default {
            Some(is_default) => element.attribute("is-default", is_default),
            None => element,
        }
    }
}
