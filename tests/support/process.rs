//! Processes a test starts: their lines, their end, and nothing left of them.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// How long a process may take to be ready, or to end when told to. Generous: machines are busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that says something on standard output and can be told to end.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    log: Option<JoinHandle<String>>,
}

impl Process {
    /// Starts it.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let stdout = child.stdout.take().context("no standard output")?;
        let mut stderr = child.stderr.take().context("no standard error")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let log = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Ok(Self {
            child,
            lines,
            log: Some(log),
        })
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line that is a JSON object.
    pub(crate) fn next_json(&mut self) -> Result<Value> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self
                .lines
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(line) => {
                    if let Ok(value @ Value::Object(_)) = serde_json::from_str(&line) {
                        return Ok(value);
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!("nothing was said within {PATIENCE:?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!(
                        "ended with {status} before it said anything:\n{}",
                        self.log()
                    )
                }
            }
        }
    }

    /// Waits for the end: exit status, the last line of standard output, and standard error.
    pub(crate) fn finish(mut self) -> Result<Finished> {
        let status = self.wait()?;
        let lines: Vec<String> = self.lines.iter().collect();
        Ok(Finished {
            status,
            lines,
            log: self.log(),
        })
    }

    /// Tells it to end with SIGTERM and waits for that.
    pub(crate) fn stop(mut self) -> Result<Finished> {
        Command::new("kill")
            .args(["-TERM", &self.id().to_string()])
            .status()?;
        let status = self.wait()?;
        let lines: Vec<String> = self.lines.iter().collect();
        Ok(Finished {
            status,
            lines,
            log: self.log(),
        })
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        let until = Instant::now() + 2 * PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("still running after {:?}", 2 * PATIENCE)
    }

    fn log(&mut self) -> String {
        self.log
            .take()
            .and_then(|log| log.join().ok())
            .unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a process ended.
pub(crate) struct Finished {
    /// Its exit status.
    pub(crate) status: ExitStatus,
    /// Lines of standard output that were not read before.
    pub(crate) lines: Vec<String>,
    /// Standard error.
    pub(crate) log: String,
}

impl Finished {
    /// The last line of standard output, as JSON.
    pub(crate) fn last_json(&self) -> Result<Value> {
        let line = self
            .lines
            .last()
            .with_context(|| format!("no output; standard error:\n{}", self.log))?;
        serde_json::from_str(line).with_context(|| format!("not JSON: {line}\n{}", self.log))
    }
}
