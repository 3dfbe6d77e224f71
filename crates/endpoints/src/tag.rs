//! The connect-tags of the reference agent.
//!
//! A tag has the documented outer form: `SCS1`, then base64 of 75 bytes. What the vendor puts into those bytes is not
//! public, though real clients do check the agent's certificate by a thumbprint, and the tag is the only thing of a
//! session that could carry it. Ours carries it: SHA-256 of the agent's certificate, then 43 random bytes. The tag comes
//! to the client over the verified HTTPS leg, so the client can tell the agent from an impostor on TCP 4172 although the
//! agent's certificate is self-signed.

use base64::{Engine, engine::general_purpose::STANDARD};
use portcullis_https::Fingerprint;
use portcullis_protocol::broker::ConnectTag;
use zeroize::Zeroizing;

/// Start of every tag.
pub const PREFIX: &str = "SCS1";

const BYTES: usize = 75;
const FINGERPRINT_BYTES: usize = 32;
/// Random bytes of a tag: 344 bits that nobody guesses.
pub(crate) const RANDOM_BYTES: usize = BYTES - FINGERPRINT_BYTES;

/// The tag of an agent with this certificate, with these random bytes.
pub(crate) fn issue(certificate: Fingerprint, random: &[u8; RANDOM_BYTES]) -> ConnectTag {
    let mut bytes = Zeroizing::new([0; BYTES]);
    let (front, back) = bytes.split_at_mut(FINGERPRINT_BYTES);
    front.copy_from_slice(&certificate.0);
    back.copy_from_slice(random);
    let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + BYTES.div_ceil(3) * 4));
    text.push_str(PREFIX);
    STANDARD.encode_string(*bytes, &mut text);
    ConnectTag::new(&text).unwrap_or_else(|| unreachable!("base64 is printable and short"))
}

/// The certificate a tag names; `None` when the tag is not one of the reference agent's.
#[must_use]
pub fn certificate(tag: &ConnectTag) -> Option<Fingerprint> {
    let encoded = tag.expose().strip_prefix(PREFIX)?;
    let bytes = Zeroizing::new(STANDARD.decode(encoded).ok()?);
    if bytes.len() != BYTES {
        return None;
    }
    bytes
        .first_chunk::<FINGERPRINT_BYTES>()
        .copied()
        .map(Fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_has_the_documented_form_and_names_the_certificate() {
        let tag = issue(Fingerprint([0xab; 32]), &[0xcd; RANDOM_BYTES]);
        assert_eq!(tag.expose().len(), 104);
        assert!(tag.expose().starts_with("SCS1q6ur"));
        assert_eq!(certificate(&tag), Some(Fingerprint([0xab; 32])));
    }

    #[test]
    fn other_tags_name_no_certificate() {
        for text in ["SCS1", "SCS1AAAA", "secret", "SCS1!!!!", "SCS2q6ur"] {
            let tag = ConnectTag::new(text).unwrap();
            assert_eq!(certificate(&tag), None, "{text}");
        }
    }
}
