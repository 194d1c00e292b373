//! What a build takes, counted: bytes of the heap by the allocator, bytes read by the system.
//!
//! A binary of its own whose tests take turns, so that nothing else allocates or reads at the same time.

#[allow(dead_code, reason = "random weights are for the benchmark")]
#[path = "../benches/whole_build/shape.rs"]
mod shape;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use genai_builder::{
    Disk, Interrupt, Output, Precision, Request, RuntimeConfig, Settings, Target, materialize::Limits,
};
use genai_checkpoint::Checkpoint;
use genai_quantize::Simd;

use shape::{SEVENTY_BILLION, Shape};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn taken(bytes: usize) {
    let held = HELD.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(held, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator as it is; the counts touch no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

static TURN: Mutex<()> = Mutex::new(());

/// Graph, plan, header, config and sidecars: what there is besides weights.
const BESIDES: usize = 2 << 20;

/// One layer whose tables alone are many times the budget.
const WIDE: Shape =
    Shape { name: "wide", hidden: 2048, inner: 4096, layers: 1, heads: 16, vocab: 16_384, ..SEVENTY_BILLION };

#[test]
fn a_build_reads_each_weight_once_and_holds_no_more_than_it_may() {
    const BUDGET: usize = 4 << 20;
    let _turn = TURN.lock();
    let folder = tempfile::tempdir().unwrap();
    WIDE.write_sparse(folder.path()).unwrap();
    assert!(WIDE.largest() as usize > 4 * (BUDGET + BESIDES), "a tensor that is held would not be seen");
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let (int4, int8, fp16) = ((Precision::Int4, "cpu"), (Precision::Int8, "cuda"), (Precision::Fp16, "cuda"));
    // Together they read no more than one alone, also where one has q, k and v together and another has not.
    let apart = (Precision::Int4, "dml");
    for wanted in [vec![int4], vec![int8], vec![fp16], vec![int4, fp16], vec![apart, fp16, int8]] {
        for threads in [1, 3] {
            let case = format!("{wanted:?} {threads}");
            let output = tempfile::tempdir().unwrap();
            let (read_before, held_before) = (bytes_read(), HELD.load(Ordering::Relaxed));
            MOST.store(held_before, Ordering::Relaxed);
            build(&checkpoint, &wanted, BUDGET, threads, output.path());
            let most = MOST.load(Ordering::Relaxed) - held_before;
            assert!(most <= BUDGET + wanted.len() * BESIDES, "{case}: {most} bytes of the heap");
            if let (Some(before), Some(after)) = (read_before, bytes_read()) {
                // Beside the weights what was written is read once, to be hashed.
                let data = |number: usize| output.path().join(number.to_string()).join("model.onnx.data");
                let written: u64 = (0..wanted.len()).map(|number| data(number).metadata().unwrap().len()).sum();
                let (read, expected) = (after - before, checkpoint.total_bytes() + written);
                assert!(read >= expected, "{case}: {read} bytes read of {expected}");
                assert!(read - expected < 256 << 10, "{case}: {read} bytes read, expected {expected}");
            }
        }
    }
}

fn build(checkpoint: &Checkpoint, wanted: &[(Precision, &str)], budget: usize, threads: usize, output: &Path) {
    let requests: Vec<_> = wanted.iter().map(|(precision, provider)| request(*precision, provider)).collect();
    let disk = Disk::new(Interrupt::default());
    let place = |number: usize| Output::claim(&output.join(number.to_string()), disk.clone()).unwrap();
    let wanted = requests.iter().enumerate().map(|(number, request)| (request, place(number))).collect();
    let limits = Limits { max_memory: budget as u64, threads, simd: Simd::detect() };
    let (_, built) = genai_builder::build(checkpoint, wanted, &limits, &|_, _| ()).unwrap();
    let (_, committed) = genai_builder::commit(built.into_iter().map(|built| (built, None)).collect());
    committed.unwrap();
}

fn request(precision: Precision, provider: &str) -> Request {
    let settings = Settings::of(Target::find(provider).unwrap(), precision).unwrap();
    Request {
        settings,
        filename: "model.onnx".to_owned(),
        config_only: false,
        allow_unused: Vec::new(),
        hash_inputs: false,
        runtime_config: RuntimeConfig::default(),
    }
}

/// Bytes that this process has read so far, from files or their pages in memory. Only Linux tells.
fn bytes_read() -> Option<u64> {
    let io = std::fs::read_to_string("/proc/self/io").ok()?;
    io.lines().find_map(|line| line.strip_prefix("rchar: "))?.parse().ok()
}

/// A model of 141 GB is planned, and a layer of it built, by a process that could not map one such layer.
#[cfg(unix)]
#[test]
fn a_model_larger_than_the_address_space_is_built() {
    use std::process::Command;

    const ADDRESS_SPACE: u64 = 400 << 20;
    let _turn = TURN.lock();
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let layer = Shape { layers: 1, vocab: 4096, ..SEVENTY_BILLION };
    SEVENTY_BILLION.write_sparse(folders[0].path()).unwrap();
    layer.write_sparse(folders[1].path()).unwrap();
    assert!(layer.largest() > ADDRESS_SPACE, "a tensor that is mapped would not be seen");

    let output = tempfile::tempdir().unwrap();
    for (command, checkpoint) in [("plan", &folders[0]), ("build", &folders[1])] {
        let run = Command::new("sh")
            .args(["-c", &format!("ulimit -v {} && exec \"$0\" \"$@\"", ADDRESS_SPACE >> 10)])
            .args([env!("CARGO_BIN_EXE_genai-build"), command, "-p", "int4", "-e", "cpu", "--max-memory", "64M"])
            .args(["-j", "2", "-i"])
            .arg(checkpoint.path())
            .arg("-o")
            .arg(output.path())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{command}: {told}");
    }
    let data = output.path().join("model.onnx.data").metadata().unwrap().len();
    assert!(data > layer.weights() / 2, "{data} bytes");
}
