//! What is run, in which order, and the tables.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::child::{Taken, run};
use crate::shape::{HALF_BILLION, ONE_BILLION, SEVENTY_BILLION, Shape};

/// A build waits until the bytes of its data file are on the disk, and so does the floor for its copy.
const BUILD_SYNCS_DATA: bool = true;

const TARGETS: [(&str, &str); 2] = [("int4", "cpu"), ("fp16", "cuda")];

/// Of the model that does not fit: real widths, so much of its depth, and so much address space for the process.
const DEEP_LAYERS: u64 = 3;
const DEEP_ADDRESS_SPACE: u64 = 1 << 30;

struct Options {
    folder: PathBuf,
    shapes: Vec<Shape>,
    runs: usize,
    peer: Option<PathBuf>,
}

pub(crate) fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("nothing measured: `cargo bench --bench whole_build -- --folder DIR` names a folder for 8 GB");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    match measure(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// `None` where no folder is named, as when all benches are run.
fn options(mut arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let (mut folder, mut shapes, mut runs, mut peer) = (None, Vec::new(), 5, None);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            // From cargo.
            "--bench" => {}
            "--folder" => folder = Some(PathBuf::from(value()?)),
            "--runs" => runs = value()?.parse().ok().filter(|runs| *runs > 0).ok_or("--runs needs a number")?,
            "--peer" => peer = Some(PathBuf::from(value()?)),
            "--size" => {
                let size = value()?;
                let all = [HALF_BILLION, ONE_BILLION, SEVENTY_BILLION];
                let found = all.into_iter().find(|shape| shape.name.eq_ignore_ascii_case(&size));
                shapes.push(found.ok_or_else(|| format!("--size is {size:?}, expected 0.5b, 1b or 70b"))?);
            }
            other => return Err(format!("unknown argument {other:?}, expected --folder, --size, --runs or --peer")),
        }
    }
    if shapes.is_empty() {
        shapes = vec![HALF_BILLION, ONE_BILLION, SEVENTY_BILLION];
    }
    Ok(folder.map(|folder| Options { folder, shapes, runs, peer }))
}

fn measure(options: &Options) -> io::Result<()> {
    let threads = std::thread::available_parallelism()?;
    let synced = if BUILD_SYNCS_DATA { "fsync" } else { "no fsync" };
    println!("{threads} cores, {} runs each; floor: cat of the input + cp of the data file + {synced}\n", options.runs);
    println!("| build | wall, s | floor, s | wall / floor | CPU, s | peak, MiB |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for shape in options.shapes.iter().filter(|shape| shape.name != SEVENTY_BILLION.name) {
        let checkpoint = options.folder.join(format!("checkpoint-{}", shape.name));
        if !checkpoint.join("done").exists() {
            shape.write_random(&checkpoint)?;
            File::create(checkpoint.join("done"))?;
        }
        for (precision, provider) in TARGETS {
            builds(options, shape, &checkpoint, precision, provider)?;
        }
        plan(options, shape, &checkpoint)?;
    }
    if options.shapes.iter().any(|shape| shape.name == SEVENTY_BILLION.name) {
        too_large(options)?;
    }
    Ok(())
}

/// Floor and build in turns, and the peer.
fn builds(options: &Options, shape: &Shape, checkpoint: &Path, precision: &str, provider: &str) -> io::Result<()> {
    let output = options.folder.join("package");
    let copy = options.folder.join("copy");
    let (mut floors, mut builds) = (Vec::new(), Vec::new());
    // The first round warms the page cache and is not counted.
    for round in 0..=options.runs {
        remove(&output)?;
        let built = run(&mut genai_build("build", checkpoint, precision, provider, &output))?;
        let started = Instant::now();
        run(Command::new("cat").arg(checkpoint.join("model.safetensors")).stdout(Stdio::null()))?;
        run(Command::new("cp").arg(output.join("model.onnx.data")).arg(&copy))?;
        if BUILD_SYNCS_DATA {
            File::open(&copy)?.sync_all()?;
        }
        let floor = started.elapsed();
        remove(&copy)?;
        if round > 0 {
            floors.push(floor);
            builds.push(built);
        }
    }
    row(&format!("{} {precision} {provider}", shape.name), &builds, Some(&floors));
    if let Some(python) = &options.peer {
        remove(&output)?;
        let mut peer = Command::new(python);
        peer.args(["-m", "onnxruntime_genai.models.builder", "-i"]).arg(checkpoint).arg("-o").arg(&output);
        peer.args(["-p", precision, "-e", provider, "-c"]).arg(options.folder.join("peer-cache"));
        // It tells of every node that it quantizes.
        peer.stdout(Stdio::null()).stderr(File::create(options.folder.join("peer.log"))?);
        let taken = run(&mut peer)?;
        row(&format!("{} {precision} {provider}, the peer", shape.name), &[taken], None);
    }
    remove(&output)
}

fn plan(options: &Options, shape: &Shape, checkpoint: &Path) -> io::Result<()> {
    let nowhere = options.folder.join("nothing");
    let command = || run(&mut genai_build("plan", checkpoint, "int4", "cpu", &nowhere));
    let taken = (0..options.runs).map(|_| command()).collect::<io::Result<Vec<_>>>()?;
    row(&format!("{} plan", shape.name), &taken, None);
    Ok(())
}

/// Plans a model of 141 GB, and builds some layers of it in real width, where the process may not even map it.
fn too_large(options: &Options) -> io::Result<()> {
    let whole = options.folder.join("checkpoint-70B");
    SEVENTY_BILLION.write_sparse(&whole)?;
    plan(options, &SEVENTY_BILLION, &whole)?;
    let part = options.folder.join("checkpoint-70B-part");
    let shape = Shape { layers: DEEP_LAYERS, ..SEVENTY_BILLION };
    shape.write_sparse(&part)?;
    let output = options.folder.join("package");
    for (precision, provider) in TARGETS {
        remove(&output)?;
        let mut limited = Command::new("sh");
        limited.args(["-c", &format!("ulimit -v {} && exec \"$0\" \"$@\"", DEEP_ADDRESS_SPACE >> 10)]);
        let build = genai_build("build", &part, precision, provider, &output);
        limited.arg(build.get_program()).args(build.get_args()).stdout(Stdio::null());
        let taken = run(&mut limited)?;
        let within = DEEP_ADDRESS_SPACE >> 20;
        let weights = shape.weights() as f64 / 1e9;
        row(
            &format!("70B {precision} {provider}, {DEEP_LAYERS} layers ({weights:.1}B) in {within} MiB"),
            &[taken],
            None,
        );
    }
    remove(&output)
}

fn genai_build(command: &str, checkpoint: &Path, precision: &str, provider: &str, output: &Path) -> Command {
    let mut build = Command::new(env!("CARGO_BIN_EXE_genai-build"));
    build.arg(command).arg("-i").arg(checkpoint).args(["-p", precision, "-e", provider, "-o"]).arg(output);
    build.stdout(Stdio::null());
    build
}

/// One line of the table; times as median (least to greatest).
fn row(name: &str, taken: &[Taken], floors: Option<&[Duration]>) {
    let walls: Vec<f64> = taken.iter().map(|taken| taken.wall.as_secs_f64()).collect();
    let floors: Option<Vec<f64>> = floors.map(|floors| floors.iter().map(Duration::as_secs_f64).collect());
    let ratios = floors.as_ref().map(|floors| walls.iter().zip(floors).map(|(wall, floor)| wall / floor).collect());
    let cpu = taken.iter().map(|taken| taken.cpu.as_secs_f64()).collect();
    let peak = taken.iter().map(|taken| taken.peak).max().unwrap_or(0);
    let optional = |numbers: Option<Vec<f64>>| numbers.map_or_else(String::new, spread);
    println!(
        "| {name} | {} | {} | {} | {} | {:.0} |",
        spread(walls),
        optional(floors),
        optional(ratios),
        spread(cpu),
        peak as f64 / f64::from(1 << 20)
    );
}

fn spread(mut numbers: Vec<f64>) -> String {
    numbers.sort_by(f64::total_cmp);
    let (Some(least), Some(greatest)) = (numbers.first(), numbers.last()) else { return String::new() };
    let (upper, lower) = (numbers[numbers.len() / 2], numbers[(numbers.len() - 1) / 2]);
    let median = (upper + lower) / 2.0;
    let digits = if median < 0.1 { 3 } else { 2 };
    if numbers.len() == 1 {
        return format!("{median:.digits$}");
    }
    format!("{median:.digits$} ({least:.digits$}–{greatest:.digits$})")
}

/// Removes a file or a folder; it need not be there.
fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
