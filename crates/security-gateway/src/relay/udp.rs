//! Datagrams: received in batches, decided on under one lock, sent without waiting.

use std::{cell::RefCell, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::UdpSocket;

use super::{shared::Shared, socket};
use crate::core::{Forward, Gateway, UpstreamSocket};

/// Datagrams taken from a socket before the core is asked: enough to share the cost of the lock, few enough not to hold others
/// up.
const BATCH: usize = 32;
/// Room for one datagram, in bytes. What is longer arrives cut to this, and is dropped as too long all the same.
const DATAGRAM: usize = 2048;
/// Rest after a receive error, so that a socket in trouble costs no core. An agent that is gone causes one a datagram sent to it.
const RECEIVE_ERROR_PAUSE: Duration = Duration::from_millis(1);

/// Whom a socket receives from.
#[derive(Clone, Debug)]
pub(super) enum Side {
    /// Clients.
    Clients,
    /// Agents; answers go out to clients by the other socket.
    Agents(UpstreamSocket),
}

/// The buffers of one batch. There is one a thread, since a batch is done with before its task gives way.
struct Batch {
    buffers: Vec<[u8; DATAGRAM]>,
    received: Vec<(usize, SocketAddr)>,
    sendings: Vec<(usize, Forward)>,
}

thread_local! {
    static SCRATCH: RefCell<Batch> = RefCell::new(Batch {
        buffers: vec![[0; DATAGRAM]; BATCH],
        received: Vec::with_capacity(BATCH),
        sendings: Vec::with_capacity(BATCH * 2),
    });
}

/// Relays what a socket receives, for ever.
pub(super) async fn receive(shared: Arc<Shared>, socket: Arc<UdpSocket>, side: Side) {
    loop {
        let ready = socket.readable().await;
        let outcome = ready.and_then(|()| relay_batch(&shared, &socket, &side));
        if let Err(error) = outcome {
            match side {
                Side::Clients => shared.client_troubles.add(&error),
                Side::Agents(_) => shared.agent_troubles.add(&error),
            }
            tokio::time::sleep(RECEIVE_ERROR_PAUSE).await;
        }
        // A socket that is always ready must not keep its thread to itself.
        tokio::task::coop::consume_budget().await;
    }
}

/// Relays up to a batch of what has been received. An error is one of receiving; datagrams before it were relayed.
fn relay_batch(shared: &Shared, socket: &UdpSocket, side: &Side) -> io::Result<()> {
    SCRATCH.with_borrow_mut(|batch| {
        let outcome = batch.fill(socket);
        if !batch.received.is_empty() {
            shared.with(|core, now| batch.decide(core, side, now));
            batch.send(shared, side);
        }
        outcome
    })
}

impl Batch {
    fn fill(&mut self, socket: &UdpSocket) -> io::Result<()> {
        self.received.clear();
        for buffer in &mut self.buffers {
            match socket.try_recv_from(buffer) {
                Ok(received) => self.received.push(received),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn decide(&mut self, core: &mut Gateway, side: &Side, now: std::time::Instant) {
        self.sendings.clear();
        for (index, (buffer, (length, from))) in self.buffers.iter().zip(&self.received).enumerate()
        {
            let payload = buffer.get(..*length).unwrap_or_default();
            let verdict = match side {
                Side::Clients => core.handle_client_datagram(*from, payload, now),
                Side::Agents(socket) => core.handle_agent_datagram(*socket, *from, payload, now),
            };
            self.sendings
                .extend(verdict.forwards().iter().map(|forward| (index, *forward)));
        }
    }

    fn send(&self, shared: &Shared, side: &Side) {
        for (index, forward) in &self.sendings {
            let Some((buffer, (length, _))) =
                self.buffers.get(*index).zip(self.received.get(*index))
            else {
                continue;
            };
            let payload = buffer.get(..*length).unwrap_or_default();
            // Whatever the error, it is this datagram's alone.
            match side {
                Side::Clients => {
                    if let Err(error) = shared.upstream.send(payload, forward) {
                        shared.agent_troubles.add(&error);
                    }
                }
                Side::Agents(_) => {
                    if let Err(error) = socket::send(&shared.clients, payload, Some(forward.to)) {
                        shared.client_troubles.add(&error);
                    }
                }
            }
        }
    }
}
