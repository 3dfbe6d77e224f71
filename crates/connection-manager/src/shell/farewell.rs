//! What is due without a request: sessions whose time has come, and byes to the broker for sessions that ended without.

use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{Mutex, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{
    Inner,
    legs::{BYE_WAIT, chain, now},
};
use crate::{
    neighbours::BrokerExchange,
    session::{BrokerRequest, ClientFacts},
};

/// Byes that wait at most; further ones are dropped, and the broker's own limits end those sessions.
const WAITING: usize = 1024;
/// Byes under way at a time: a broker that hangs must not hold up more.
const AT_A_TIME: usize = 8;
/// Longest and shortest pause between two sweeps.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));

/// Byes on their way to the broker.
pub(super) struct Farewells {
    send: mpsc::Sender<(ClientFacts, BrokerRequest)>,
    receive: Mutex<mpsc::Receiver<(ClientFacts, BrokerRequest)>>,
}

impl Default for Farewells {
    fn default() -> Self {
        let (send, receive) = mpsc::channel(WAITING);
        Self {
            send,
            receive: Mutex::new(receive),
        }
    }
}

impl Farewells {
    /// Has a bye said, if one is owed. Never waits.
    pub(super) fn say(&self, client: ClientFacts, farewell: Option<BrokerRequest>) {
        if let Some(farewell) = farewell
            && self.send.try_send((client, farewell)).is_err()
        {
            debug!(session = %client.log_id, "Bye to the broker dropped: too many are waiting");
        }
    }
}

/// Sweeps and says bye until `shutdown`.
pub(super) async fn run(inner: &Inner, shutdown: &CancellationToken) {
    let mut farewells = inner.farewells.receive.lock().await;
    let mut under_way = FuturesUnordered::new();
    loop {
        for expired in inner.sessions.sweep(now()) {
            info!(
                session = %expired.client.log_id,
                client = %expired.client.address,
                "Session ended: its time was up"
            );
            inner.farewells.say(expired.client, expired.farewell);
        }
        let (shortest, longest) = PAUSE;
        // Not longer than a session may idle, so that one opened meanwhile does not wait for twice its time.
        let longest = longest.min(inner.config.idle).max(shortest);
        let pause = inner.sessions.next_due().map_or(longest, |due| {
            due.saturating_duration_since(now())
                .clamp(shortest, longest)
        });
        let sweep = tokio::time::sleep_until(Instant::now() + pause);
        tokio::pin!(sweep);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = &mut sweep => break,
                Some((client, farewell)) = farewells.recv(), if under_way.len() < AT_A_TIME => {
                    under_way.push(bye(inner, client, farewell));
                }
                Some(()) = under_way.next() => {}
            }
        }
    }
}

async fn bye(inner: &Inner, client: ClientFacts, farewell: BrokerRequest) {
    let exchange = BrokerExchange {
        log_id: client.log_id,
        cookies: farewell.cookies,
        client: client.address,
        forwarded_for: vec![client.address],
        request: farewell.request,
    };
    match tokio::time::timeout(BYE_WAIT, inner.broker.ask(exchange)).await {
        Ok(Ok(_)) => {}
        Ok(Err(failure)) => {
            debug!(session = %client.log_id, cause = chain(&failure), "Broker did not take bye");
        }
        Err(_) => debug!(session = %client.log_id, "Broker did not answer bye"),
    }
}
