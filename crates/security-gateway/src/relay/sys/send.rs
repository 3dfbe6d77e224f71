//! Sending datagrams in batches.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    ptr,
};

use super::{
    BATCH,
    address::{self, Storage},
    check,
    control::{Control, Details},
};

/// Datagrams of one run, at most: what every kernel with UDP segmentation takes.
pub(in crate::relay) const MAX_SEGMENTS: usize = 64;
/// Bytes of one run, at most: a little less than an IP packet holds.
pub(in crate::relay) const MAX_RUN_BYTES: usize = 65_000;

/// Part of a buffer, from its start on and so many bytes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::relay) struct Piece {
    pub(in crate::relay) start: usize,
    pub(in crate::relay) length: usize,
}

/// Datagrams that go one way: all of one size but the last, which may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::relay) struct Run {
    /// The destination; the connected one when `None`.
    pub(in crate::relay) to: Option<SocketAddr>,
    /// Whether the destination is an IPv4 address.
    pub(in crate::relay) ipv4: bool,
    /// The local address it leaves from; the route's when `None`.
    pub(in crate::relay) local: Option<IpAddr>,
    /// Traffic class: DSCP and ECN.
    pub(in crate::relay) tos: u8,
    /// Size of each datagram but the last, in bytes.
    pub(in crate::relay) segment: u16,
    /// How many datagrams.
    pub(in crate::relay) segments: usize,
    /// How many of the pieces handed in with the runs belong to this one. They follow those of the run before.
    pub(in crate::relay) pieces: usize,
}

/// The tables of one batch to be sent.
pub(in crate::relay) struct Sender {
    names: Vec<Storage>,
    controls: Vec<Control>,
    parts: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Sender {
    pub(in crate::relay) fn new() -> Self {
        // SAFETY: an `mmsghdr` is plain numbers and pointers, for all of which zero is a value.
        let header = unsafe { std::mem::zeroed::<libc::mmsghdr>() };
        Self {
            names: vec![address::empty(); BATCH],
            controls: vec![Control::EMPTY; BATCH],
            parts: Vec::with_capacity(BATCH * MAX_SEGMENTS),
            headers: vec![header; BATCH],
        }
    }

    /// Sends runs made of pieces of a buffer, up to a batch, without waiting. Returns how many runs were sent, fewer than there are
    /// when there are more than a batch or one failed.
    ///
    /// # Errors
    /// What is wrong with the first run. None was sent.
    pub(in crate::relay) fn send(
        &mut self,
        socket: &UdpSocket,
        buffer: &[u8],
        runs: &[Run],
        pieces: &[Piece],
    ) -> io::Result<usize> {
        let runs = runs.get(..BATCH).unwrap_or(runs);
        if runs.is_empty() {
            return Ok(0);
        }
        let used: usize = runs.iter().map(|run| run.pieces).sum();
        self.parts.clear();
        for piece in pieces.iter().take(used) {
            let end = piece.start.saturating_add(piece.length);
            let bytes = buffer.get(piece.start..end).unwrap_or_default();
            self.parts.push(libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            });
        }
        let mut parts = self.parts.as_mut_slice();
        let tables = self
            .names
            .iter_mut()
            .zip(&mut self.controls)
            .zip(&mut self.headers);
        for (run, ((name, control), header)) in runs.iter().zip(tables) {
            let Some((own, behind)) = parts.split_at_mut_checked(run.pieces) else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            parts = behind;
            let header = &mut header.msg_hdr;
            header.msg_iov = own.as_mut_ptr();
            header.msg_iovlen = own.len() as _;
            header.msg_name = ptr::null_mut();
            header.msg_namelen = 0;
            if let Some(to) = run.to {
                header.msg_namelen = address::encode(to, name);
                header.msg_name = ptr::from_mut(name).cast();
            }
            let details = Details {
                segment: (run.segments > 1).then_some(run.segment),
                tos: run.tos,
                local: run.local,
            };
            let written = control.write(&details, run.ipv4);
            header.msg_controllen = written as _;
            header.msg_control = if written == 0 {
                ptr::null_mut()
            } else {
                control.room().0
            };
        }
        // SAFETY: one header for each of `runs` has just been pointed at live memory of the lengths given: names, controls and parts
        // borrowed mutably by this method, and the payload borrowed from the caller, which the kernel only reads. It keeps no
        // pointer when the call is over.
        let result = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                u32::try_from(runs.len()).unwrap_or(0),
                libc::MSG_DONTWAIT as _,
            )
        };
        check(result.into())
    }
}
