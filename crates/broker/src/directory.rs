//! Users, desktops and who may use which. Built from plain configuration, checked once, then only read.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use crate::password::{Argon2Params, InvalidPasswordHash, PasswordHash};

/// Longest user name, domain, desktop name and desktop id in bytes.
pub const MAX_NAME_BYTES: usize = 256;
/// Longest host name in bytes (RFC 1035).
const MAX_HOST_BYTES: usize = 253;

/// One user.
#[derive(Clone, Debug)]
pub struct UserConfig {
    /// Name without domain; compared without regard to case.
    pub name: String,
    /// Domain, as users write it before `\` or after `@`; may be empty. Compared without regard to case.
    pub domain: String,
    /// Password as an argon2id PHC string, made by [`crate::hash_password`].
    pub password_hash: SecretString,
}

/// One desktop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesktopConfig {
    /// Opaque id clients choose the desktop by; compared exactly.
    pub id: String,
    /// Name shown to users; unique without regard to case, since clients can be set to pick a desktop by name.
    pub name: String,
    /// IP address or host name of the desktop.
    pub address: String,
    /// TCP port of the agent's management service, when it is not 60443. It has no place in the broker protocol: only who
    /// embeds the broker can read it, by [`Directory::desktop`].
    pub agent_port: Option<u16>,
    /// Host name told to clients beside the address.
    pub hostname: Option<String>,
}

/// One user's right to one desktop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntitlementConfig {
    /// The user: `name`, `DOMAIN\name` or `name@domain`. Without domain the name must be unique.
    pub user: String,
    /// The desktop's id.
    pub desktop: String,
}

/// Why a configuration makes no directory. Each names the entry at fault.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidDirectory {
    /// A name or id is empty, too long, or holds characters that have no place in it.
    #[error("the {kind} {name:?} is not usable: {problem}")]
    Name {
        /// What it names.
        kind: &'static str,
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Two users have one name and domain.
    #[error("the user {user:?} is defined twice")]
    DuplicateUser {
        /// Name and domain.
        user: String,
    },
    /// A user's password hash is not usable.
    #[error("the password hash of user {user:?} is not usable")]
    PasswordHash {
        /// Name and domain.
        user: String,
        /// Why.
        #[source]
        source: InvalidPasswordHash,
    },
    /// Two desktops have one id.
    #[error("the desktop id {id:?} is used twice")]
    DuplicateDesktopId {
        /// The id.
        id: String,
    },
    /// Two desktops have names that differ at most in case.
    #[error("the desktop name {name:?} is used twice")]
    DuplicateDesktopName {
        /// The name.
        name: String,
    },
    /// A desktop's address is neither an IP address a desktop can have nor a host name.
    #[error("the address {address:?} of desktop {id:?} is neither an IP address nor a host name")]
    DesktopAddress {
        /// The desktop's id.
        id: String,
        /// The address.
        address: String,
    },
    /// An entitlement is for a user who is not defined.
    #[error("the entitlement to desktop {desktop:?} is for {user:?}, who is not a user")]
    UnknownUser {
        /// The user as written.
        user: String,
        /// The desktop's id.
        desktop: String,
    },
    /// An entitlement names a user without the domain that would tell several apart.
    #[error(
        "the entitlement to desktop {desktop:?} is for {user:?}, which names several users: add the domain"
    )]
    AmbiguousUser {
        /// The user as written.
        user: String,
        /// The desktop's id.
        desktop: String,
    },
    /// An entitlement is to a desktop that is not defined.
    #[error("the entitlement of user {user:?} is to desktop {desktop:?}, which is not defined")]
    UnknownDesktop {
        /// The user as written.
        user: String,
        /// The desktop's id.
        desktop: String,
    },
    /// One user is entitled to one desktop twice.
    #[error("the entitlement of user {user:?} to desktop {desktop:?} is defined twice")]
    DuplicateEntitlement {
        /// The user as written.
        user: String,
        /// The desktop's id.
        desktop: String,
    },
}

/// Which user. Only good for the directory it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UserId(usize);

#[cfg(test)]
impl UserId {
    pub(crate) const fn for_tests(index: usize) -> Self {
        Self(index)
    }
}

/// A user as the directory knows one.
#[derive(Debug)]
pub struct User {
    label: String,
    hash: PasswordHash,
    /// Indices of the desktops, by desktop name.
    desktops: Vec<usize>,
}

/// A desktop as the directory knows one.
#[derive(Debug)]
pub struct Desktop {
    config: DesktopConfig,
}

/// Users, desktops and entitlements.
#[derive(Debug)]
pub struct Directory {
    accounts: Accounts,
    desktops: Vec<Desktop>,
    desktop_ids: HashMap<String, usize>,
    entitlements: HashSet<(UserId, usize)>,
    nobody: PasswordHash,
}

/// The users, and the names they go by.
#[derive(Debug, Default)]
struct Accounts {
    users: Vec<User>,
    /// By lower-case name and lower-case domain.
    full: HashMap<(String, String), UserId>,
    /// By lower-case name alone; `None` where several users share it.
    short: HashMap<String, Option<UserId>>,
    /// As first written, by lower-case form.
    domains: BTreeMap<String, String>,
}

impl Directory {
    /// Checks a configuration and builds the directory.
    ///
    /// # Errors
    /// See [`InvalidDirectory`].
    pub fn new(
        users: Vec<UserConfig>,
        desktops: Vec<DesktopConfig>,
        entitlements: Vec<EntitlementConfig>,
    ) -> Result<Self, InvalidDirectory> {
        let mut accounts = Accounts::default();
        for user in users {
            accounts.add(user)?;
        }
        let desktops = check_desktops(desktops)?;
        let desktop_ids: HashMap<String, usize> = desktops
            .iter()
            .enumerate()
            .map(|(index, desktop)| (desktop.id().to_owned(), index))
            .collect();
        let mut granted = HashSet::new();
        for EntitlementConfig { user, desktop } in entitlements {
            let Some(&index) = desktop_ids.get(&desktop) else {
                return Err(InvalidDirectory::UnknownDesktop { user, desktop });
            };
            let Some(id) = accounts.resolve(&user, "") else {
                return Err(if accounts.is_ambiguous(&user) {
                    InvalidDirectory::AmbiguousUser { user, desktop }
                } else {
                    InvalidDirectory::UnknownUser { user, desktop }
                });
            };
            if !granted.insert((id, index)) {
                return Err(InvalidDirectory::DuplicateEntitlement { user, desktop });
            }
            if let Some(user) = accounts.users.get_mut(id.0) {
                user.desktops.push(index);
            }
        }
        for user in &mut accounts.users {
            user.desktops.sort_by_key(|&index| {
                let name = desktops.get(index).map(Desktop::name);
                name.map(str::to_lowercase)
            });
        }
        Ok(Self {
            nobody: PasswordHash::of_nobody(accounts.usual_params()),
            accounts,
            desktops,
            desktop_ids,
            entitlements: granted,
        })
    }

    /// The user a client means by a name and a domain. The name may carry its domain (`DOMAIN\name`, `name@domain`), which
    /// then counts instead of `domain`; without any domain the name must be unique.
    #[must_use]
    pub fn resolve(&self, username: &str, domain: &str) -> Option<UserId> {
        self.accounts.resolve(username, domain)
    }

    /// The user behind an id; `None` when the id is of another directory.
    #[must_use]
    pub fn user(&self, user: UserId) -> Option<&User> {
        self.accounts.users.get(user.0)
    }

    /// The hash that stands in for users who do not exist. It costs what most users' hashes cost.
    #[must_use]
    pub fn nobody(&self) -> &PasswordHash {
        &self.nobody
    }

    /// The desktops a user may use, by name.
    pub fn desktops_of(&self, user: UserId) -> impl Iterator<Item = &Desktop> {
        self.user(user)
            .map(|user| user.desktops.as_slice())
            .unwrap_or_default()
            .iter()
            .filter_map(|&index| self.desktops.get(index))
    }

    /// The desktop of that id, when the user may use it. Does the same work whether the desktop is unknown or another's.
    #[must_use]
    pub fn entitled(&self, user: UserId, desktop: &str) -> Option<&Desktop> {
        let index = self.desktop_ids.get(desktop).copied();
        // An index no desktop has.
        let index = index.unwrap_or(self.desktops.len());
        if self.entitlements.contains(&(user, index)) {
            self.desktops.get(index)
        } else {
            None
        }
    }

    /// The desktop of that id, for who embeds the broker.
    #[must_use]
    pub fn desktop(&self, id: &str) -> Option<&Desktop> {
        let &index = self.desktop_ids.get(id)?;
        self.desktops.get(index)
    }

    /// The domains users are in, in order of the alphabet; empty when no user has one.
    #[must_use]
    pub fn domains(&self) -> Vec<String> {
        self.accounts.domains.values().cloned().collect()
    }
}

impl Accounts {
    fn add(&mut self, config: UserConfig) -> Result<(), InvalidDirectory> {
        let UserConfig {
            name,
            domain,
            password_hash,
        } = config;
        check_account_part("user name", &name)?;
        if !domain.is_empty() {
            check_account_part("domain", &domain)?;
        }
        let label = if domain.is_empty() {
            name.clone()
        } else {
            format!("{domain}\\{name}")
        };
        let hash = match PasswordHash::parse(password_hash.expose_secret()) {
            Ok(hash) => hash,
            Err(source) => {
                return Err(InvalidDirectory::PasswordHash {
                    user: label,
                    source,
                });
            }
        };
        let id = UserId(self.users.len());
        let account = Account {
            name: name.to_lowercase(),
            domain: domain.to_lowercase(),
        };
        self.short
            .entry(account.name.clone())
            .and_modify(|unique| *unique = None)
            .or_insert(Some(id));
        if !domain.is_empty() {
            self.domains.entry(account.domain.clone()).or_insert(domain);
        }
        let key = (account.name, account.domain);
        if self.full.insert(key, id).is_some() {
            return Err(InvalidDirectory::DuplicateUser { user: label });
        }
        self.users.push(User {
            label,
            hash,
            desktops: Vec::new(),
        });
        Ok(())
    }

    fn resolve(&self, username: &str, domain: &str) -> Option<UserId> {
        let Account { name, domain } = Account::parse(username, domain);
        let anywhere = domain
            .is_empty()
            .then(|| self.short.get(&name).copied().flatten());
        // A user without domain comes before a namesake in some domain.
        self.full
            .get(&(name, domain))
            .copied()
            .or(anywhere.flatten())
    }

    fn is_ambiguous(&self, username: &str) -> bool {
        let account = Account::parse(username, "");
        account.domain.is_empty() && self.short.get(&account.name) == Some(&None)
    }

    /// What most users' hashes cost; the dearer of equals. The default when there is nobody.
    fn usual_params(&self) -> Argon2Params {
        let mut counts: BTreeMap<Argon2Params, usize> = BTreeMap::new();
        for user in &self.users {
            *counts.entry(user.hash.params()).or_default() += 1;
        }
        counts
            .into_iter()
            .max_by_key(|&(params, count)| (count, params))
            .map(|(params, _)| params)
            .unwrap_or_default()
    }
}

impl User {
    /// `DOMAIN\name`, or the name alone, as configured; for logs.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The user's password hash.
    #[must_use]
    pub fn password_hash(&self) -> &PasswordHash {
        &self.hash
    }
}

impl Desktop {
    /// The id clients choose it by.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.config.id
    }

    /// The name users see.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// IP address or host name.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.config.address
    }

    /// TCP port of the agent's management service, when it is not 60443.
    #[must_use]
    pub fn agent_port(&self) -> Option<u16> {
        self.config.agent_port
    }

    /// Host name, when one is told to clients.
    #[must_use]
    pub fn hostname(&self) -> Option<&str> {
        self.config.hostname.as_deref()
    }
}

/// A user as a client names one, in lower case.
struct Account {
    name: String,
    domain: String,
}

impl Account {
    /// Takes `DOMAIN\name` and `name@domain` apart; a domain written with the name counts more than one beside it.
    fn parse(username: &str, domain: &str) -> Self {
        let (name, domain) = match (username.split_once('\\'), username.rsplit_once('@')) {
            (Some((domain, name)), _) => (name, domain),
            (None, Some((name, domain))) => (name, domain),
            (None, None) => (username, domain),
        };
        Self {
            name: name.to_lowercase(),
            domain: domain.to_lowercase(),
        }
    }
}

fn check_desktops(configs: Vec<DesktopConfig>) -> Result<Vec<Desktop>, InvalidDirectory> {
    let mut ids = HashSet::new();
    let mut names = HashSet::new();
    for config in &configs {
        check_name("desktop id", &config.id)?;
        check_name("desktop name", &config.name)?;
        if !ids.insert(config.id.clone()) {
            return Err(InvalidDirectory::DuplicateDesktopId {
                id: config.id.clone(),
            });
        }
        if !names.insert(config.name.to_lowercase()) {
            return Err(InvalidDirectory::DuplicateDesktopName {
                name: config.name.clone(),
            });
        }
        if !is_desktop_address(&config.address) {
            return Err(InvalidDirectory::DesktopAddress {
                id: config.id.clone(),
                address: config.address.clone(),
            });
        }
        if let Some(hostname) = &config.hostname
            && !is_host_name(hostname)
        {
            return Err(InvalidDirectory::Name {
                kind: "desktop host name",
                name: hostname.clone(),
                problem: "it is not a host name",
            });
        }
    }
    Ok(configs
        .into_iter()
        .map(|config| Desktop { config })
        .collect())
}

fn check_name(kind: &'static str, name: &str) -> Result<(), InvalidDirectory> {
    let problem = if name.is_empty() {
        "it is empty"
    } else if name.len() > MAX_NAME_BYTES {
        "it is longer than 256 bytes"
    } else if name.chars().any(char::is_control) {
        "it holds control characters"
    } else {
        return Ok(());
    };
    Err(InvalidDirectory::Name {
        kind,
        name: name.to_owned(),
        problem,
    })
}

fn check_account_part(kind: &'static str, name: &str) -> Result<(), InvalidDirectory> {
    check_name(kind, name)?;
    if name.contains(['\\', '@']) {
        return Err(InvalidDirectory::Name {
            kind,
            name: name.to_owned(),
            problem: "it holds \\ or @, which divide name and domain",
        });
    }
    Ok(())
}

fn is_desktop_address(text: &str) -> bool {
    match text.parse::<IpAddr>() {
        Ok(address) => !address.is_unspecified() && !address.is_multicast(),
        Err(_) => is_host_name(text),
    }
}

/// Labels of letters, digits, hyphens and underscores (which Windows names have), divided by dots. All digits and dots is
/// an address gone wrong, not a name.
fn is_host_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text.len() <= MAX_HOST_BYTES
        && text.split('.').all(label)
        && !text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
}

#[cfg(test)]
mod tests;
