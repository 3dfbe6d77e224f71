//! UDP 4172: every packet finds its session by SPI, or is dropped without a word.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tracing::{debug, info};

use super::{config::AgentEvent, shared::Shared};

/// Largest datagram looked at; UDP allows no larger.
const DATAGRAM_BYTES: usize = 65_536;
/// Datagrams taken before other work gets its turn.
const BATCH: usize = 64;
/// Pause after a receive that failed.
const RECEIVE_RETRY: Duration = Duration::from_millis(10);

/// Receives until the agent shuts down.
pub(crate) async fn receive(shared: Arc<Shared>) {
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        let received = tokio::select! {
            () = shared.shutdown.cancelled() => return,
            received = shared.udp.recv_from(&mut buffer) => received,
        };
        match received {
            Ok((length, from)) => dispatch(&shared, buffer.get_mut(..length), from),
            Err(error) => {
                debug!(
                    error = &error as &dyn std::error::Error,
                    "Cannot receive a datagram"
                );
                tokio::time::sleep(RECEIVE_RETRY).await;
            }
        }
        for _ in 0..BATCH {
            let Ok((length, from)) = shared.udp.try_recv_from(&mut buffer) else {
                break;
            };
            dispatch(&shared, buffer.get_mut(..length), from);
        }
    }
}

fn dispatch(shared: &Shared, datagram: Option<&mut [u8]>, from: SocketAddr) {
    if shared.config.faults.deaf_udp {
        return;
    }
    let Some(datagram) = datagram else { return };
    let Some(flow) = shared.flow_of(datagram) else {
        shared
            .counters
            .dropped_unknown_spi
            .fetch_add(1, Ordering::Relaxed);
        return;
    };
    shared
        .counters
        .packets_received
        .fetch_add(1, Ordering::Relaxed);
    let opened = flow.lock().handle_datagram(datagram, from, Instant::now());
    flow.wake.notify_one();
    if opened {
        info!(session = flow.log_id, peer = %from, "UDP flow opened");
        shared.emit(AgentEvent::FlowOpened {
            session: flow.session,
            peer: from,
        });
    }
}
