//! Attention in standard operators: what is done to the scores, and what the masks hide.

use genai_onnx::TensorProto;
use genai_onnx::tensor_proto::DataType;
use genai_validate::Verdict;
use genai_validate::report::Severity;

use super::{Damage, Made, STANDARD, constant, fp32, judged, node, of_graph};
use crate::parts::Parts;
use crate::support::{build, fixture, for_each, recorded};

/// Two windows and a softcap of 1.5.
const GEMMA: Made = Made { provider: "onnx", ..fp32("gemma2-default") };
/// The same without open sizes.
const FIXED: Made = Made { precision: "fp16", provider: "qnn", options: &["static_context_length=32"], ..GEMMA };

/// A node reads a number of its own.
fn read(p: &mut Parts, reader: &str, slot: usize, name: &str, dtype: DataType, bytes: &[u8]) {
    p.graph().initializer.push(TensorProto {
        data_type: Some(dtype.into()),
        raw_data: Some(bytes.to_vec()),
        ..constant(name, 0)
    });
    p.node(reader).input[slot] = name.to_owned();
}

fn float(p: &mut Parts, reader: &str, value: f32) {
    read(p, reader, 1, &format!("{reader}/damaged"), DataType::Float, &value.to_le_bytes());
}

fn reads(p: &mut Parts, reader: &str, slot: usize, name: &str) {
    name.clone_into(&mut p.node(reader).input[slot]);
}

fn leave_out(p: &mut Parts, node: &str) {
    let node = p.node(node);
    "Identity".clone_into(node.op_type.as_mut().unwrap());
    node.input.truncate(1);
}

pub(super) const ALL: &[Damage] = &[
    of_graph(
        "spelled scale of the scores 2 % up",
        GEMMA,
        |p| float(p, "/model/layers.1/attn/q_heads/Mul", 0.204_124_15 * 1.02),
        "attention-scale",
        "/model/layers.1/attn",
        &["layer 1", "the scale of the scores is 0.2082", "expected 0.2041"],
    ),
    of_graph(
        "spelled scale of the scores left out",
        STANDARD,
        |p| leave_out(p, "/model/layers.2/attn/q_heads/Mul"),
        "attention-scale",
        "/model/layers.2/attn",
        &["layer 2", "the scale of the scores is 1, expected 0.25"],
    ),
    of_graph(
        "keys scaled too",
        STANDARD,
        |p| {
            p.graph().node.push(node("Mul", &["/model/layers.0/attn/k_cache/Transpose/output_0", "half"], "halved"));
            float(p, "/damage/halved", 0.5);
            reads(p, "/model/layers.0/attn/scores/MatMul", 1, "halved");
        },
        "attention-scale",
        "/model/layers.0/attn",
        &["layer 0", "the scale of the scores is 0.125, expected 0.25"],
    ),
    of_graph(
        "spelled softcap left out",
        GEMMA,
        |p| reads(p, "/model/layers.2/attn/visible/Add", 0, "/model/layers.2/attn/scores/Reshape/output_0"),
        "attention-softcap",
        "/model/layers.2/attn",
        &["layer 2", "no softcap, expected 1.5"],
    ),
    of_graph(
        "another softcap, spelled",
        GEMMA,
        |p| ["Div", "Mul"].iter().for_each(|part| float(p, &format!("/model/layers.0/attn/softcap/{part}"), 20.0)),
        "attention-softcap",
        "/model/layers.0/attn",
        &["layer 0", "the softcap of the scores is 20, expected 1.5"],
    ),
    of_graph(
        "another divisor before the softcap's tanh",
        GEMMA,
        |p| float(p, "/model/layers.0/attn/softcap/Div", 3.0),
        "attention-scale",
        "/model/layers.0/attn",
        &["layer 0", "the scale of the scores is 0.102", "expected 0.204"],
    ),
    of_graph(
        "a spelled softcap where there is none",
        STANDARD,
        |p| {
            p.graph().node.push(node("Tanh", &["/model/layers.1/attn/scores/Reshape/output_0"], "bent"));
            reads(p, "/model/layers.1/attn/visible/Add", 0, "bent");
        },
        "attention-softcap",
        "/model/layers.1/attn",
        &["layer 1", "a softcap of 1, the checkpoint has none"],
    ),
    of_graph(
        "spelled window one longer",
        GEMMA,
        |p| {
            let near = "/model/attention_bias/window_16/near/Greater";
            read(p, near, 0, "longer", DataType::Int64, &17_i64.to_le_bytes());
        },
        "attention-window",
        "/model/layers.2/attn",
        &["layer 2", "17 positions, expected 16 positions"],
    ),
    of_graph(
        "spelled window one shorter, without open sizes",
        FIXED,
        |p| {
            let near = "/model/attention_bias/window_16/near/Greater";
            read(p, near, 0, "shorter", DataType::Int32, &15_i32.to_le_bytes());
        },
        "attention-window",
        "/model/layers.0/attn",
        &["layer 0", "15 positions, expected 16 positions"],
    ),
    of_graph(
        "spelled window left out",
        GEMMA,
        |p| reads(p, "/model/layers.2/attn/visible/Add", 1, "/model/attention_bias/Where/output_0"),
        "attention-window",
        "/model/layers.2/attn",
        &["layer 2", "all positions, expected 16 positions"],
    ),
    of_graph(
        "spelled window on a layer without",
        GEMMA,
        |p| reads(p, "/model/layers.1/attn/visible/Add", 1, "/model/attention_bias/window_16/Where/output_0"),
        "attention-window",
        "/model/layers.1/attn",
        &["layer 1", "16 positions, expected all positions"],
    ),
    of_graph(
        "padding is seen",
        STANDARD,
        |p| leave_out(p, "/model/attention_bias/past/And"),
        "attention-mask",
        "/model/layers.0/attn",
        &["layer 0", "token 1 sees token 0, padding"],
    ),
    of_graph(
        "what follows is seen",
        STANDARD,
        |p| {
            let past = "/model/attention_bias/past/Greater";
            read(p, past, 1, "later", DataType::Int64, &(-2_i64).to_le_bytes());
        },
        "attention-mask",
        "/model/layers.0/attn",
        &["layer 0", "token 1 sees token 2, a token that follows it"],
    ),
];

/// No fixture is told to be wrong, and of none is left out what can be read: all but the masks of blocks.
#[test]
fn right_attention_in_standard_operators_is_compared() {
    let targets = [("fp32", "onnx"), ("fp16", "qnn")];
    let all: Vec<_> = recorded().into_iter().flat_map(|name| targets.map(|target| (name.clone(), target))).collect();
    for_each(
        &all,
        |(name, (precision, provider))| format!("{name} {precision} {provider}"),
        |(name, (precision, provider))| {
            let options: &[&str] = if *provider == "qnn" { FIXED.options } else { &[] };
            let package = build(&fixture(name), precision, provider, options)?;
            let [_, anatomy] = judged(package.path(), name)?;
            let blocks = name.starts_with("phi3small");
            let wrong = anatomy.findings.iter().find(|finding| {
                finding.severity > Severity::Info || finding.message.ends_with("and not compared") && !blocks
            });
            match wrong {
                None if anatomy.verdict() == Some(Verdict::Pass) => Ok(()),
                wrong => Err(format!("{wrong:?}").into()),
            }
        },
    );
}
