//! The system calls the relay needs and no safe wrapper offers: batches of datagrams, waiting for many sockets, and moving bytes
//! between connections.
//!
//! All unsafe code of the gateway is here. Pointers handed to the kernel are made and used within one call, from memory that is
//! borrowed for that call, so that none can be left hanging.
//! Numbers are cast to whatever integer a C library has for them (`as _`): glibc and musl differ, and all are small.

mod address;
mod control;
mod pipe;
mod poll;
mod receive;
mod send;

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

pub(super) use pipe::Pipe;
pub(super) use poll::{Events, Poll, WAKE};
pub(super) use receive::{Message, Receiver};
pub(super) use send::{MAX_RUN_BYTES, MAX_SEGMENTS, Piece, Run, Sender};

/// Messages taken or sent in one system call: enough to share the cost of the call and of the lock, few enough not to hold others up.
pub(super) const BATCH: usize = 64;

/// What a UDP socket is to tell of each datagram beside its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tell {
    /// Its traffic class.
    Class,
    /// Its traffic class, and the local address it was sent to: for a socket open to several.
    ClassAndLocal,
}

/// Sets up what a UDP socket tells of datagrams, and lets the kernel hand over several of one size in one piece (GRO).
///
/// None of it is needed: without, datagrams pass with the default class, from the route's address, and one by one.
pub(super) fn prepare_udp(socket: &impl AsFd, ipv6: bool, tell: Tell) {
    let on = |level, name| {
        let _ = set_option(socket, level, name, 1);
    };
    on(libc::SOL_UDP, libc::UDP_GRO);
    on(libc::IPPROTO_IP, libc::IP_RECVTOS);
    if ipv6 {
        on(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS);
    }
    match (tell, ipv6) {
        (Tell::Class, _) => {}
        (Tell::ClassAndLocal, true) => on(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        (Tell::ClassAndLocal, false) => on(libc::IPPROTO_IP, libc::IP_PKTINFO),
    }
}

/// Whether the kernel can cut one large payload into datagrams as it sends it (GSO, since Linux 4.18).
pub(super) fn can_segment(socket: &impl AsFd) -> bool {
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok()
}

/// Sets an option whose value is a number.
pub(super) fn set_option(
    socket: &impl AsFd,
    level: i32,
    name: i32,
    value: libc::c_int,
) -> io::Result<()> {
    const LENGTH: libc::socklen_t = 4;
    const _: () = assert!(size_of::<libc::c_int>() == LENGTH as usize);
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and the pointer is to a live `c_int` of the length given,
    // which the kernel only reads during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            LENGTH,
        )
    };
    check(result.into()).map(drop)
}

/// Reads an option whose value is a number.
#[cfg(test)]
pub(super) fn option(socket: &impl AsFd, level: i32, name: i32) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = -1;
    let mut length: libc::socklen_t = 4;
    // SAFETY: both pointers are to live locals, and `length` says how many bytes the kernel may write to `value`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    check(result.into()).map(|_| value)
}

/// What a system call returned, or why it failed.
fn check(result: i64) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
