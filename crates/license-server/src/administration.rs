//! The read interface monitoring tools know: features, their use, and who holds them, behind a password.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    routing::{get, post},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use tracing::{error, info, warn};

use crate::{
    pool::{Claim, FeatureUsage},
    server::{Administrator, Shared, read_json},
    wire::Problem,
};

/// How long a token is good for. Tools authorise again when they are answered 401.
const TOKEN_LIFE: Duration = Duration::from_secs(60 * 60);
/// Tokens good at a time; the oldest goes first. A site has a handful of monitoring tools.
const TOKENS: usize = 64;
/// Wrong passwords heard in one [`ATTEMPT_WINDOW`], from everybody together: enough for people, useless for guessing.
const ATTEMPTS: u32 = 10;
/// See [`ATTEMPTS`].
const ATTEMPT_WINDOW: Duration = Duration::from_secs(60);
/// What stands in `expiry`: our licences do not expire. The vendor's value for that is not public.
const NEVER_EXPIRES: &str = "permanent";

/// Routes below `/api/1.0/instances/~`.
pub(crate) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/authorize", post(authorize))
        .route("/features", get(features))
        .route("/features/{id}", get(feature))
        .route("/features/{id}/clients", get(clients))
}

/// Who is let in, and with which tokens.
#[derive(Debug)]
pub(crate) struct Guard {
    administrator: Administrator,
    state: Mutex<Admissions>,
}

/// Tokens issued and passwords missed. Sans-IO.
#[derive(Debug, Default)]
struct Admissions {
    /// Oldest first, hence soonest to expire first.
    tokens: VecDeque<(Token, Instant)>,
    missed: u32,
    window: Option<Instant>,
}

/// A bearer token: 128 random bits in hexadecimal.
#[derive(Clone)]
struct Token(SecretString);

impl Guard {
    pub(crate) fn new(administrator: Administrator) -> Self {
        Self {
            administrator,
            state: Mutex::default(),
        }
    }

    fn admissions(&self) -> std::sync::MutexGuard<'_, Admissions> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn matches(&self, user: &str, password: &SecretString) -> bool {
        let known = &self.administrator;
        let user = user.as_bytes().ct_eq(known.user.as_bytes());
        let password = password
            .expose_secret()
            .as_bytes()
            .ct_eq(known.password.expose_secret().as_bytes());
        (user & password).into()
    }
}

impl Admissions {
    /// Whether another password may be tried now.
    fn hears(&mut self, now: Instant) -> bool {
        if self
            .window
            .is_none_or(|start| now.saturating_duration_since(start) >= ATTEMPT_WINDOW)
        {
            self.window = Some(now);
            self.missed = 0;
        }
        self.missed < ATTEMPTS
    }

    fn miss(&mut self) {
        self.missed = self.missed.saturating_add(1);
    }

    fn issue(&mut self, token: Token, now: Instant) {
        while self.tokens.len() >= TOKENS {
            self.tokens.pop_front();
        }
        self.tokens.push_back((token, now + TOKEN_LIFE));
    }

    /// Whether a token is good. Looks at all of them, so that time tells nothing about which.
    fn admits(&mut self, shown: &str, now: Instant) -> bool {
        self.tokens.retain(|&(_, deadline)| deadline > now);
        self.tokens.iter().fold(false, |found, (token, _)| {
            let same: bool = token
                .0
                .expose_secret()
                .as_bytes()
                .ct_eq(shown.as_bytes())
                .into();
            found | same
        })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthorizeBody {
    user: String,
    password: SecretString,
}

#[derive(Serialize)]
struct TokenBody {
    token: String,
}

/// A feature under the names monitoring tools know.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FeatureBody {
    id: usize,
    feature_name: String,
    feature_count: u32,
    used: u32,
    expiry: &'static str,
}

/// Who holds a licence. Never the lease's id, which is the right to end it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ClientBody {
    host_name: String,
    session: String,
}

async fn authorize(
    State(shared): State<Arc<Shared>>,
    body: Body,
) -> Result<Json<TokenBody>, Problem> {
    let AuthorizeBody { user, password } = read_json(body).await?;
    let guard = shared
        .administration
        .as_ref()
        .ok_or_else(Problem::not_found)?;
    let now = Instant::now();
    let mut admissions = guard.admissions();
    if !admissions.hears(now) {
        return Err(Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_attempts",
            "Too many wrong passwords; wait a minute.",
        ));
    }
    if !guard.matches(&user, &password) {
        admissions.miss();
        drop(admissions);
        warn!("Wrong user or password at the licence server's read interface");
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "The user or the password is wrong.",
        ));
    }
    let token = crate::LeaseId::random().map_err(|source| {
        error!(
            error = &source as &dyn std::error::Error,
            "The random source failed"
        );
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "The server cannot make tokens.",
        )
    })?;
    let token = token.expose();
    admissions.issue(Token(token.as_str().into()), now);
    drop(admissions);
    info!("Token issued for the licence server's read interface");
    Ok(Json(TokenBody { token }))
}

async fn features(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
) -> Result<Json<Vec<FeatureBody>>, Problem> {
    admit(&shared, &headers)?;
    Ok(Json(list(&shared)))
}

async fn feature(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<FeatureBody>, Problem> {
    admit(&shared, &headers)?;
    find(&shared, &id).map(Json)
}

async fn clients(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<Vec<ClientBody>>, Problem> {
    admit(&shared, &headers)?;
    let feature = find(&shared, &id)?.feature_name;
    let held: Vec<Claim> = shared
        .with_pool(|pool, _| pool.clients(&feature))
        .unwrap_or_default();
    let clients = held.iter().map(|claim| ClientBody {
        host_name: claim.holder().to_owned(),
        session: claim.session().to_owned(),
    });
    Ok(Json(clients.collect()))
}

/// Lets a request with a good token pass.
fn admit(shared: &Shared, headers: &HeaderMap) -> Result<(), Problem> {
    let shown = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    let admitted = shared
        .administration
        .as_ref()
        .zip(shown)
        .is_some_and(|(guard, token)| guard.admissions().admits(token, Instant::now()));
    if admitted {
        Ok(())
    } else {
        Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "A token from the authorize call is needed.",
        ))
    }
}

fn list(shared: &Shared) -> Vec<FeatureBody> {
    let usage = shared.with_pool(|pool, _| pool.usage());
    usage
        .into_iter()
        .enumerate()
        .map(|(index, FeatureUsage { name, used, count })| FeatureBody {
            id: index + 1,
            feature_name: name,
            feature_count: count,
            used,
            expiry: NEVER_EXPIRES,
        })
        .collect()
}

fn find(shared: &Shared, id: &str) -> Result<FeatureBody, Problem> {
    list(shared)
        .into_iter()
        .find(|feature| feature.id.to_string() == id)
        .ok_or_else(|| {
            Problem::new(
                StatusCode::NOT_FOUND,
                "unknown_feature",
                "This server has no such feature.",
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Token {
        Token(text.into())
    }

    #[test]
    fn tokens_live_an_hour_and_no_longer() {
        let now = Instant::now();
        let mut admissions = Admissions::default();
        admissions.issue(token("one"), now);
        assert!(admissions.admits("one", now + TOKEN_LIFE - Duration::from_nanos(1)));
        assert!(!admissions.admits("two", now));
        assert!(!admissions.admits("", now));
        assert!(!admissions.admits("one", now + TOKEN_LIFE));
        assert!(admissions.tokens.is_empty());
    }

    #[test]
    fn the_oldest_token_makes_room() {
        let now = Instant::now();
        let mut admissions = Admissions::default();
        for number in 0..=TOKENS {
            admissions.issue(token(&number.to_string()), now);
        }
        assert_eq!(admissions.tokens.len(), TOKENS);
        assert!(!admissions.admits("0", now));
        assert!(admissions.admits("1", now));
        assert!(admissions.admits(&TOKENS.to_string(), now));
    }

    #[test]
    fn ten_wrong_passwords_are_heard_a_minute() {
        let now = Instant::now();
        let mut admissions = Admissions::default();
        for _ in 0..ATTEMPTS {
            assert!(admissions.hears(now));
            admissions.miss();
        }
        assert!(!admissions.hears(now + ATTEMPT_WINDOW - Duration::from_nanos(1)));
        assert!(admissions.hears(now + ATTEMPT_WINDOW));
    }

    #[test]
    fn user_and_password_must_both_be_right() {
        let guard = Guard::new(Administrator {
            user: "admin".into(),
            password: "secret".into(),
        });
        assert!(guard.matches("admin", &"secret".into()));
        assert!(!guard.matches("admin", &"Secret".into()));
        assert!(!guard.matches("Admin", &"secret".into()));
        assert!(!guard.matches("admin", &"".into()));
        assert!(!format!("{guard:?}").contains("secret"));
    }
}
