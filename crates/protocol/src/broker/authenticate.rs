//! `authenticate` and `authenticate-resp`.

use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use super::{
    AuthResultId, NextAuthentication, Outcome, ParseMessageError, Rest,
    fields::{Composer, Fields, take_attribute},
};
use crate::xml::Element;

/// One step of authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authenticate {
    /// `method="password"`
    Password(PasswordLogon),
    /// Any other method: the whole `authenticate` element, attributes and order kept.
    Other(Element),
}

/// User name, password and domain. `Debug` never shows the password.
#[derive(Clone, Debug)]
pub struct PasswordLogon {
    /// `username`
    pub username: String,
    /// `password`
    pub password: SecretString,
    /// `domain`; may be empty. Always written, since brokers exist that fail without it.
    pub domain: String,
    /// Everything else.
    pub rest: Rest,
}

/// Answer to [`Authenticate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticateResp {
    /// `@method` as received: absent on the final answer of a dialog, so never made up.
    pub method: Option<String>,
    /// `result`
    pub result: Outcome<AuthResultId>,
    /// What comes next after an incomplete step.
    pub next_authentication: Option<NextAuthentication>,
    /// Everything else.
    pub rest: Rest,
}

/// The `method` of a [`PasswordLogon`].
const PASSWORD_METHOD: &str = "password";

impl PartialEq for PasswordLogon {
    /// Compares the password in constant time.
    fn eq(&self, other: &Self) -> bool {
        let password: bool = self
            .password
            .expose_secret()
            .as_bytes()
            .ct_eq(other.password.expose_secret().as_bytes())
            .into();
        self.username == other.username
            && password
            && self.domain == other.domain
            && self.rest == other.rest
    }
}

impl Eq for PasswordLogon {}

impl Authenticate {
    /// The `method` attribute.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        match self {
            Self::Password(_) => Some(PASSWORD_METHOD),
            Self::Other(element) => element.attribute_value("method"),
        }
    }

    pub(super) fn read(mut element: Element) -> Result<Self, ParseMessageError> {
        if element.attribute_value("method") != Some(PASSWORD_METHOD) {
            return Ok(Self::Other(element));
        }
        take_attribute(&mut element.attributes, "method");
        let mut fields = Fields::open(element, "")?;
        Ok(Self::Password(PasswordLogon {
            username: fields.required_bounded_text("username")?,
            password: fields.required_secret("password")?,
            domain: fields.bounded_text("domain")?.unwrap_or_default(),
            rest: fields.rest(),
        }))
    }

    pub(super) fn write(&self) -> Element {
        match self {
            Self::Other(element) => element.clone(),
            Self::Password(logon) => Composer::new("authenticate", &logon.rest)
                .attribute("method", Some(PASSWORD_METHOD))
                .text("username", &logon.username)
                .text("password", logon.password.expose_secret())
                .text("domain", &logon.domain)
                .finish(),
        }
    }
}

impl AuthenticateResp {
    pub(super) fn read(element: Element) -> Result<Self, ParseMessageError> {
        let mut fields = Fields::open(element, "")?;
        Ok(Self {
            method: fields.attribute("method"),
            result: Outcome::read_in(&mut fields)?,
            next_authentication: NextAuthentication::read_in(&mut fields)?,
            rest: fields.rest(),
        })
    }

    pub(super) fn write(&self) -> Element {
        Composer::new("authenticate-resp", &self.rest)
            .attribute("method", self.method.as_deref())
            .element(self.result.write())
            .optional_element(
                self.next_authentication
                    .as_ref()
                    .map(NextAuthentication::write),
            )
            .finish()
    }
}
