//! nginx's stream proxy as the peer: started with a configuration and a folder of its own, one worker on the relay's core.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use portcullis_endpoints::load_generator::LoadGenerator;

use super::subject::{Cores, Pinned, children, wait_for};

/// Debian's packages with what is needed.
const PACKAGES: [&str; 2] = ["nginx", "libnginx-mod-stream"];
/// Where Debian puts the stream module.
const MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// A running nginx.
pub(super) struct Nginx {
    process: Pinned,
    worker: u32,
    /// Where clients go.
    pub(super) address: SocketAddr,
}

impl Nginx {
    /// Starts it in `folder`, with an agent's UDP port for each session.
    pub(super) fn start(cores: Cores, folder: &Path, ports: &[u16]) -> Result<Self> {
        let program = find_or_install()?;
        let address = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let file = folder.join("nginx.conf");
        fs::write(&file, configuration(folder, address, ports)?)?;
        let log = folder.join("error.log");
        let mut process = Pinned::start(
            cores,
            &program,
            &[
                "-p",
                &folder.to_string_lossy(),
                "-e",
                &log.to_string_lossy(),
                "-c",
                &file.to_string_lossy(),
            ],
        )?;
        let worker = wait_for("nginx's worker", || {
            if let Some(status) = process.ended()? {
                bail!(
                    "nginx ended with {status}: {}",
                    fs::read_to_string(&log).unwrap_or_default().trim()
                );
            }
            let worker = children(process.id())?.into_iter().find(|child| {
                fs::read_to_string(format!("/proc/{child}/cmdline"))
                    .is_ok_and(|line| line.starts_with("nginx: worker process"))
            });
            Ok(worker)
        })?;
        Ok(Self {
            process,
            worker,
            address,
        })
    }

    /// The worker's process id.
    pub(super) fn id(&self) -> u32 {
        self.worker
    }

    pub(super) fn stop(self) -> Result<()> {
        self.process.stop()
    }
}

/// Each client's datagrams go to the agent of its session, as they do through our gateway.
fn configuration(folder: &Path, address: SocketAddr, ports: &[u16]) -> Result<String> {
    let mut text = format!(
        "load_module {MODULE};\n\
         daemon off;\n\
         worker_processes 1;\n\
         worker_rlimit_nofile 65536;\n\
         pid {folder}/nginx.pid;\n\
         error_log {folder}/error.log error;\n\
         events {{ worker_connections 65536; }}\n\
         stream {{\n\
         map_hash_max_size 65536;\n\
         map_hash_bucket_size 128;\n\
         map $remote_addr $agent {{\n",
        folder = folder.display()
    );
    for (session, port) in (0..u16::MAX).zip(ports) {
        writeln!(
            text,
            "{} 127.0.0.1:{port};",
            LoadGenerator::client_address(session)
        )?;
    }
    writeln!(
        text,
        "}}\nserver {{ listen {address} udp; proxy_pass $agent; proxy_timeout 1h; }}\n}}"
    )?;
    Ok(text)
}

fn find() -> Option<PathBuf> {
    let program = ["/usr/sbin/nginx", "/usr/bin/nginx"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.exists())?;
    Path::new(MODULE).exists().then_some(program)
}

/// nginx's program; root gets the packages installed.
fn find_or_install() -> Result<PathBuf> {
    if let Some(program) = find() {
        return Ok(program);
    }
    let packages = PACKAGES.join(" ");
    ensure!(
        nix::unistd::geteuid().is_root(),
        "nginx with its stream module is not here; install it with `apt-get install {packages}`"
    );
    eprintln!("Installing {packages}");
    for arguments in [
        ["update", "-q"].as_slice(),
        &[
            "install",
            "-q",
            "-y",
            "--no-install-recommends",
            "nginx",
            "libnginx-mod-stream",
        ],
    ] {
        let output = Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output()
            .context("cannot run apt-get")?;
        ensure!(
            output.status.success(),
            "cannot install {packages}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    find().with_context(|| format!("{packages} are installed, but {MODULE} is not there"))
}
