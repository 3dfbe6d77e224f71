//! The table of sessions with its indexes, kept in step in one place.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{
    grant::AdmissionKey,
    session::{Binding, Session, SessionKey},
    trial::Candidates,
};

/// How long a bound source that the agent has not answered keeps others of the same address out. The agent answers the right
/// one within a round trip.
pub(crate) const UNCONFIRMED_BINDING: Duration = Duration::from_secs(3);

/// How many waiting sessions of one address are looked at for a datagram of unknown source.
const MAX_SCANNED: usize = 32;

/// Sessions by key, and by everything they are looked up under.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_key: HashMap<SessionKey, Session>,
    by_admission: BTreeSet<(AdmissionKey, SessionKey)>,
    by_source: HashMap<SocketAddr, SessionKey>,
    by_agent: HashMap<SocketAddr, SessionKey>,
    waiting: BTreeSet<(IpAddr, SessionKey)>,
    next: u64,
}

impl Sessions {
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// How many sessions there have been.
    pub(crate) const fn started(&self) -> u64 {
        self.next
    }

    /// A fresh key.
    pub(crate) fn next_key(&mut self) -> SessionKey {
        self.next += 1;
        SessionKey(self.next)
    }

    pub(crate) fn get(&self, key: SessionKey) -> Option<&Session> {
        self.by_key.get(&key)
    }

    /// The session for changing what no index depends on; after a change of `tcp`, call [`Sessions::refresh`].
    pub(crate) fn get_mut(&mut self, key: SessionKey) -> Option<&mut Session> {
        self.by_key.get_mut(&key)
    }

    /// All keys, in order.
    pub(crate) fn keys(&self) -> Vec<SessionKey> {
        let mut keys: Vec<_> = self.by_key.keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    /// Adds a session without a source. With `by_agent`, no other session may have the same agent address.
    pub(crate) fn insert(&mut self, session: Session, by_agent: bool) {
        let key = session.key;
        self.by_admission.insert((session.admission.clone(), key));
        if by_agent {
            self.by_agent.insert(session.agent.udp(), key);
        }
        self.by_key.insert(key, session);
        self.refresh(key);
    }

    pub(crate) fn remove(&mut self, key: SessionKey) -> Option<Session> {
        let session = self.by_key.remove(&key)?;
        self.by_admission.remove(&(session.admission.clone(), key));
        if let Some(binding) = session.binding {
            self.by_source.remove(&binding.source);
        }
        if self.by_agent.get(&session.agent.udp()) == Some(&key) {
            self.by_agent.remove(&session.agent.udp());
        }
        self.waiting.remove(&(session.client(), key));
        Some(session)
    }

    /// Brings the index of waiting sessions in step with this one's state.
    pub(crate) fn refresh(&mut self, key: SessionKey) {
        let Some(session) = self.by_key.get(&key) else {
            return;
        };
        let entry = (session.client(), key);
        if session.awaits_source() {
            self.waiting.insert(entry);
        } else {
            self.waiting.remove(&entry);
        }
    }

    /// Binds a source to a session, in place of an earlier one.
    pub(crate) fn bind(&mut self, key: SessionKey, binding: Binding) {
        let Some(session) = self.by_key.get_mut(&key) else {
            return;
        };
        if let Some(old) = session.binding.replace(binding) {
            self.by_source.remove(&old.source);
        }
        session.udp_came = true;
        self.by_source.insert(binding.source, key);
        self.refresh(key);
    }

    /// Forgets the source of a session.
    pub(crate) fn unbind(&mut self, key: SessionKey) {
        let Some(session) = self.by_key.get_mut(&key) else {
            return;
        };
        if let Some(old) = session.binding.take() {
            self.by_source.remove(&old.source);
        }
        self.refresh(key);
    }

    /// The session a source is bound to.
    pub(crate) fn bound(&mut self, source: &SocketAddr) -> Option<&mut Session> {
        let key = self.by_source.get(source)?;
        self.by_key.get_mut(key)
    }

    /// The session that has an agent address to itself.
    pub(crate) fn of_agent(&self, agent: &SocketAddr) -> Option<SessionKey> {
        self.by_agent.get(agent).copied()
    }

    /// The sessions admitted under a key, oldest first.
    pub(crate) fn admitted_as<'a>(
        &'a self,
        key: &'a AdmissionKey,
    ) -> impl Iterator<Item = &'a Session> + 'a {
        let from = (key.clone(), SessionKey(0));
        self.by_admission
            .range(from..)
            .take_while(move |(admission, _)| admission == key)
            .filter_map(|(_, session)| self.by_key.get(session))
    }

    /// Whether this address has any session.
    pub(crate) fn any_of(&self, client: IpAddr) -> bool {
        let from = (
            AdmissionKey {
                client,
                server_name: None,
            },
            SessionKey(0),
        );
        self.by_admission
            .range(from..)
            .next()
            .is_some_and(|(admission, _)| admission.client == client)
    }

    /// Whether a new source may still be bound to this session.
    pub(crate) fn is_waiting(&self, client: IpAddr, key: SessionKey) -> bool {
        self.waiting.contains(&(client, key))
    }

    /// The newest sessions of an address to which a new source could belong now. UDP follows TCP within moments, so the newest
    /// are the likeliest.
    pub(crate) fn candidates(&self, client: IpAddr, now: Instant) -> Candidates {
        let mut candidates = Candidates::default();
        let range = (client, SessionKey(0))..=(client, SessionKey(u64::MAX));
        for (_, key) in self.waiting.range(range).rev().take(MAX_SCANNED) {
            let held = self
                .by_key
                .get(key)
                .and_then(|session| session.binding)
                .is_some_and(|binding| {
                    now.saturating_duration_since(binding.since) < UNCONFIRMED_BINDING
                });
            if !held && !candidates.push(*key) {
                break;
            }
        }
        candidates
    }

    /// Checks that the indexes agree with the sessions, and returns the number of entries in all tables.
    #[cfg(test)]
    pub(crate) fn checked_entries(&self) -> usize {
        assert_eq!(self.by_admission.len(), self.by_key.len());
        let bound = self
            .by_key
            .values()
            .filter(|session| session.binding.is_some());
        assert_eq!(self.by_source.len(), bound.count());
        let waiting = self
            .by_key
            .values()
            .filter(|session| session.awaits_source());
        assert_eq!(self.waiting.len(), waiting.count());
        for (key, session) in &self.by_key {
            assert_eq!(session.key, *key);
            assert!(
                self.by_admission
                    .contains(&(session.admission.clone(), *key))
            );
            assert_eq!(
                self.waiting.contains(&(session.client(), *key)),
                session.awaits_source()
            );
            if let Some(binding) = session.binding {
                assert_eq!(self.by_source.get(&binding.source), Some(key));
                assert_eq!(binding.source.ip(), session.client());
            }
        }
        for (agent, key) in &self.by_agent {
            assert_eq!(self.by_key[key].agent.udp(), *agent);
        }
        self.by_key.len()
            + self.by_admission.len()
            + self.by_source.len()
            + self.by_agent.len()
            + self.waiting.len()
    }
}
