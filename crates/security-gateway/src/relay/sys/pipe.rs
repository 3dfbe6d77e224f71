//! Moving bytes from one TCP connection to another without copying them through this process.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    ptr,
};

use super::check;

/// Room of a pipe asked for, in bytes: what a fast sender fills between two turns. The kernel's default does as well.
const ROOM: libc::c_int = 256 * 1024;

/// Where bytes are between two connections (pipe). It must be emptied before it is filled again, so that "would block" has one
/// meaning on either end.
#[derive(Debug)]
pub(in crate::relay) struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
}

impl Pipe {
    pub(in crate::relay) fn new() -> io::Result<Self> {
        let mut ends = [-1; 2];
        // SAFETY: the pointer is to two live numbers, which the call writes.
        let result = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) };
        check(result.into())?;
        let [out, into] = ends;
        // SAFETY: both descriptors are new and owned by nobody else.
        let pipe = unsafe {
            Self {
                out: OwnedFd::from_raw_fd(out),
                into: OwnedFd::from_raw_fd(into),
            }
        };
        // SAFETY: the call takes no pointer, and the descriptor is open.
        let _ = unsafe { libc::fcntl(pipe.into.as_raw_fd(), libc::F_SETPIPE_SZ, ROOM) };
        Ok(pipe)
    }

    /// Moves what a connection has received into the empty pipe, without waiting. Zero when its other end has closed.
    pub(in crate::relay) fn fill(&self, from: &impl AsFd) -> io::Result<usize> {
        splice(from, &self.into, usize::try_from(ROOM).unwrap_or(0))
    }

    /// Moves up to so many bytes on to a connection, without waiting.
    pub(in crate::relay) fn empty(&self, to: &impl AsFd, most: usize) -> io::Result<usize> {
        splice(&self.out, to, most)
    }
}

fn splice(from: &impl AsFd, to: &impl AsFd, most: usize) -> io::Result<usize> {
    // SAFETY: both descriptors are open while borrowed; null pointers say that neither has offsets.
    let moved = unsafe {
        libc::splice(
            from.as_fd().as_raw_fd(),
            ptr::null_mut(),
            to.as_fd().as_raw_fd(),
            ptr::null_mut(),
            most,
            libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK,
        )
    };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}
