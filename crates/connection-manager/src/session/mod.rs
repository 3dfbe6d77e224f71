//! The session machine: one client's way from hello to its desktop, without sockets, clocks or tasks.
//!
//! Feed it a request with [`Session::handle_request`] and perform the [`Step`] it gives; while that is not a reply or a
//! rejection, feed the result to the `handle_*` method of whom the step concerned, and go on. A request is over at
//! [`Step::Reply`] or [`Step::Reject`]; only then may the next one be handled. After every request, look at
//! [`Session::is_over`] and [`Session::take_farewell`].
//!
//! Order of messages: hello, authenticate (again after a failure, and in several steps), get-resource-list (any number
//! of times, also none), allocate-resource (again after a failure or `ALLOC_PENDING_TRY_AGAIN`), bye. Hello and bye are
//! taken in any state; anything else out of order is rejected and changes nothing.

mod allocation;
mod credentials;
#[cfg(test)]
mod tests;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis_protocol::{
    LogId,
    agent::LaunchSession,
    broker::{
        AuthResultId, Authenticate, AuthenticateResp, Bye, ByeResp, Envelope, GetResourceListResp,
        Hello, Outcome, PROBE_PRODUCT, ProductInfo, Request, Response, Rest, Root,
    },
};

use self::{
    allocation::{Choice, Launching, Prepared},
    credentials::Credentials,
};
use crate::{
    config::{AgentAddressRule, PcmInfo},
    neighbours::{AgentAddress, BrokerAnswer, BrokerCookies, BrokerFailure, GrantOrder},
    texts,
};

/// Desktops of the last list whose names are remembered for sentences; a longer list only costs names.
const REMEMBERED_NAMES: usize = 64;

/// What is the same for every session.
#[derive(Clone, Debug)]
pub struct SessionPolicy {
    /// What we say of ourselves, if anything.
    pub pcm_info: Option<PcmInfo>,
    /// `license-path` for agents; may be empty.
    pub license_path: String,
    /// TCP port of agents.
    pub agent_port: u16,
    /// Which address is believed to be the agent's.
    pub agent_address: AgentAddressRule,
    /// Whether clients go through a Security Gateway.
    pub gateway: bool,
    /// A session without a request for this long is over.
    pub idle: Duration,
    /// A session without a desktop after this long is over.
    pub lifetime: Duration,
}

/// Who the client is, apart from what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientFacts {
    /// Its real address.
    pub address: IpAddr,
    /// Its session's log id.
    pub log_id: LogId,
}

/// What is to be done next.
#[derive(Debug)]
#[must_use = "a step that is not performed leaves its request without an answer"]
pub enum Step {
    /// Answer the client.
    Reply(Envelope<Response>),
    /// Ask the broker, then [`Session::handle_broker`].
    AskBroker(Box<BrokerRequest>),
    /// Launch on an agent, then [`Session::handle_agent`].
    Launch(LaunchOrder),
    /// Have the gateway admit the client, then [`Session::handle_gateway`].
    Authorize(GrantOrder),
    /// Answer the client that there is no answer.
    Reject(Reject),
}

/// A question for the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerRequest {
    /// The broker's cookies of this session.
    pub cookies: BrokerCookies,
    /// The document.
    pub request: Envelope<Request>,
}

/// A launch on an agent.
#[derive(Clone, Debug)]
pub struct LaunchOrder {
    /// Where the agent listens.
    pub address: AgentAddress,
    /// The document.
    pub request: LaunchSession,
}

/// Why a request gets no message of the protocol in answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reject {
    /// No session belongs to the request.
    NoSession,
    /// The message does not belong here; the session is unharmed.
    OutOfOrder,
    /// The message is none of the protocol; the session is unharmed.
    UnknownMessage,
    /// A Connection Manager stands behind itself.
    Loop,
    /// The broker gave no answer to a message that has no result to say so in (`hello`, `get-resource-list`).
    BrokerUnavailable,
    /// No session can be opened at the moment.
    TooManySessions,
    /// A result came that nothing asked for.
    Internal,
}

/// Whether a hello is a client's probe, which is answered but never becomes a session.
#[must_use]
pub fn is_probe(hello: &Hello) -> bool {
    hello.client_info.product_name.as_deref().map(str::trim) == Some(PROBE_PRODUCT)
}

/// One client's session.
#[derive(Debug)]
pub struct Session {
    policy: Arc<SessionPolicy>,
    client: ClientFacts,
    phase: Phase,
    /// The request being handled: what its answer needs of its envelope, and what it waits for.
    pending: Option<(Head, Pending)>,
    cookies: BrokerCookies,
    /// Whether the broker holds a session that nobody has said bye to.
    greeted_broker: bool,
    farewell: Option<BrokerRequest>,
    client_name: String,
    client_mac: String,
    user: String,
    credentials: Option<Credentials>,
    /// Names of the last list's desktops, by resource id.
    names: Vec<(String, String)>,
    /// A launched session that the gateway has not admitted yet.
    prepared: Option<Prepared>,
    opened: Instant,
    last_request: Instant,
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing but perhaps an unanswered hello.
    Fresh,
    /// Greeted; the user is not, or not yet fully, known.
    Authenticating,
    /// The user is known.
    Authenticated,
    /// The client has its desktop.
    Done,
    /// Said bye, expired or failed at hello.
    Over,
}

/// What an answer echoes of its request's envelope.
type Head = Envelope<()>;

/// What the request being handled waits for.
#[derive(Debug)]
enum Pending {
    Hello {
        probe: bool,
    },
    Authenticate {
        /// The password logon being judged; `None` for every other method.
        credentials: Option<Credentials>,
    },
    List,
    Allocate(Choice),
    Launch(Box<Launching>),
    Grant(Box<Prepared>),
    Bye,
}

impl Session {
    /// A session that expects its hello.
    #[must_use]
    pub fn new(policy: Arc<SessionPolicy>, client: ClientFacts, now: Instant) -> Self {
        Self {
            policy,
            client,
            phase: Phase::Fresh,
            pending: None,
            cookies: BrokerCookies::new(),
            greeted_broker: false,
            farewell: None,
            client_name: String::new(),
            client_mac: String::new(),
            user: String::new(),
            credentials: None,
            names: Vec::new(),
            prepared: None,
            opened: now,
            last_request: now,
        }
    }

    /// Handles a request. `now` restarts the idle limit.
    pub fn handle_request(&mut self, envelope: Envelope<Request>, now: Instant) -> Step {
        if self.is_over() {
            return Step::Reject(Reject::NoSession);
        }
        let head = envelope.reply(());
        let Envelope { rest, message, .. } = envelope;
        let ready = self.pending.is_none();
        let (message, pending) = match (message, self.phase) {
            (Request::Hello(hello), _) if self.is_loop(hello.pcm_info.as_ref()) => {
                return Step::Reject(Reject::Loop);
            }
            (Request::Hello(hello), _) => {
                self.restart(&hello, now);
                let probe = is_probe(&hello);
                (self.greeting(hello), Pending::Hello { probe })
            }
            (Request::Bye(_), Phase::Fresh) => {
                self.end();
                return Step::Reply(head.reply(Response::Bye(ByeResp::default())));
            }
            (Request::Bye(bye), _) => {
                self.forget();
                (Request::Bye(bye), Pending::Bye)
            }
            (Request::Authenticate(step), Phase::Authenticating) if ready => {
                let credentials = match &step {
                    Authenticate::Password(logon) => Some(Credentials::of(logon)),
                    Authenticate::Other(_) => None,
                };
                let pending = Pending::Authenticate { credentials };
                (Request::Authenticate(step), pending)
            }
            (Request::GetResourceList(list), Phase::Authenticated) if ready => {
                (Request::GetResourceList(list), Pending::List)
            }
            (Request::AllocateResource(request), Phase::Authenticated) if ready => {
                let choice = Choice::of(&request);
                if let Some(prepared) = self.prepared_for(&choice, now) {
                    self.last_request = now;
                    return self.authorize(head, prepared);
                }
                (
                    Request::AllocateResource(request),
                    Pending::Allocate(choice),
                )
            }
            (
                Request::Authenticate(_)
                | Request::GetResourceList(_)
                | Request::AllocateResource(_),
                _,
            ) => return Step::Reject(Reject::OutOfOrder),
            (Request::Unknown(_), _) => return Step::Reject(Reject::UnknownMessage),
        };
        self.last_request = now;
        let request = Envelope {
            root: Root::Client,
            version: head.version,
            rest,
            message,
        };
        self.pending = Some((head, pending));
        Step::AskBroker(Box::new(BrokerRequest {
            cookies: self.cookies.clone(),
            request,
        }))
    }

    /// Handles what the broker answered to [`Step::AskBroker`].
    pub fn handle_broker(
        &mut self,
        result: Result<BrokerAnswer, BrokerFailure>,
        now: Instant,
    ) -> Step {
        let Some((head, pending)) = self.pending.take() else {
            return Step::Reject(Reject::Internal);
        };
        let result = result.map(|BrokerAnswer { cookies, response }| {
            self.cookies = cookies;
            (response.rest, response.message)
        });
        match pending {
            Pending::Hello { probe } => self.greeted(head, probe, result),
            Pending::Authenticate { credentials } => self.judged(head, credentials, result),
            Pending::List => self.listed(head, result),
            Pending::Allocate(choice) => self.allocated(head, choice, result, now),
            Pending::Bye => {
                self.greeted_broker = false;
                self.end();
                let (rest, bye) = match result {
                    Ok((rest, Response::Bye(bye))) => (rest, bye),
                    // The client leaves either way.
                    _ => <(Rest, ByeResp)>::default(),
                };
                reply(head, rest, Response::Bye(bye))
            }
            pending @ (Pending::Launch(_) | Pending::Grant(_)) => {
                self.pending = Some((head, pending));
                Step::Reject(Reject::Internal)
            }
        }
    }

    /// When [`Session::handle_timeout`] wants to be called; `None` once the session is over. Ask again after every request.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let idle = self.last_request + self.policy.idle;
        match self.phase {
            Phase::Fresh | Phase::Authenticating | Phase::Authenticated => {
                Some(idle.min(self.opened + self.policy.lifetime))
            }
            Phase::Done => Some(idle),
            Phase::Over => None,
        }
    }

    /// Ends the session when its time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.end();
        }
    }

    /// Ends the session and wipes what it holds. The broker may be owed a bye afterwards.
    pub fn end(&mut self) {
        self.forget();
        self.part();
        self.pending = None;
        self.phase = Phase::Over;
    }

    /// A bye that the broker is still owed, for a session it may hold. Send it when convenient; its answer matters to
    /// nobody.
    pub const fn take_farewell(&mut self) -> Option<BrokerRequest> {
        self.farewell.take()
    }

    /// Notes who a request came from. Call it before [`Session::handle_request`]: the gateway admits the address the client
    /// had last.
    pub const fn client_is(&mut self, client: ClientFacts) {
        self.client = client;
    }

    /// The client as known so far.
    #[must_use]
    pub const fn client(&self) -> ClientFacts {
        self.client
    }

    /// The user as far as the broker has confirmed one; else empty.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Whether the session has ended. It holds no secret then and can be dropped.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Whether a password is being kept at the moment.
    #[must_use]
    pub fn holds_credentials(&self) -> bool {
        let judging = self.pending.as_ref().is_some_and(|(_, pending)| {
            matches!(
                pending,
                Pending::Authenticate {
                    credentials: Some(_)
                }
            )
        });
        judging || self.credentials.is_some()
    }

    /// Begins anew with a hello. What an earlier one left at the broker is owed a bye.
    fn restart(&mut self, hello: &Hello, now: Instant) {
        self.forget();
        self.part();
        self.pending = None;
        self.phase = Phase::Fresh;
        self.opened = now;
        let info = &hello.client_info;
        self.client_name = first_of([&info.hostname, &info.device_name]);
        self.client_mac = first_of([&info.pcoip_unique_id, &info.serial_number]);
    }

    /// The hello as the broker gets it.
    fn greeting(&self, mut hello: Hello) -> Request {
        if let Some(ours) = &self.policy.pcm_info {
            hello.pcm_info = Some(ours.as_product_info().clone());
        }
        Request::Hello(hello)
    }

    fn greeted(&mut self, head: Head, probe: bool, result: Answer) -> Step {
        let Ok((rest, Response::Hello(mut resp))) = result else {
            self.end();
            return Step::Reject(Reject::BrokerUnavailable);
        };
        self.greeted_broker = true;
        if self.is_loop(resp.pcm_info.as_ref()) {
            self.end();
            return Step::Reject(Reject::Loop);
        }
        if let Some(ours) = &self.policy.pcm_info {
            resp.pcm_info = Some(ours.as_product_info().clone());
        }
        self.phase = Phase::Authenticating;
        if probe {
            // A broker that set no cookie has opened no session for the probe.
            self.greeted_broker = !self.cookies.is_empty();
            self.end();
        }
        reply(head, rest, Response::Hello(resp))
    }

    fn judged(&mut self, head: Head, credentials: Option<Credentials>, result: Answer) -> Step {
        let (rest, resp) = match result {
            Ok((rest, Response::Authenticate(resp))) => (rest, resp),
            Ok(_) => return self.unjudged(head, credentials, &BrokerFailure::wrong_message()),
            Err(failure) => return self.unjudged(head, credentials, &failure),
        };
        match resp.result.id {
            AuthResultId::Complete | AuthResultId::Incomplete => {
                if let Some(credentials) = credentials {
                    self.user = credentials.user();
                    self.credentials = Some(credentials);
                }
                if resp.result.id == AuthResultId::Complete {
                    self.phase = Phase::Authenticated;
                }
            }
            // The user is asked again within the same dialog: the password given before it still stands.
            AuthResultId::DialogInvalidUserEntry => {}
            AuthResultId::UnknownUsernameOrPassword
            | AuthResultId::AccessDenied
            | AuthResultId::UserHasNoResource
            | AuthResultId::ExpiredPassword
            | AuthResultId::Other(_)
            | _ => self.forget(),
        }
        reply(head, rest, Response::Authenticate(resp))
    }

    /// The broker did not judge. `AUTH_FAILED_ACCESS_DENIED` is the one result that claims nothing of the user's entry, and
    /// clients show its text, which an HTTP error would not get to the user.
    fn unjudged(
        &mut self,
        head: Head,
        credentials: Option<Credentials>,
        failure: &BrokerFailure,
    ) -> Step {
        self.forget();
        let resp = AuthenticateResp {
            method: credentials.map(|_| "password".into()),
            result: Outcome::new(
                AuthResultId::AccessDenied,
                texts::authentication_failed(failure),
            ),
            next_authentication: None,
            rest: Rest::default(),
        };
        reply(head, Rest::default(), Response::Authenticate(resp))
    }

    fn listed(&mut self, head: Head, result: Answer) -> Step {
        // No result id of a list says "ask again later", and "no entitlement" would be a lie.
        let Ok((rest, Response::GetResourceList(resp))) = result else {
            return Step::Reject(Reject::BrokerUnavailable);
        };
        self.remember_names(&resp);
        reply(head, rest, Response::GetResourceList(resp))
    }

    fn remember_names(&mut self, list: &GetResourceListResp) {
        let named = list.resources.iter().take(REMEMBERED_NAMES);
        self.names = named
            .map(|resource| (resource.id.clone(), resource.name.clone()))
            .collect();
    }

    fn is_loop(&self, pcm_info: Option<&ProductInfo>) -> bool {
        self.policy.pcm_info.is_some() && pcm_info.is_some_and(PcmInfo::is_ours)
    }

    /// Wipes everything that belongs to a user.
    fn forget(&mut self) {
        self.credentials = None;
        self.prepared = None;
        self.user.clear();
        self.names.clear();
    }

    /// Notes that the broker is owed a bye, if it is.
    fn part(&mut self) {
        let cookies = std::mem::take(&mut self.cookies);
        if std::mem::take(&mut self.greeted_broker) {
            self.farewell = Some(BrokerRequest {
                cookies,
                request: Envelope::new(Request::Bye(Bye::default())),
            });
        }
    }
}

/// What a broker answered: the rest of its envelope and the message.
type Answer = Result<(Rest, Response), BrokerFailure>;

fn reply(head: Head, rest: Rest, message: Response) -> Step {
    Step::Reply(Envelope {
        root: head.root,
        version: head.version,
        rest,
        message,
    })
}

/// The first of some texts that says anything.
fn first_of<const N: usize>(texts: [&Option<String>; N]) -> String {
    let mut said = texts.into_iter().flatten().map(|text| text.trim());
    said.find(|text| !text.is_empty())
        .unwrap_or_default()
        .into()
}
