//! The `portcullis` command: reads the command line and the configuration, and starts what they ask for.

#![expect(
    clippy::print_stderr,
    reason = "a command tells its errors to its terminal"
)]

mod adapters;
mod agent;
mod bench;
mod cli;
mod client;
mod config;
mod demo;
mod logging;
mod password;
mod roles;
mod serve;
mod terminal;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

use cli::{BenchCommand, Cli, ClientCommand, Command, ConfigCommand};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        // Whoever reads our output has read enough.
        Err(error) if terminal::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portcullis: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Demo(arguments) => runtime()?.block_on(demo::run(arguments)),
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Config {
            command: ConfigCommand::Check { config },
        } => serve::check(&config),
        Command::Client {
            command: ClientCommand::Connect(arguments),
        } => runtime()?.block_on(client::run(arguments)),
        Command::Agent(arguments) => runtime()?.block_on(agent::run(arguments)),
        Command::Bench {
            command: BenchCommand::Establish(arguments),
        } => runtime()?.block_on(bench::establish(arguments)),
        Command::Bench {
            command: BenchCommand::Relay(arguments),
        } => bench::relay(&arguments),
        Command::HashPassword(arguments) => password::hash(&arguments),
    }
}

/// The runtime every role and end runs on.
fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?)
}
