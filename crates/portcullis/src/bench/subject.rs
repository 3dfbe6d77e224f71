//! A relay under test: a process of its own on a core of its own, and what it costs.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// How long a relay may take to be ready.
const READY: Duration = Duration::from_secs(30);
/// How long a process may take to end when told to; then it is killed.
const END: Duration = Duration::from_secs(15);
/// How often it is looked whether something has come about.
const LOOK: Duration = Duration::from_millis(10);

/// Which core the relay has, and which one the generator.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cores {
    pub(super) relay: usize,
    pub(super) generator: usize,
}

impl Cores {
    /// The first two cores this process may run on.
    pub(super) fn choose() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("cannot read the affinity")?;
        let mut cores =
            (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or_default());
        match (cores.next(), cores.next()) {
            (Some(relay), Some(generator)) => Ok(Self { relay, generator }),
            _ => bail!("relay and generator take a core each, and this process may use one only"),
        }
    }

    /// Keeps this thread, and those it starts, on the generator's core.
    pub(super) fn take_generators(self) -> Result<()> {
        let mut set = CpuSet::new();
        set.set(self.generator)?;
        sched_setaffinity(Pid::from_raw(0), &set).context("cannot pin the generator")
    }
}

/// A process on the relay's core that does not outlive us.
pub(super) struct Pinned {
    child: Child,
}

impl Pinned {
    pub(super) fn start(cores: Cores, program: &Path, arguments: &[&str]) -> Result<Self> {
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "taskset", "-c"])
            .arg(cores.relay.to_string())
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a process with setpriv and taskset, of Debian's util-linux")?;
        Ok(Self { child })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, and how.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Tells it to end, and waits for that.
    pub(super) fn stop(mut self) -> Result<()> {
        let status = self.end().context("a process did not end in time")?;
        ensure!(status.success(), "a process ended with {status}");
        Ok(())
    }

    fn end(&mut self) -> Option<ExitStatus> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Some(status);
        }
        let id = i32::try_from(self.child.id()).ok()?;
        let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        let until = Instant::now() + END;
        while Instant::now() < until {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            thread::sleep(LOOK);
        }
        None
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.end().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// `portcullis serve` with a gateway and nothing else.
pub(super) struct Gateway {
    process: Pinned,
    /// Where clients go.
    pub(super) address: SocketAddr,
}

impl Gateway {
    pub(super) fn start(cores: Cores, configuration: &Path) -> Result<Self> {
        let file = configuration.to_string_lossy();
        let mut process = Pinned::start(
            cores,
            &std::env::current_exe()?,
            &["serve", "--json", "--config", &file],
        )?;
        let output = process.child.stdout.take().context("no standard output")?;
        let mut line = String::new();
        // It says one line, or ends, which ends the line.
        BufReader::new(output).read_line(&mut line)?;
        let ready: Value =
            serde_json::from_str(&line).context("the gateway ended before it was ready")?;
        let address = ready["security_gateway"]
            .as_str()
            .with_context(|| format!("no gateway in {ready}"))?
            .parse()?;
        Ok(Self { process, address })
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(super) fn stop(self) -> Result<()> {
        self.process.stop()
    }
}

/// Waits until something is there.
pub(super) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let until = Instant::now() + READY;
    while Instant::now() < until {
        if let Some(found) = look()? {
            return Ok(found);
        }
        thread::sleep(LOOK);
    }
    bail!("{what} was not there within {READY:?}")
}

/// The time all threads of a process have had a core, in nanoseconds, what the kernel did for them included. A thread that ends
/// takes its time with it: relays have threads that last.
pub(super) fn processor_time(process: u32) -> Result<u64> {
    let mut total = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let thread = thread?.path();
        let text = match fs::read_to_string(thread.join("schedstat")) {
            Ok(text) => text,
            // It ended between the listing and the look.
            Err(_) if !thread.exists() => continue,
            Err(error) => return Err(error).context("the kernel keeps no schedstat"),
        };
        let time: u64 = text
            .split_whitespace()
            .next()
            .context("an empty schedstat")?
            .parse()?;
        total += time;
    }
    Ok(total)
}

/// Memory a process holds, in KiB.
pub(super) fn memory_kib(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// The processes a process has started.
pub(super) fn children(parent: u32) -> Result<Vec<u32>> {
    let wanted = parent.to_string();
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process may be gone by now.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let its_parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1));
        if its_parent == Some(&wanted) {
            children.push(id);
        }
    }
    Ok(children)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_time_memory_and_children() {
        let me = std::process::id();
        assert!(processor_time(me).unwrap() > 0);
        assert!(memory_kib(me).unwrap() > 100);
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(children(me).unwrap().contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!children(me).unwrap().contains(&child.id()));
    }
}
