//! Every order of messages in virtual time.

mod conversation;
mod history;
mod logon;

use portcullis_protocol::{
    broker::{
        AllocResultId, AllocateResourceResp, AuthResultId, AuthenticateResp, Bye, ClientInfo,
        GetResourceListResp, Hello, ListResultId, PROBE_PRODUCT, Rest, Root, Version,
    },
    xml::Element,
};
use proptest::prelude::*;

use super::*;
use crate::{
    Argon2Params,
    directory::{DesktopConfig, EntitlementConfig, UserConfig},
    hash_password,
};

const PASSWORD: &str = "correct horse";

/// Alice has two desktops, bob in `STUDIO` has one, carol has none.
fn directory() -> Directory {
    let hash = hash_password(&PASSWORD.into(), Argon2Params::cheap()).expect("hashed");
    let user = |name: &str, domain: &str| UserConfig {
        name: name.into(),
        domain: domain.into(),
        password_hash: hash.as_str().into(),
    };
    let desktop = |id: &str, name: &str, address: &str, hostname: Option<&str>| DesktopConfig {
        id: id.into(),
        name: name.into(),
        address: address.into(),
        agent_port: Some(60444),
        hostname: hostname.map(str::to_owned),
    };
    let entitlement = |user: &str, desktop: &str| EntitlementConfig {
        user: user.into(),
        desktop: desktop.into(),
    };
    Directory::new(
        vec![user("alice", ""), user("bob", "STUDIO"), user("carol", "")],
        vec![
            desktop("d-1", "Zebra", "192.0.2.1", Some("zebra.studio.example")),
            desktop("d-2", "ape", "ape.studio.example", None),
            desktop("d-3", "Bear", "2001:db8::3", None),
        ],
        vec![
            entitlement("alice", "d-1"),
            entitlement("alice", "d-2"),
            entitlement("bob", "d-3"),
        ],
    )
    .expect("valid")
}

struct Bench {
    machine: Machine,
    now: Instant,
    tokens: u8,
}

impl Bench {
    fn new() -> Self {
        Self::with_sessions(100)
    }

    fn with_sessions(count: usize) -> Self {
        let info = BrokerInfo {
            hostname: "broker.studio.example".into(),
            ip_address: Some("192.0.2.9".parse().expect("an address")),
            locale: "en_US".into(),
        };
        Self {
            machine: Machine::new(Arc::new(directory()), info, count, DEFAULT_IDLE),
            now: Instant::now(),
            tokens: 0,
        }
    }

    fn step(
        &mut self,
        session: Option<SessionToken>,
        request: Envelope<Request>,
    ) -> Result<Step, HandleError> {
        self.tokens = self.tokens.wrapping_add(1);
        let fresh = SessionToken::from_random([self.tokens; SessionToken::BYTES]);
        let inquiry = Inquiry {
            session,
            client: IpAddr::from([198, 51, 100, 7]),
            log_id: LogId::random(),
            request,
        };
        self.machine.handle(inquiry, fresh, self.now)
    }

    /// Asks and, where a password is to be checked, checks it.
    fn ask(
        &mut self,
        session: Option<SessionToken>,
        request: Request,
    ) -> Result<Answer, HandleError> {
        match self.step(session, Envelope::new(request))? {
            Step::Answer(answer) => Ok(answer),
            Step::VerifyPassword(verification) => {
                let right = verification.hash.verify(&verification.password);
                let verdict = if right {
                    Verdict::Right
                } else {
                    Verdict::Wrong
                };
                self.machine
                    .verified(verification.pending, verdict, self.now)
            }
        }
    }

    fn greet(&mut self) -> SessionToken {
        let answer = self.ask(None, hello()).expect("an answer");
        answer.session.expect("a session")
    }

    fn log_on(&mut self, session: SessionToken, username: &str, password: &str) -> AuthResultId {
        let answer = self.ask(Some(session), logon(username, password, ""));
        authentication(answer.expect("an answer")).result.id
    }

    fn greet_as(&mut self, username: &str) -> SessionToken {
        let session = self.greet();
        assert_eq!(
            self.log_on(session, username, PASSWORD),
            AuthResultId::Complete
        );
        session
    }

    fn pending(&mut self, session: SessionToken, password: &str) -> PendingLogon {
        let request = Envelope::new(logon("alice", password, ""));
        match self.step(Some(session), request).expect("a step") {
            Step::VerifyPassword(verification) => verification.pending,
            Step::Answer(answer) => panic!("{answer:?}"),
        }
    }

    fn list(&mut self, session: SessionToken) -> Result<Vec<String>, HandleError> {
        let answer = listing(self.ask(Some(session), list())?);
        let names: Vec<String> = answer
            .resources
            .into_iter()
            .map(|desktop| desktop.name)
            .collect();
        let expected = if names.is_empty() {
            ListResultId::NoEntitlement
        } else {
            ListResultId::Successful
        };
        assert_eq!(answer.result.id, expected);
        Ok(names)
    }
}

fn hello() -> Request {
    Request::Hello(Hello {
        client_info: ClientInfo {
            product_name: Some("Test client".into()),
            ..ClientInfo::default()
        },
        ..Hello::default()
    })
}

fn probe() -> Request {
    Request::Hello(Hello {
        client_info: ClientInfo {
            product_name: Some(PROBE_PRODUCT.into()),
            product_version: Some("1.0".into()),
            ..ClientInfo::default()
        },
        ..Hello::default()
    })
}

fn logon(username: &str, password: &str, domain: &str) -> Request {
    Request::Authenticate(Authenticate::Password(PasswordLogon {
        username: username.into(),
        password: password.into(),
        domain: domain.into(),
        rest: Rest::default(),
    }))
}

fn list() -> Request {
    Request::GetResourceList(GetResourceList {
        protocols: vec!["PCOIP".into()],
        resource_types: vec!["DESKTOP".into()],
        rest: Rest::default(),
    })
}

fn allocate(id: &str) -> Request {
    Request::AllocateResource(AllocateResource {
        resource_id: id.into(),
        protocol: Some("PCOIP".into()),
        ..AllocateResource::default()
    })
}

fn authentication(answer: Answer) -> AuthenticateResp {
    let Response::Authenticate(answer) = answer.response.message else {
        panic!("another answer");
    };
    answer
}

fn listing(answer: Answer) -> GetResourceListResp {
    let Response::GetResourceList(answer) = answer.response.message else {
        panic!("another answer");
    };
    answer
}

fn allocation(answer: Answer) -> AllocateResourceResp {
    let Response::AllocateResource(answer) = answer.response.message else {
        panic!("another answer");
    };
    answer
}
