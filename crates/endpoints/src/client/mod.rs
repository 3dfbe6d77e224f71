//! The reference client: from a server's address to a streaming session, in seven steps.

pub mod config;
mod conversation;
mod problem;
pub mod report;
mod run;
pub mod session;

use std::time::{Duration, Instant};

use portcullis_https::identity::IssueError;
use thiserror::Error;

pub use config::{AgentCertificate, ClientConfig, InvalidServerUrl, Limits, ServerUrl, Stage};
pub use report::{Report, StepEvent, StepReport};
pub use session::{Session, SessionError, SessionTarget, Signalled};

use crate::load::Load;
use run::Run;

/// The reference client.
#[derive(Debug)]
pub struct Client;

/// Why a client did not even try to connect. Everything that happens afterwards is in the [`Report`].
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The policy for the server's certificate cannot be used.
    #[error("the policy for the server's certificate cannot be used")]
    Trust(#[source] IssueError),
}

/// A session that was established and left at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Establishment {
    /// From the first request to the first UDP packet that came back.
    pub elapsed: Duration,
}

impl Client {
    /// Connects, streams for as long as the configuration says, says good-bye, and reports. `progress` is told of each step as it
    /// happens. A failure is a report too.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(
        config: ClientConfig,
        mut progress: impl FnMut(StepEvent) + Send,
    ) -> Result<Report, ConnectError> {
        let mut run = Run::new(config, &mut progress)?;
        run.whole().await;
        Ok(run.finish())
    }

    /// Takes all seven steps up to the first UDP packet that comes back, says good-bye, and tells how long that took, the
    /// good-bye not counted. Runs well many times in parallel.
    ///
    /// # Errors
    /// See [`EstablishError`].
    pub async fn establish(mut config: ClientConfig) -> Result<Establishment, EstablishError> {
        config.load = Load::SILENT;
        let mut ignore = |_: StepEvent| {};
        let mut run = Run::new(config, &mut ignore)?;
        let start = Instant::now();
        let established = run.establish().await;
        let elapsed = start.elapsed();
        match established {
            Ok(Some((session, _))) => {
                session.bye().await;
                Ok(Establishment { elapsed })
            }
            Ok(None) => Err(EstablishError::Failed(Box::new(run.finish()))),
            Err(problem) => {
                run.fail(problem).await;
                Err(EstablishError::Failed(Box::new(run.finish())))
            }
        }
    }
}

/// Why a session was not established.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EstablishError {
    /// The client did not even try.
    #[error("the client cannot connect")]
    Connect(#[from] ConnectError),
    /// A step failed; the report says which and why.
    #[error("a step failed: {}", .0.problem.as_deref().unwrap_or("stopped short"))]
    Failed(Box<Report>),
}
