//! `portcullis bench relay`: datagrams of many sessions through a gateway of its own process, alone or against a peer.
//!
//! Each run has two parts. First packets go as fast as they arrive, with a bounded number under way: packets a second. Then they go
//! at a set rate: loss, latency and processor time a packet. Against a peer, both parts are run through both relays, one after the other,
//! the one to go first alternating, and ratios are of a pair; the median of the pairs is printed.

use std::{fmt::Write as _, fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use portcullis_endpoints::load_generator::{AgentSide, Figures, LoadGenerator, Pace, Traffic};
use serde::Serialize;
use tempfile::TempDir;

use super::{
    nginx::Nginx,
    subject::{Cores, Gateway, memory_kib, processor_time},
};
use crate::{
    cli::{Peer, Relay, Workload},
    terminal,
};

/// Packets under way while they go as fast as they arrive: what the receive buffers of a relay hold without loss.
const WINDOW: u32 = 256;
/// How long both relays are run before anything is measured.
const WARM_UP: Duration = Duration::from_millis(500);
/// Descriptors besides the generator's: the other generator's when there are two.
const HELD_A_SESSION: u64 = 2;

/// What `--against` prints for a workload; scripts rely on these keys and no others.
#[derive(Serialize)]
struct Compared {
    workload: &'static str,
    sessions: u16,
    kpps: f64,
    peer_kpps: f64,
    kpps_ratio: f64,
    cpu_ratio: f64,
    p99_us: f64,
    peer_p99_us: f64,
    loss_pct: f64,
}

/// What is printed for a workload without a peer.
#[derive(Serialize)]
struct Alone {
    workload: &'static str,
    sessions: u16,
    kpps: f64,
    offered_kpps: f64,
    received_kpps: f64,
    loss_pct: f64,
    reordered: u64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    cpu_ns_per_packet: f64,
    memory_kib: u64,
}

/// `portcullis bench relay`
pub(crate) fn relay(arguments: &Relay) -> Result<ExitCode> {
    let cores = Cores::choose()?;
    cores.take_generators()?;
    if cfg!(debug_assertions) {
        eprintln!("This is a debug build; its figures say little");
    }
    let folder = TempDir::with_prefix("portcullis-bench-")?;
    let mut ours = Side::gateway(arguments, cores, &folder)?;
    let mut peer = match arguments.against {
        Some(Peer::Nginx) => Some(Side::nginx(arguments, cores, &folder)?),
        None => None,
    };
    let mut lossless = true;
    for workload in [Workload::Single, Workload::Burst] {
        if arguments.workload.is_some_and(|wanted| wanted != workload) {
            continue;
        }
        lossless &= measure(arguments, workload, &mut ours, peer.as_mut())?;
    }
    ours.stop()?;
    if let Some(peer) = peer {
        peer.stop()?;
    }
    if !lossless {
        eprintln!("Packets were lost at the set rate");
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a workload, prints its figures, and says whether nothing was lost on our side at the set rate.
fn measure(
    arguments: &Relay,
    workload: Workload,
    ours: &mut Side,
    mut peer: Option<&mut Side>,
) -> Result<bool> {
    let flow = |pace, time| Traffic {
        pace,
        bytes: usize::from(arguments.bytes),
        burst: match workload {
            Workload::Single => 1,
            Workload::Burst => usize::from(arguments.burst),
        },
        time,
    };
    let time = Duration::from_secs(arguments.seconds);
    let fast = flow(Pace::Window(WINDOW), time);
    for side in std::iter::once(&mut *ours).chain(peer.as_deref_mut()) {
        side.run(Traffic {
            time: WARM_UP,
            ..fast
        })?;
    }
    let mut pairs = Vec::new();
    for run in 0..arguments.runs {
        let ours_first = run % 2 == 0;
        let (fast_ours, fast_peer) = pair(ours, peer.as_deref_mut(), fast, ours_first)?;
        let slower = fast_peer
            .as_ref()
            .map_or(f64::INFINITY, Part::per_second)
            .min(fast_ours.per_second());
        let rate = arguments.pps.unwrap_or_else(|| half(slower));
        let set = flow(Pace::PerSecond(rate), time);
        let (set_ours, set_peer) = pair(ours, peer.as_deref_mut(), set, ours_first)?;
        pairs.push(Pair {
            ours: Run {
                fast: fast_ours,
                set: set_ours,
            },
            peer: fast_peer.zip(set_peer).map(|(fast, set)| Run { fast, set }),
        });
    }
    let sessions = arguments.sessions;
    let name = workload.name();
    let memory = memory_kib(ours.process())?;
    let of_ours = |figure: fn(&Run) -> f64| median(pairs.iter().map(|pair| figure(&pair.ours)));
    let lossless = pairs.iter().all(|pair| pair.ours.set.figures.lost == 0);
    let Some(peer) = peer else {
        let alone = Alone {
            workload: name,
            sessions,
            kpps: of_ours(Run::kpps),
            offered_kpps: of_ours(|run| run.set.figures.offered_per_second() / 1000.0),
            received_kpps: of_ours(|run| run.set.figures.received_per_second() / 1000.0),
            loss_pct: of_ours(Run::loss),
            reordered: pairs.iter().map(|pair| pair.ours.reordered()).sum(),
            p50_us: of_ours(|run| run.set.figures.latency_us(0.50)),
            p99_us: of_ours(Run::p99),
            p999_us: of_ours(|run| run.set.figures.latency_us(0.999)),
            cpu_ns_per_packet: of_ours(|run| run.set.cost()),
            memory_kib: memory,
        };
        if arguments.json {
            terminal::json(&alone)?;
        } else {
            terminal::line(&format!("{name}: {sessions} sessions"))?;
            describe("gateway", &pairs, |pair| Some(&pair.ours), memory)?;
        }
        return Ok(lossless);
    };
    let of_peer = |figure: fn(&Run) -> f64| {
        median(
            pairs
                .iter()
                .filter_map(|pair| Some(figure(pair.peer.as_ref()?))),
        )
    };
    let ratio = |figure: fn(&Run) -> f64| {
        median(
            pairs
                .iter()
                .filter_map(|pair| Some(figure(&pair.ours) / figure(pair.peer.as_ref()?))),
        )
    };
    let compared = Compared {
        workload: name,
        sessions,
        kpps: of_ours(Run::kpps),
        peer_kpps: of_peer(Run::kpps),
        kpps_ratio: ratio(Run::kpps),
        cpu_ratio: ratio(|run| run.set.cost()),
        p99_us: of_ours(Run::p99),
        peer_p99_us: of_peer(Run::p99),
        loss_pct: of_ours(Run::loss),
    };
    if arguments.json {
        terminal::json(&compared)?;
        return Ok(lossless);
    }
    terminal::line(&format!(
        "{name}: {sessions} sessions, median of {} paired runs",
        pairs.len()
    ))?;
    describe("gateway", &pairs, |pair| Some(&pair.ours), memory)?;
    let memory = memory_kib(peer.process())?;
    describe("nginx", &pairs, |pair| pair.peer.as_ref(), memory)?;
    terminal::line(&format!(
        "  ratios: packets/s {:.2}, CPU a packet {:.2} at the set rate and {:.2} as fast as it goes, p99 {:.2}",
        compared.kpps_ratio,
        compared.cpu_ratio,
        ratio(|run| run.fast.cost()),
        ratio(Run::p99),
    ))?;
    Ok(lossless)
}

/// Prints what a side did, in medians.
fn describe(
    name: &str,
    pairs: &[Pair],
    side: fn(&Pair) -> Option<&Run>,
    memory_kib: u64,
) -> Result<()> {
    let of = |figure: fn(&Run) -> f64| median(pairs.iter().filter_map(side).map(figure));
    terminal::line(&format!(
        "  {name:<8} as fast as it goes: {:.1} kpps, {:.2} % lost, {:.0} ns CPU a packet, core {:.0} % busy",
        of(Run::kpps),
        of(|run| run.fast.figures.loss_percent()),
        of(|run| run.fast.cost()),
        of(|run| run.fast.busy_percent()),
    ))?;
    terminal::line(&format!(
        "  {name:<8} at a set rate: {:.1} kpps offered, {:.1} received, {:.3} % lost, {:.0} reordered; p50 {:.0}, p99 {:.0}, p99.9 {:.0} µs; {:.0} ns CPU a packet; {memory_kib} KiB",
        of(|run| run.set.figures.offered_per_second() / 1000.0),
        of(|run| run.set.figures.received_per_second() / 1000.0),
        of(Run::loss),
        of(|run| as_f64(run.reordered())),
        of(|run| run.set.figures.latency_us(0.50)),
        of(Run::p99),
        of(|run| run.set.figures.latency_us(0.999)),
        of(|run| run.set.cost()),
    ))
}

/// A relay with sessions open through it.
struct Side {
    relay: RelayProcess,
    generator: LoadGenerator,
}

enum RelayProcess {
    Gateway(Gateway),
    Nginx(Nginx),
}

impl Side {
    fn gateway(arguments: &Relay, cores: Cores, folder: &TempDir) -> Result<Self> {
        let agents = agents(arguments)?;
        let file = folder.path().join("portcullis.toml");
        fs::write(
            &file,
            configuration(arguments, agents.control_port()?, &agents.ports()?)?,
        )?;
        let gateway = Gateway::start(cores, &file).context("cannot start the gateway")?;
        let generator = LoadGenerator::open(agents, gateway.address, true)
            .context("cannot open sessions through the gateway")?;
        Ok(Self {
            relay: RelayProcess::Gateway(gateway),
            generator,
        })
    }

    fn nginx(arguments: &Relay, cores: Cores, folder: &TempDir) -> Result<Self> {
        let agents = agents(arguments)?;
        let folder: PathBuf = folder.path().join("nginx");
        fs::create_dir(&folder)?;
        let nginx = Nginx::start(cores, &folder, &agents.ports()?)?;
        let generator = LoadGenerator::open(agents, nginx.address, false)
            .context("cannot open sessions through nginx")?;
        Ok(Self {
            relay: RelayProcess::Nginx(nginx),
            generator,
        })
    }

    fn process(&self) -> u32 {
        match &self.relay {
            RelayProcess::Gateway(gateway) => gateway.id(),
            RelayProcess::Nginx(nginx) => nginx.id(),
        }
    }

    fn run(&mut self, traffic: Traffic) -> Result<Part> {
        let before = processor_time(self.process())?;
        let figures = self.generator.run(traffic)?;
        let processor = processor_time(self.process())?.saturating_sub(before);
        Ok(Part { figures, processor })
    }

    fn stop(self) -> Result<()> {
        let Self { relay, generator } = self;
        drop(generator);
        match relay {
            RelayProcess::Gateway(gateway) => gateway.stop(),
            RelayProcess::Nginx(nginx) => nginx.stop(),
        }
    }
}

/// One part of a run through one relay.
struct Part {
    figures: Figures,
    /// Nanoseconds of a core.
    processor: u64,
}

impl Part {
    fn per_second(&self) -> f64 {
        self.figures.received_per_second()
    }

    /// Nanoseconds of a core for each packet that arrived.
    fn cost(&self) -> f64 {
        as_f64(self.processor) / as_f64(self.figures.received.max(1))
    }

    fn busy_percent(&self) -> f64 {
        100.0 * as_f64(self.processor) / 1e9 / self.figures.time.as_secs_f64()
    }
}

struct Run {
    fast: Part,
    set: Part,
}

impl Run {
    fn kpps(&self) -> f64 {
        self.fast.per_second() / 1000.0
    }

    fn loss(&self) -> f64 {
        self.set.figures.loss_percent()
    }

    fn p99(&self) -> f64 {
        self.set.figures.latency_us(0.99)
    }

    fn reordered(&self) -> u64 {
        self.set.figures.reordered
    }
}

struct Pair {
    ours: Run,
    peer: Option<Run>,
}

/// The same traffic through both.
fn pair(
    ours: &mut Side,
    peer: Option<&mut Side>,
    traffic: Traffic,
    ours_first: bool,
) -> Result<(Part, Option<Part>)> {
    let Some(peer) = peer else {
        return Ok((ours.run(traffic)?, None));
    };
    if ours_first {
        let ours = ours.run(traffic)?;
        Ok((ours, Some(peer.run(traffic)?)))
    } else {
        let peer = peer.run(traffic)?;
        Ok((ours.run(traffic)?, Some(peer)))
    }
}

fn agents(arguments: &Relay) -> Result<AgentSide> {
    let held = u64::from(arguments.sessions) * HELD_A_SESSION;
    AgentSide::open(arguments.sessions, held).context("cannot open the agents' sockets")
}

/// A gateway with a standing grant for each session.
fn configuration(arguments: &Relay, control: u16, ports: &[u16]) -> Result<String> {
    let upstream = if arguments.ephemeral {
        "\"ephemeral\"".to_owned()
    } else {
        std::net::UdpSocket::bind("127.0.0.1:0")?
            .local_addr()?
            .port()
            .to_string()
    };
    let mut text = format!(
        "[log]\nlevel = \"error\"\n\
         [security_gateway]\nlisten = \"127.0.0.1:0\"\npublic_addresses = [\"127.0.0.1\"]\nupstream = {upstream}\n\
         upstream_address = \"127.0.0.1\"\nmax_sessions = {}\nidle_seconds = 3600\n",
        ports.len() + 1
    );
    for (session, port) in (0..u16::MAX).zip(ports) {
        write!(
            text,
            "[[security_gateway.standing_grant]]\nclient = \"{}\"\nserver_name = \"{}\"\nagent = \"127.0.0.1\"\n\
             tcp_port = {control}\nudp_port = {port}\n",
            LoadGenerator::client_address(session),
            LoadGenerator::server_name(session),
        )?;
    }
    Ok(text)
}

/// The middle of some figures; of an even number the mean of the two in the middle.
fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let at = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
    let middle = figures.len() / 2;
    if figures.len() % 2 == 1 {
        at(middle)
    } else {
        (at(middle.saturating_sub(1)) + at(middle)) / 2.0
    }
}

/// Half a rate, as a whole number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate in range, rounded down"
)]
fn half(rate: f64) -> u32 {
    (rate / 2.0).clamp(1.0, 1e9) as u32
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a run are far below 2^53"
)]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert!((median([3.0, 1.0, 2.0].into_iter()) - 2.0).abs() < f64::EPSILON);
        assert!((median([4.0, 1.0, 2.0, 3.0].into_iter()) - 2.5).abs() < f64::EPSILON);
        assert!(median(std::iter::empty()).is_nan());
        assert_eq!((half(0.0), half(7.0), half(1e12)), (1, 3, 1_000_000_000));
    }
}
