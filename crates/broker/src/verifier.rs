//! Checks passwords beside everything else: as many at a time as there are processors, the others in line.

use std::{sync::Arc, thread::available_parallelism, time::Duration};

use secrecy::SecretString;
use tokio::sync::Semaphore;
use tracing::{error, warn};

use crate::{machine::Verdict, password::PasswordHash};

/// How long a logon may wait in line: within the 55 s a Connection Manager waits for a broker, with room for the rest.
const PATIENCE: Duration = Duration::from_secs(40);
/// Logons in line at a time; each holds a password and an open connection.
const PLACES: usize = 4096;

/// The line and the threads at its end.
#[derive(Debug)]
pub(crate) struct Verifier {
    /// One for each check running; fair, so first come is first served.
    running: Arc<Semaphore>,
    places: Semaphore,
    patience: Duration,
}

impl Verifier {
    pub(crate) fn new() -> Self {
        let processors = available_parallelism().map_or(1, usize::from);
        Self::with(processors, PLACES, PATIENCE)
    }

    fn with(running: usize, places: usize, patience: Duration) -> Self {
        Self {
            running: Arc::new(Semaphore::new(running)),
            places: Semaphore::new(places),
            patience,
        }
    }

    /// Checks one password. Who stops waiting for the verdict still leaves the thread busy, and the line as long, until
    /// the check is done.
    pub(crate) async fn verify(&self, hash: PasswordHash, password: SecretString) -> Verdict {
        let Ok(_place) = self.places.try_acquire() else {
            warn!(
                places = PLACES,
                "A logon was refused: the line for password checks is full"
            );
            return Verdict::NotChecked;
        };
        let turn = Arc::clone(&self.running).acquire_owned();
        let Ok(Ok(slot)) = tokio::time::timeout(self.patience, turn).await else {
            warn!(patience = ?self.patience, "A logon was refused: its password check did not get its turn in time");
            return Verdict::NotChecked;
        };
        let checked = tokio::task::spawn_blocking(move || {
            let right = hash.verify(&password);
            drop(slot);
            right
        });
        match checked.await {
            Ok(true) => Verdict::Right,
            Ok(false) => Verdict::Wrong,
            Err(failure) => {
                error!(
                    error = &failure as &dyn std::error::Error,
                    "A password check broke off"
                );
                Verdict::NotChecked
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Argon2Params, hash_password};

    fn hash() -> PasswordHash {
        let text = hash_password(&"secret".into(), Argon2Params::cheap()).expect("hashed");
        PasswordHash::parse(&text).expect("usable")
    }

    #[tokio::test]
    async fn right_and_wrong_are_told_apart() {
        let verifier = Verifier::new();
        assert_eq!(
            verifier.verify(hash(), "secret".into()).await,
            Verdict::Right
        );
        assert_eq!(
            verifier.verify(hash(), "Secret".into()).await,
            Verdict::Wrong
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_told_so() {
        let verifier = Verifier::with(1, 8, PATIENCE);
        let busy = Arc::clone(&verifier.running)
            .acquire_owned()
            .await
            .expect("a slot");
        assert_eq!(
            verifier.verify(hash(), "secret".into()).await,
            Verdict::NotChecked
        );
        drop(busy);
        assert_eq!(
            verifier.verify(hash(), "secret".into()).await,
            Verdict::Right
        );
    }

    #[tokio::test]
    async fn a_full_line_refuses_at_once() {
        let verifier = Verifier::with(1, 0, PATIENCE);
        assert_eq!(
            verifier.verify(hash(), "secret".into()).await,
            Verdict::NotChecked
        );
    }

    #[tokio::test]
    async fn a_storm_is_queued_and_nobody_lost() {
        let verifier = Arc::new(Verifier::with(2, PLACES, PATIENCE));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let verifier = Arc::clone(&verifier);
            tasks.spawn(async move { verifier.verify(hash(), "secret".into()).await });
        }
        let verdicts = tasks.join_all().await;
        assert!(verdicts.iter().all(|&verdict| verdict == Verdict::Right));
        assert_eq!(verifier.running.available_permits(), 2);
    }
}
