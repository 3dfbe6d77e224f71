//! `[[broker.user]]`, `[[broker.desktop]]` and `[[broker.entitlement]]`, checked as the whole they are.

use std::ops::Range;

use portcullis_broker::{
    DesktopConfig, Directory, EntitlementConfig, InvalidDirectory, UserConfig,
};
use toml::Spanned;

use super::{check::Checker, file, values::chain};

impl Checker {
    pub(super) fn directory(
        &mut self,
        users: Vec<Spanned<file::User>>,
        desktops: Vec<Spanned<file::Desktop>>,
        entitlements: Vec<Spanned<file::Entitlement>>,
        whole: &Range<usize>,
    ) -> Option<Directory> {
        // Names an error may repeat, and where they stand.
        let mut places: Vec<(Range<usize>, &str, Vec<String>)> = Vec::new();
        let users = users.into_iter().map(|user| {
            let at = user.span();
            let file::User {
                name,
                domain,
                password_hash,
            } = user.into_inner();
            let with_domain = [format!("{domain}\\{name}"), format!("{name}@{domain}")];
            places.push((
                at,
                "broker.user",
                [&[name.clone(), domain.clone()], &with_domain[..]].concat(),
            ));
            UserConfig {
                name,
                domain,
                password_hash,
            }
        });
        let users: Vec<UserConfig> = users.collect();
        let desktops = desktops.into_iter().map(|desktop| {
            let at = desktop.span();
            let file::Desktop {
                id,
                name,
                address,
                hostname,
            } = desktop.into_inner();
            let name = name.unwrap_or_else(|| id.clone());
            let names = [
                Some(id.clone()),
                Some(name.clone()),
                Some(address.clone()),
                hostname.clone(),
            ];
            places.push((at, "broker.desktop", names.into_iter().flatten().collect()));
            DesktopConfig {
                id,
                name,
                address,
                agent_port: None,
                hostname,
            }
        });
        let desktops: Vec<DesktopConfig> = desktops.collect();
        let entitlements = entitlements.into_iter().map(|entitlement| {
            let at = entitlement.span();
            let file::Entitlement { user, desktop } = entitlement.into_inner();
            places.push((
                at,
                "broker.entitlement",
                vec![user.clone(), desktop.clone()],
            ));
            EntitlementConfig { user, desktop }
        });
        let entitlements: Vec<EntitlementConfig> = entitlements.collect();
        match Directory::new(users, desktops, entitlements) {
            Ok(directory) => Some(directory),
            Err(error) => {
                let (kind, names, remedy) = offender(&error);
                // The last one: of two that clash, the second is the one too many.
                let place = places.iter().rev().find(|(_, at, known)| {
                    *at == kind
                        && names
                            .iter()
                            .all(|name| known.iter().any(|known| known.eq_ignore_ascii_case(name)))
                });
                let at = place.map_or_else(|| whole.clone(), |(at, ..)| at.clone());
                self.wrong(&at, kind, chain(&error), remedy);
                None
            }
        }
    }
}

/// Which entries an error of the directory is about, and what to do about it.
fn offender(error: &InvalidDirectory) -> (&'static str, Vec<&str>, &'static str) {
    match error {
        InvalidDirectory::Name { kind, name, .. } => {
            let key = if kind.contains("desktop") {
                "broker.desktop"
            } else {
                "broker.user"
            };
            (key, vec![name], "choose another one")
        }
        InvalidDirectory::DuplicateUser { user } => (
            "broker.user",
            vec![user],
            "keep one of the two, or give one another domain",
        ),
        InvalidDirectory::PasswordHash { user, .. } => (
            "broker.user",
            vec![user],
            "make one with `portcullis hash-password`; passwords are never kept in clear",
        ),
        InvalidDirectory::DuplicateDesktopId { id: name }
        | InvalidDirectory::DuplicateDesktopName { name } => (
            "broker.desktop",
            vec![name],
            "rename one of the two; case does not tell names apart",
        ),
        InvalidDirectory::DesktopAddress { id, .. } => (
            "broker.desktop",
            vec![id],
            "write the address the Connection Manager reaches the desktop at",
        ),
        InvalidDirectory::UnknownUser { user, desktop } => (
            "broker.entitlement",
            vec![user, desktop],
            "name a user of a [[broker.user]] section",
        ),
        InvalidDirectory::AmbiguousUser { user, desktop } => (
            "broker.entitlement",
            vec![user, desktop],
            "write it as DOMAIN\\user",
        ),
        InvalidDirectory::UnknownDesktop { user, desktop } => (
            "broker.entitlement",
            vec![user, desktop],
            "name the id of a [[broker.desktop]] section",
        ),
        InvalidDirectory::DuplicateEntitlement { user, desktop } => (
            "broker.entitlement",
            vec![user, desktop],
            "remove one of the two",
        ),
        _ => ("broker", Vec::new(), "correct the entry it names"),
    }
}
