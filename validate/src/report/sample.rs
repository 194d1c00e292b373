//! Reports as they would come of real packages, for tests of the pages and for eyes:
//! `REPORT_PAGES=FOLDER cargo test -p genai-validate pages_of_samples` writes all pages of all samples there.

use super::*;
use crate::metrics::{Cell, DeltaP, Disagreement, Divergence, LogitMetrics, NextToken, Predictions, Share};
use crate::{Precision, PromptParity};

const LAYERS: usize = 28;
const TEXT: &str = "The lighthouse keeper counted the boats as they came home, and one was missing. \
    He climbed the narrow stairs again, lit the second lamp and waited for the tide to turn.\n\
    \"Where have you been?\" she asked. \"I waited for you until the lamps went out.\"";

/// Numbers in `0.0..1.0` that look random and are always the same.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f64 / (1u64 << 24) as f64
    }
}

/// A good int4 package, a package whose attention is wrong from layer 7 on, one that could not be loaded, and one with
/// more of everything than a page can show, of hostile names.
pub(super) fn all() -> [(&'static str, Report); 4] {
    [("passed", passed()), ("broken", broken()), ("unloadable", unloadable()), ("hostile", hostile())]
}

pub(super) fn passed() -> Report {
    let warning = Finding::new(
        Severity::Warning,
        "special-ids",
        "genai_config.json: model.pad_token_id",
        "the padding token 151643 is also one that ends a text",
    )
    .with_hint("pad with a token that no text holds");
    let note = Finding::new(Severity::Info, "kv-bytes", "present.*", "28.00 KiB a token, 896.00 MiB at 32768 tokens");
    let stages = vec![
        StageReport::judged(Stage::Structure, 23, vec![warning, note]),
        StageReport::judged(Stage::Anatomy, 340, vec![]),
        StageReport::judged(Stage::Load, 3, vec![]),
        StageReport::judged(Stage::Consistency, 8, vec![]),
        StageReport::judged(Stage::Alignment, 4, vec![]),
        StageReport::judged(Stage::Logits, 4, vec![]),
        StageReport::judged(Stage::Layers, 57, vec![]),
        StageReport::judged(Stage::Generation, 3, vec![]),
        StageReport::judged(Stage::Bench, 1, vec![]),
    ];
    let measured = Measured { bench: Some(bench()), ..measured(Precision::Int4, 2e-3, None) };
    Report::new(identity("tiny-1.5b-int4", Some("cpu")), stages, measured)
}

pub(super) fn broken() -> Report {
    let layers = Finding::new(
        Severity::Error,
        "present-key",
        "layer 7, present.7.key",
        "the keys are off by 0.31 of their size (relative RMS), expected at most 1.0e-5; layers 0 to 6 are within 2.1e-6",
    )
    .with_hint("values of the same layer are right, so what is after the projection: rotary embedding or key norm");
    let logits =
        Finding::new(Severity::Error, "kl", "text prose", "mean KL is 1.840e0 (pass to 1e-7, fail above 1e-5)");
    let generation = Finding::new(
        Severity::Error,
        "greedy",
        "text prose",
        "greedy search parts at token 4 with a margin of 2.310e0",
    );
    let doubt = Finding::new(Severity::Doubt, "chunked", "chunks of 7", "max abs 3.1e-4, expected at most 1.0e-4");
    let stages = vec![
        StageReport::judged(Stage::Structure, 23, vec![]),
        StageReport::not_run(Stage::Anatomy, "no checkpoint was given"),
        StageReport::judged(Stage::Load, 3, vec![]),
        StageReport::judged(Stage::Consistency, 8, vec![doubt]),
        StageReport::judged(Stage::Alignment, 4, vec![]),
        StageReport::judged(Stage::Logits, 4, vec![logits]),
        StageReport::judged(Stage::Layers, 57, vec![layers]),
        StageReport::judged(Stage::Generation, 3, vec![generation]),
    ];
    Report::new(identity("tiny-1.5b-fp32", Some("cpu")), stages, measured(Precision::Fp32, 1e-8, Some(7)))
}

pub(super) fn unloadable() -> Report {
    let finding = Finding::new(
        Severity::Error,
        "external-data",
        "model.onnx.data",
        "has 1048576 bytes, but tensor model.layers.3.mlp.down_proj.weight needs bytes 1044480 to 1060864",
    )
    .with_hint("the file was cut off: copy it again");
    let stages = vec![
        StageReport::judged(Stage::Structure, 23, vec![finding]),
        StageReport::not_run(Stage::Load, "the structure is wrong"),
        StageReport::not_run(Stage::Logits, "the package is not loaded"),
    ];
    Report::new(identity("cut-off", None), stages, Measured::default())
}

pub(super) fn hostile() -> Report {
    const EVIL: &str = "</script><b onclick='x'>\"&]]>\u{1b}[31m\u{202e}|`*_\u{0}";
    let finding = |index: usize| {
        let severity = Severity::ALL[index % 4];
        Finding::new(severity, "evil", format!("{EVIL}/{index}"), format!("line one {EVIL}\nline two")).with_hint(EVIL)
    };
    let mut noise = Noise(3);
    let mut measured = measured(Precision::Fp32, 1e-3, None);
    measured.modules = (0..3000)
        .map(|index| Module {
            name: format!("{EVIL}.{}.{}", index / 10, index % 10),
            stored: EVIL.to_owned(),
            bytes: 1000 + (noise.next() * 1e6) as u64,
            relative_error: (index % 3 == 0).then(|| noise.next()),
        })
        .collect();
    measured.texts = vec![TextTrace {
        name: EVIL.to_owned(),
        tokens: (0..9000).map(|index| format!("{EVIL}{index}")).collect(),
        kl: (0..9000).map(|index| if index == 17 { f64::NAN } else { noise.next().powi(9) }).collect(),
        disagreements: (0..9000).step_by(7).chain([usize::MAX]).collect(),
        prompt_tokens: 9000,
        expected: vec![EVIL.to_owned(); 50],
        found: vec![],
        greedy: Some(GreedyMatch { equal: 0, of: 50, first_divergence: Some(0), margin_there: None }),
    }];
    measured.layers.push(LayerError {
        layer: None,
        tap: EVIL.to_owned(),
        max_abs: f64::INFINITY,
        relative_rms: f64::NAN,
        cosine: f64::NAN,
        beyond: true,
    });
    measured.roads.push(Road { name: EVIL.to_owned(), max_abs: f64::NAN, kl_mean: 0.0, within: false });
    measured.placement.push(Placed { provider: EVIL.to_owned(), op_type: EVIL.to_owned(), nodes: 1 });
    let stages = vec![
        StageReport::judged(Stage::Structure, 23, (0..400).map(finding).collect()),
        StageReport::not_run(Stage::Load, EVIL),
    ];
    Report::new(identity(EVIL, Some(EVIL)), stages, measured)
}

fn identity(name: &str, provider: Option<&str>) -> Identity {
    let hash = |of: &str| of.bytes().cycle().take(32).map(|byte| format!("{byte:02x}")).collect::<String>();
    Identity {
        name: name.to_owned(),
        model_type: "decoder".to_owned(),
        producer: "genai-build 0.1.0".to_owned(),
        opsets: [(String::new(), 21), ("com.microsoft".to_owned(), 1)].into(),
        files: ["genai_config.json", "model.onnx", "model.onnx.data"].map(|file| (file.to_owned(), hash(file))).into(),
        runtime: provider.map(|_| "1.31.1".to_owned()),
        provider: provider.map(str::to_owned),
        threads: Some(4),
    }
}

/// `error` is the mean KL; `bad` the layer from which on all is wrong.
fn measured(precision: Precision, error: f64, bad: Option<usize>) -> Measured {
    let error = bad.map_or(error, |_| 1.84);
    let texts: Vec<TextTrace> = ["prose", "dialogue", "code"]
        .into_iter()
        .enumerate()
        .map(|(index, name)| trace(name, error, bad.is_some(), index as u64))
        .collect();
    let prompts = texts.iter().map(|text| prompt(text, error)).collect();
    Measured {
        parity: Some(ParityReport::new(precision, 1_500_000_000, "the f32 interpreter", prompts).unwrap()),
        predictions: Some(predictions(error)),
        texts,
        layers: layers(bad, if precision == Precision::Fp32 { 3e-7 } else { 2e-2 }),
        roads: roads(precision == Precision::Fp32),
        bench: None,
        placement: placement(),
        modules: modules(precision),
    }
}

fn trace(name: &str, error: f64, broken: bool, seed: u64) -> TextTrace {
    let mut noise = Noise(seed + 11);
    let tokens: Vec<String> = TEXT.split_inclusive([' ', '\n', '"', ',', '.']).map(str::to_owned).collect();
    let kl: Vec<f64> = tokens.iter().map(|_| error * -(1.0 - noise.next()).ln() * noise.next() * 2.0).collect();
    let disagreements = (0..tokens.len()).filter(|_| noise.next() < if broken { 0.6 } else { 0.05 }).collect();
    let expected: Vec<String> =
        " The second boat came home in the morning, with its sails torn and nobody at the helm."
            .split_inclusive(' ')
            .map(str::to_owned)
            .collect();
    let mut found = expected.clone();
    let parts = broken.then_some(4 + seed as usize);
    if let Some(step) = parts {
        found.truncate(step);
        found.extend(["the ", "the ", "of ", "the ", "\n", "of ", "of ", "the ", "the "].map(str::to_owned));
    }
    let equal = parts.unwrap_or(expected.len());
    let greedy = GreedyMatch { equal, of: expected.len(), first_divergence: parts, margin_there: parts.map(|_| 2.31) };
    let prompt_tokens = tokens.len();
    TextTrace { name: name.to_owned(), tokens, kl, disagreements, prompt_tokens, expected, found, greedy: Some(greedy) }
}

fn prompt(text: &TextTrace, error: f64) -> PromptParity {
    let positions = text.kl.len();
    let (worst, kl_max) = text.kl.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let disagreements = text.disagreements.iter().map(|&position| Disagreement {
        position,
        reference_token: 11,
        test_token: 12,
        margin: error.sqrt(),
    });
    let logits = LogitMetrics {
        positions,
        finite_positions: positions,
        vocab_size: 151_936,
        reference_std: 2.4,
        max_abs: error.sqrt() * 3.0,
        max_abs_at: Some(Cell { position: worst, token: 220 }),
        mean_abs: error.sqrt(),
        kl_mean: text.kl.iter().sum::<f64>() / positions as f64,
        kl_max,
        kl_max_position: Some(worst),
        top1_equal: positions - text.disagreements.len(),
        disagreements: disagreements.collect(),
        first_non_finite: None,
    };
    PromptParity { name: text.name.clone(), logits, greedy: text.greedy.clone() }
}

fn predictions(error: f64) -> Predictions {
    let wide = error.sqrt();
    Predictions {
        kl: Divergence {
            positions: 165,
            mean: error,
            standard_error: Some(error / 9.0),
            percentiles: [0.5, 2.1, 3.2, 5.4, 6.0].map(|part| part * error),
            max: 6.1 * error,
        },
        same_choice: [(9, 14), (37, 38), (108, 113)].map(|(equal, of)| Share { equal, of }),
        next_token: Some(NextToken {
            tokens: 162,
            perplexity: 14.2 * error.exp(),
            reference_perplexity: 14.2,
            ln_ratio: error,
            ln_ratio_error: Some(error / 3.0),
            delta_p: DeltaP {
                mean: -error / 4.0,
                rms: wide / 4.0,
                percentiles: [-0.7, -0.4, 0.3, 0.6].map(|part| part * wide),
            },
        }),
    }
}

fn layers(bad: Option<usize>, floor: f64) -> Vec<LayerError> {
    let mut noise = Noise(5);
    let mut taps = Vec::new();
    for layer in 0..LAYERS {
        for (kind, part) in [("key", 1.0), ("value", 0.8), ("residual", 0.6)] {
            let is_wrong = bad.is_some_and(|bad| layer > bad || (layer == bad && kind == "key"));
            let grown = floor * (1.0 + layer as f64 * 0.12) * part * (0.7 + 0.6 * noise.next());
            let relative_rms = if is_wrong { (0.3 + 0.02 * layer as f64) * part } else { grown };
            let tap = if kind == "residual" { kind.to_owned() } else { format!("present.{layer}.{kind}") };
            let cosine = 1.0 - relative_rms * relative_rms / 2.0;
            let max_abs = relative_rms * 11.0;
            taps.push(LayerError { layer: Some(layer), tap, max_abs, relative_rms, cosine, beyond: is_wrong });
        }
    }
    let relative_rms = if bad.is_some() { 1.1 } else { floor * 4.0 };
    let (tap, cosine) = ("final norm".to_owned(), 1.0 - relative_rms * relative_rms / 2.0);
    taps.push(LayerError { layer: None, tap, max_abs: 1.0, relative_rms, cosine, beyond: bad.is_some() });
    taps
}

fn roads(exact: bool) -> Vec<Road> {
    let names = ["token by token", "chunks of 1", "chunks of 7", "chunks of 64", "batch of 3", "rewound", "run twice"];
    let road = |(index, name): (usize, &str)| Road {
        name: name.to_owned(),
        max_abs: if name == "run twice" {
            0.0
        } else {
            1e-6 * (index + 1) as f64 + if index == 2 { 3.1e-4 } else { 0.0 }
        },
        kl_mean: 1e-11 * index as f64,
        within: index != 2 || !exact,
    };
    names.into_iter().enumerate().map(road).collect()
}

fn bench() -> Bench {
    let near = |value: f64| [0.97 * value, 1.02 * value];
    let rate = |(tokens, tokens_per_second)| Rate { tokens, tokens_per_second, spread: near(tokens_per_second) };
    Bench {
        load_seconds: 1.84,
        prefill: [(128, 412.0), (512, 388.4), (2048, 301.7)].map(rate).into(),
        first_token_seconds: 0.311,
        first_token_spread: near(0.311),
        decode_tokens_per_second: 31.4,
        decode_spread: near(31.4),
        between_tokens_ms: [31.6, 33.0, 41.8],
        sampling_us: 214.0,
        peak_memory: Some(1_734_000_000),
        cache_bytes_per_token: 28 << 10,
        runs: 10,
    }
}

fn placement() -> Vec<Placed> {
    let ops =
        [("MatMulNBits", 197), ("GroupQueryAttention", 28), ("SkipSimplifiedLayerNormalization", 56), ("Gather", 2)];
    let placed = |(op_type, nodes): (&str, usize)| Placed {
        provider: "CPUExecutionProvider".to_owned(),
        op_type: op_type.to_owned(),
        nodes,
    };
    ops.map(placed).into()
}

fn modules(precision: Precision) -> Vec<Module> {
    let mut noise = Noise(9);
    let parts = [
        ("self_attn.q_proj", 2_359_296),
        ("self_attn.k_proj", 393_216),
        ("self_attn.v_proj", 393_216),
        ("self_attn.o_proj", 2_359_296),
        ("mlp.gate_proj", 13_762_560),
        ("mlp.up_proj", 13_762_560),
        ("mlp.down_proj", 13_762_560),
    ];
    let exact = precision == Precision::Fp32;
    let mut module = |name: String, elements: u64, is_quantized: bool| {
        let (stored, bytes, error) = match (exact, is_quantized) {
            (true, _) => ("fp32", elements * 4, 0.0),
            (false, true) => ("int4 k_quant, blocks of 32", elements * 9 / 16, 0.06 + 0.03 * noise.next()),
            (false, false) => ("int8, blocks of 32", elements * 9 / 8, 0.004 + 0.001 * noise.next()),
        };
        Module { name, stored: stored.to_owned(), bytes, relative_error: Some(error) }
    };
    let mut modules = vec![module("model.embed_tokens".to_owned(), 233_373_696, false)];
    for layer in 0..LAYERS {
        modules.extend(parts.map(|(part, elements)| module(format!("model.layers.{layer}.{part}"), elements, true)));
    }
    modules
}
