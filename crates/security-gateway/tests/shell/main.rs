//! The gateway over real sockets on loopback.

mod bind;
mod control;
mod crowd;
mod harness;
mod metrics;
mod quality;
mod tcp;
mod udp;
