//! The order of messages. Sans-IO: time and randomness are arguments, and passwords are checked by the caller.
//!
//! A session begins with `hello` and ends with `bye`, after ten failed logons, or by idleness. In between: `authenticate` at
//! any time (a new attempt logs off whoever was logged on), `get-resource-list` and `allocate-resource` while somebody is
//! logged on. Anything else is refused and leaves the session as it was.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis_protocol::{
    LogId,
    broker::{
        AllocateResource, Authenticate, Envelope, GetResourceList, PCOIP, PasswordLogon, Request,
        Response,
    },
};
use secrecy::SecretString;
use thiserror::Error;

use crate::{
    answers,
    directory::{Directory, UserId},
    password::PasswordHash,
    sessions::{Bounds, SessionToken, Sessions},
};

/// Sessions at a time, unless configured: a logon storm of a large site, at about a kilobyte each.
pub const DEFAULT_MAX_SESSIONS: usize = 10_000;
/// How long a session may be idle, unless configured: time to read a list and choose.
pub const DEFAULT_IDLE: Duration = Duration::from_secs(10 * 60);
/// Failed logons that end a session. A person gives up sooner; a guesser has to greet again.
pub const MAX_MISSES: u32 = 10;
/// Longest part of an unknown message's name that is repeated, in characters.
const SHOWN_NAME: usize = 32;

/// Who the broker says it is, in `broker-info`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerInfo {
    /// Host name.
    pub hostname: String,
    /// Address, where one can be told.
    pub ip_address: Option<IpAddr>,
    /// Language of the texts, such as `en_US`.
    pub locale: String,
}

impl Default for BrokerInfo {
    /// A broker on `localhost` speaking `en_US`.
    fn default() -> Self {
        Self {
            hostname: "localhost".to_owned(),
            ip_address: None,
            locale: "en_US".to_owned(),
        }
    }
}

/// One request, with what belongs to it outside the document.
#[derive(Clone, Debug)]
pub struct Inquiry {
    /// The session, when the client is in one.
    pub session: Option<SessionToken>,
    /// The client's address, for the log.
    pub client: IpAddr,
    /// The session log id, for the log.
    pub log_id: LogId,
    /// The document.
    pub request: Envelope<Request>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// A session that has begun with this answer, to be named in later inquiries; `None` when none began.
    pub session: Option<SessionToken>,
    /// The document.
    pub response: Envelope<Response>,
}

/// What to do next.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "made and taken apart once a request, never stored"
)]
pub enum Step {
    /// Send this.
    Answer(Answer),
    /// Check this password, then call [`Machine::verified`].
    VerifyPassword(Verification),
}

/// A password to be checked. Checking takes long: do it beside everything else.
#[derive(Debug)]
pub struct Verification {
    /// The hash to check against; one of nobody's when the user does not exist.
    pub hash: PasswordHash,
    /// The password.
    pub password: SecretString,
    /// To be handed back with the verdict.
    pub pending: PendingLogon,
}

/// An attempt to log on that waits for its verdict.
#[derive(Debug)]
pub struct PendingLogon {
    session: SessionToken,
    attempt: u64,
    user: Option<UserId>,
    frame: Envelope<()>,
}

impl PendingLogon {
    /// Who is trying to log on, when such a user exists.
    #[must_use]
    pub fn user(&self) -> Option<UserId> {
        self.user
    }
}

/// Outcome of checking a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the user's.
    Right,
    /// It is not.
    Wrong,
    /// It could not be checked in time.
    NotChecked,
}

/// Why there is no answer. The session, if there is one, is as it was.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HandleError {
    /// The message needs a session, and there is none: never begun, ended, or expired.
    #[error("the message {message:?} needs a session, and there is none")]
    NoSession {
        /// Name of the message.
        message: &'static str,
    },
    /// The message may not come at this point.
    #[error("the message {message:?} came out of order")]
    OutOfOrder {
        /// Name of the message.
        message: &'static str,
    },
    /// No such message exists.
    #[error("the message {message:?} is unknown")]
    UnknownMessage {
        /// Its name, shortened.
        message: String,
    },
    /// Every session there may be is in use by somebody logged on.
    #[error("there are too many sessions")]
    TooManySessions,
    /// The operating system gave no randomness for a session's name.
    #[error("the random source failed")]
    Random(#[source] getrandom::Error),
}

/// The sessions, and what each message does to them.
#[derive(Debug)]
pub struct Machine {
    directory: Arc<Directory>,
    info: BrokerInfo,
    sessions: Sessions,
}

impl Machine {
    /// A broker nobody has greeted yet, with at most `max_sessions` sessions, each ending after `idle`.
    #[must_use]
    pub fn new(
        directory: Arc<Directory>,
        info: BrokerInfo,
        max_sessions: usize,
        idle: Duration,
    ) -> Self {
        Self {
            directory,
            info,
            sessions: Sessions::new(Bounds {
                count: max_sessions,
                idle,
            }),
        }
    }

    /// Takes one request. `fresh` is a random token, used when a session begins.
    ///
    /// # Errors
    /// See [`HandleError`].
    pub fn handle(
        &mut self,
        inquiry: Inquiry,
        fresh: SessionToken,
        now: Instant,
    ) -> Result<Step, HandleError> {
        self.sessions.expire(now);
        let frame = inquiry.request.reply(());
        let session = inquiry.session;
        let mut begun = None;
        let response = match inquiry.request.message {
            Request::Hello(hello) => {
                if !hello.is_probe() {
                    self.begin(session, fresh, now)?;
                    begun = Some(fresh);
                }
                answers::hello(&self.info, &self.directory)
            }
            Request::Authenticate(Authenticate::Password(logon)) => {
                return self
                    .start_logon(session, logon, frame, now)
                    .map(Step::VerifyPassword);
            }
            Request::Authenticate(Authenticate::Other(element)) => {
                self.touch(session, "authenticate", now)?;
                let method = element.attribute_value("method").map(str::to_owned);
                answers::method_not_offered(method)
            }
            Request::GetResourceList(list) => {
                let user = self.logged_on(session, "get-resource-list", now)?;
                self.list(user, &list)
            }
            Request::AllocateResource(allocation) => {
                let user = self.logged_on(session, "allocate-resource", now)?;
                self.allocate(user, &allocation)
            }
            Request::Bye(_) => {
                // Without a session there is nothing to end, which is what the client wants.
                if let Some(token) = session {
                    self.sessions.end(token);
                }
                answers::bye()
            }
            Request::Unknown(element) => {
                return Err(HandleError::UnknownMessage {
                    message: element.name.chars().take(SHOWN_NAME).collect(),
                });
            }
        };
        Ok(Step::Answer(Answer {
            session: begun,
            response: frame.reply(response),
        }))
    }

    /// Takes the verdict on a password and answers the logon it belongs to.
    ///
    /// # Errors
    /// When the session has ended meanwhile, or another attempt has begun in it.
    pub fn verified(
        &mut self,
        pending: PendingLogon,
        verdict: Verdict,
        now: Instant,
    ) -> Result<Answer, HandleError> {
        const MESSAGE: &str = "authenticate";

        self.sessions.expire(now);
        let PendingLogon {
            session: token,
            attempt,
            user,
            frame,
        } = pending;
        let user = user.filter(|_| verdict == Verdict::Right);
        let misses = self.sessions.with(token, now, |session| {
            if session.attempt != attempt {
                return None;
            }
            session.user = user;
            if verdict != Verdict::NotChecked && user.is_none() {
                session.misses += 1;
            }
            Some(session.misses)
        });
        let misses = misses
            .ok_or(HandleError::NoSession { message: MESSAGE })?
            .ok_or(HandleError::OutOfOrder { message: MESSAGE })?;
        if user.is_none() && misses >= MAX_MISSES {
            self.sessions.end(token);
        }
        let response = match (verdict, user) {
            (Verdict::NotChecked, _) => answers::too_busy(),
            (Verdict::Right, Some(_)) => answers::logged_on(),
            (Verdict::Right | Verdict::Wrong, _) => answers::wrong_name_or_password(),
        };
        Ok(Answer {
            session: None,
            response: frame.reply(response),
        })
    }

    /// How many sessions there are.
    pub fn session_count(&mut self, now: Instant) -> usize {
        self.sessions.expire(now);
        self.sessions.len()
    }

    /// Begins a session, in place of the one the client may be in.
    fn begin(
        &mut self,
        old: Option<SessionToken>,
        fresh: SessionToken,
        now: Instant,
    ) -> Result<(), HandleError> {
        if let Some(old) = old {
            self.sessions.end(old);
        }
        if self.sessions.begin(fresh, now) {
            Ok(())
        } else {
            Err(HandleError::TooManySessions)
        }
    }

    fn start_logon(
        &mut self,
        session: Option<SessionToken>,
        logon: PasswordLogon,
        frame: Envelope<()>,
        now: Instant,
    ) -> Result<Verification, HandleError> {
        const MESSAGE: &str = "authenticate";

        let token = session.ok_or(HandleError::NoSession { message: MESSAGE })?;
        let attempt = self
            .sessions
            .with(token, now, |session| {
                session.user = None;
                session.attempt += 1;
                session.attempt
            })
            .ok_or(HandleError::NoSession { message: MESSAGE })?;
        let user = self.directory.resolve(&logon.username, &logon.domain);
        let hash = user
            .and_then(|user| self.directory.user(user))
            .map_or(self.directory.nobody(), |user| user.password_hash());
        Ok(Verification {
            hash: hash.clone(),
            password: logon.password,
            pending: PendingLogon {
                session: token,
                attempt,
                user,
                frame,
            },
        })
    }

    /// Uses the session and tells who is logged on in it.
    fn touch(
        &mut self,
        session: Option<SessionToken>,
        message: &'static str,
        now: Instant,
    ) -> Result<Option<UserId>, HandleError> {
        session
            .and_then(|token| self.sessions.with(token, now, |session| session.user))
            .ok_or(HandleError::NoSession { message })
    }

    fn logged_on(
        &mut self,
        session: Option<SessionToken>,
        message: &'static str,
        now: Instant,
    ) -> Result<UserId, HandleError> {
        self.touch(session, message, now)?
            .ok_or(HandleError::OutOfOrder { message })
    }

    fn list(&self, user: UserId, request: &GetResourceList) -> Response {
        let wanted =
            admits(&request.protocols, PCOIP) && admits(&request.resource_types, "DESKTOP");
        answers::list(self.directory.desktops_of(user).filter(|_| wanted))
    }

    fn allocate(&self, user: UserId, request: &AllocateResource) -> Response {
        let protocols: Vec<String> = request.protocol.iter().cloned().collect();
        if !admits(&protocols, PCOIP) {
            return answers::protocol_not_offered(&request.resource_id);
        }
        match self.directory.entitled(user, &request.resource_id) {
            Some(desktop) => answers::allocated(desktop),
            None => answers::not_yours(&request.resource_id),
        }
    }
}

/// Whether a list of what a client takes has room for `offered`; an empty list takes anything.
fn admits(wanted: &[String], offered: &str) -> bool {
    wanted.is_empty() || wanted.iter().any(|one| one.eq_ignore_ascii_case(offered))
}

#[cfg(test)]
mod tests;
