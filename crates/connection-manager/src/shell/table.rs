//! The sessions of this Connection Manager: found by cookie, one request at a time each, dropped when their time has come.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use portcullis_protocol::LogId;
use prometheus_client::metrics::gauge::Gauge;

use crate::session::{BrokerRequest, ClientFacts, Session};

/// Name of the session cookie.
pub(super) const COOKIE: &str = "JSESSIONID";
/// How long the sweep leaves a session alone that it found busy with a request.
const BUSY: Duration = Duration::from_secs(1);

/// A session's cookie value: 128 random bits. Never shown.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SessionKey([u8; 16]);

/// Why no session was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenError {
    /// As many are open as may be.
    Full,
    /// The operating system has no randomness.
    NoRandomness,
}

/// All sessions.
pub(super) struct SessionTable {
    max: usize,
    open: Gauge,
    sessions: Mutex<Sessions>,
}

/// A session while a request uses it: the sweep leaves it alone. Dropping it brings the table up to date.
pub(super) struct Lease {
    table: Arc<SessionTable>,
    key: SessionKey,
    session: Arc<tokio::sync::Mutex<Session>>,
}

/// A session that the sweep has ended.
pub(super) struct Expired {
    pub(super) client: ClientFacts,
    pub(super) farewell: Option<BrokerRequest>,
}

/// The client's log id and address, by which a client without a cookie can be known.
type Alias = (LogId, IpAddr);
/// When the sweep has to look at a session, made unique by a number.
type Due = (Instant, u64);

#[derive(Default)]
struct Sessions {
    entries: HashMap<SessionKey, Entry>,
    /// Exactly one item for each entry.
    due: BTreeMap<Due, SessionKey>,
    aliases: HashMap<Alias, SessionKey>,
    counter: u64,
}

struct Entry {
    session: Arc<tokio::sync::Mutex<Session>>,
    due: Due,
    leases: usize,
    alias: Option<Alias>,
}

impl SessionKey {
    fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// Reads a cookie value; `None` when it is none of ours.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let well_formed = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = well_formed.then(|| u128::from_str_radix(text, 16).ok())?;
        number.map(|number| Self(number.to_be_bytes()))
    }

    /// The cookie value.
    pub(super) fn to_text(self) -> String {
        format!("{:032X}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(..)")
    }
}

impl SessionTable {
    pub(super) fn new(max: usize, open: Gauge) -> Self {
        Self {
            max,
            open,
            sessions: Mutex::default(),
        }
    }

    /// Adds a session under a new key. `alias` lets a client without a cookie find it again.
    pub(super) fn open(
        self: &Arc<Self>,
        session: Session,
        alias: Option<Alias>,
    ) -> Result<Lease, OpenError> {
        let key = SessionKey::random().map_err(|_| OpenError::NoRandomness)?;
        let mut sessions = self.lock();
        if sessions.entries.len() >= self.max {
            return Err(OpenError::Full);
        }
        let at = session.poll_timeout();
        let session = Arc::new(tokio::sync::Mutex::new(session));
        let due = sessions.next_due(at);
        sessions.due.insert(due, key);
        let entry = Entry {
            session: Arc::clone(&session),
            due,
            leases: 1,
            alias: None,
        };
        sessions.entries.insert(key, entry);
        sessions.set_alias(key, alias);
        self.count(&sessions);
        drop(sessions);
        Ok(Lease {
            table: Arc::clone(self),
            key,
            session,
        })
    }

    /// The session of a cookie.
    pub(super) fn find(self: &Arc<Self>, key: SessionKey) -> Option<Lease> {
        let mut sessions = self.lock();
        let entry = sessions.entries.get_mut(&key)?;
        entry.leases += 1;
        Some(Lease {
            table: Arc::clone(self),
            key,
            session: Arc::clone(&entry.session),
        })
    }

    /// The session of a client that has lost its cookie.
    pub(super) fn find_alias(self: &Arc<Self>, alias: Alias) -> Option<Lease> {
        let key = self.lock().aliases.get(&alias).copied()?;
        self.find(key)
    }

    /// Ends every session whose time has come.
    pub(super) fn sweep(&self, now: Instant) -> Vec<Expired> {
        let mut expired = Vec::new();
        let mut sessions = self.lock();
        while let Some((&due, &key)) = sessions.due.first_key_value()
            && due.0 <= now
        {
            let Some(entry) = sessions.entries.get(&key) else {
                sessions.due.remove(&due);
                continue;
            };
            let session = Arc::clone(&entry.session);
            let Some(mut session) = (entry.leases == 0)
                .then(|| session.try_lock().ok())
                .flatten()
            else {
                sessions.put_off(key, Some(now + BUSY));
                continue;
            };
            session.handle_timeout(now);
            if session.is_over() {
                expired.push(Expired {
                    client: session.client(),
                    farewell: session.take_farewell(),
                });
                sessions.remove(key);
            } else {
                let at = session.poll_timeout();
                sessions.put_off(key, at);
            }
        }
        self.count(&sessions);
        expired
    }

    /// When [`SessionTable::sweep`] has something to do next, as far as is known.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let sessions = self.lock();
        sessions.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// How many sessions there are.
    pub(super) fn len(&self) -> usize {
        self.lock().entries.len()
    }

    fn count(&self, sessions: &Sessions) {
        let open = i64::try_from(sessions.entries.len());
        self.open.set(open.unwrap_or(i64::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        // No code that holds it can leave it half changed.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// The key under which the session is found again.
    pub(super) const fn key(&self) -> SessionKey {
        self.key
    }

    /// Waits for the requests before this one.
    pub(super) async fn lock(&self) -> tokio::sync::MutexGuard<'_, Session> {
        self.session.lock().await
    }

    /// Lets a client without a cookie find the session under another alias than before.
    pub(super) fn set_alias(&self, alias: Option<Alias>) {
        self.table.lock().set_alias(self.key, alias);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut sessions = self.table.lock();
        let Some(entry) = sessions.entries.get_mut(&self.key) else {
            return;
        };
        entry.leases = entry.leases.saturating_sub(1);
        // When it is locked, the request that holds it does the rest.
        let Ok(session) = self.session.try_lock() else {
            return;
        };
        if session.is_over() {
            sessions.remove(self.key);
        } else {
            let at = session.poll_timeout();
            sessions.put_off(self.key, at);
        }
        self.table.count(&sessions);
    }
}

impl Sessions {
    fn next_due(&mut self, at: Option<Instant>) -> Due {
        self.counter = self.counter.wrapping_add(1);
        // A session that is over has no time of its own: it is due at once.
        let now = || tokio::time::Instant::now().into_std();
        (at.unwrap_or_else(now), self.counter)
    }

    fn put_off(&mut self, key: SessionKey, at: Option<Instant>) {
        let due = self.next_due(at);
        if let Some(entry) = self.entries.get_mut(&key) {
            self.due.remove(&entry.due);
            entry.due = due;
            self.due.insert(due, key);
        }
    }

    fn set_alias(&mut self, key: SessionKey, alias: Option<Alias>) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        let before = std::mem::replace(&mut entry.alias, alias);
        self.drop_alias(key, before);
        if let Some(alias) = alias {
            self.aliases.insert(alias, key);
        }
    }

    fn remove(&mut self, key: SessionKey) {
        if let Some(entry) = self.entries.remove(&key) {
            self.due.remove(&entry.due);
            self.drop_alias(key, entry.alias);
        }
    }

    /// Another session may have taken the alias over.
    fn drop_alias(&mut self, key: SessionKey, alias: Option<Alias>) {
        if let Some(alias) = alias
            && self.aliases.get(&alias) == Some(&key)
        {
            self.aliases.remove(&alias);
        }
    }
}

#[cfg(test)]
mod tests {
    use portcullis_protocol::broker::{Bye, Envelope, Request};

    use super::*;
    use crate::config::ManagerConfig;

    struct Bench {
        table: Arc<SessionTable>,
        gauge: Gauge,
        now: Instant,
    }

    impl Bench {
        fn new(max: usize) -> Self {
            let gauge = Gauge::default();
            Self {
                table: Arc::new(SessionTable::new(max, gauge.clone())),
                gauge,
                now: Instant::now(),
            }
        }

        fn session(&self) -> Session {
            let policy = ManagerConfig {
                idle: Duration::from_secs(10),
                ..ManagerConfig::default()
            }
            .session_policy(true);
            let client = ClientFacts {
                address: [192, 0, 2, 1].into(),
                log_id: LogId::random(),
            };
            Session::new(Arc::new(policy), client, self.now)
        }

        fn open(&self, alias: Option<Alias>) -> Result<SessionKey, OpenError> {
            Ok(self.table.open(self.session(), alias)?.key())
        }

        fn assert_consistent(&self, len: usize) {
            let sessions = self.table.lock();
            assert_eq!(sessions.entries.len(), len);
            assert_eq!(sessions.due.len(), len);
            assert!(sessions.aliases.len() <= len);
            assert_eq!(self.gauge.get(), i64::try_from(len).expect("few"));
        }
    }

    #[test]
    fn keys_are_32_hex_digits_and_never_shown() {
        let key = SessionKey::random().expect("randomness");
        let text = key.to_text();
        assert_eq!(text.len(), 32);
        assert_eq!(SessionKey::parse(&text), Some(key));
        assert_eq!(SessionKey::parse(&text.to_lowercase()), Some(key));
        assert!(!format!("{key:?}").contains(&text));
        for other in [
            "",
            "00",
            &"g".repeat(32),
            &"+0".repeat(16),
            &text[1..],
            &format!("{text}0"),
        ] {
            assert_eq!(SessionKey::parse(other), None, "{other}");
        }
    }

    #[test]
    fn sessions_are_bounded() {
        let bench = Bench::new(2);
        bench.open(None).expect("room");
        bench.open(None).expect("room");
        assert_eq!(bench.open(None), Err(OpenError::Full));
        bench.assert_consistent(2);
    }

    #[test]
    fn the_sweep_ends_what_is_idle_and_nothing_else() {
        let mut bench = Bench::new(10);
        let old = bench.open(None).expect("room");
        bench.now += Duration::from_secs(5);
        let young = bench.open(None).expect("room");
        assert_eq!(
            bench.table.next_due(),
            Some(bench.now + Duration::from_secs(5))
        );
        assert!(bench.table.sweep(bench.now).is_empty());
        let expired = bench.table.sweep(bench.now + Duration::from_secs(5));
        assert_eq!(expired.len(), 1);
        assert!(bench.table.find(old).is_none());
        assert!(bench.table.find(young).is_some());
        bench.assert_consistent(1);
    }

    #[test]
    fn a_busy_session_is_left_alone_until_its_request_is_done() {
        let bench = Bench::new(10);
        let key = bench.open(None).expect("room");
        let lease = bench.table.find(key).expect("it is there");
        let late = bench.now + Duration::from_secs(60);
        assert!(bench.table.sweep(late).is_empty());
        assert_eq!(bench.table.next_due(), Some(late + BUSY));
        drop(lease);
        assert_eq!(bench.table.sweep(late).len(), 1);
        bench.assert_consistent(0);
    }

    #[tokio::test]
    async fn a_session_that_is_over_leaves_with_its_last_request() {
        let bench = Bench::new(10);
        let key = bench.open(None).expect("room");
        let first = bench.table.find(key).expect("it is there");
        let waiting = bench.table.find(key).expect("it is there");
        let request = Envelope::new(Request::Bye(Bye::default()));
        let _ = first.lock().await.handle_request(request, bench.now);
        drop(first);
        bench.assert_consistent(0);
        assert!(waiting.lock().await.is_over());
        drop(waiting);
        bench.assert_consistent(0);
    }

    #[tokio::test]
    async fn aliases_follow_their_session() {
        let bench = Bench::new(10);
        let address: IpAddr = [192, 0, 2, 1].into();
        let alias = (LogId::random(), address);
        let other = (LogId::random(), address);
        let first = bench.open(Some(alias)).expect("room");
        let found = bench.table.find_alias(alias).expect("it is there");
        assert_eq!(found.key(), first);
        found.set_alias(Some(other));
        assert!(bench.table.find_alias(alias).is_none());
        let second = bench.open(Some(other)).expect("room");
        drop(found);
        let found = bench.table.find_alias(other).expect("it is there");
        assert_eq!(found.key(), second, "the later one took it over");
        drop(found);
        let lease = bench.table.find(first).expect("it is there");
        lease.lock().await.end();
        drop(lease);
        let found = bench.table.find_alias(other).expect("it is there");
        assert_eq!(
            found.key(),
            second,
            "the earlier one does not take it along"
        );
        drop(found);
        bench.table.sweep(bench.now + Duration::from_secs(60));
        assert!(bench.table.find_alias(other).is_none());
        bench.assert_consistent(0);
    }
}
