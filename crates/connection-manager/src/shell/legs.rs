//! Performing a session's steps: the three neighbours, each under its time limit, its histogram and its log line.

use std::{error::Error, time::Duration};

use portcullis_protocol::{
    LogId,
    broker::{Envelope, Request, Response},
};
use prometheus_client::metrics::histogram::Histogram;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Inner, arrival::Arrival};
use crate::{
    metrics::observe,
    neighbours::{
        AgentAnswer, AgentFailure, BrokerAnswer, BrokerExchange, BrokerFailure, GatewayFailure,
        GrantOrder, GrantedAddress,
    },
    session::{BrokerRequest, LaunchOrder, Reject, Session, Step},
};

/// Longest wait for the broker's answer to bye, which matters to nobody: the client is about to connect.
pub(super) const BYE_WAIT: Duration = Duration::from_secs(5);

/// One request on its way through the neighbours.
pub(super) struct Legs<'a> {
    inner: &'a Inner,
    arrival: &'a Arrival,
    log_id: LogId,
    /// When the client must have its answer.
    deadline: Instant,
}

impl<'a> Legs<'a> {
    pub(super) fn new(inner: &'a Inner, arrival: &'a Arrival, log_id: LogId) -> Self {
        Self {
            inner,
            arrival,
            log_id,
            deadline: Instant::now() + inner.config.answer_within,
        }
    }

    /// Has `session` handle a request, up to its answer.
    pub(super) async fn go(
        &self,
        session: &mut Session,
        request: Envelope<Request>,
    ) -> Result<Envelope<Response>, Reject> {
        let mut step = session.handle_request(request, now());
        loop {
            step = match step {
                Step::Reply(reply) => return Ok(reply),
                Step::Reject(reject) => return Err(reject),
                Step::AskBroker(request) => {
                    let result = self.ask(*request).await;
                    session.handle_broker(result, now())
                }
                Step::Launch(order) => {
                    let result = self.launch(order).await;
                    session.handle_agent(result, now())
                }
                Step::Authorize(order) => {
                    let result = self.authorize(order).await;
                    session.handle_gateway(result, now())
                }
            };
        }
    }

    async fn ask(&self, order: BrokerRequest) -> Result<BrokerAnswer, BrokerFailure> {
        let BrokerRequest { cookies, request } = order;
        let limit = if matches!(request.message, Request::Bye(_)) {
            BYE_WAIT
        } else {
            self.inner.config.broker_wait
        };
        let question = super::name(&request.message);
        let exchange = BrokerExchange {
            log_id: self.log_id,
            cookies,
            client: self.arrival.client,
            forwarded_for: self.arrival.forwarded_for.clone(),
            request,
        };
        let asking = self.inner.broker.ask(exchange);
        let timed_out = |within| BrokerFailure::TimedOut { within };
        let histogram = &self.inner.metrics.broker;
        let result = self.within(limit, histogram, asking, timed_out).await;
        if let Err(failure) = &result {
            warn!(session = %self.log_id, question, cause = chain(failure), "Broker gave no answer");
        }
        result
    }

    async fn launch(&self, order: LaunchOrder) -> Result<AgentAnswer, AgentFailure> {
        let LaunchOrder { address, request } = order;
        let agent = format!("{}:{}", address.host, address.port);
        let launching = self.inner.agent.launch(address, request, self.log_id);
        let timed_out = |within| AgentFailure::TimedOut { within };
        let limit = self.inner.config.agent_wait;
        let histogram = &self.inner.metrics.agent;
        let result = self.within(limit, histogram, launching, timed_out).await;
        match &result {
            Ok(answer) => info!(
                session = %self.log_id,
                agent = ?agent,
                dialled = %answer.dialled,
                result = ?answer.response.result,
                reason = ?answer.response.fail_reason,
                "Agent answered"
            ),
            // A desktop that is switched off is everyday life.
            Err(failure) => info!(
                session = %self.log_id,
                agent = ?agent,
                cause = chain(failure),
                "Agent gave no answer"
            ),
        }
        result
    }

    async fn authorize(&self, order: GrantOrder) -> Result<GrantedAddress, GatewayFailure> {
        let Some(gateway) = &self.inner.gateway else {
            // The session's policy says whether there is one, and it was made from the same fact.
            return Err(GatewayFailure::Unreachable("there is no gateway".into()));
        };
        let agent = order.agent;
        let authorizing = gateway.authorize(order);
        let timed_out = |within| GatewayFailure::TimedOut { within };
        let limit = self.inner.config.gateway_wait;
        let histogram = &self.inner.metrics.gateway;
        let result = self.within(limit, histogram, authorizing, timed_out).await;
        match &result {
            Ok(granted) => info!(
                session = %self.log_id,
                client = %self.arrival.client,
                agent = %agent,
                gateway = %granted.ip,
                port = granted.port,
                "Gateway admits the client"
            ),
            Err(failure @ (GatewayFailure::Ambiguous | GatewayFailure::Draining)) => info!(
                session = %self.log_id,
                cause = chain(failure),
                "Gateway did not admit the client"
            ),
            Err(failure) => warn!(
                session = %self.log_id,
                cause = chain(failure),
                "Gateway did not admit the client"
            ),
        }
        result
    }

    /// Waits for a neighbour: not longer than its limit, and not past the client's patience.
    async fn within<T, E>(
        &self,
        limit: Duration,
        histogram: &Histogram,
        asking: impl Future<Output = Result<T, E>>,
        timed_out: impl FnOnce(Duration) -> E,
    ) -> Result<T, E> {
        let started = Instant::now();
        let limit = limit.min(self.deadline.saturating_duration_since(started));
        let result = tokio::time::timeout(limit, asking).await;
        observe(histogram, started.elapsed());
        result.unwrap_or_else(|_| Err(timed_out(limit)))
    }
}

/// This moment, on the clock that tests can stop.
pub(super) fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// An error with all its causes, in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}
