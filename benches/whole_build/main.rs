//! Whole builds against the least that the machine could do: `cat` of all input bytes and `cp` of the data file, with
//! the same `fsync` as the build.
//!
//! ```text
//! cargo bench --bench whole_build -- --folder DIR [--size 0.5b|1b|70b]... [--runs N] [--peer PYTHON]
//! ```
//!
//! `DIR` takes the generated checkpoints, which later runs find there, and the packages: 8 GB for 1B. Floor and build
//! take turns, so that a machine that grows slower slows both; a ratio is that of neighbours. `--peer` names a Python
//! with onnxruntime-genai, whose model builder is run once per row. Timings are printed, never judged.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark is a command line")]

#[cfg(unix)]
mod child;
#[cfg(unix)]
mod measure;
#[cfg(unix)]
#[allow(dead_code, reason = "the largest tensor is what the tests ask for")]
mod shape;

#[cfg(unix)]
fn main() -> std::process::ExitCode {
    measure::main()
}

#[cfg(not(unix))]
fn main() {
    println!("this benchmark measures with calls of Unix");
}
