//! Sending and taking datagrams for a while, and what came of it.

use std::{
    io::{self, IoSlice},
    net::UdpSocket,
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        socket::{ControlMessage, MsgFlags, sendmsg},
    },
};
use thiserror::Error;

use super::{End, LoadGenerator, STAMP_BYTES, packet::Stamp};

/// Packets down for each one up.
const DOWN_FOR_ONE_UP: u32 = 20;
/// Largest packet up, in bytes: what a hand on a mouse makes.
const UP_BYTES: usize = 128;
/// Largest train of packets in one system call, in bytes: what a UDP datagram of IPv4 can hold.
const MAX_TRAIN_BYTES: usize = 65_507;
/// Most packets of a train, a limit of the kernel.
const MAX_TRAIN: usize = 64;
/// How long what is under way may take to arrive once nothing is sent any more.
const DRAIN: Duration = Duration::from_millis(500);
/// How long a full window may stand still before what is in it is called lost.
const STANDSTILL: Duration = Duration::from_millis(50);
/// Events taken at a time.
const EVENTS: usize = 256;
/// Trains sent before it is looked what came.
const TRAINS_AT_A_TIME: u32 = 32;
/// Largest latency told apart, in nanoseconds.
const MAX_LATENCY: u64 = 60_000_000_000;

/// How fast packets go down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// This many a second over all sessions, whether they arrive or not.
    PerSecond(u32),
    /// As fast as they arrive, with at most this many under way.
    Window(u32),
}

/// What is sent. For every 20 packets down, a small one goes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// How fast.
    pub pace: Pace,
    /// Bytes of UDP payload in a packet down.
    pub bytes: usize,
    /// Packets of a session that leave together.
    pub burst: usize,
    /// How long to send.
    pub time: Duration,
}

/// Why a run could not be.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// Packets or bursts of a size that cannot be sent.
    #[error(
        "packets hold {STAMP_BYTES} to {MAX_TRAIN_BYTES} bytes, a burst 1 to {MAX_TRAIN} packets and {MAX_TRAIN_BYTES} bytes together"
    )]
    Size,
    /// A system call failed that should not.
    #[error("cannot send or receive")]
    Io(#[from] io::Error),
    /// The latencies could not be kept.
    #[error("cannot keep latencies")]
    Latencies(#[from] hdrhistogram::CreationError),
}

/// What came of a run, both directions together where not said otherwise.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Packets sent.
    pub offered: u64,
    /// Packets that arrived.
    pub received: u64,
    /// Packets that did not arrive.
    pub lost: u64,
    /// Packets that arrived after a later one of their flow.
    pub reordered: u64,
    /// Datagrams that were not ours, of another session or not whole.
    pub foreign: u64,
    /// Packets the system took no more of, which count as not offered.
    pub refused: u64,
    /// How long was sent.
    pub time: Duration,
    /// One-way latencies in nanoseconds.
    pub latency: Histogram<u64>,
}

impl Figures {
    /// Packets offered a second.
    #[must_use]
    pub fn offered_per_second(&self) -> f64 {
        per_second(self.offered, self.time)
    }

    /// Packets received a second.
    #[must_use]
    pub fn received_per_second(&self) -> f64 {
        per_second(self.received, self.time)
    }

    /// Lost packets in a hundred.
    #[must_use]
    pub fn loss_percent(&self) -> f64 {
        if self.offered == 0 {
            return 0.0;
        }
        100.0 * as_f64(self.lost) / as_f64(self.offered)
    }

    /// A quantile of the one-way latencies, in microseconds.
    #[must_use]
    pub fn latency_us(&self, quantile: f64) -> f64 {
        as_f64(self.latency.value_at_quantile(quantile)) / 1000.0
    }
}

impl LoadGenerator {
    /// Sends for a while and takes what comes. Blocks the thread, and keeps its processor busy.
    ///
    /// # Errors
    /// See [`RunError`].
    pub fn run(&mut self, traffic: Traffic) -> Result<Figures, RunError> {
        let train = traffic.bytes.saturating_mul(traffic.burst);
        if traffic.bytes < STAMP_BYTES
            || !(1..=MAX_TRAIN).contains(&traffic.burst)
            || train > MAX_TRAIN_BYTES
        {
            return Err(RunError::Size);
        }
        let mut run = Run {
            generator: self,
            traffic,
            buffer: vec![0; train],
            figures: Figures {
                offered: 0,
                received: 0,
                lost: 0,
                reordered: 0,
                foreign: 0,
                refused: 0,
                time: Duration::ZERO,
                latency: Histogram::new_with_max(MAX_LATENCY, 3)?,
            },
            down_offered: 0,
            under_way: 0,
            progress: Instant::now(),
            began: 0,
        };
        run.began = nanoseconds(run.generator.start.elapsed());
        run.all()?;
        Ok(run.figures)
    }
}

struct Run<'a> {
    generator: &'a mut LoadGenerator,
    traffic: Traffic,
    buffer: Vec<u8>,
    figures: Figures,
    down_offered: u64,
    /// Packets sent and neither received nor given up.
    under_way: u64,
    /// When a packet last arrived.
    progress: Instant,
    /// When the run began, as stamps count. What left before was given up by an earlier run.
    began: u64,
}

impl Run<'_> {
    fn all(&mut self) -> Result<(), RunError> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(io::Error::from)?;
        for (token, session) in (0_u64..).step_by(2).zip(&self.generator.sessions) {
            for (token, end) in [(token, &session.client), (token + 1, &session.agent)] {
                let event = EpollEvent::new(EpollFlags::EPOLLIN, token);
                epoll.add(&end.socket, event).map_err(io::Error::from)?;
            }
        }
        let start = Instant::now();
        self.progress = start;
        while start.elapsed() < self.traffic.time {
            for _ in 0..TRAINS_AT_A_TIME {
                if !self.is_due(start) {
                    break;
                }
                self.send_train()?;
            }
            let idle = !self.is_due(start);
            self.take(&epoll, idle)?;
        }
        self.figures.time = start.elapsed();
        let until = Instant::now() + DRAIN;
        while self.figures.received < self.figures.offered && Instant::now() < until {
            self.take(&epoll, true)?;
        }
        self.figures.lost = self.figures.offered.saturating_sub(self.figures.received);
        Ok(())
    }

    /// Whether the next train may leave.
    fn is_due(&mut self, start: Instant) -> bool {
        match self.traffic.pace {
            Pace::PerSecond(rate) => {
                as_f64(self.down_offered) < start.elapsed().as_secs_f64() * f64::from(rate)
            }
            Pace::Window(window) => {
                if self.under_way > 0 && self.progress.elapsed() > STANDSTILL {
                    self.under_way = 0;
                    self.progress = Instant::now();
                }
                self.under_way + self.traffic.burst as u64 <= u64::from(window)
                    || self.under_way == 0
            }
        }
    }

    /// A train down in the session whose turn it is, and packets up for what went down in it.
    fn send_train(&mut self) -> io::Result<()> {
        let Traffic { bytes, burst, .. } = self.traffic;
        let index = self.generator.turn;
        self.generator.turn = (index + 1) % self.generator.sessions.len().max(1);
        let left = nanoseconds(self.generator.start.elapsed());
        let Some(session) = self.generator.sessions.get_mut(index) else {
            return Ok(());
        };
        let flow = u32::try_from(2 * index).unwrap_or(u32::MAX);
        let sent = session
            .agent
            .send(flow + 1, left, self.buffer.chunks_mut(bytes).take(burst));
        let train = self.buffer.get(..bytes * burst).unwrap_or_default();
        let packets = u32::try_from(burst).unwrap_or(u32::MAX);
        self.down_offered += u64::from(packets);
        if !send(&session.agent.socket, train, bytes)? {
            session.agent.sent = sent;
            self.figures.refused += u64::from(packets);
            return Ok(());
        }
        self.figures.offered += u64::from(packets);
        self.under_way += u64::from(packets);
        session.down_since_up += packets;
        while session.down_since_up >= DOWN_FOR_ONE_UP {
            session.down_since_up -= DOWN_FOR_ONE_UP;
            let mut packet = [0; UP_BYTES];
            let packet = packet.get_mut(..bytes.min(UP_BYTES)).unwrap_or_default();
            let length = packet.len();
            let sent = session
                .client
                .send(flow, left, std::iter::once(&mut *packet));
            if send(&session.client.socket, packet, length)? {
                self.figures.offered += 1;
                self.under_way += 1;
            } else {
                session.client.sent = sent;
                self.figures.refused += 1;
            }
        }
        Ok(())
    }

    /// Takes what has come, or waits a moment for it.
    fn take(&mut self, epoll: &Epoll, wait: bool) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let patience = if wait {
            EpollTimeout::from(1_u8)
        } else {
            EpollTimeout::ZERO
        };
        let ready = match epoll.wait(&mut events, patience) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let mut buffer = [0; 65_536];
        for event in events.iter().take(ready) {
            let token = event.data();
            let Some(session) = usize::try_from(token / 2)
                .ok()
                .and_then(|index| self.generator.sessions.get_mut(index))
            else {
                continue;
            };
            let (end, bytes, flow) = if token % 2 == 0 {
                (&mut session.client, self.traffic.bytes, token + 1)
            } else {
                let bytes = self.traffic.bytes.min(UP_BYTES);
                (&mut session.agent, bytes, token - 1)
            };
            // One receiving a ready socket: what is left makes it ready again.
            let length = match end.socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if is_passing(&error) => continue,
                Err(error) => return Err(error),
            };
            self.progress = Instant::now();
            let now = nanoseconds(self.generator.start.elapsed());
            for packet in buffer.get(..length).unwrap_or_default().chunks(bytes) {
                let stamp = Stamp::read(packet)
                    .filter(|stamp| u64::from(stamp.flow) == flow && packet.len() == bytes);
                let Some(stamp) = stamp else {
                    self.figures.foreign += 1;
                    continue;
                };
                if stamp.left < self.began {
                    continue;
                }
                if stamp.sequence <= end.highest {
                    self.figures.reordered += 1;
                }
                end.highest = end.highest.max(stamp.sequence);
                self.figures.received += 1;
                self.under_way = self.under_way.saturating_sub(1);
                self.figures
                    .latency
                    .saturating_record(now.saturating_sub(stamp.left));
            }
        }
        Ok(())
    }
}

impl End {
    /// Stamps packets that are to leave here; the sequence number from before.
    fn send<'a>(
        &mut self,
        flow: u32,
        left: u64,
        packets: impl Iterator<Item = &'a mut [u8]>,
    ) -> u32 {
        let before = self.sent;
        for packet in packets {
            self.sent = self.sent.wrapping_add(1);
            Stamp {
                flow,
                sequence: self.sent,
                left,
            }
            .write(packet);
        }
        before
    }
}

/// Sends packets of one size with one system call; false when the system takes no more just now.
fn send(socket: &UdpSocket, train: &[u8], bytes: usize) -> io::Result<bool> {
    let sent = if train.len() > bytes {
        let segment = u16::try_from(bytes).map_err(io::Error::other)?;
        sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(train)],
            &[ControlMessage::UdpGsoSegments(&segment)],
            MsgFlags::empty(),
            None,
        )
        .map_err(io::Error::from)
    } else {
        socket.send(train)
    };
    match sent {
        Ok(_) => Ok(true),
        Err(error) if is_passing(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether an error says no more than that it would not go just now, or that an earlier datagram found nobody.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionRefused
    ) || error.raw_os_error() == Some(Errno::ENOBUFS as i32)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn per_second(packets: u64, time: Duration) -> f64 {
    if time.is_zero() {
        return 0.0;
    }
    as_f64(packets) / time.as_secs_f64()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a run are far below 2^53"
)]
fn as_f64(count: u64) -> f64 {
    count as f64
}
