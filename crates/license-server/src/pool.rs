//! The pool of licences and the leases out of it. Sans-IO: time and randomness are arguments.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use thiserror::Error;

use crate::LeaseId;

/// The feature an ordinary agent leases.
pub const DEFAULT_FEATURE: &str = "Agent-Session";
/// How long a lease lives without renewal, unless configured: a dead agent holds a licence no longer than a coffee break.
pub const DEFAULT_LEASE_TTL: Duration = Duration::from_secs(5 * 60);
/// Shortest lease: the wire counts whole seconds.
pub const MIN_LEASE_TTL: Duration = Duration::from_secs(1);
/// Longest lease: a licence lost for longer than a day is lost to the site.
pub const MAX_LEASE_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest feature, holder or session name in bytes; host names end at 253.
pub const MAX_TEXT_BYTES: usize = 256;

/// One kind of licence and how many of it there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureConfig {
    /// Name, such as `Agent-Session` or `Agent-Graphics`; compared exactly.
    pub name: String,
    /// Licences of this kind; zero is an empty pool, which refuses everybody.
    pub count: u32,
}

/// What a pool is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// The kinds of licence, at least one.
    pub features: Vec<FeatureConfig>,
    /// How long a lease lives without renewal, from [`MIN_LEASE_TTL`] to [`MAX_LEASE_TTL`]; told to clients in whole seconds,
    /// rounded down.
    pub lease_ttl: Duration,
}

impl PoolConfig {
    /// A pool of `count` licences of the [`DEFAULT_FEATURE`] with the default lease time.
    #[must_use]
    pub fn of_sessions(count: u32) -> Self {
        Self {
            features: vec![FeatureConfig {
                name: DEFAULT_FEATURE.to_owned(),
                count,
            }],
            lease_ttl: DEFAULT_LEASE_TTL,
        }
    }
}

/// Why a configuration makes no pool.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidPool {
    /// There is no feature at all.
    #[error("a licence pool needs at least one feature")]
    NoFeature,
    /// A feature's name is empty, too long, or holds control characters.
    #[error("the feature name {name:?} is not usable: {problem}")]
    FeatureName {
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: TextProblem,
    },
    /// Two features have one name.
    #[error("the feature {name:?} is defined twice")]
    DuplicateFeature {
        /// The name.
        name: String,
    },
    /// The lease time is out of range.
    #[error("a lease time of {ttl:?} is not between {MIN_LEASE_TTL:?} and {MAX_LEASE_TTL:?}")]
    LeaseTtl {
        /// The time given.
        ttl: Duration,
    },
}

/// What is wrong with a name.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum TextProblem {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// Longer than [`MAX_TEXT_BYTES`].
    #[error("it is longer than {MAX_TEXT_BYTES} bytes")]
    TooLong,
    /// Holds control characters, which would break log lines.
    #[error("it holds control characters")]
    Control,
}

/// Who wants which licence for what. Asking twice with an equal claim is asking once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    feature: String,
    holder: String,
    session: String,
}

/// A claim with an unusable field.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the field {field:?} is not usable: {problem}")]
pub struct InvalidClaim {
    /// Name of the field.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: TextProblem,
}

impl Claim {
    /// A claim of `feature` by the host `holder` for the session `session`.
    ///
    /// # Errors
    /// When one of the three is empty, longer than [`MAX_TEXT_BYTES`] or holds control characters.
    pub fn new(feature: String, holder: String, session: String) -> Result<Self, InvalidClaim> {
        for (field, text) in [
            ("feature", &feature),
            ("holder", &holder),
            ("session", &session),
        ] {
            check_text(text).map_err(|problem| InvalidClaim { field, problem })?;
        }
        Ok(Self {
            feature,
            holder,
            session,
        })
    }

    /// The feature wanted.
    #[must_use]
    pub fn feature(&self) -> &str {
        &self.feature
    }

    /// The host that wants it.
    #[must_use]
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// The session it is wanted for.
    #[must_use]
    pub fn session(&self) -> &str {
        &self.session
    }
}

/// A lease granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseGrant {
    /// Its name; the one of the first grant when this is a repetition.
    pub id: LeaseId,
    /// The feature leased.
    pub feature: String,
    /// Time until it expires, unless renewed.
    pub ttl: Duration,
    /// Whether a licence was taken for it; `false` when the claim already held this lease.
    pub fresh: bool,
}

/// Why no lease was granted.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum AcquireRefusal {
    /// Every licence of the feature is leased.
    #[error("all {count} licences of the feature are in use")]
    NoneAvailable {
        /// How many there are.
        count: u32,
    },
    /// The pool has no such feature.
    #[error("this server has no such feature")]
    UnknownFeature,
    /// The id handed in names another lease; ask again with a fresh one.
    #[error("the lease id is taken")]
    IdTaken,
}

/// No lease of that name: never granted, given back, or expired.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("there is no such lease")]
pub struct UnknownLease;

/// How far one feature is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureUsage {
    /// The feature.
    pub name: String,
    /// Licences leased.
    pub used: u32,
    /// Licences there are.
    pub count: u32,
}

/// What happened since the pool was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Leases granted, repetitions not counted.
    pub acquired: u64,
    /// Claims refused because every licence was leased.
    pub refused_none_available: u64,
    /// Claims refused for an unknown feature.
    pub refused_unknown_feature: u64,
    /// Leases that ended without being given back.
    pub expired: u64,
    /// Leases given back.
    pub returned: u64,
}

/// The pool.
///
/// Invariants: a feature's `used` is the number of its live leases and never above its `count`; `leases`, `by_claim` and
/// `deadlines` hold the same leases.
#[derive(Debug)]
pub struct Pool {
    features: Vec<Feature>,
    ttl: Duration,
    leases: HashMap<LeaseId, LiveLease>,
    by_claim: HashMap<Claim, LeaseId>,
    deadlines: BTreeMap<(Instant, u64), LeaseId>,
    next_serial: u64,
    totals: Totals,
}

#[derive(Debug)]
struct Feature {
    name: String,
    count: u32,
    used: u32,
}

#[derive(Debug)]
struct LiveLease {
    claim: Claim,
    /// Grows from lease to lease, so that listings have an order.
    serial: u64,
    deadline: Instant,
}

impl Pool {
    /// A pool with nothing leased.
    ///
    /// # Errors
    /// See [`InvalidPool`].
    pub fn new(config: PoolConfig) -> Result<Self, InvalidPool> {
        if config.features.is_empty() {
            return Err(InvalidPool::NoFeature);
        }
        if !(MIN_LEASE_TTL..=MAX_LEASE_TTL).contains(&config.lease_ttl) {
            return Err(InvalidPool::LeaseTtl {
                ttl: config.lease_ttl,
            });
        }
        let mut features: Vec<Feature> = Vec::with_capacity(config.features.len());
        for FeatureConfig { name, count } in config.features {
            if let Err(problem) = check_text(&name) {
                return Err(InvalidPool::FeatureName { name, problem });
            }
            if features.iter().any(|known| known.name == name) {
                return Err(InvalidPool::DuplicateFeature { name });
            }
            features.push(Feature {
                name,
                count,
                used: 0,
            });
        }
        Ok(Self {
            features,
            ttl: config.lease_ttl,
            leases: HashMap::new(),
            by_claim: HashMap::new(),
            deadlines: BTreeMap::new(),
            next_serial: 0,
            totals: Totals::default(),
        })
    }

    /// Leases a licence under the fresh random `id`. A claim that already holds a lease gets that lease again, renewed, so
    /// that a retry after a lost answer does not take a second licence.
    ///
    /// # Errors
    /// See [`AcquireRefusal`]; nothing has changed then.
    pub fn acquire(
        &mut self,
        claim: Claim,
        id: LeaseId,
        now: Instant,
    ) -> Result<LeaseGrant, AcquireRefusal> {
        self.expire(now);
        if let Some(&held) = self.by_claim.get(&claim) {
            self.postpone(held, now);
            return Ok(self.grant(held, claim.feature, false));
        }
        if self.leases.contains_key(&id) {
            return Err(AcquireRefusal::IdTaken);
        }
        let Some(feature) = self
            .features
            .iter_mut()
            .find(|known| known.name == claim.feature)
        else {
            self.totals.refused_unknown_feature += 1;
            return Err(AcquireRefusal::UnknownFeature);
        };
        if feature.used >= feature.count {
            self.totals.refused_none_available += 1;
            return Err(AcquireRefusal::NoneAvailable {
                count: feature.count,
            });
        }
        feature.used += 1;
        let serial = self.next_serial;
        self.next_serial += 1;
        let deadline = now + self.ttl;
        self.by_claim.insert(claim.clone(), id);
        self.deadlines.insert((deadline, serial), id);
        let name = claim.feature.clone();
        self.leases.insert(
            id,
            LiveLease {
                claim,
                serial,
                deadline,
            },
        );
        self.totals.acquired += 1;
        Ok(self.grant(id, name, true))
    }

    /// Lets a lease live for a full lease time from `now`, which is returned.
    ///
    /// # Errors
    /// When the lease is not, or no longer, known: lease anew.
    pub fn renew(&mut self, id: LeaseId, now: Instant) -> Result<Duration, UnknownLease> {
        self.expire(now);
        if self.postpone(id, now) {
            Ok(self.ttl)
        } else {
            Err(UnknownLease)
        }
    }

    /// Ends a lease and returns the claim it was granted for.
    ///
    /// # Errors
    /// When the lease is not, or no longer, known: nothing is left to give back.
    pub fn give_back(&mut self, id: LeaseId, now: Instant) -> Result<Claim, UnknownLease> {
        self.expire(now);
        let claim = self.end(id).ok_or(UnknownLease)?;
        self.totals.returned += 1;
        Ok(claim)
    }

    /// Ends every lease whose time is up at `now` and returns their claims, earliest first. All other methods that are
    /// given a time do the same first; call this at [`Self::poll_timeout`], or before them to learn what expired.
    pub fn expire(&mut self, now: Instant) -> Vec<Claim> {
        let mut expired = Vec::new();
        while let Some((&(deadline, _), &id)) = self.deadlines.first_key_value() {
            if deadline > now {
                break;
            }
            let Some(claim) = self.end(id) else { break };
            self.totals.expired += 1;
            expired.push(claim);
        }
        expired
    }

    /// When the next lease expires; ask again after every call that changes the pool.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines
            .first_key_value()
            .map(|(&(deadline, _), _)| deadline)
    }

    /// The use of every feature, in configured order.
    #[must_use]
    pub fn usage(&self) -> Vec<FeatureUsage> {
        self.features
            .iter()
            .map(|feature| FeatureUsage {
                name: feature.name.clone(),
                used: feature.used,
                count: feature.count,
            })
            .collect()
    }

    /// The claims that hold a lease of the feature, longest first; `None` when there is no such feature.
    #[must_use]
    pub fn clients(&self, feature: &str) -> Option<Vec<Claim>> {
        self.features.iter().find(|known| known.name == feature)?;
        let mut held: Vec<&LiveLease> = self
            .leases
            .values()
            .filter(|lease| lease.claim.feature == feature)
            .collect();
        held.sort_unstable_by_key(|lease| lease.serial);
        Some(held.into_iter().map(|lease| lease.claim.clone()).collect())
    }

    /// What happened so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    fn grant(&self, id: LeaseId, feature: String, fresh: bool) -> LeaseGrant {
        LeaseGrant {
            id,
            feature,
            ttl: self.ttl,
            fresh,
        }
    }

    /// Moves a lease's deadline; `false` when there is no such lease. Time never runs backwards for a lease.
    fn postpone(&mut self, id: LeaseId, now: Instant) -> bool {
        let Some(lease) = self.leases.get_mut(&id) else {
            return false;
        };
        let deadline = lease.deadline.max(now + self.ttl);
        self.deadlines.remove(&(lease.deadline, lease.serial));
        self.deadlines.insert((deadline, lease.serial), id);
        lease.deadline = deadline;
        true
    }

    /// Takes a lease out of every table.
    fn end(&mut self, id: LeaseId) -> Option<Claim> {
        let lease = self.leases.remove(&id)?;
        self.deadlines.remove(&(lease.deadline, lease.serial));
        self.by_claim.remove(&lease.claim);
        if let Some(feature) = self
            .features
            .iter_mut()
            .find(|feature| feature.name == lease.claim.feature)
        {
            feature.used = feature.used.saturating_sub(1);
        }
        Some(lease.claim)
    }
}

fn check_text(text: &str) -> Result<(), TextProblem> {
    if text.is_empty() {
        Err(TextProblem::Empty)
    } else if text.len() > MAX_TEXT_BYTES {
        Err(TextProblem::TooLong)
    } else if text.chars().any(char::is_control) {
        Err(TextProblem::Control)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
