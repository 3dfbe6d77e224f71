//! Messages over an established TLS connection.

use std::{io, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use super::{Decoder, ReadSignallingError, encode};

/// For writing one message. The messages are small, so only a peer that reads nothing at all runs into it.
const WRITE: Duration = Duration::from_secs(5);
/// How long a closing end waits for the other to close too, so that its last message is not cut off by a reset.
const LINGER: Duration = Duration::from_secs(1);
/// How long an end that has said good-bye waits for the other to let go of the session and close.
const PATIENCE: Duration = Duration::from_secs(4);
const CHUNK_BYTES: usize = 4096;

/// Why no message came.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The connection broke.
    #[error("the signalling connection broke")]
    Broken(#[source] io::Error),
    /// What came is not a message.
    #[error("the other end does not speak this signalling")]
    Read(#[source] ReadSignallingError),
}

/// A connection that carries signalling messages.
#[derive(Debug)]
pub(crate) struct MessageStream<S> {
    stream: S,
    decoder: Decoder,
    chunk: Zeroizing<Vec<u8>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> MessageStream<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            decoder: Decoder::default(),
            chunk: Zeroizing::new(vec![0; CHUNK_BYTES]),
        }
    }

    pub(crate) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// The next message; `None` when the other end has closed. May be dropped while waiting: nothing is lost.
    pub(crate) async fn receive<M: DeserializeOwned>(&mut self) -> Result<Option<M>, ReceiveError> {
        loop {
            if let Some(message) = self.decoder.next().map_err(ReceiveError::Read)? {
                return Ok(Some(message));
            }
            match self.stream.read(&mut self.chunk).await {
                Ok(0) => return Ok(None),
                Ok(count) => {
                    let fresh = self.chunk.get(..count).unwrap_or_default();
                    self.decoder.extend(fresh);
                }
                // Peers that die close without a TLS good-bye.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(ReceiveError::Broken(error)),
            }
        }
    }

    /// Writes a message.
    pub(crate) async fn send<M: Serialize>(&mut self, message: &M) -> io::Result<()> {
        let bytes = encode(message);
        let written = async {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await
        };
        tokio::time::timeout(WRITE, written).await?
    }

    /// Closes the connection, then waits a little for the other end to do so.
    pub(crate) async fn close(mut self) {
        let farewell = async {
            self.stream.shutdown().await?;
            while self.stream.read(&mut self.chunk).await? > 0 {}
            io::Result::Ok(())
        };
        // Closing is a courtesy: a peer that is gone already is as good.
        let _ = tokio::time::timeout(LINGER, farewell).await;
    }

    /// Waits a little for the other end to close, then closes too.
    pub(crate) async fn close_after_peer(mut self) {
        let farewell = async {
            while self.stream.read(&mut self.chunk).await? > 0 {}
            self.stream.shutdown().await
        };
        let _ = tokio::time::timeout(PATIENCE, farewell).await;
    }
}
