//! What a client tells: each step as it happens, and everything at the end.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::{
    flow::Received,
    signalling::{Cipher, License},
};

/// Names of the seven steps of session establishment.
pub const STEPS: [&str; 7] = [
    "The request reaches the Connection Manager",
    "The broker authenticates the user",
    "The list of desktops comes back",
    "A desktop is chosen",
    "The Connection Manager prepares gateway and agent",
    "The agent acquires a licence",
    "The session is established",
];

/// The outcome of a connection. Its JSON form is relied on by scripts: `ok`, `steps` and `udp` stay as they are.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Whether all seven steps hold and the session lasted as long as it should.
    pub ok: bool,
    /// The seven steps, reached or not.
    pub steps: Vec<StepReport>,
    /// Packets over UDP.
    pub udp: Udp,
    /// Round trips over UDP.
    pub rtt_us: RoundTrips,
    /// The session log id.
    pub session: String,
    /// Address and port of the session: a gateway's or an agent's.
    pub via: Option<String>,
    /// Name of the chosen desktop.
    pub desktop: Option<String>,
    /// The agent's word on its licence.
    pub license: Option<License>,
    /// Cipher of the UDP flow.
    pub cipher: Option<Cipher>,
    /// Whether the UDP flow carries the transport header.
    pub transport_header: Option<bool>,
    /// Frames that came whole.
    pub frames: u64,
    /// How long the session streamed, in milliseconds.
    pub stream_ms: Option<Milliseconds>,
    /// What went wrong and what to look at, in sentences.
    pub problem: Option<String>,
    /// The server's result id, when that is what went wrong.
    pub result_id: Option<String>,
    /// The server's own text beside it.
    pub server_text: Option<String>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// Its number, from 1.
    pub step: u8,
    /// Its name.
    pub name: &'static str,
    /// Whether it was reached and succeeded.
    pub ok: bool,
    /// How long it took; `None` when it was not reached. Step 6 happens inside step 5, on the agent.
    pub ms: Option<Milliseconds>,
    /// What came of it.
    pub detail: Option<String>,
    /// What went over which port.
    pub flows: Vec<String>,
}

/// A duration, written as a number of milliseconds with three decimals at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Milliseconds(pub Duration);

impl Serialize for Milliseconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64((self.0.as_secs_f64() * 1e6).round() / 1e3)
    }
}

/// Packets over UDP, both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Udp {
    /// From agent to client.
    pub down: UdpDirection,
    /// From client to agent.
    pub up: UdpDirection,
}

/// Packets over UDP, one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UdpDirection {
    /// Packets sent, by the sender's own account; when that never came, the highest sequence number seen.
    pub sent: u64,
    /// Packets received, each counted once.
    pub received: u64,
    /// Packets sent and not received.
    pub lost: u64,
    /// Packets received after a later one.
    pub late: u64,
    /// Packets received more than once.
    pub duplicated: u64,
    /// UDP payload bytes received.
    pub bytes: u64,
}

impl UdpDirection {
    pub(crate) fn new(sent: u64, received: Received) -> Self {
        Self {
            sent,
            received: received.packets,
            lost: sent.saturating_sub(received.packets),
            late: received.late,
            duplicated: received.duplicated,
            bytes: received.bytes,
        }
    }
}

/// Round trips over UDP, in microseconds, measured by the client's own clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RoundTrips {
    /// Median.
    pub p50: Option<u64>,
    /// 99th percentile.
    pub p99: Option<u64>,
    /// How many were measured.
    pub samples: u64,
}

/// What happens, for those who watch.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum StepEvent {
    /// A step begins.
    Started {
        /// Its number, from 1.
        step: u8,
        /// Its name.
        name: &'static str,
    },
    /// A step has ended, well or not.
    Finished(StepReport),
    /// The session streams from now on, for so long.
    Streaming(Duration),
}

/// The seven steps, none reached.
pub(crate) fn unreached() -> Vec<StepReport> {
    (1..)
        .zip(STEPS)
        .map(|(step, name)| StepReport {
            step,
            name,
            ok: false,
            ms: None,
            detail: None,
            flows: Vec::new(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_was_not_reached_has_no_time() {
        let steps = serde_json::to_value(unreached()).unwrap();
        assert_eq!(steps.as_array().unwrap().len(), 7);
        for (step, number) in steps.as_array().unwrap().iter().zip(1..) {
            assert_eq!(step["step"], number);
            assert_eq!(step["ok"], false);
            assert!(step["ms"].is_null());
        }
    }

    #[test]
    fn milliseconds_are_a_plain_number() {
        let written = |micros| serde_json::to_string(&Milliseconds(Duration::from_nanos(micros)));
        assert_eq!(written(1_234_567_890).unwrap(), "1234.568");
        assert_eq!(written(0).unwrap(), "0.0");
    }
}
