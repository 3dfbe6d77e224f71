//! The machine from outside, without a socket: orders of messages, failures, and what becomes of the password.

mod allocation;
mod order;
mod properties;

use std::{net::IpAddr, sync::Arc, time::Instant};

use portcullis_protocol::{
    agent::{LaunchResultId, LaunchSessionResp, SessionInfo},
    broker::{
        AllocResultId, AllocateClientInfo, AllocateResource, AllocateResourceResp, AuthResultId,
        Authenticate, AuthenticateResp, Bye, ByeResp, ClientInfo, ConnectTag, Envelope,
        GetResourceList, GetResourceListResp, Hello, HelloResp, ListResultId, Outcome,
        PasswordLogon, Request, Resource, Response, Rest, SessionId, Target,
    },
    xml::Element,
};

use super::*;
use crate::{
    config::ManagerConfig,
    neighbours::{AgentAnswer, AgentFailure, GatewayFailure, GrantedAddress},
};

const CLIENT: &str = "198.51.100.7";
const AGENT: &str = "10.0.0.21";
const GATEWAY: &str = "203.0.113.5";

/// A session with its clock.
struct Bench {
    session: Session,
    now: Instant,
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

fn cause() -> Box<dyn std::error::Error + Send + Sync> {
    "made up".into()
}

impl Bench {
    fn new(gateway: bool) -> Self {
        Self::with(ManagerConfig::default().session_policy(gateway))
    }

    fn with(policy: SessionPolicy) -> Self {
        let now = Instant::now();
        let client = ClientFacts {
            address: ip(CLIENT),
            log_id: "7cd13600-b190-1039-bfc7-1c697a6f50fb"
                .parse()
                .expect("a well-formed id"),
        };
        Self {
            session: Session::new(Arc::new(policy), client, now),
            now,
        }
    }

    /// A session whose user is known.
    fn authenticated(gateway: bool) -> Self {
        let mut bench = Self::new(gateway);
        bench.hello();
        bench.authenticate(AuthResultId::Complete);
        bench
    }

    /// A session about to launch on its agent.
    fn launching(gateway: bool) -> Self {
        let mut bench = Self::authenticated(gateway);
        asked(bench.request(allocate()));
        let step = bench.broker(allocated(Some(named())));
        assert!(matches!(step, Step::Launch(_)), "{step:?}");
        bench
    }

    /// A session about to ask its gateway.
    fn authorizing() -> Self {
        let mut bench = Self::launching(true);
        let step = bench.agent(launched(AGENT));
        assert!(matches!(step, Step::Authorize(_)), "{step:?}");
        bench
    }

    fn request(&mut self, request: Request) -> Step {
        self.session
            .handle_request(Envelope::new(request), self.now)
    }

    fn broker(&mut self, response: Response) -> Step {
        let mut cookies = BrokerCookies::new();
        cookies.set("JSESSIONID", "at-the-broker");
        let response = Envelope::new(response);
        self.session
            .handle_broker(Ok(BrokerAnswer { cookies, response }), self.now)
    }

    fn broker_fails(&mut self, failure: BrokerFailure) -> Step {
        self.session.handle_broker(Err(failure), self.now)
    }

    fn agent(&mut self, response: LaunchSessionResp) -> Step {
        let dialled = ip(AGENT);
        self.session
            .handle_agent(Ok(AgentAnswer { response, dialled }), self.now)
    }

    fn agent_fails(&mut self, failure: AgentFailure) -> Step {
        self.session.handle_agent(Err(failure), self.now)
    }

    fn gateway(&mut self, result: Result<GrantedAddress, GatewayFailure>) -> Step {
        self.session.handle_gateway(result, self.now)
    }

    fn hello(&mut self) -> Envelope<Response> {
        asked(self.request(hello("PCoIP Client")));
        replied(self.broker(Response::Hello(HelloResp::default())))
    }

    fn authenticate(&mut self, id: AuthResultId) -> AuthenticateResp {
        asked(self.request(password("ada")));
        authentication(self.broker(judged(id)))
    }
}

fn hello(product: &str) -> Request {
    Request::Hello(Hello {
        client_info: ClientInfo {
            product_name: Some(product.into()),
            hostname: Some("laptop".into()),
            serial_number: Some("00-11-22-33-44-55".into()),
            ..ClientInfo::default()
        },
        ..Hello::default()
    })
}

fn password(username: &str) -> Request {
    Request::Authenticate(Authenticate::Password(PasswordLogon {
        username: username.into(),
        password: "correct horse".into(),
        domain: "CORP".into(),
        rest: Rest::default(),
    }))
}

fn dialog() -> Request {
    let mut element = Element::new("authenticate");
    element.attributes.push(("method".into(), "dialog".into()));
    Request::Authenticate(Authenticate::Other(element))
}

fn judged(id: AuthResultId) -> Response {
    Response::Authenticate(AuthenticateResp {
        method: Some("password".into()),
        result: Outcome {
            id,
            text: Some("as the broker says".into()),
            rest: Rest::default(),
        },
        next_authentication: None,
        rest: Rest::default(),
    })
}

fn list() -> Request {
    Request::GetResourceList(GetResourceList::default())
}

fn listed() -> Response {
    Response::GetResourceList(GetResourceListResp {
        result: Outcome {
            id: ListResultId::Successful,
            text: None,
            rest: Rest::default(),
        },
        resources: vec![Resource {
            name: "Ada's desk".into(),
            id: "d-1".into(),
            ..Resource::default()
        }],
        rest: Rest::default(),
    })
}

fn allocate() -> Request {
    Request::AllocateResource(AllocateResource {
        resource_id: "d-1".into(),
        protocol: Some("PCOIP".into()),
        client_info: Some(AllocateClientInfo {
            mac_address: Some("AA-BB-CC-DD-EE-FF".into()),
            ..AllocateClientInfo::default()
        }),
        rest: Rest::default(),
    })
}

/// Where a broker that does not launch says the desktop is.
fn named() -> Target {
    Target {
        ip_address: Some(AGENT.into()),
        hostname: Some("desk-1".into()),
        ..Target::default()
    }
}

/// What a broker that launches itself says.
fn complete() -> Target {
    Target {
        sni: Some("DESK-1".into()),
        port: Some(4172),
        session_id: Some(SessionId(0x2000_0000_0000_0002)),
        connect_tag: ConnectTag::new("SCS1tag"),
        ..named()
    }
}

fn allocation_result(id: AllocResultId, target: Option<Target>) -> Response {
    Response::AllocateResource(AllocateResourceResp {
        result: Outcome {
            id,
            text: Some("as the broker says".into()),
            rest: Rest::default(),
        },
        target,
        resource_id: Some("d-1".into()),
        protocol: Some("PCOIP".into()),
        rest: Rest::default(),
    })
}

fn allocated(target: Option<Target>) -> Response {
    allocation_result(AllocResultId::Successful, target)
}

fn launched(address: &str) -> LaunchSessionResp {
    LaunchSessionResp {
        result: LaunchResultId::Successful,
        fail_reason: None,
        session_info: Some(SessionInfo {
            ip_address: address.into(),
            sni: "DESK-1".into(),
            port: 4172,
            session_id: SessionId(7),
            session_tag: ConnectTag::new("SCS1agent").expect("a proper tag"),
            rest: Rest::default(),
        }),
        rest: Rest::default(),
    }
}

fn launch_failed(result: LaunchResultId, reason: Option<&str>) -> LaunchSessionResp {
    LaunchSessionResp {
        result,
        fail_reason: reason.map(str::to_owned),
        session_info: None,
        rest: Rest::default(),
    }
}

fn granted() -> Result<GrantedAddress, GatewayFailure> {
    Ok(GrantedAddress {
        ip: ip(GATEWAY),
        port: 4172,
    })
}

fn bye() -> Request {
    Request::Bye(Bye::default())
}

#[track_caller]
fn asked(step: Step) -> BrokerRequest {
    let Step::AskBroker(request) = step else {
        panic!("expected a question to the broker, not {step:?}");
    };
    *request
}

#[track_caller]
fn replied(step: Step) -> Envelope<Response> {
    let Step::Reply(reply) = step else {
        panic!("expected a reply, not {step:?}");
    };
    reply
}

#[track_caller]
fn rejected(step: Step) -> Reject {
    let Step::Reject(reject) = step else {
        panic!("expected a rejection, not {step:?}");
    };
    reject
}

#[track_caller]
fn authentication(step: Step) -> AuthenticateResp {
    let message = replied(step).message;
    let Response::Authenticate(resp) = message else {
        panic!("expected authenticate-resp, not {message:?}");
    };
    resp
}

#[track_caller]
fn allocation(step: Step) -> AllocateResourceResp {
    let message = replied(step).message;
    let Response::AllocateResource(resp) = message else {
        panic!("expected allocate-resource-resp, not {message:?}");
    };
    resp
}
