//! `portcullis bench relay`: it runs, ends, and prints what scripts rely on.

use anyhow::{Result, ensure};

use crate::support::{Test, portcullis, process::Process};

/// The tests of this file.
pub(crate) const TESTS: &[(&str, Test)] = &[(
    "relay_bench::both_workloads_through_a_gateway",
    both_workloads_through_a_gateway,
)];

fn both_workloads_through_a_gateway() -> Result<()> {
    if std::thread::available_parallelism()?.get() < 2 {
        let finished = Process::start(portcullis(&["bench", "relay"]))?.finish()?;
        ensure!(finished.log.contains("a core each"), "{}", finished.log);
        return Ok(());
    }
    for upstream in [None, Some("--ephemeral")] {
        let mut arguments = vec!["bench", "relay", "--json", "--sessions", "5"];
        arguments.extend(["--runs", "1", "--seconds", "1", "--pps", "500"]);
        arguments.extend(upstream);
        let finished = Process::start(portcullis(&arguments))?.finish()?;
        ensure!(finished.status.success(), "{}", finished.log);
        ensure!(finished.lines.len() == 2, "{:?}", finished.lines);
        for (line, workload) in finished.lines.iter().zip(["single", "burst"]) {
            let figures: serde_json::Value = serde_json::from_str(line)?;
            ensure!(figures["workload"] == workload, "{line}");
            ensure!(figures["sessions"] == 5, "{line}");
            for key in ["kpps", "received_kpps", "p99_us", "cpu_ns_per_packet"] {
                ensure!(figures[key].as_f64() > Some(0.0), "{key} in {line}");
            }
            ensure!(figures["memory_kib"].as_u64() > Some(100), "{line}");
        }
    }
    Ok(())
}
