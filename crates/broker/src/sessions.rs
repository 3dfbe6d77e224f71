//! Broker sessions: bounded in number and in idleness.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::{Duration, Instant},
};

use crate::directory::UserId;

/// 128 random bits naming one broker session. Knowing them is being in that session, so [`fmt::Debug`] hides them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionToken([u8; Self::BYTES]);

impl SessionToken {
    /// Length in bytes; beyond guessing within any session's life.
    pub const BYTES: usize = 16;

    /// Wraps bytes that must come from the operating system's random source.
    #[must_use]
    pub const fn from_random(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// A fresh token from the operating system's random source.
    ///
    /// # Errors
    /// When that source fails.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; Self::BYTES];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// Reads the text form: 32 upper-case hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != Self::BYTES * 2 {
            return None;
        }
        let mut bytes = [0; Self::BYTES];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            for &digit in pair {
                let value = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'A'..=b'F' => digit - b'A' + 10,
                    _ => return None,
                };
                *byte = (*byte << 4) | value;
            }
        }
        Some(Self(bytes))
    }

    /// The text form, as it stands in the cookie.
    #[must_use]
    pub fn expose(&self) -> String {
        use fmt::Write as _;

        self.0.iter().fold(String::new(), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02X}");
            text
        })
    }
}

impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionToken(..)")
    }
}

/// What a session remembers.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// Who is logged on; `None` after the greeting and after a failed logon.
    pub(crate) user: Option<UserId>,
    /// Number of the latest attempt to log on: the outcome of an earlier one counts for nothing.
    pub(crate) attempt: u64,
    /// Attempts that failed.
    pub(crate) misses: u32,
}

/// Bounds on sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) count: usize,
    pub(crate) idle: Duration,
}

/// All sessions.
///
/// Invariant: each session stands in `by_token`, and under its `filed` key in exactly one of the two orders, by whether
/// somebody is logged on.
#[derive(Debug)]
pub(crate) struct Sessions {
    bounds: Bounds,
    by_token: HashMap<SessionToken, Filed>,
    /// Least recently used first.
    greeted: BTreeMap<(Instant, u64), SessionToken>,
    /// Least recently used first.
    logged_on: BTreeMap<(Instant, u64), SessionToken>,
    next_serial: u64,
}

#[derive(Debug)]
struct Filed {
    session: Session,
    /// When last used, and a serial number that tells sessions of one instant apart.
    key: (Instant, u64),
}

impl Sessions {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            by_token: HashMap::new(),
            greeted: BTreeMap::new(),
            logged_on: BTreeMap::new(),
            next_serial: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_token.len()
    }

    /// Ends what has been idle for too long.
    pub(crate) fn expire(&mut self, now: Instant) {
        loop {
            let oldest = [&self.greeted, &self.logged_on]
                .into_iter()
                .filter_map(|order| order.first_key_value())
                .find(|&(&(used, _), _)| now.saturating_duration_since(used) >= self.bounds.idle);
            let Some((_, &token)) = oldest else { return };
            self.end(token);
        }
    }

    /// Begins a session. At the bound, the least recently used session in which nobody is logged on makes room; `false`
    /// when there is none.
    pub(crate) fn begin(&mut self, token: SessionToken, now: Instant) -> bool {
        if self.by_token.contains_key(&token) {
            return false;
        }
        if self.by_token.len() >= self.bounds.count {
            let Some((_, &stale)) = self.greeted.first_key_value() else {
                return false;
            };
            self.end(stale);
        }
        let key = (now, self.next_serial);
        self.next_serial += 1;
        self.greeted.insert(key, token);
        let session = Session::default();
        self.by_token.insert(token, Filed { session, key });
        true
    }

    /// Uses a session; `None` when there is no such session.
    pub(crate) fn with<R>(
        &mut self,
        token: SessionToken,
        now: Instant,
        act: impl FnOnce(&mut Session) -> R,
    ) -> Option<R> {
        let filed = self.by_token.get_mut(&token)?;
        self.greeted.remove(&filed.key);
        self.logged_on.remove(&filed.key);
        let result = act(&mut filed.session);
        filed.key.0 = filed.key.0.max(now);
        let order = match filed.session.user {
            Some(_) => &mut self.logged_on,
            None => &mut self.greeted,
        };
        order.insert(filed.key, token);
        Some(result)
    }

    pub(crate) fn end(&mut self, token: SessionToken) {
        if let Some(filed) = self.by_token.remove(&token) {
            self.greeted.remove(&filed.key);
            self.logged_on.remove(&filed.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        count: 3,
        idle: Duration::from_secs(600),
    };

    fn token(number: u8) -> SessionToken {
        SessionToken::from_random([number; SessionToken::BYTES])
    }

    fn log_on(sessions: &mut Sessions, number: u8, now: Instant) {
        let user = UserId::for_tests(1);
        sessions
            .with(token(number), now, |session| session.user = Some(user))
            .expect("alive");
    }

    fn alive(sessions: &Sessions, numbers: &[u8]) -> Vec<u8> {
        numbers
            .iter()
            .copied()
            .filter(|&number| sessions.by_token.contains_key(&token(number)))
            .collect()
    }

    #[test]
    fn a_session_ends_after_ten_idle_minutes_and_no_sooner() {
        let start = Instant::now();
        let mut sessions = Sessions::new(BOUNDS);
        assert!(sessions.begin(token(1), start));
        assert!(sessions.begin(token(2), start));
        log_on(&mut sessions, 2, start);
        let half = start + BOUNDS.idle / 2;
        assert!(sessions.with(token(1), half, |_| ()).is_some());
        sessions.expire(start + BOUNDS.idle - Duration::from_nanos(1));
        assert_eq!(alive(&sessions, &[1, 2]), [1, 2]);
        sessions.expire(start + BOUNDS.idle);
        assert_eq!(alive(&sessions, &[1, 2]), [1]);
        sessions.expire(half + BOUNDS.idle);
        assert_eq!(sessions.len(), 0);
        assert!(sessions.greeted.is_empty() && sessions.logged_on.is_empty());
    }

    #[test]
    fn at_the_bound_who_is_not_logged_on_makes_room() {
        let now = Instant::now();
        let mut sessions = Sessions::new(BOUNDS);
        for number in 1..=3 {
            assert!(sessions.begin(token(number), now));
        }
        log_on(&mut sessions, 1, now);
        assert!(sessions.begin(token(4), now));
        assert_eq!(alive(&sessions, &[1, 2, 3, 4]), [1, 3, 4]);
        log_on(&mut sessions, 3, now);
        log_on(&mut sessions, 4, now);
        assert!(
            !sessions.begin(token(5), now),
            "nobody logged on is thrown out"
        );
        sessions.end(token(3));
        assert!(sessions.begin(token(5), now));
    }

    #[test]
    fn a_token_in_use_begins_nothing() {
        let now = Instant::now();
        let mut sessions = Sessions::new(BOUNDS);
        assert!(sessions.begin(token(1), now));
        assert!(!sessions.begin(token(1), now));
        assert_eq!(sessions.len(), 1);
    }

    proptest! {
        #[test]
        fn token_text_reads_back(bytes: [u8; SessionToken::BYTES]) {
            let token = SessionToken::from_random(bytes);
            prop_assert_eq!(SessionToken::parse(&token.expose()), Some(token));
        }

        #[test]
        fn other_text_is_no_token(text in "\\PC{0,40}") {
            prop_assume!(text.len() != 32 || text.bytes().any(|b| !matches!(b, b'0'..=b'9' | b'A'..=b'F')));
            prop_assert_eq!(SessionToken::parse(&text), None);
        }
    }
}
