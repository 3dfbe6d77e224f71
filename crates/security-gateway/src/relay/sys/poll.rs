//! Waiting for many sockets at once.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use super::{BATCH, check};

/// The token of [`Poll::wake`].
pub(in crate::relay) const WAKE: u64 = u64::MAX;

/// Waits for sockets (epoll), each known by a token, and can be woken (eventfd).
///
/// A socket leaves by being closed.
#[derive(Debug)]
pub(in crate::relay) struct Poll {
    epoll: OwnedFd,
    waker: OwnedFd,
}

/// Room for what [`Poll::wait`] found.
pub(in crate::relay) struct Events {
    events: Vec<libc::epoll_event>,
    found: usize,
}

impl Poll {
    pub(in crate::relay) fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointer; the descriptor it returns is new and owned by nobody else.
        let epoll = unsafe {
            let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            check(fd.into())?;
            OwnedFd::from_raw_fd(fd)
        };
        // SAFETY: as above.
        let waker = unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            check(fd.into())?;
            OwnedFd::from_raw_fd(fd)
        };
        let poll = Self { epoll, waker };
        poll.add(&poll.waker, WAKE)?;
        Ok(poll)
    }

    /// Reports `token` whenever `socket` has something to be received.
    pub(in crate::relay) fn add(&self, socket: &impl AsFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN.cast_unsigned(),
            u64: token,
        };
        // SAFETY: both descriptors are open while borrowed, and `event` lives through the call, which only reads it.
        let result = unsafe {
            libc::epoll_ctl(
                self.epoll.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                socket.as_fd().as_raw_fd(),
                &raw mut event,
            )
        };
        check(result.into()).map(drop)
    }

    /// Waits until a socket is readable. A socket not read empty is reported again.
    pub(in crate::relay) fn wait(&self, events: &mut Events) -> io::Result<()> {
        events.found = 0;
        let room = i32::try_from(events.events.len()).unwrap_or(i32::MAX);
        // SAFETY: the pointer is to as many live events as `room` says, borrowed for writing.
        let result = unsafe {
            libc::epoll_wait(self.epoll.as_raw_fd(), events.events.as_mut_ptr(), room, -1)
        };
        events.found = check(result.into())?;
        Ok(())
    }

    /// Makes [`Poll::wait`] return with [`WAKE`], now and ever after.
    pub(in crate::relay) fn wake(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: the pointer is to eight live bytes, which the call only reads.
        let _ = unsafe { libc::write(self.waker.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

impl Events {
    pub(in crate::relay) fn new() -> Self {
        Self {
            events: vec![libc::epoll_event { events: 0, u64: 0 }; BATCH],
            found: 0,
        }
    }

    /// The tokens of the sockets found readable.
    pub(in crate::relay) fn tokens(&self) -> impl Iterator<Item = u64> + '_ {
        self.events.iter().take(self.found).map(|event| event.u64)
    }
}
