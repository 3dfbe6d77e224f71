//! Grants: the Connection Manager's word that a client may reach an agent, waiting for that client to come.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fmt,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use portcullis_protocol::{LogId, client_hello::ServerName};
use thiserror::Error;

use super::counters::Reason;

/// How long a used or expired grant is remembered, so that a late client is refused with the right reason.
pub(crate) const REMEMBER: Duration = Duration::from_secs(300);
/// How many used or expired grants are remembered; the oldest is forgotten first.
pub(crate) const MAX_REMEMBERED: usize = 1_024;

/// Names a grant, in the order of granting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantId(pub(crate) u64);

impl GrantId {
    /// The id as a number, for the control link.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Takes an id from the control link.
    #[must_use]
    pub const fn from_raw(id: u64) -> Self {
        Self(id)
    }
}

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where an agent takes its session: one address, a TCP and a UDP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AgentEndpoint {
    /// The desktop's address.
    pub ip: IpAddr,
    /// TCP port, 4172 unless the agent says otherwise.
    pub tcp_port: u16,
    /// UDP port, 4172 unless the agent says otherwise.
    pub udp_port: u16,
}

impl AgentEndpoint {
    /// Where the control connection goes.
    #[must_use]
    pub fn tcp(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.tcp_port)
    }

    /// Where datagrams go, and the only place they are taken from.
    #[must_use]
    pub fn udp(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.udp_port)
    }
}

/// What the Connection Manager asks for: that this client may reach this agent, once, soon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRequest {
    /// The session log id that runs through every component's lines.
    pub log_id: LogId,
    /// The client's address as the Connection Manager saw it.
    pub client: IpAddr,
    /// The server name the client was told to send; `None` when it was told none.
    pub server_name: Option<ServerName>,
    /// Where the session goes.
    pub agent: AgentEndpoint,
    /// Who it is for.
    pub user: String,
    /// What the user calls the desktop.
    pub desktop: String,
}

/// A grant from the configuration, for a gateway without a Connection Manager: it does not expire and is not used up. Every
/// control connection it admits makes a session of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandingGrant {
    /// The first of the series of session log ids its sessions get.
    pub log_id: LogId,
    /// The network clients come from; a single address is one with the longest prefix.
    pub client: IpNet,
    /// The server name clients send; `None` admits no name, or the gateway's own address as one.
    pub server_name: Option<ServerName>,
    /// Where its sessions go.
    pub agent: AgentEndpoint,
    /// What administrators call the desktop.
    pub desktop: String,
}

/// Another standing grant has the same client network and server name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("another standing grant has the same client network and server name")]
pub struct StandingGrantTaken;

/// A grant given: what the client is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Names the grant.
    pub grant: GrantId,
    /// The gateway's address in the client's network.
    pub address: IpAddr,
    /// The port, TCP and UDP alike.
    pub port: u16,
    /// How long the client has.
    pub expires_in: Duration,
}

/// Why a grant was not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GrantRefusal {
    /// A client of the same address and server name is expected for another agent, or may yet return to one, and the two could
    /// not be told apart. Asking again in a few seconds helps: answer `ALLOC_PENDING_TRY_AGAIN`.
    #[error("another client with the same address and server name is still expected")]
    Ambiguous,
    /// The limit of sessions or of pending grants is reached. Another gateway may have room.
    #[error("the gateway has reached its limit of sessions")]
    Full,
    /// The gateway takes no new sessions, because it is about to stop. Another gateway will.
    #[error("the gateway is draining and takes no new sessions")]
    Draining,
    /// The gateway has no public address of the client's address family.
    #[error("the gateway has no public address of the client's address family")]
    AddressFamily,
}

impl Reason for GrantRefusal {
    const LABELS: &'static [&'static str] = &["ambiguous", "full", "draining", "address_family"];

    fn index(&self) -> usize {
        match self {
            Self::Ambiguous => 0,
            Self::Full => 1,
            Self::Draining => 2,
            Self::AddressFamily => 3,
        }
    }
}

/// What a control connection is matched on: the client's address, or what stands for it under the policy, and the server name it
/// sends.
///
/// Ordered by address first, so that everything of one client stands together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AdmissionKey {
    pub(crate) client: IpAddr,
    pub(crate) server_name: Option<ServerName>,
}

/// A grant whose client has not come yet.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) id: GrantId,
    pub(crate) request: GrantRequest,
    pub(crate) expires: Instant,
}

/// What became of a grant that is no longer pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// No client came in time.
    Expired,
    /// Its session is over.
    Used,
}

/// The table of pending grants, with a bounded memory of past ones.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    pending: BTreeMap<AdmissionKey, Grant>,
    by_id: HashMap<GrantId, AdmissionKey>,
    by_name: BTreeSet<(Option<ServerName>, IpAddr)>,
    remembered: BTreeMap<AdmissionKey, (Fate, Instant)>,
    /// In the order of forgetting. An entry whose time differs from the table's was overtaken by a later fate.
    forget: VecDeque<(Instant, AdmissionKey)>,
    /// By server name; the narrowest network first.
    standing: BTreeMap<Option<ServerName>, Vec<(GrantId, StandingGrant)>>,
    next: u64,
}

impl Grants {
    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    /// A fresh id.
    pub(crate) fn next_id(&mut self) -> GrantId {
        self.next += 1;
        GrantId(self.next)
    }

    pub(crate) fn get(&self, key: &AdmissionKey) -> Option<&Grant> {
        self.pending.get(key)
    }

    pub(crate) fn key_of(&self, id: GrantId) -> Option<&AdmissionKey> {
        self.by_id.get(&id)
    }

    /// The key of some pending grant, always the same for the same table.
    pub(crate) fn first(&self) -> Option<AdmissionKey> {
        self.pending.keys().next().cloned()
    }

    /// Adds a grant; the key must be free.
    pub(crate) fn insert(&mut self, key: AdmissionKey, grant: Grant) {
        self.remembered.remove(&key);
        self.by_id.insert(grant.id, key.clone());
        self.by_name.insert((key.server_name.clone(), key.client));
        self.pending.insert(key, grant);
    }

    pub(crate) fn remove(&mut self, key: &AdmissionKey) -> Option<Grant> {
        let grant = self.pending.remove(key)?;
        self.by_id.remove(&grant.id);
        self.by_name.remove(&(key.server_name.clone(), key.client));
        Some(grant)
    }

    /// Adds a standing grant whose addresses are in their canonical form.
    pub(crate) fn insert_standing(
        &mut self,
        grant: StandingGrant,
    ) -> Result<GrantId, StandingGrantTaken> {
        let id = self.next_id();
        let named = self.standing.entry(grant.server_name.clone()).or_default();
        if named.iter().any(|(_, other)| other.client == grant.client) {
            return Err(StandingGrantTaken);
        }
        let narrower = |other: &(GrantId, StandingGrant)| {
            other.1.client.prefix_len() >= grant.client.prefix_len()
        };
        let place = named.partition_point(narrower);
        named.insert(place, (id, grant));
        Ok(id)
    }

    /// The standing grant a connection is admitted on: of several, the one for the narrowest network.
    pub(crate) fn standing(&self, key: &AdmissionKey) -> Option<&(GrantId, StandingGrant)> {
        self.standing
            .get(&key.server_name)?
            .iter()
            .find(|(_, grant)| grant.client.contains(&key.client))
    }

    /// A pending grant of this client under whatever server name.
    pub(crate) fn of_client(&self, client: IpAddr) -> Option<&AdmissionKey> {
        let first = AdmissionKey {
            client,
            server_name: None,
        };
        let (key, _) = self.pending.range(first..).next()?;
        (key.client == client).then_some(key)
    }

    /// The address of a client that is expected under this server name.
    pub(crate) fn client_under(&self, server_name: Option<&ServerName>) -> Option<IpAddr> {
        let lowest = IpAddr::from([0, 0, 0, 0]);
        let (name, client) = self
            .by_name
            .range((server_name.cloned(), lowest)..)
            .next()?;
        if name.as_ref() != server_name {
            return None;
        }
        let key = AdmissionKey {
            client: *client,
            server_name: name.clone(),
        };
        Some(self.pending.get(&key)?.request.client)
    }

    /// Keeps the fate of a past grant for [`REMEMBER`].
    pub(crate) fn remember(&mut self, key: AdmissionKey, fate: Fate, now: Instant) {
        if self.pending.contains_key(&key) {
            return;
        }
        let forget_at = super::limits::after(now, REMEMBER);
        self.remembered.insert(key.clone(), (fate, forget_at));
        self.forget.push_back((forget_at, key));
        while self.forget.len() > MAX_REMEMBERED {
            self.forget_first();
        }
    }

    pub(crate) fn fate(&self, key: &AdmissionKey) -> Option<Fate> {
        self.remembered.get(key).map(|(fate, _)| *fate)
    }

    /// When the next fate is to be forgotten.
    pub(crate) fn next_forget(&self) -> Option<Instant> {
        self.forget.front().map(|(at, _)| *at)
    }

    /// Forgets what is old enough.
    pub(crate) fn forget_due(&mut self, now: Instant) {
        while self.next_forget().is_some_and(|at| at <= now) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some((at, key)) = self.forget.pop_front() else {
            return;
        };
        if self
            .remembered
            .get(&key)
            .is_some_and(|(_, forget_at)| *forget_at == at)
        {
            self.remembered.remove(&key);
        }
    }

    /// Checks that the indexes agree, and returns the number of entries in all tables.
    #[cfg(test)]
    pub(crate) fn checked_entries(&self) -> usize {
        assert_eq!(self.pending.len(), self.by_id.len());
        assert_eq!(self.pending.len(), self.by_name.len());
        for (key, grant) in &self.pending {
            assert_eq!(self.by_id.get(&grant.id), Some(key));
            assert!(!self.remembered.contains_key(key));
        }
        assert!(self.remembered.len() <= self.forget.len());
        assert!(self.forget.len() <= MAX_REMEMBERED);
        self.pending.len() + self.forget.len()
    }
}
