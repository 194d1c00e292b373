//! The command line: what was typed ([`args`]) becomes what is wanted ([`request`]), a library does it, and a short
//! report or an error with a hint is printed. stdout carries results, stderr everything for people.

mod args;
mod commands;
mod extra_options;
mod failure;
mod hub;
mod report;
mod request;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    args::{Cli, Command},
    failure::Failure,
};

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            commands::note(&failure.to_string());
            ExitCode::from(failure.code)
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    match &cli.command {
        None => commands::build::run(&cli.build),
        Some(Command::Build(args)) => commands::build::run(args),
        Some(Command::Plan(args)) => commands::plan::run(args),
        Some(Command::Inspect(args)) => commands::inspect::run(args),
        Some(Command::Run(args)) => commands::run::run(args),
        Some(Command::Validate(args)) => commands::validate::run(args),
        Some(Command::Families) => commands::tables::families(),
        Some(Command::Targets) => commands::tables::targets(),
        Some(Command::Runtime(command)) => commands::runtime::run(command),
    }
}
