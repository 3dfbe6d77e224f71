//! Reading a request's document within its limits, so that the answer to a body that breaks them reaches its sender.

use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use zeroize::Zeroizing;

/// How much of a body that is too long is read and thrown away. A connection that is closed on unread data is reset, and a
/// client still sending would then never see why.
const DISCARD_BYTES: usize = 16 * 1024 * 1024;

/// Why a request has no document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFault {
    TooLong,
    TooSlow,
    Broken,
}

/// Reads a whole body of at most `limit` bytes.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    within: Duration,
) -> Result<Zeroizing<Vec<u8>>, BodyFault> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) && headers.contains_key(header::EXPECT) {
        // Not read at all: the client has asked first and will send nothing.
        return Err(BodyFault::TooLong);
    }
    // As much room as it can need, so that the document never moves and leaves a password behind.
    let room = announced.unwrap_or(limit).min(limit);
    let document = Zeroizing::new(Vec::with_capacity(room));
    tokio::time::timeout(within, collect(body, limit, document))
        .await
        .unwrap_or(Err(BodyFault::TooSlow))
}

async fn collect(
    mut body: Body,
    limit: usize,
    mut document: Zeroizing<Vec<u8>>,
) -> Result<Zeroizing<Vec<u8>>, BodyFault> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| BodyFault::Broken)?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        length += data.len();
        if length <= limit {
            document.extend_from_slice(data);
        } else if length > DISCARD_BYTES {
            break;
        }
    }
    if length > limit {
        return Err(BodyFault::TooLong);
    }
    Ok(document)
}
