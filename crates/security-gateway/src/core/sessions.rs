//! The table of sessions with its indexes, kept in step in one place.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use portcullis_protocol::esp::{self, Layout};

use super::{
    grant::AdmissionKey,
    quality::Meters,
    rebind::Rebind,
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
    by_client: BTreeSet<(IpAddr, SessionKey)>,
    by_spi: HashMap<(IpAddr, u32), SessionKey>,
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

    /// The meters of every session, in no order.
    pub(crate) fn meters(&self) -> impl Iterator<Item = &Meters> {
        self.by_key.values().map(|session| &session.meters)
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
        self.by_client.insert((session.client(), key));
        self.by_key.insert(key, session);
        self.refresh(key);
    }

    pub(crate) fn remove(&mut self, key: SessionKey) -> Option<Session> {
        self.drop_rebind(key);
        let session = self.by_key.remove(&key)?;
        if let Some(spi) = session.client_spi {
            self.forget_spi(session.client(), spi, key);
        }
        self.by_admission.remove(&(session.admission.clone(), key));
        if let Some(binding) = session.binding {
            self.by_source.remove(&binding.source);
        }
        if self.by_agent.get(&session.agent.udp()) == Some(&key) {
            self.by_agent.remove(&session.agent.udp());
        }
        self.by_client.remove(&(session.client(), key));
        self.waiting.remove(&(session.client(), key));
        Some(session)
    }

    /// Notes where the client of a session without a source comes from now.
    pub(crate) fn set_client(&mut self, key: SessionKey, client: SocketAddr) {
        let Some(session) = self.by_key.get_mut(&key) else {
            return;
        };
        let old = std::mem::replace(&mut session.tcp_client, client).ip();
        let spi = session.client_spi.take();
        self.by_client.remove(&(old, key));
        self.by_client.insert((client.ip(), key));
        self.waiting.remove(&(old, key));
        if let Some(spi) = spi {
            self.forget_spi(old, spi, key);
        }
        self.refresh(key);
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
        self.drop_rebind(key);
        let Some(session) = self.by_key.get_mut(&key) else {
            return;
        };
        if let Some(old) = session.binding.replace(binding) {
            self.by_source.remove(&old.source);
        }
        session.udp_came.get_or_insert(binding.since);
        // What an earlier source sent says nothing of this one's layout.
        session.meters.up.restart();
        self.by_source.insert(binding.source, key);
        self.refresh(key);
    }

    /// Forgets the source of a session.
    pub(crate) fn unbind(&mut self, key: SessionKey) {
        self.drop_rebind(key);
        let Some(session) = self.by_key.get_mut(&key) else {
            return;
        };
        if let Some(old) = session.binding.take() {
            self.by_source.remove(&old.source);
        }
        self.refresh(key);
    }

    /// Lets datagrams of a second source in beside the one a session is bound to.
    pub(crate) fn begin_rebind(&mut self, key: SessionKey, rebind: Rebind) {
        self.drop_rebind(key);
        if let Some(session) = self.by_key.get_mut(&key) {
            self.by_source.insert(rebind.source, key);
            session.rebind = Some(Box::new(rebind));
        }
    }

    /// Takes a change of source back.
    pub(crate) fn drop_rebind(&mut self, key: SessionKey) {
        let rebind = self
            .by_key
            .get_mut(&key)
            .and_then(|session| session.rebind.take());
        if let Some(rebind) = rebind {
            self.by_source.remove(&rebind.source);
        }
    }

    /// Makes the second source of a session its only one.
    pub(crate) fn finish_rebind(&mut self, key: SessionKey, now: Instant) {
        let Some(session) = self.by_key.get_mut(&key) else {
            return;
        };
        let Some(rebind) = session.rebind.take() else {
            return;
        };
        let binding = Binding {
            source: rebind.source,
            since: now,
            confirmed: true,
        };
        if let Some(old) = session.binding.replace(binding) {
            self.by_source.remove(&old.source);
        }
        session.meters.up = rebind.into_meter();
        self.refresh(key);
    }

    /// Brings the index of SPIs in step with what a session's client uses now.
    #[cold]
    pub(crate) fn learn_spi(&mut self, key: SessionKey) {
        let Some(session) = self.by_key.get_mut(&key) else {
            return;
        };
        let client = session.client();
        let new = session.meters.up.spi();
        let old = std::mem::replace(&mut session.client_spi, new);
        if let Some(spi) = old {
            self.forget_spi(client, spi, key);
        }
        if let Some(spi) = new {
            self.by_spi.insert((client, spi), key);
        }
    }

    fn forget_spi(&mut self, client: IpAddr, spi: u32, key: SessionKey) {
        // Two clients behind one address may have chosen the same.
        if self.by_spi.get(&(client, spi)) == Some(&key) {
            self.by_spi.remove(&(client, spi));
        }
    }

    /// The session of an address whose client was where this datagram goes on. Its agent has answered its source before, and its
    /// control connection stands.
    pub(crate) fn continued_by(&self, client: IpAddr, payload: &[u8]) -> Option<SessionKey> {
        [Layout::WithTransportHeader, Layout::Bare]
            .into_iter()
            .filter_map(|layout| {
                let spi = esp::header(payload, layout)?.spi;
                self.by_key.get(self.by_spi.get(&(client, spi))?)
            })
            .find(|session| {
                session.tcp.is_open()
                    && session.binding.is_some_and(|binding| binding.confirmed)
                    && session.meters.up.is_continued_by(payload)
            })
            .map(|session| session.key)
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
        let range = (client, SessionKey(0))..=(client, SessionKey(u64::MAX));
        self.by_client.range(range).next().is_some()
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
        assert_eq!(self.by_client.len(), self.by_key.len());
        let bound = self
            .by_key
            .values()
            .filter(|session| session.binding.is_some());
        let rebinding = self
            .by_key
            .values()
            .filter(|session| session.rebind.is_some());
        assert_eq!(self.by_source.len(), bound.count() + rebinding.count());
        for ((client, spi), key) in &self.by_spi {
            let session = &self.by_key[key];
            assert_eq!(
                (session.client(), session.client_spi),
                (*client, Some(*spi))
            );
        }
        let waiting = self
            .by_key
            .values()
            .filter(|session| session.awaits_source());
        assert_eq!(self.waiting.len(), waiting.count());
        for (key, session) in &self.by_key {
            assert_eq!(session.key, *key);
            assert!(self.by_client.contains(&(session.client(), *key)));
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
            if let Some(rebind) = &session.rebind {
                assert_eq!(self.by_source.get(&rebind.source), Some(key));
                assert_eq!(rebind.source.ip(), session.client());
                assert!(session.binding.is_some_and(|binding| binding.confirmed));
            }
        }
        for (agent, key) in &self.by_agent {
            assert_eq!(self.by_key[key].agent.udp(), *agent);
        }
        self.by_key.len()
            + self.by_admission.len()
            + self.by_source.len()
            + self.by_agent.len()
            + self.by_client.len()
            + self.by_spi.len()
            + self.waiting.len()
    }
}
