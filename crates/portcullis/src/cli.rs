//! The command line.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use portcullis_endpoints::load_generator::MAX_SESSIONS;

/// PCoIP Connection Manager and Security Gateway.
///
/// Start with `portcullis demo`: it runs every role on this machine and takes a user through the seven steps to a desktop.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run every role on loopback and take a user through the seven steps.
    Demo(Demo),
    /// Run the roles a configuration file asks for, until SIGTERM or SIGINT.
    Serve(Serve),
    /// Look at a configuration file.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// The reference client: our own stand-in for the vendor's.
    Client {
        #[command(subcommand)]
        command: ClientCommand,
    },
    /// The reference agent: our own stand-in for the vendor's, until SIGTERM or SIGINT.
    Agent(Agent),
    /// Measure, and print figures.
    Bench {
        #[command(subcommand)]
        command: BenchCommand,
    },
    /// Turn a password into an argon2id hash for `broker.user.password_hash`.
    HashPassword(HashPassword),
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Print JSON for machines; the last line is the result.
    #[arg(long)]
    pub(crate) json: bool,
    /// Do not run a client: stay up and say how to connect, until SIGTERM or SIGINT.
    #[arg(long)]
    pub(crate) keep: bool,
    /// How long the client streams, in seconds.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub(crate) seconds: u64,
    /// Ask this external broker instead of the embedded one. The demonstration believes the certificate it shows first.
    #[arg(long, value_name = "URL")]
    pub(crate) broker_url: Option<String>,
    /// User of the external broker; the embedded one has a made-up user.
    #[arg(long, requires = "broker_url", value_name = "USER")]
    pub(crate) user: Option<String>,
    /// File with that user's password.
    #[arg(long, requires = "broker_url", value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Where the reference agent listens for the Connection Manager.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) agent_listen: Option<SocketAddr>,
    /// Turn the Security Gateway off: the client goes straight to the agent, as on a company LAN.
    #[arg(long)]
    pub(crate) lan: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The configuration file.
    #[arg(
        long,
        default_value = "/etc/portcullis/portcullis.toml",
        env = "PORTCULLIS_CONFIG",
        value_name = "FILE"
    )]
    pub(crate) config: PathBuf,
    /// Print one line of JSON with the addresses in use, once ready.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check a file: every mistake with its line, key and remedy. Exits 1 when there is one.
    Check {
        /// The configuration file.
        #[arg(
            long,
            default_value = "/etc/portcullis/portcullis.toml",
            env = "PORTCULLIS_CONFIG",
            value_name = "FILE"
        )]
        config: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Log on, pick a desktop, and use it for a while.
    Connect(Connect),
}

#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// The Connection Manager, such as `https://desktops.example.com`.
    #[arg(long, value_name = "URL")]
    pub(crate) server: String,
    /// User name; DOMAIN\user and user@domain are fine.
    #[arg(long, value_name = "USER")]
    pub(crate) user: String,
    /// Domain, when the name does not carry it.
    #[arg(long, default_value = "", value_name = "DOMAIN")]
    pub(crate) domain: String,
    /// File with the password; one line break at its end does not count.
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: PathBuf,
    /// Desktop to use, by name; the first of the list otherwise.
    #[arg(long, value_name = "NAME")]
    pub(crate) desktop: Option<String>,
    /// PEM file of the authority that signed the server's certificate; the operating system's otherwise.
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub(crate) ca: Option<PathBuf>,
    /// Believe any certificate of the server, as a client in security mode 0 does.
    #[arg(long)]
    pub(crate) insecure: bool,
    /// How long to stream, in seconds.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub(crate) seconds: u64,
    /// Local address to connect from.
    #[arg(long, value_name = "ADDR")]
    pub(crate) local_address: Option<IpAddr>,
    /// Leave the PCoIP transport header out of UDP packets.
    #[arg(long)]
    pub(crate) no_transport_header: bool,
    /// Print one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Agent {
    /// Where Connection Managers reach the agent (TCP).
    #[arg(long, default_value = "0.0.0.0:60443", value_name = "ADDR:PORT")]
    pub(crate) listen: SocketAddr,
    /// Where clients and gateways reach the agent (TCP and UDP).
    #[arg(long, default_value = "0.0.0.0:4172", value_name = "ADDR:PORT")]
    pub(crate) data: SocketAddr,
    /// Address the agent names in its answers, when the listening one is a wildcard.
    #[arg(long, value_name = "ADDR")]
    pub(crate) address: Option<IpAddr>,
    /// Host name, which is also the server name clients send on TCP 4172.
    #[arg(long, default_value = "reference-desktop", value_name = "NAME")]
    pub(crate) hostname: String,
    /// Sessions at a time; a real desktop has one.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) sessions: usize,
    /// Refuse to launch without a session licence.
    #[arg(long)]
    pub(crate) require_license: bool,
    /// PEM file of the authority that signed the licence server's certificate; without it, what each server shows first.
    #[arg(long, value_name = "FILE")]
    pub(crate) license_ca: Option<PathBuf>,
    /// File of users the agent accepts, one `name:password` a line; without it, any name with a password.
    #[arg(long, value_name = "FILE")]
    pub(crate) users_file: Option<PathBuf>,
    /// Print JSON events.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Session establishments: a whole stack on loopback, N users, C at a time.
    Establish(Establish),
    /// Datagrams of many sessions through a gateway: packets a second, loss, latency, processor time a packet.
    ///
    /// Starts `portcullis serve` on a core of its own and drives it on loopback from another one: N sessions, 20 packets down for each
    /// one up, singly and in bursts.
    Relay(Relay),
}

#[derive(Debug, Args)]
pub(crate) struct Relay {
    /// Sessions at a time.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_SESSIONS)))]
    pub(crate) sessions: u16,
    /// Packets down a second, over all sessions, where loss, latency and processor time are measured; half of what the slower relay
    /// carries otherwise.
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) pps: Option<u32>,
    /// Bytes of UDP payload in a packet down.
    #[arg(long, default_value_t = 1200, value_name = "B", value_parser = clap::value_parser!(u16).range(40..=1472))]
    pub(crate) bytes: u16,
    /// Packets of a burst.
    #[arg(long, default_value_t = 16, value_name = "K", value_parser = clap::value_parser!(u16).range(2..=40))]
    pub(crate) burst: u16,
    /// How long each part of a run takes, in seconds.
    #[arg(long, default_value_t = 3, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) seconds: u64,
    /// Runs, of which the median is printed.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: u32,
    /// One workload instead of both.
    #[arg(long, value_enum)]
    pub(crate) workload: Option<Workload>,
    /// A port of its own towards the agent for each session, instead of one for all.
    #[arg(long)]
    pub(crate) ephemeral: bool,
    /// Run the same through another relay, and print the ratios.
    #[arg(long, value_enum)]
    pub(crate) against: Option<Peer>,
    /// Print one line of JSON a workload.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How packets leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// One at a time, the sessions taking turns.
    Single,
    /// Bursts of equal packets.
    Burst,
}

impl Workload {
    /// Its name on the command line and in JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Burst => "burst",
        }
    }
}

/// Another relay to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// nginx's stream proxy, of Debian's packages nginx and libnginx-mod-stream. Root gets them installed.
    Nginx,
}

#[derive(Debug, Args)]
pub(crate) struct Establish {
    /// Users, each with a desktop.
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(crate) users: u32,
    /// Establishments at a time.
    #[arg(long, default_value_t = 8, value_name = "C", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) concurrency: u32,
    /// Hash passwords at full cost; otherwise at the lowest, so that everything else is measured.
    #[arg(long)]
    pub(crate) full_hashing: bool,
    /// Print one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct HashPassword {
    /// File with the password; standard input otherwise. One line break at its end does not count.
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
}
