//! Passing bytes from one TCP connection to another.
//!
//! A control connection says little at a time: that is copied, and costs no memory while nothing comes. Once more comes than is
//! copied at once, bytes are moved by the kernel (splice) until the connection has rested.

use std::{io, time::Duration};

use tokio::{io::Interest, net::TcpStream, task::coop::consume_budget, time::timeout};

use super::sys::Pipe;

/// Bytes copied at once.
const CHUNK: usize = 16 * 1024;
/// How long a connection rests before its pipe, which costs two file descriptors, is given up.
const PIPE_REST: Duration = Duration::from_secs(1);

/// How a busy time ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Busy {
    /// Nothing has come for a while.
    Rested,
    /// The sender has closed, and everything was passed on.
    Closed,
    /// There is no pipe, or the kernel moves nothing between these.
    Impossible,
}

/// Passes bytes on until the sender has closed.
///
/// # Errors
/// Either connection broke.
pub(super) async fn pass(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let mut may_move = true;
    loop {
        // A connection that is always ready must not keep its thread to itself.
        consume_budget().await;
        from.readable().await?;
        let (read, rest) = match copy_some(from, to) {
            Ok((0, _)) => return Ok(()),
            Ok(copied) => copied,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        write_all(to, &rest).await?;
        drop(rest);
        if read == CHUNK && may_move {
            match move_while_busy(from, to).await? {
                Busy::Rested => {}
                Busy::Closed => return Ok(()),
                Busy::Impossible => may_move = false,
            }
        }
    }
}

/// Copies what can be without waiting; returns how much was read, and what of it is still to be written.
fn copy_some(from: &TcpStream, to: &TcpStream) -> io::Result<(usize, Vec<u8>)> {
    let mut chunk = [0; CHUNK];
    let read = from.try_read(&mut chunk)?;
    let bytes = chunk.get(..read).unwrap_or_default();
    let written = match to.try_write(bytes) {
        Ok(written) => written,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => return Err(error),
    };
    let rest = bytes.get(written..).unwrap_or_default().to_vec();
    Ok((read, rest))
}

async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn move_while_busy(from: &TcpStream, to: &TcpStream) -> io::Result<Busy> {
    // Out of file descriptors, most likely.
    let Ok(pipe) = Pipe::new() else {
        return Ok(Busy::Impossible);
    };
    loop {
        consume_budget().await;
        match timeout(PIPE_REST, from.readable()).await {
            Ok(ready) => ready?,
            Err(_) => return Ok(Busy::Rested),
        }
        let mut inside = match from.try_io(Interest::READABLE, || pipe.fill(from)) {
            Ok(0) => return Ok(Busy::Closed),
            Ok(moved) => moved,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
                return Ok(Busy::Impossible);
            }
            Err(error) => return Err(error),
        };
        while inside > 0 {
            to.writable().await?;
            match to.try_io(Interest::WRITABLE, || pipe.empty(to, inside)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(moved) => inside = inside.saturating_sub(moved),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// The two ends of a connection.
    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("address");
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.expect("connected"), far.expect("accepted").0)
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1_u32;
        std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_be_bytes()[0]
        })
        .take(length)
        .collect()
    }

    /// Sends in parts of these sizes over and over, through `pass`, to a reader that takes parts of its own size.
    async fn sent_is_received(length: usize, parts: &[usize], reads: usize) {
        let (mut sender, from) = connection().await;
        let (to, mut receiver) = connection().await;
        let sent = noise(length);
        let sending = async {
            let mut rest = sent.as_slice();
            for size in parts.iter().cycle() {
                let (part, behind) = rest.split_at((*size).min(rest.len()));
                sender.write_all(part).await.expect("sent");
                tokio::task::yield_now().await;
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            sender.shutdown().await.expect("closed");
        };
        let passing = async {
            pass(&from, &to).await.expect("passed");
            drop(to);
        };
        let receiving = async {
            let mut received = Vec::new();
            let mut part = vec![0; reads];
            loop {
                match receiver.read(&mut part).await.expect("received") {
                    0 => break received,
                    length => received.extend_from_slice(&part[..length]),
                }
            }
        };
        let ((), (), received) = tokio::join!(sending, passing, receiving);
        assert!(received == sent, "{length} bytes in {parts:?}");
    }

    #[tokio::test]
    async fn every_byte_arrives_in_order_however_it_comes() {
        sent_is_received(0, &[1], 10).await;
        sent_is_received(3_000, &[1, 7, 100], 10).await;
        sent_is_received(CHUNK, &[CHUNK], 1_000).await;
        sent_is_received(8_000_000, &[1_000_000, 3, 50_000], 65_536).await;
        sent_is_received(3_000_000, &[CHUNK, CHUNK + 1], 999).await;
    }

    #[tokio::test]
    async fn a_busy_connection_is_moved_by_the_kernel() {
        let (mut sender, from) = connection().await;
        let (to, mut receiver) = connection().await;
        let sent = noise(2_000_000);
        let sending = async {
            sender.write_all(&sent).await.expect("sent");
            drop(sender);
        };
        let mut received = Vec::new();
        let moving = async {
            let ended = move_while_busy(&from, &to).await.expect("moved");
            drop(to);
            ended
        };
        let ((), ended, read) = tokio::join!(sending, moving, receiver.read_to_end(&mut received));
        assert_eq!(ended, Busy::Closed);
        read.expect("received");
        assert!(received == sent);
    }

    #[tokio::test]
    async fn a_pipe_is_given_up_when_the_connection_rests() {
        let (_sender, from) = connection().await;
        let (to, _receiver) = connection().await;
        let ended = move_while_busy(&from, &to).await.expect("no error");
        assert_eq!(ended, Busy::Rested);
    }

    #[tokio::test]
    async fn a_receiver_that_is_gone_ends_it() {
        let (mut sender, from) = connection().await;
        let (to, receiver) = connection().await;
        drop(receiver);
        let sending = async { while sender.write_all(&[1; 50_000]).await.is_ok() {} };
        let passing = async {
            let passed = pass(&from, &to).await;
            drop((from, to));
            passed
        };
        let ((), passed) = tokio::join!(sending, passing);
        assert!(passed.is_err());
    }
}
