//! What the tool says of the fixtures, kept in `fixtures/golden/` so that a change of it is read in a diff:
//!
//! - `{fixture}.spec.txt`: what each fixture's model is; layers that are alike are written once;
//! - `{fixture}.{precision}-{provider}.graph.txt`: the graph of one fixture of each architecture, cut down to two layers,
//!   for the targets that differ; whole where layers have inputs of their own, which are made for all of them at once.
//!
//! `UPDATE_EXPECT=1 cargo test golden` writes them anew.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use genai_architectures::DecoderSpec;
use genai_builder::{
    Plan, Precision, Settings, Target,
    graph::{Attribute, Value},
    lower,
};

use crate::support::{contents, fixture, recorded, spec};

const FOLDER: &str = "golden";

const BUILDS: [(Precision, &str); 10] = [
    (Precision::Fp32, "cpu"),
    (Precision::Int4, "cpu"),
    (Precision::Fp16, "cuda"),
    (Precision::Int4, "cuda"),
    (Precision::Fp32, "cuda"),
    (Precision::Int4, "dml"),
    (Precision::Bf16, "NvTensorRtRtx"),
    (Precision::Int4, "NvTensorRtRtx"),
    (Precision::Int4, "onnx"),
    (Precision::Int4, "qnn"),
];

#[test]
fn specs_and_graphs_are_as_recorded() {
    let (mut expected, mut architectures) = (BTreeMap::new(), BTreeMap::new());
    for name in recorded() {
        let spec = spec(&fixture(&name)).unwrap();
        expected.insert(format!("{name}.spec.txt"), describe_spec(&spec));
        // The plain one where there is one, else the first.
        let of_architecture = architectures.entry(spec.architecture).or_insert_with(|| (name.clone(), spec.clone()));
        if name.ends_with("-default") {
            *of_architecture = (name, spec);
        }
    }
    for (_, spec) in architectures.values_mut().filter(|(_, spec)| spec.layer_inputs.is_none()) {
        spec.layers.truncate(2);
    }
    for ((name, spec), (precision, provider)) in architectures.values().flat_map(|one| BUILDS.map(|build| (one, build)))
    {
        let target = Target::find(provider).unwrap();
        let mut settings = Settings::of(target, precision).unwrap();
        if settings.is_fixed() {
            // Short enough for every rope.
            settings.fixed_context = Some(32);
        }
        let plan = lower(spec, &settings, "model.onnx.data").unwrap();
        expected.insert(format!("{name}.{}-{provider}.graph.txt", precision.name()), describe_plan(&plan));
    }
    if std::env::var_os("UPDATE_EXPECT").is_some_and(|value| value == "1") {
        record(&expected);
    }
    let recorded = contents(&fixture(FOLDER));
    let names = |files: Vec<&String>| files.into_iter().cloned().collect::<Vec<_>>().join("\n");
    let hint = "UPDATE_EXPECT=1 cargo test golden writes fixtures/golden anew; read the diff";
    assert_eq!(names(recorded.keys().collect()), names(expected.keys().collect()), "{hint}");
    for (name, text) in expected {
        let before = String::from_utf8(recorded[&name].clone()).unwrap();
        let at = before.lines().zip(text.lines()).position(|(before, now)| before != now);
        let at = at.unwrap_or(before.lines().count().min(text.lines().count()));
        let line = |text: &str| text.lines().nth(at).unwrap_or("(the end)").to_owned();
        assert!(before == text, "{name}, line {}\nwas {}\nis  {}\n{hint}", at + 1, line(&before), line(&text));
    }
}

fn record(expected: &BTreeMap<String, String>) {
    let folder = fixture(FOLDER);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    for (name, text) in expected {
        fs::write(folder.join(name), text).unwrap();
    }
}

/// A spec as text, its layers last and those that differ in nothing but their number together.
fn describe_spec(spec: &DecoderSpec) -> String {
    let layers = spec.layers.iter().enumerate();
    let layers = layers.map(|(index, layer)| format!("{layer:#?}").replace(&format!("layers.{index}."), "layers.N."));
    let layers: Vec<String> = layers.collect();
    let mut text = format!("{:#?}\n", DecoderSpec { layers: Vec::new(), ..spec.clone() });
    let mut first = 0;
    for run in layers.chunk_by(|a, b| a == b) {
        writeln!(text, "layers {first} to {}: {}", first + run.len() - 1, run[0]).unwrap();
        first += run.len();
    }
    text
}

/// A plan as text: the public values, what is stored where, and the nodes.
fn describe_plan(plan: &Plan) -> String {
    let graph = &plan.graph;
    let shown = |value: &Value| format!("{} {}", graph.name(*value), graph.fact(*value));
    let mut text = String::new();
    for (kind, values) in [("input", &graph.inputs), ("output", &graph.outputs)] {
        for value in values {
            writeln!(text, "{kind} {}", shown(value)).unwrap();
        }
    }
    writeln!(text, "\n{} bytes in {}", plan.data_bytes, plan.data_file).unwrap();
    for initializer in &graph.initializers {
        let slot = plan.slots[initializer.slot];
        writeln!(text, "{:>8} +{:<7} {}", slot.offset, slot.length, shown(&initializer.value)).unwrap();
    }
    for node in &graph.nodes {
        let inputs = node.inputs.iter().map(|value| value.map_or("-", |value| graph.name(value)));
        let inputs: Vec<&str> = inputs.collect();
        let attributes = node.attributes.iter().map(|(name, value)| format!(" {name}={}", attribute_text(value)));
        let attributes: String = attributes.collect();
        let domain = if node.domain.is_empty() { String::new() } else { format!("{}.", node.domain) };
        writeln!(text, "\n{} = {domain}{}{attributes}\n  ({})", node.name, node.op_type, inputs.join(", ")).unwrap();
        for output in &node.outputs {
            writeln!(text, "  -> {}", output.as_ref().map_or("-".to_owned(), shown)).unwrap();
        }
    }
    text
}

fn attribute_text(attribute: &Attribute) -> String {
    match attribute {
        Attribute::Int(value) => value.to_string(),
        Attribute::Float(value) => format!("{value:?}"),
        Attribute::Ints(values) => format!("{values:?}"),
        Attribute::Text(text) => format!("{text:?}"),
        Attribute::Tensor(constant) => format!("{constant:?}"),
    }
}
