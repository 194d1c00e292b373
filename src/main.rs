//! The command line: what was typed ([`args`]) becomes what is wanted ([`request`]), a library does it, and a short
//! report or an error with a hint is printed. stdout carries results, stderr everything for people.

mod adapters;
mod args;
mod commands;
mod console;
mod envelope;
mod failure;
mod generation;
mod hub;
mod log;
mod options;
mod report;
mod request;
mod signals;
mod targets;
mod token;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    args::{Cli, Command},
    console::{Mode, ProgressArg},
    failure::{Failure, code},
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return mistyped(&error),
    };
    console::set_mode(cli.mode());
    signals::survive_file_size_limit();
    signals::raise_open_file_limit();
    // What panics is a defect; the panic was told on stderr, and buffers and staged files are dropped on the way.
    let outcome = std::panic::catch_unwind(|| run(&cli)).unwrap_or_else(|_| {
        Err(Failure::new(code::INTERNAL, "a defect of genai-build; please report it with what is said above"))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let stopped = signals::stopped().filter(|_| failure.code == code::INTERRUPTED);
            let failure = stopped.unwrap_or(failure);
            console::fail(&failure);
            ExitCode::from(failure.code)
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    log::start(cli.log.as_deref())?;
    match &cli.command {
        None => commands::build::run(&cli.build),
        Some(Command::Build(args)) => commands::build::run(args),
        Some(Command::Plan(args)) => commands::plan::run(args),
        Some(Command::Inspect(args)) => commands::inspect::run(args),
        Some(Command::Run(args)) => commands::run::run(args),
        Some(Command::Chat(args)) => commands::chat::run(args),
        Some(Command::Validate(args)) => commands::validate::run(args),
        Some(Command::Measure(args)) => commands::child::measure(args),
        Some(Command::Record(args)) => commands::child::record(args),
        Some(Command::Verify(args)) => commands::verify::run(args),
        Some(Command::Diff(args)) => commands::diff::run(args),
        Some(Command::Families) => commands::tables::families(),
        Some(Command::Targets) => commands::tables::targets(),
        Some(Command::Options) => commands::tables::options(),
        Some(Command::Runtime(command)) => commands::runtime::run(command),
    }
}

/// A command line that clap refuses, or one that asks for help.
fn mistyped(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    if std::env::args_os().any(|argument| argument == "--json") {
        console::set_mode(Mode { command: "genai-build", json: true, progress: ProgressArg::None });
        let message = error.to_string();
        console::answer(&Failure::usage(message.trim_end()));
    }
    ExitCode::from(code::USAGE)
}
