//! `[[security_gateway.standing_grant]]`: who is admitted without a Connection Manager.

use std::ops::Range;

use ipnet::IpNet;
use portcullis_protocol::{LogId, client_hello::ServerName};
use portcullis_security_gateway::{AgentEndpoint, StandingGrant, relay::PCOIP_PORT};
use toml::Spanned;

use super::{check::Checker, file};

const CLIENT: &str = "security_gateway.standing_grant.client";
const SERVER_NAME: &str = "security_gateway.standing_grant.server_name";
const AGENT: &str = "security_gateway.standing_grant.agent";

impl Checker {
    /// The grants, all good and all different, or the mistakes in them.
    pub(super) fn standing_grants(
        &mut self,
        sections: Vec<Spanned<file::StandingGrant>>,
    ) -> Vec<StandingGrant> {
        let mut grants: Vec<StandingGrant> = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        for section in sections {
            let at = section.span();
            let Some(grant) = self.standing_grant(section.into_inner()) else {
                continue;
            };
            if seen.insert((grant.server_name.clone(), grant.client)) {
                grants.push(grant);
            } else {
                self.twice(&at, &grant);
            }
        }
        grants
    }

    fn standing_grant(&mut self, section: file::StandingGrant) -> Option<StandingGrant> {
        let client: Option<IpNet> = self.networks(vec![section.client], CLIENT).pop();
        let server_name = match section.server_name {
            None => Some(None),
            Some(text) => {
                let name = ServerName::new(text.as_ref());
                if name.is_none() {
                    let problem = format!("{:?} is no server name", text.as_ref());
                    self.wrong(
                        &text.span(),
                        SERVER_NAME,
                        problem,
                        "write the name clients send in their ClientHello, or remove the key when they send none",
                    );
                }
                name.map(Some)
            }
        };
        let agent = self.ip(&section.agent, AGENT).filter(|ip| {
            let usable = !ip.is_unspecified() && !ip.is_multicast();
            if !usable {
                let problem = format!("{ip} is no address of a desktop");
                self.wrong(
                    &section.agent.span(),
                    AGENT,
                    problem,
                    "write the address the gateway reaches the desktop at",
                );
            }
            usable
        });
        let tcp_port = self.port(
            section.tcp_port,
            "security_gateway.standing_grant.tcp_port",
            PCOIP_PORT,
        );
        let udp_port = self.port(
            section.udp_port,
            "security_gateway.standing_grant.udp_port",
            PCOIP_PORT,
        );
        let agent = AgentEndpoint {
            ip: agent?,
            tcp_port,
            udp_port,
        };
        Some(StandingGrant {
            log_id: LogId::random(),
            client: client?.trunc(),
            server_name: server_name?,
            agent,
            desktop: section.desktop.unwrap_or_else(|| agent.ip.to_string()),
        })
    }

    fn twice(&mut self, at: &Range<usize>, grant: &StandingGrant) {
        let name = grant
            .server_name
            .as_ref()
            .map_or_else(|| "no server name".to_owned(), ToString::to_string);
        self.wrong(
            at,
            "security_gateway.standing_grant",
            format!("clients of {} with {name} have a grant already", grant.client),
            "remove one of the two, or give it another server name; of different networks the narrowest decides",
        );
    }
}
