//! A Connection Manager on a real TLS socket, between neighbours that do what a test tells them.

#![expect(clippy::unwrap_used, reason = "a failed helper is a failed test")]
#![expect(dead_code, reason = "each test binary uses its part")]

pub(crate) mod documents;
pub(crate) mod fakes;
pub(crate) mod wire;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use portcullis_connection_manager::{ConnectionManager, Gateway, ManagerConfig};
use portcullis_https::{Authority, Server, ServerLimits};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::{
    fakes::{FakeAgent, FakeBroker, FakeGateway},
    wire::{Caller, Wire},
};

/// Longer than anything that should happen takes; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// An HTTPS server on an ephemeral port, with its authority.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) authority: Authority,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

impl Running {
    pub(crate) async fn start(router: Router) -> Self {
        let authority = Authority::generate("Test").unwrap();
        let identity = authority.issue(&["127.0.0.1"]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let tls = identity.server_config(&[b"http/1.1"]);
        let server = Server::new(listener, Some(tls), ServerLimits::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(server.serve(router, shutdown.clone()));
        Self {
            address,
            authority,
            shutdown,
            tasks,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

/// The Connection Manager, running.
pub(crate) struct Front {
    pub(crate) manager: ConnectionManager,
    pub(crate) broker: Arc<FakeBroker>,
    pub(crate) agent: Arc<FakeAgent>,
    pub(crate) gateway: Arc<FakeGateway>,
    pub(crate) server: Running,
}

impl Front {
    /// With neighbours that do everything right.
    pub(crate) async fn usual() -> Self {
        Self::with(ManagerConfig::default()).await
    }

    pub(crate) async fn with(config: ManagerConfig) -> Self {
        Self::between(config, FakeBroker::usual(), FakeAgent::usual(), true).await
    }

    pub(crate) async fn with_broker(broker: FakeBroker) -> Self {
        Self::between(ManagerConfig::default(), broker, FakeAgent::usual(), true).await
    }

    pub(crate) async fn between(
        config: ManagerConfig,
        broker: FakeBroker,
        agent: FakeAgent,
        with_gateway: bool,
    ) -> Self {
        let (broker, agent) = (Arc::new(broker), Arc::new(agent));
        let gateway = Arc::new(FakeGateway::usual());
        let manager = ConnectionManager::new(
            config,
            Arc::clone(&broker) as _,
            Arc::clone(&agent) as _,
            with_gateway.then(|| Arc::clone(&gateway) as Arc<dyn Gateway>),
        );
        let mut server = Running::start(manager.router()).await;
        let beside = manager.clone();
        let shutdown = server.shutdown.clone();
        server
            .tasks
            .spawn(async move { beside.run(shutdown).await });
        Self {
            manager,
            broker,
            agent,
            gateway,
            server,
        }
    }

    pub(crate) async fn wire(&self) -> Wire {
        Wire::connect(self.server.address).await
    }

    pub(crate) async fn caller(&self) -> Caller {
        Caller::new(self.wire().await)
    }

    /// A caller whose user is known.
    pub(crate) async fn authenticated(&self) -> Caller {
        let mut caller = self.caller().await;
        caller.ok(documents::HELLO).await;
        let reply = caller
            .ok(&documents::password("ada", "correct horse"))
            .await;
        assert!(reply.contains("AUTH_SUCCESSFUL_AND_COMPLETE"), "{reply}");
        caller
    }
}

/// Waits for something that must happen.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("what a test waits for must happen")
}
