mod args;
mod extra_options;
mod failure;
mod request;
use clap::Parser;
fn main() {
    let cli = args::Cli::parse();
    let run = || -> Result<(), failure::Failure> {
        let checkpoint = request::open(&cli.build.source)?;
        let resolved = request::resolve(&cli.build.target)?;
        let report = genai_builder::build(&checkpoint, &resolved.into_request(cli.build.output.clone().unwrap()), &|_| {})?;
        eprintln!("{:?} {}", report.files, report.plan.bits_per_weight());
        Ok(())
    };
    if let Err(e) = run() { eprintln!("{e}"); std::process::exit(e.code.into()); }
}
