//! Passwords as argon2id hashes in PHC string form (`$argon2id$v=19$m=…,t=…,p=…$salt$hash`).

use std::fmt;

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, phc::PasswordHash as Phc},
};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use thiserror::Error;

/// Most memory a stored hash may ask for, in KiB: 1 GiB. More would let one line of configuration stop the server.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
/// Most passes a stored hash may ask for.
const MAX_PASSES: u32 = 64;
/// Most lanes a stored hash may ask for.
const MAX_LANES: u32 = 64;

/// What one hash costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Argon2Params {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Default for Argon2Params {
    /// 19 MiB, two passes, one lane: the least OWASP's password storage guidance accepts.
    fn default() -> Self {
        Self {
            memory_kib: 19 * 1024,
            passes: 2,
            lanes: 1,
        }
    }
}

impl Argon2Params {
    /// The least the algorithm takes (8 KiB, one pass). For benchmarks and tests of everything but hashing: such a hash
    /// protects no password.
    #[must_use]
    pub const fn cheap() -> Self {
        Self {
            memory_kib: 8,
            passes: 1,
            lanes: 1,
        }
    }

    fn argon2(self) -> Result<Argon2<'static>, argon2::Error> {
        let params = Params::new(self.memory_kib, self.passes, self.lanes, None)?;
        Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
    }
}

/// Why a password was not hashed: no memory, or no randomness for the salt.
#[derive(Debug, Error)]
#[error("the password cannot be hashed")]
pub struct HashPasswordError(#[source] argon2::password_hash::Error);

/// Hashes a password with a fresh random salt.
///
/// # Errors
/// See [`HashPasswordError`].
pub fn hash_password(
    password: &SecretString,
    params: Argon2Params,
) -> Result<String, HashPasswordError> {
    let argon2 = params
        .argon2()
        .map_err(|error| HashPasswordError(error.into()))?;
    let hash: Phc = argon2
        .hash_password(password.expose_secret().as_bytes())
        .map_err(HashPasswordError)?;
    Ok(hash.to_string())
}

/// A stored hash that was found usable. `Debug` shows its cost only.
#[derive(Clone)]
pub struct PasswordHash {
    params: Argon2Params,
    salt: Vec<u8>,
    output: Vec<u8>,
}

/// Why a text is no usable hash. Never repeats the text.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidPasswordHash {
    /// Not a PHC string with salt and hash.
    #[error("it is not a PHC string such as \"$argon2id$v=19$m=19456,t=2,p=1$salt$hash\"")]
    Malformed,
    /// Another algorithm, or an old version of it.
    #[error("it is not argon2id version 19")]
    Algorithm,
    /// Parameters out of range.
    #[error("it asks for more than {MAX_MEMORY_KIB} KiB, {MAX_PASSES} passes or {MAX_LANES} lanes")]
    TooCostly,
}

impl PasswordHash {
    /// Reads a PHC string.
    ///
    /// # Errors
    /// See [`InvalidPasswordHash`].
    pub fn parse(text: &str) -> Result<Self, InvalidPasswordHash> {
        let phc = Phc::new(text).map_err(|_| InvalidPasswordHash::Malformed)?;
        if phc.algorithm.as_str() != Algorithm::Argon2id.as_str()
            || phc.version != Some(Version::V0x13.into())
        {
            return Err(InvalidPasswordHash::Algorithm);
        }
        let (Some(salt), Some(output)) = (&phc.salt, &phc.hash) else {
            return Err(InvalidPasswordHash::Malformed);
        };
        let params = Params::try_from(&phc).map_err(|_| InvalidPasswordHash::Malformed)?;
        let params = Argon2Params {
            memory_kib: params.m_cost(),
            passes: params.t_cost(),
            lanes: params.p_cost(),
        };
        if params.memory_kib > MAX_MEMORY_KIB
            || params.passes > MAX_PASSES
            || params.lanes > MAX_LANES
        {
            return Err(InvalidPasswordHash::TooCostly);
        }
        if salt.len() < argon2::MIN_SALT_LEN {
            return Err(InvalidPasswordHash::Malformed);
        }
        Ok(Self {
            params,
            salt: salt.to_vec(),
            output: output.as_bytes().to_vec(),
        })
    }

    /// What checking it costs.
    #[must_use]
    pub fn params(&self) -> Argon2Params {
        self.params
    }

    /// Whether a password is the one hashed. Takes as long as hashing did, whatever the outcome: call it where blocking is
    /// allowed.
    #[must_use]
    pub fn verify(&self, password: &SecretString) -> bool {
        let mut computed = vec![0; self.output.len()];
        let hashed = self.params.argon2().and_then(|argon2| {
            let password = password.expose_secret().as_bytes();
            argon2.hash_password_into(password, &self.salt, &mut computed)
        });
        hashed.is_ok() && computed.ct_eq(&self.output).into()
    }

    /// A hash nobody knows a password for, which costs as much to check as any of these parameters: it stands in for users
    /// who do not exist.
    pub(crate) fn of_nobody(params: Argon2Params) -> Self {
        Self {
            params,
            salt: vec![0; argon2::RECOMMENDED_SALT_LEN],
            output: vec![0; Params::DEFAULT_OUTPUT_LEN],
        }
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PasswordHash({:?})", self.params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Argon2Params = Argon2Params::cheap();

    #[test]
    fn a_hash_knows_its_password_and_no_other() {
        let text = hash_password(&"pässwörd 密码".into(), CHEAP).expect("hashed");
        let hash = PasswordHash::parse(&text).expect("usable");
        assert_eq!(hash.params(), CHEAP);
        assert!(hash.verify(&"pässwörd 密码".into()));
        for other in ["", "pässwörd", "pässwörd 密码 ", "PÄSSWÖRD 密码"] {
            assert!(!hash.verify(&other.into()), "{other:?}");
        }
    }

    #[test]
    fn the_default_is_what_owasp_asks_for() {
        let text = hash_password(&"x".into(), Argon2Params::default()).expect("hashed");
        assert!(
            text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{text}"
        );
        assert!(
            PasswordHash::parse(&text)
                .expect("usable")
                .verify(&"x".into())
        );
    }

    #[test]
    fn equal_passwords_have_different_hashes() {
        let [one, two] = [(), ()].map(|()| hash_password(&"x".into(), CHEAP).expect("hashed"));
        assert_ne!(one, two);
    }

    #[test]
    fn nobody_has_no_password() {
        for params in [CHEAP, Argon2Params::default()] {
            let nobody = PasswordHash::of_nobody(params);
            assert_eq!(nobody.params(), params);
            assert!(!nobody.verify(&"".into()));
        }
    }

    #[test]
    fn unusable_hashes_are_refused() {
        let good = hash_password(&"x".into(), CHEAP).expect("hashed");
        let cases = [
            ("", InvalidPasswordHash::Malformed),
            ("secret", InvalidPasswordHash::Malformed),
            ("$argon2id$v=19$m=8,t=1,p=1", InvalidPasswordHash::Malformed),
            (
                &good.replace("argon2id", "argon2i"),
                InvalidPasswordHash::Algorithm,
            ),
            (
                &good.replace("argon2id", "scrypt"),
                InvalidPasswordHash::Algorithm,
            ),
            (
                &good.replace("v=19", "v=16"),
                InvalidPasswordHash::Algorithm,
            ),
            (
                &good.replace("m=8", "m=4294967295"),
                InvalidPasswordHash::TooCostly,
            ),
            (&good.replace("t=1", "t=65"), InvalidPasswordHash::TooCostly),
            (&good.replace("m=8", "m=1"), InvalidPasswordHash::Malformed),
        ];
        for (text, problem) in cases {
            assert_eq!(PasswordHash::parse(text).err(), Some(problem), "{text}");
        }
    }

    #[test]
    fn debug_shows_no_hash() {
        let text = hash_password(&"x".into(), CHEAP).expect("hashed");
        let shown = format!("{:?}", PasswordHash::parse(&text).expect("usable"));
        assert!(!shown.contains('$'), "{shown}");
    }
}
