//! `result` and the ids it carries.

use std::fmt;

use super::{
    ParseMessageError, Rest,
    fields::{Composer, Fields},
};
use crate::xml::Element;

/// `result`: an id for programs and a text for the user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome<Id> {
    /// `result-id`
    pub id: Id,
    /// `result-str`; `None` when the element is absent.
    pub text: Option<String>,
    /// Everything else.
    pub rest: Rest,
}

impl<Id> Outcome<Id> {
    /// A result with a text for the user.
    #[must_use]
    pub fn new(id: Id, text: impl Into<String>) -> Self {
        Self {
            id,
            text: Some(text.into()),
            rest: Rest::default(),
        }
    }
}

impl<Id: From<String> + fmt::Display> Outcome<Id> {
    /// Takes the `result` out of a message.
    pub(super) fn read_in(message: &mut Fields) -> Result<Self, ParseMessageError> {
        let element = message.required("result")?;
        let mut fields = Fields::open(element, message.path())?;
        Ok(Self {
            id: fields.required_text("result-id")?.into(),
            text: fields.text("result-str")?,
            rest: fields.rest(),
        })
    }

    pub(super) fn write(&self) -> Element {
        Composer::new("result", &self.rest)
            .text("result-id", &self.id.to_string())
            .optional("result-str", self.text.as_deref())
            .finish()
    }
}

/// An enum of documented result ids and `Other`.
macro_rules! result_ids {
    ($(#[$meta:meta])* $type:ident { $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)* }
     $(#[$other_meta:meta])* Other) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $type {
            $(
                #[doc = concat!("`", $text, "`")]
                $(#[$variant_meta])*
                $variant,
            )*
            $(#[$other_meta])*
            Other(String),
        }

        impl $type {
            /// The id as it stands on the wire.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)*
                    Self::Other(text) => text,
                }
            }

            fn documented(text: &str) -> Option<Self> {
                $(if text.eq_ignore_ascii_case($text) { return Some(Self::$variant); })*
                None
            }
        }

        impl From<&str> for $type {
            fn from(text: &str) -> Self {
                Self::documented(text).unwrap_or_else(|| Self::Other(text.to_owned()))
            }
        }

        impl From<String> for $type {
            fn from(text: String) -> Self {
                Self::documented(&text).unwrap_or(Self::Other(text))
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}
pub(crate) use result_ids;

result_ids!(
    /// Result ids of authentication; compared without regard to case, written as documented.
    AuthResultId {
        Complete = "AUTH_SUCCESSFUL_AND_COMPLETE",
        Incomplete = "AUTH_SUCCESSFUL_AND_INCOMPLETE",
        UnknownUsernameOrPassword = "AUTH_FAILED_UNKNOWN_USERNAME_OR_PASSWORD",
        AccessDenied = "AUTH_FAILED_ACCESS_DENIED",
        UserHasNoResource = "AUTH_FAILED_USER_HAS_NO_RESOURCE",
        ExpiredPassword = "AUTH_FAILED_EXPIRED_PASSWORD",
        DialogInvalidUserEntry = "AUTH_FAILED_DIALOG_INVALID_USER_ENTRY",
    }
    /// Any other, as received.
    Other
);

impl AuthResultId {
    /// Whether the step succeeded, be it the last one or not.
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Complete | Self::Incomplete)
    }
}

result_ids!(
    /// Result ids of the list; compared without regard to case, written as documented.
    ListResultId {
        Successful = "LIST_SUCCESSFUL",
        NoEntitlement = "LIST_FAILED_NO_ENTITLEMENT",
    }
    /// Any other, as received.
    Other
);

result_ids!(
    /// Result ids of an allocation; compared without regard to case, written as documented.
    AllocResultId {
        Successful = "ALLOC_SUCCESSFUL",
        PendingTryAgain = "ALLOC_PENDING_TRY_AGAIN",
        Broker = "ALLOC_FAILED_TO_ALLOCATE_BROKER",
        BrokerPortUnreachable = "ALLOC_FAILED_TO_ALLOCATE_BROKER_PORT_UNREACHABLE",
        Agent = "ALLOC_FAILED_TO_ALLOCATE_AGENT",
        NoLicense = "ALLOC_FAILED_NO_LICENSE",
    }
    /// Any other, as received.
    Other
);
