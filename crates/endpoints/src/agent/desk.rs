//! Who sits at the desktop: reservations, their secrets and their ends. A machine without sockets or clocks.
//!
//! A seat is taken by [`Desk::admit`], gets its secret by [`Desk::reserve`], is claimed once with that secret by
//! [`Desk::claim`], may be left without good-bye ([`Desk::disconnect`]) and is given up by [`Desk::vacate`]. Call
//! [`Desk::handle_timeout`] at [`Desk::poll_timeout`]; it vacates what nobody claimed or came back for.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use portcullis_protocol::broker::{ConnectTag, SessionId};
use subtle::ConstantTimeEq;

/// Sessions are numbered upwards from here, as real agents number them.
const FIRST_SESSION: u64 = 0x2000_0000_0000_0001;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Desk {
    max_sessions: usize,
    reservation: Duration,
    grace: Duration,
    next: u64,
    seats: BTreeMap<SessionId, Seat>,
}

#[derive(Debug)]
struct Seat {
    user: String,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The licence is being acquired.
    Preparing,
    Reserved {
        tag: ConnectTag,
        until: Instant,
    },
    Connected,
    Disconnected {
        until: Instant,
    },
}

/// A seat was given.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Admission {
    pub(crate) session: SessionId,
    /// The same user's earlier session, which has lost its seat.
    pub(crate) displaced: Option<SessionId>,
}

/// Every seat is taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Occupied;

/// No session waits under that number and tag. Which of the two was wrong is nobody's business.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoSuchSession;

/// Why a timeout vacated a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expired {
    /// Nobody claimed it.
    Unclaimed,
    /// The client went away and did not come back.
    Disconnected,
}

/// How many seats are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Occupancy {
    pub(crate) reserved: usize,
    pub(crate) connected: usize,
    pub(crate) disconnected: usize,
}

impl Desk {
    pub(crate) fn new(max_sessions: usize, reservation: Duration, grace: Duration) -> Self {
        Self {
            max_sessions,
            reservation,
            grace,
            next: FIRST_SESSION,
            seats: BTreeMap::new(),
        }
    }

    /// Gives `user` a seat: a free one, else the oldest of their own that nobody is connected to.
    pub(crate) fn admit(&mut self, user: &str) -> Result<Admission, Occupied> {
        let displaced = if self.seats.len() < self.max_sessions {
            None
        } else {
            let (session, _) = self
                .seats
                .iter()
                .find(|(_, seat)| seat.user == user && seat.is_left())
                .ok_or(Occupied)?;
            let session = *session;
            self.seats.remove(&session);
            Some(session)
        };
        let session = SessionId(self.next);
        self.next += 1;
        self.seats.insert(
            session,
            Seat {
                user: user.to_owned(),
                state: State::Preparing,
            },
        );
        Ok(Admission { session, displaced })
    }

    /// Makes a prepared seat claimable. `false` when it was vacated meanwhile.
    pub(crate) fn reserve(&mut self, session: SessionId, tag: ConnectTag, now: Instant) -> bool {
        let until = now + self.reservation;
        match self.seats.get_mut(&session) {
            Some(seat) => {
                seat.state = State::Reserved { tag, until };
                true
            }
            None => false,
        }
    }

    /// Connects a client to its seat; works once per tag.
    pub(crate) fn claim(
        &mut self,
        session: SessionId,
        tag: &str,
        now: Instant,
    ) -> Result<(), NoSuchSession> {
        let seat = self.seats.get_mut(&session).ok_or(NoSuchSession)?;
        match &seat.state {
            State::Reserved {
                tag: expected,
                until,
            } if now < *until && bool::from(expected.expose().as_bytes().ct_eq(tag.as_bytes())) => {
                seat.state = State::Connected;
                Ok(())
            }
            State::Preparing
            | State::Reserved { .. }
            | State::Connected
            | State::Disconnected { .. } => Err(NoSuchSession),
        }
    }

    /// Notes that the client went away without a good-bye. Its seat stays for a while.
    pub(crate) fn disconnect(&mut self, session: SessionId, now: Instant) {
        let until = now + self.grace;
        if let Some(seat) = self.seats.get_mut(&session) {
            seat.state = State::Disconnected { until };
        }
    }

    /// Gives up a seat. `false` when it was gone already.
    pub(crate) fn vacate(&mut self, session: SessionId) -> bool {
        self.seats.remove(&session).is_some()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.seats.values().filter_map(Seat::until).min()
    }

    /// Vacates every seat whose time is up and names them, lowest number first.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Vec<(SessionId, Expired)> {
        let expired: Vec<_> = self
            .seats
            .iter()
            .filter(|(_, seat)| seat.until().is_some_and(|until| until <= now))
            .map(|(session, seat)| {
                let why = match seat.state {
                    State::Disconnected { .. } => Expired::Disconnected,
                    State::Preparing | State::Reserved { .. } | State::Connected => {
                        Expired::Unclaimed
                    }
                };
                (*session, why)
            })
            .collect();
        for (session, _) in &expired {
            self.seats.remove(session);
        }
        expired
    }

    pub(crate) fn occupancy(&self) -> Occupancy {
        let mut count = Occupancy::default();
        for seat in self.seats.values() {
            match seat.state {
                State::Preparing | State::Reserved { .. } => count.reserved += 1,
                State::Connected => count.connected += 1,
                State::Disconnected { .. } => count.disconnected += 1,
            }
        }
        count
    }
}

impl Seat {
    fn is_left(&self) -> bool {
        match self.state {
            State::Reserved { .. } | State::Disconnected { .. } => true,
            State::Preparing | State::Connected => false,
        }
    }

    fn until(&self) -> Option<Instant> {
        match self.state {
            State::Reserved { until, .. } | State::Disconnected { until } => Some(until),
            State::Preparing | State::Connected => None,
        }
    }
}

/// The user a name stands for: without a `DOMAIN\` in front or an `@domain` behind, in lower case.
pub(crate) fn account(name: &str) -> String {
    let name = name.rsplit('\\').next().unwrap_or(name);
    let name = name.split('@').next().unwrap_or(name);
    name.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESERVATION: Duration = Duration::from_secs(60);
    const GRACE: Duration = Duration::from_secs(15);

    fn desk(max_sessions: usize) -> (Desk, Instant) {
        (Desk::new(max_sessions, RESERVATION, GRACE), Instant::now())
    }

    fn tag(text: &str) -> ConnectTag {
        ConnectTag::new(text).unwrap()
    }

    fn reserved(desk: &mut Desk, user: &str, now: Instant) -> SessionId {
        let session = desk.admit(user).unwrap().session;
        assert!(desk.reserve(session, tag("secret"), now));
        session
    }

    #[test]
    fn sessions_count_up_from_bit_61() {
        let (mut desk, _) = desk(2);
        assert_eq!(
            desk.admit("ada").unwrap().session,
            SessionId(2_305_843_009_213_693_953)
        );
        assert_eq!(
            desk.admit("ada").unwrap().session,
            SessionId(2_305_843_009_213_693_954)
        );
    }

    #[test]
    fn a_tag_works_once() {
        let (mut desk, now) = desk(1);
        let session = reserved(&mut desk, "ada", now);
        assert_eq!(desk.claim(session, "secret", now), Ok(()));
        assert_eq!(desk.claim(session, "secret", now), Err(NoSuchSession));
    }

    #[test]
    fn a_wrong_tag_neither_claims_nor_spoils() {
        let (mut desk, now) = desk(1);
        let session = reserved(&mut desk, "ada", now);
        for wrong in ["", "secre", "secrets", "Secret"] {
            assert_eq!(desk.claim(session, wrong, now), Err(NoSuchSession));
        }
        let other = SessionId(session.0 + 1);
        assert_eq!(desk.claim(other, "secret", now), Err(NoSuchSession));
        assert_eq!(desk.claim(session, "secret", now), Ok(()));
    }

    #[test]
    fn a_tag_expires_to_the_instant_even_when_no_timer_ran() {
        let (mut desk, now) = desk(2);
        let in_time = reserved(&mut desk, "ada", now);
        let too_late = reserved(&mut desk, "ada", now);
        let last = now + RESERVATION - Duration::from_nanos(1);
        assert_eq!(desk.claim(in_time, "secret", last), Ok(()));
        assert_eq!(
            desk.claim(too_late, "secret", now + RESERVATION),
            Err(NoSuchSession)
        );
    }

    #[test]
    fn an_unclaimed_seat_is_free_again_when_its_time_is_up() {
        let (mut desk, now) = desk(1);
        let session = reserved(&mut desk, "ada", now);
        assert_eq!(desk.poll_timeout(), Some(now + RESERVATION));
        assert!(desk.handle_timeout(now).is_empty());
        assert_eq!(
            desk.handle_timeout(now + RESERVATION),
            [(session, Expired::Unclaimed)]
        );
        assert_eq!(desk.poll_timeout(), None);
        assert!(desk.admit("bob").is_ok());
    }

    #[test]
    fn a_seat_that_is_being_prepared_is_not_claimable_and_does_not_expire() {
        let (mut desk, now) = desk(1);
        let session = desk.admit("ada").unwrap().session;
        assert_eq!(desk.claim(session, "", now), Err(NoSuchSession));
        assert_eq!(desk.poll_timeout(), None);
        assert_eq!(desk.admit("ada"), Err(Occupied));
    }

    #[test]
    fn a_connected_seat_is_nobody_elses_and_does_not_expire() {
        let (mut desk, now) = desk(1);
        let session = reserved(&mut desk, "ada", now);
        desk.claim(session, "secret", now).unwrap();
        assert_eq!(desk.poll_timeout(), None);
        assert_eq!(desk.admit("ada"), Err(Occupied));
        assert_eq!(desk.admit("bob"), Err(Occupied));
    }

    #[test]
    fn the_same_user_takes_over_what_they_left_and_nobody_else_does() {
        let (mut desk, now) = desk(1);
        let first = reserved(&mut desk, "ada", now);
        desk.claim(first, "secret", now).unwrap();
        desk.disconnect(first, now);
        assert_eq!(desk.admit("bob"), Err(Occupied));
        let admission = desk.admit("ada").unwrap();
        assert_eq!(admission.displaced, Some(first));
        assert!(!desk.vacate(first));
        assert!(!desk.reserve(first, tag("x"), now));
    }

    #[test]
    fn a_free_seat_is_preferred_to_a_take_over() {
        let (mut desk, now) = desk(2);
        let first = reserved(&mut desk, "ada", now);
        assert_eq!(desk.admit("ada").unwrap().displaced, None);
        assert_eq!(desk.admit("ada").unwrap().displaced, Some(first));
    }

    #[test]
    fn a_left_seat_is_kept_for_the_grace() {
        let (mut desk, now) = desk(1);
        let session = reserved(&mut desk, "ada", now);
        desk.claim(session, "secret", now).unwrap();
        desk.disconnect(session, now);
        assert_eq!(desk.claim(session, "secret", now), Err(NoSuchSession));
        assert_eq!(
            desk.handle_timeout(now + GRACE),
            [(session, Expired::Disconnected)]
        );
        assert_eq!(desk.occupancy(), Occupancy::default());
    }

    #[test]
    fn occupancy_counts_by_state() {
        let (mut desk, now) = desk(4);
        desk.admit("a").unwrap();
        reserved(&mut desk, "b", now);
        let connected = reserved(&mut desk, "c", now);
        desk.claim(connected, "secret", now).unwrap();
        let left = reserved(&mut desk, "d", now);
        desk.claim(left, "secret", now).unwrap();
        desk.disconnect(left, now);
        assert_eq!(
            desk.occupancy(),
            Occupancy {
                reserved: 2,
                connected: 1,
                disconnected: 1
            }
        );
    }

    #[test]
    fn an_account_is_the_same_in_every_spelling() {
        for name in ["ada", "ADA", "CORP\\Ada", "ada@corp.example"] {
            assert_eq!(account(name), "ada", "{name}");
        }
    }
}
