//! The user's credentials, kept between authentication and launch and not longer.

use portcullis_protocol::{
    agent::Logon,
    broker::{PasswordLogon, Rest},
};
use secrecy::SecretString;

/// The one method agents know, for every operating system.
const LOGON_METHOD: &str = "windows-password";

/// User name, password and domain as the user gave them. The password is wiped on drop and never shown.
#[derive(Clone, Debug)]
pub(super) struct Credentials {
    username: String,
    password: SecretString,
    domain: String,
}

impl Credentials {
    pub(super) fn of(logon: &PasswordLogon) -> Self {
        Self {
            username: logon.username.clone(),
            password: logon.password.clone(),
            domain: logon.domain.clone(),
        }
    }

    /// The user as administrators read it: `DOMAIN\user` when a domain was given apart, else as typed.
    pub(super) fn user(&self) -> String {
        if self.domain.is_empty() {
            self.username.clone()
        } else {
            format!("{}\\{}", self.domain, self.username)
        }
    }

    /// What an agent is given. Agents fail without the right domain, so `DOMAIN\user` is taken apart when no domain was
    /// given apart; `user@domain` stays whole, since every agent's operating system reads it so.
    pub(super) fn logon(&self) -> Logon {
        let split = self
            .domain
            .is_empty()
            .then(|| self.username.split_once('\\'))
            .flatten()
            .filter(|(domain, user)| !domain.is_empty() && !user.is_empty());
        let (domain, username) = split.unwrap_or((&self.domain, &self.username));
        Logon {
            method: LOGON_METHOD.into(),
            username: username.into(),
            password: self.password.clone(),
            domain: domain.into(),
            rest: Rest::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn logon_of(username: &str, domain: &str) -> (String, String) {
        let logon = Credentials {
            username: username.into(),
            password: "pä\u{1F511}".into(),
            domain: domain.into(),
        }
        .logon();
        assert_eq!(logon.password.expose_secret(), "pä\u{1F511}");
        assert_eq!(logon.method, "windows-password");
        (logon.username, logon.domain)
    }

    #[test]
    fn down_level_names_are_split_only_when_no_domain_was_given() {
        let pair = |user: &str, domain: &str| (user.to_owned(), domain.to_owned());
        assert_eq!(logon_of("CORP\\ada", ""), pair("ada", "CORP"));
        assert_eq!(logon_of("CORP\\ada", "OTHER"), pair("CORP\\ada", "OTHER"));
        assert_eq!(logon_of("ada", "CORP"), pair("ada", "CORP"));
        assert_eq!(
            logon_of("ada@corp.example", ""),
            pair("ada@corp.example", "")
        );
        assert_eq!(logon_of("\\ada", ""), pair("\\ada", ""));
        assert_eq!(logon_of("CORP\\", ""), pair("CORP\\", ""));
        assert_eq!(logon_of("a\\b\\c", ""), pair("b\\c", "a"));
    }

    #[test]
    fn debug_never_shows_the_password() {
        let credentials = Credentials {
            username: "ada".into(),
            password: "hunter2".into(),
            domain: String::new(),
        };
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }
}
