//! Broker, agent and gateway as closures, with a record of what they were asked.

use std::{net::IpAddr, sync::Mutex};

use futures_util::future::BoxFuture;
use portcullis_connection_manager::{
    Agent, AgentAddress, AgentAnswer, AgentFailure, Broker, BrokerAnswer, BrokerExchange,
    BrokerFailure, Gateway, GatewayFailure, GrantOrder, GrantedAddress, neighbours::Cause,
};
use portcullis_protocol::{
    LogId,
    agent::{LaunchResultId, LaunchSession, LaunchSessionResp, SessionInfo},
    broker::{
        AllocResultId, AllocateResourceResp, AuthResultId, AuthenticateResp, ByeResp, ConnectTag,
        Envelope, GetResourceListResp, HelloResp, ListResultId, NextAuthentication, Outcome,
        ProductInfo, Request, Resource, Response, Rest, SessionId, Target,
    },
};
use tokio::sync::{Notify, mpsc};

use super::soon;

/// What a broker does with a question.
pub(crate) enum Reaction {
    Say(Response),
    Fail(BrokerFailure),
    /// Answers once somebody says so.
    Await(std::sync::Arc<Notify>, Response),
    Hang,
}

type React = Box<dyn Fn(&BrokerExchange) -> Reaction + Send + Sync>;

pub(crate) struct FakeBroker {
    react: React,
    pub(crate) exchanges: Mutex<Vec<BrokerExchange>>,
    pub(crate) healthy: Mutex<Result<(), &'static str>>,
    pub(crate) probes: Mutex<usize>,
    asked: mpsc::UnboundedSender<BrokerExchange>,
    questions: tokio::sync::Mutex<mpsc::UnboundedReceiver<BrokerExchange>>,
}

impl FakeBroker {
    pub(crate) fn new(react: impl Fn(&BrokerExchange) -> Reaction + Send + Sync + 'static) -> Self {
        let (asked, questions) = mpsc::unbounded_channel();
        Self {
            react: Box::new(react),
            exchanges: Mutex::default(),
            healthy: Mutex::new(Ok(())),
            probes: Mutex::default(),
            asked,
            questions: tokio::sync::Mutex::new(questions),
        }
    }

    pub(crate) fn usual() -> Self {
        Self::new(|exchange| Reaction::Say(usual(exchange)))
    }

    /// Waits for the next question that is a given kind.
    pub(crate) async fn asked(&self, is: impl Fn(&Request) -> bool) -> BrokerExchange {
        let mut questions = self.questions.lock().await;
        loop {
            let exchange = soon(questions.recv()).await.unwrap();
            if is(&exchange.request.message) {
                return exchange;
            }
        }
    }

    /// The last question so far.
    pub(crate) fn last(&self) -> BrokerExchange {
        self.exchanges.lock().unwrap().last().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.exchanges.lock().unwrap().len()
    }
}

impl Broker for FakeBroker {
    fn ask(&self, exchange: BrokerExchange) -> BoxFuture<'_, Result<BrokerAnswer, BrokerFailure>> {
        self.exchanges.lock().unwrap().push(exchange.clone());
        let _ = self.asked.send(exchange.clone());
        let reaction = (self.react)(&exchange);
        let mut cookies = exchange.cookies;
        if cookies.is_empty() && matches!(exchange.request.message, Request::Hello(_)) {
            cookies.set("JSESSIONID", &format!("broker-{}", self.count()));
        }
        Box::pin(async move {
            let response = match reaction {
                Reaction::Say(response) => response,
                Reaction::Fail(failure) => return Err(failure),
                Reaction::Await(notify, response) => {
                    notify.notified().await;
                    response
                }
                Reaction::Hang => std::future::pending().await,
            };
            let response = Envelope::new(response);
            Ok(BrokerAnswer { cookies, response })
        })
    }

    fn health(&self) -> BoxFuture<'_, Result<(), Cause>> {
        *self.probes.lock().unwrap() += 1;
        let healthy = *self.healthy.lock().unwrap();
        Box::pin(async move { Ok(healthy?) })
    }
}

/// What a good broker answers: the password is "correct horse", the desktop is d-1 at 127.0.0.1.
pub(crate) fn usual(exchange: &BrokerExchange) -> Response {
    use secrecy::ExposeSecret;
    match &exchange.request.message {
        Request::Hello(_) => Response::Hello(HelloResp {
            brokers: vec![ProductInfo {
                product_name: Some("Test Broker".into()),
                ..ProductInfo::default()
            }],
            next_authentication: Some(NextAuthentication {
                methods: vec!["AUTHENTICATE_VIA_PASSWORD".into()],
                domains: vec!["CORP".into()],
                ..NextAuthentication::default()
            }),
            ..HelloResp::default()
        }),
        Request::Authenticate(portcullis_protocol::broker::Authenticate::Password(logon))
            if logon.password.expose_secret() != "correct horse" =>
        {
            judged(AuthResultId::UnknownUsernameOrPassword)
        }
        Request::Authenticate(_) => judged(AuthResultId::Complete),
        Request::GetResourceList(_) => Response::GetResourceList(GetResourceListResp {
            result: Outcome::new(ListResultId::Successful, ""),
            resources: vec![Resource {
                name: "Ada's desk".into(),
                id: "d-1".into(),
                ..Resource::default()
            }],
            rest: Rest::default(),
        }),
        Request::AllocateResource(_) => allocated(Target {
            ip_address: Some("127.0.0.1".into()),
            hostname: Some("desk-1".into()),
            ..Target::default()
        }),
        Request::Bye(_) => Response::Bye(ByeResp::default()),
        Request::Unknown(element) => Response::Unknown(element.clone()),
    }
}

pub(crate) fn judged(id: AuthResultId) -> Response {
    Response::Authenticate(AuthenticateResp {
        method: Some("password".into()),
        result: Outcome::new(id, "as the broker says"),
        next_authentication: None,
        rest: Rest::default(),
    })
}

pub(crate) fn allocated(target: Target) -> Response {
    Response::AllocateResource(AllocateResourceResp {
        result: Outcome::new(AllocResultId::Successful, "as the broker says"),
        target: Some(target),
        resource_id: Some("d-1".into()),
        protocol: Some("PCOIP".into()),
        rest: Rest::default(),
    })
}

pub(crate) fn complete_target() -> Target {
    Target {
        ip_address: Some("10.0.0.21".into()),
        hostname: Some("desk-1".into()),
        sni: Some("DESK-1".into()),
        port: Some(4172),
        session_id: Some(SessionId(0x2000_0000_0000_0002)),
        connect_tag: ConnectTag::new("SCS1broker"),
        rest: Rest::default(),
    }
}

type Launch =
    Box<dyn Fn(&LaunchSession) -> Option<Result<LaunchSessionResp, AgentFailure>> + Send + Sync>;

pub(crate) struct FakeAgent {
    launch: Launch,
    pub(crate) launches: Mutex<Vec<(AgentAddress, LaunchSession, LogId)>>,
}

impl FakeAgent {
    /// An agent that answers this, or never for `None`.
    pub(crate) fn new(
        launch: impl Fn(&LaunchSession) -> Option<Result<LaunchSessionResp, AgentFailure>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self {
            launch: Box::new(launch),
            launches: Mutex::default(),
        }
    }

    pub(crate) fn usual() -> Self {
        Self::new(|_| Some(Ok(launched())))
    }
}

impl Agent for FakeAgent {
    fn launch(
        &self,
        address: AgentAddress,
        request: LaunchSession,
        log_id: LogId,
    ) -> BoxFuture<'_, Result<AgentAnswer, AgentFailure>> {
        let answer = (self.launch)(&request);
        self.launches
            .lock()
            .unwrap()
            .push((address, request, log_id));
        Box::pin(async move {
            match answer {
                Some(result) => result.map(|response| AgentAnswer {
                    response,
                    dialled: IpAddr::from([127, 0, 0, 1]),
                }),
                None => std::future::pending().await,
            }
        })
    }
}

pub(crate) fn launched() -> LaunchSessionResp {
    LaunchSessionResp {
        result: LaunchResultId::Successful,
        fail_reason: None,
        session_info: Some(SessionInfo {
            ip_address: "10.0.0.21".into(),
            sni: "DESK-1".into(),
            port: 4172,
            session_id: SessionId(7),
            session_tag: ConnectTag::new("SCS1agent").unwrap(),
            rest: Rest::default(),
        }),
        rest: Rest::default(),
    }
}

/// A gateway at 203.0.113.5:4172.
pub(crate) struct FakeGateway {
    pub(crate) orders: Mutex<Vec<GrantOrder>>,
    pub(crate) refusals: Mutex<Vec<GatewayFailure>>,
    pub(crate) healthy: Mutex<Result<(), &'static str>>,
}

impl FakeGateway {
    pub(crate) fn usual() -> Self {
        Self {
            orders: Mutex::default(),
            refusals: Mutex::default(),
            healthy: Mutex::new(Ok(())),
        }
    }
}

impl Gateway for FakeGateway {
    fn authorize(
        &self,
        order: GrantOrder,
    ) -> BoxFuture<'_, Result<GrantedAddress, GatewayFailure>> {
        self.orders.lock().unwrap().push(order);
        let refusal = self.refusals.lock().unwrap().pop();
        Box::pin(async move {
            match refusal {
                Some(failure) => Err(failure),
                None => Ok(GrantedAddress {
                    ip: IpAddr::from([203, 0, 113, 5]),
                    port: 4172,
                }),
            }
        })
    }

    fn health(&self) -> BoxFuture<'_, Result<(), Cause>> {
        let healthy = *self.healthy.lock().unwrap();
        Box::pin(async move { Ok(healthy?) })
    }
}
