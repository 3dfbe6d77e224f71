//! Receiving datagrams in batches.

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
    control::Control,
};

/// Room for one message, in bytes: the longest UDP payload, since datagrams of equal size may come in one piece. Not a power of
/// two, so that the beginnings of messages do not compete for the same lines of the processor's caches.
const ROOM: usize = 65_536 + 1_344;
/// Messages asked for at first; more once that many came.
const FEW: usize = 16;

/// The buffers of one batch of received messages.
pub(in crate::relay) struct Receiver {
    buffer: Vec<u8>,
    names: Vec<Storage>,
    controls: Vec<Control>,
    parts: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    received: usize,
}

/// Received from one source: one datagram, or several of one size (the last may be shorter) in one piece.
#[derive(Clone, Copy, Debug)]
pub(in crate::relay) struct Message {
    /// The source.
    pub(in crate::relay) from: SocketAddr,
    /// Where it is in [`Receiver::buffer`].
    pub(in crate::relay) start: usize,
    /// Its length in bytes.
    pub(in crate::relay) length: usize,
    /// Size of each datagram but the last; not zero.
    pub(in crate::relay) segment: usize,
    /// Traffic class: DSCP and ECN.
    pub(in crate::relay) tos: u8,
    /// The local address it was sent to, if the socket has several.
    pub(in crate::relay) local: Option<IpAddr>,
}

impl Receiver {
    pub(in crate::relay) fn new() -> Self {
        // SAFETY: an `iovec` and an `mmsghdr` are plain numbers and pointers, for all of which zero is a value.
        let (part, header) = unsafe {
            (
                std::mem::zeroed::<libc::iovec>(),
                std::mem::zeroed::<libc::mmsghdr>(),
            )
        };
        Self {
            buffer: vec![0; ROOM * BATCH],
            names: vec![address::empty(); BATCH],
            controls: vec![Control::EMPTY; BATCH],
            parts: vec![part; BATCH],
            headers: vec![header; BATCH],
            received: 0,
        }
    }

    /// Takes what waits on a socket, up to a batch. Nothing is no error.
    pub(in crate::relay) fn receive(&mut self, socket: &UdpSocket) -> io::Result<()> {
        let wanted = (self.received * 2).clamp(FEW, BATCH);
        self.received = 0;
        let rooms = self
            .buffer
            .chunks_exact_mut(ROOM)
            .zip(&mut self.names)
            .zip(&mut self.controls)
            .zip(&mut self.parts)
            .zip(&mut self.headers)
            .take(wanted);
        for ((((room, name), control), part), header) in rooms {
            part.iov_base = room.as_mut_ptr().cast();
            part.iov_len = room.len();
            let header = &mut header.msg_hdr;
            header.msg_name = ptr::from_mut(name).cast();
            header.msg_namelen = NAME_ROOM;
            header.msg_iov = part;
            header.msg_iovlen = 1;
            let (control, length) = control.room();
            header.msg_control = control;
            header.msg_controllen = length as _;
            header.msg_flags = 0;
        }
        // SAFETY: the first `wanted` headers have just been pointed at live memory of the lengths given, all of it borrowed mutably
        // by this method and each part by one header only; the kernel writes to it during the call and keeps no pointer.
        let result = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                u32::try_from(wanted).unwrap_or(0),
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        match check(result.into()) {
            Ok(received) => self.received = received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// How many messages were received.
    pub(in crate::relay) const fn received(&self) -> usize {
        self.received
    }

    /// What was received, in order.
    pub(in crate::relay) fn messages(&self) -> impl Iterator<Item = Message> + '_ {
        self.headers
            .iter()
            .zip(&self.names)
            .zip(&self.controls)
            .take(self.received)
            .enumerate()
            .filter_map(|(index, ((header, name), control))| {
                let details = control.read(header.msg_hdr.msg_controllen as _);
                let length = usize::try_from(header.msg_len).ok()?;
                Some(Message {
                    from: address::decode(name)?,
                    start: index * ROOM,
                    length,
                    segment: details.segment.map_or(length, usize::from).max(1),
                    tos: details.tos,
                    local: details.local,
                })
            })
    }

    /// The buffer messages are in.
    pub(in crate::relay) fn buffer(&self) -> &[u8] {
        &self.buffer
    }
}

/// Room for a source address, in bytes.
const NAME_ROOM: libc::socklen_t = {
    assert!(size_of::<Storage>() == 128);
    128
};
