use std::fs;

use genai_onnx::tensor_proto::DataType;
use genai_onnx::{AttributeProto, GraphProto, attribute_proto::AttributeType};

use super::*;
use crate::graph::sample;

const K: usize = 32;
const N: usize = 3;

/// A product of fp32, an attention with a softcap, a norm, all in one folder.
struct Package {
    names: [&'static str; 2],
    weights: Vec<f32>,
    softcap: f32,
    setting: &'static str,
}

impl Default for Package {
    fn default() -> Self {
        let weights = (0..N * K).map(|index| ((index * 37 % 101) as f32 - 50.0) / 25.0).collect();
        Self { names: ["proj.weight", "norm.weight"], weights, softcap: 30.0, setting: r#"{"search": {"top_k": 50}}"# }
    }
}

impl Package {
    /// As `[k, n]`, or in blocks of 32 codes of 4 bits with a scale each.
    fn written(&self, quantized: bool) -> tempfile::TempDir {
        let [weight, norm] = self.names;
        let mut graph = GraphProto {
            input: vec![sample::value("x", DataType::Float, &["batch", "32"])],
            output: vec![sample::value("y", DataType::Float, &["batch", "3"])],
            ..GraphProto::default()
        };
        graph.initializer.push(sample::floats(norm, &[K as i64], &[1.5; K]));
        graph.node.push(sample::node("Mul", &["x", norm], &["scaled"], vec![]));
        if quantized {
            let (codes, scales): (Vec<Vec<u8>>, Vec<f32>) = self.weights.chunks(K).map(quantize).unzip();
            let bytes = codes.iter().flat_map(|codes| sample::packed(codes, 4)).collect();
            let (codes, scales_name) = (format!("{weight}_Q4"), format!("{weight}_scales"));
            graph.initializer.push(sample::tensor(&codes, DataType::Uint8, &[N as i64, 1, 16], bytes));
            graph.initializer.push(sample::floats(&scales_name, &[N as i64, 1], &scales));
            let sizes = [("K", K as i64), ("N", N as i64), ("bits", 4), ("block_size", 32)];
            let sizes = sizes.map(|(name, value)| sample::int(name, value)).into();
            let mut node = sample::node("MatMulNBits", &["scaled", &codes, &scales_name], &["product"], sizes);
            node.name = Some("proj/MatMul_Q4".to_owned());
            graph.node.push(node);
        } else {
            let columns: Vec<f32> = (0..N * K).map(|index| self.weights[index % N * K + index / N]).collect();
            graph.initializer.push(sample::floats(weight, &[K as i64, N as i64], &columns));
            let mut node = sample::node("MatMul", &["scaled", weight], &["product"], vec![]);
            node.name = Some("proj/MatMul".to_owned());
            graph.node.push(node);
        }
        let softcap = AttributeProto {
            name: Some("softcap".to_owned()),
            r#type: Some(AttributeType::Float.into()),
            f: Some(self.softcap),
            ..AttributeProto::default()
        };
        let softcap = if self.softcap == 0.0 { vec![] } else { vec![softcap] };
        graph.node.push(sample::node("GroupQueryAttention", &["product"], &["y"], softcap));
        let folder = tempfile::tempdir().unwrap();
        sample::write(folder.path(), graph);
        fs::write(folder.path().join("genai_config.json"), self.setting).unwrap();
        folder
    }
}

/// Symmetric, around code 8.
fn quantize(row: &[f32]) -> (Vec<u8>, f32) {
    let scale = row.iter().fold(0_f32, |most, value| most.max(value.abs())) / 7.0;
    (row.iter().map(|value| ((value / scale).round() + 8.0) as u8).collect(), scale)
}

fn compared(a: &tempfile::TempDir, b: &tempfile::TempDir) -> Difference {
    compare(a.path(), b.path(), Options::default()).unwrap()
}

fn weights(difference: &Difference) -> &Weights {
    difference.models[0].weights.as_ref().unwrap()
}

#[test]
fn a_package_is_identical_with_itself() {
    let package = Package::default();
    let (a, b) = (package.written(false), package.written(false));
    for difference in [compared(&a, &a), compared(&a, &b)] {
        assert_eq!((difference.sameness, difference.reasons.len()), (Sameness::Identical, 0));
        assert_eq!(difference.files.same, ["genai_config.json", "model.onnx"]);
        assert_eq!(difference.to_string(), "the packages are identical\n");
    }
}

#[test]
fn renamed_weights_are_told_as_renamed() {
    let a = Package::default().written(false);
    let b = Package { names: ["w", "g"], ..Package::default() }.written(false);
    let difference = compared(&a, &b);
    assert_eq!(difference.sameness, Sameness::OtherSpelling, "{difference}");
    let renamed = weights(&difference).renamed.iter().map(|pair| (pair.a.as_str(), pair.b.as_str()));
    assert_eq!(renamed.collect::<Vec<_>>(), [("norm.weight", "g"), ("proj.weight", "w")]);
    assert!(weights(&difference).different.is_empty() && difference.models[0].structure.inputs.is_empty());
    assert!(difference.to_string().contains("proj.weight is w"), "{difference}");
}

#[test]
fn one_changed_number_is_found_and_named() {
    let a = Package::default();
    let mut b = Package::default();
    b.weights[K + 1] += 0.25;
    let difference = compared(&a.written(false), &b.written(false));
    assert_eq!(difference.sameness, Sameness::Different);
    let [weight] = weights(&difference).different.as_slice() else { panic!("{difference}") };
    let squares: f32 = a.weights.iter().map(|value| value * value).sum();
    let error = weight.error.unwrap();
    assert_eq!((weight.name.as_str(), weight.a.shape.as_slice(), weight.beyond), ("proj.weight", &[N, K][..], true));
    assert!(
        (error.max_abs - 0.25).abs() < 1e-6 && (error.relative_rms - f64::from(0.25 / squares.sqrt())).abs() < 1e-6
    );
    assert_eq!(weights(&difference).same, 1);
    assert!(difference.reasons[0].message.starts_with("weight proj.weight is "), "{difference}");
}

#[test]
fn the_error_of_quantization_is_that_of_rounding() {
    let package = Package::default();
    let difference = compared(&package.written(false), &package.written(true));
    assert_eq!(difference.sameness, Sameness::OtherQuantization, "{difference}");
    let [weight] = weights(&difference).different.as_slice() else { panic!("{difference}") };
    let rounded = package.weights.chunks(K).flat_map(|row| {
        let (codes, scale) = quantize(row);
        codes.into_iter().map(move |code| (f32::from(code) - 8.0) * scale)
    });
    let pairs = package.weights.iter().zip(rounded).map(|(&a, b)| (f64::from(a), f64::from(b)));
    let sums = pairs.fold((0.0, 0.0), |(error, all), (a, b)| (error + (a - b).powi(2), all + a * a));
    let error = weight.error.unwrap();
    assert!((error.relative_rms - (sums.0 / sums.1).sqrt()).abs() < 1e-6, "{error:?}");
    assert!((0.02..0.12).contains(&error.relative_rms), "{error:?}");
    assert!(weight.b.stored.starts_with("int4") && weight.b.bytes == (N * 16 + N * 4) as u64, "{weight:?}");
    assert_eq!(weights(&difference).only, Pair { a: None, b: None });
    let replaced = &difference.models[0].structure.replaced;
    assert_eq!((replaced[0].a.as_str(), replaced[0].b.as_str(), replaced[0].nodes), ("MatMul", "MatMulNBits", 1));

    // The same codes of other numbers are another model.
    let mut other = Package::default();
    other.weights[..K].iter_mut().for_each(|value| *value *= 2.0);
    assert_eq!(compared(&package.written(false), &other.written(true)).sameness, Sameness::Different);
}

#[test]
fn another_softcap_is_named() {
    let a = Package::default().written(false);
    let without = Package { softcap: 0.0, ..Package::default() }.written(false);
    let difference = compared(&a, &without);
    assert_eq!(difference.sameness, Sameness::Different);
    let [changed] = difference.models[0].structure.attributes.as_slice() else { panic!("{difference}") };
    // Left out, it is what the operator takes it for.
    let sides = Pair { a: Some("30".to_owned()), b: Some("0".to_owned()) };
    assert_eq!((changed.what.as_str(), &changed.sides), ("softcap", &sides));
    assert!(difference.reasons[0].message.contains("softcap is 30 and 0"), "{difference}");
    assert_eq!(weights(&difference).same, 2);
}

#[test]
fn swapped_inputs_are_another_model() {
    let graph = |first: &str, second: &str| {
        let numbers = |scale: f32| (0..128).map(|index| index as f32 * scale).collect::<Vec<_>>();
        let mut nodes = vec![
            sample::node("MatMul", &["x", first], &["q"], vec![]),
            sample::node("MatMul", &["x", second], &["k"], vec![]),
        ];
        nodes.push(sample::node("GroupQueryAttention", &["q", "k"], &["y"], vec![]));
        let folder = tempfile::tempdir().unwrap();
        sample::write(
            folder.path(),
            GraphProto {
                input: vec![sample::value("x", DataType::Float, &["batch", "16"])],
                output: vec![sample::value("y", DataType::Float, &["batch", "8"])],
                initializer: vec![
                    sample::floats("q.weight", &[16, 8], &numbers(0.5)),
                    sample::floats("k.weight", &[16, 8], &numbers(0.25)),
                ],
                node: nodes,
                ..GraphProto::default()
            },
        );
        folder
    };
    let difference = compared(&graph("q.weight", "k.weight"), &graph("k.weight", "q.weight"));
    assert_eq!(difference.sameness, Sameness::Different);
    assert_eq!(weights(&difference).same, 2);
    let inputs = &difference.models[0].structure.inputs;
    assert_eq!((inputs.len(), inputs[0].what.as_str()), (2, "input 1"), "{difference}");
}

/// The peer stores a tied table of codes once and shows it to the look-up in another shape.
#[test]
fn one_matrix_in_two_shapes_is_one_matrix() {
    let numbers: Vec<f32> = (0..96).map(|index| (index * 29 % 47) as f32).collect();
    let table = |name: &str, transposed: bool| {
        let folder = tempfile::tempdir().unwrap();
        let columns: Vec<f32> = (0..96).map(|index| numbers[index % 4 * 24 + index / 4]).collect();
        let weight = if transposed {
            sample::floats(name, &[24, 4], &columns)
        } else {
            sample::floats(name, &[4, 24], &numbers)
        };
        let mut nodes = vec![sample::node("MatMul", &["x", if transposed { name } else { "turned" }], &["y"], vec![])];
        if !transposed {
            nodes.insert(0, sample::node("Transpose", &[name], &["turned"], vec![sample::ints("perm", &[1, 0])]));
        }
        let shape: &[&str] = if transposed { &["batch", "24"] } else { &["n", "width"] };
        let graph = GraphProto {
            input: vec![sample::value("x", DataType::Float, shape)],
            output: vec![sample::value("y", DataType::Float, &["batch", "4"])],
            initializer: vec![weight],
            node: nodes,
            ..GraphProto::default()
        };
        sample::write(folder.path(), graph);
        folder
    };
    let difference = compared(&table("lm_head.weight", true), &table("embed.weight", false));
    assert_eq!(difference.sameness, Sameness::OtherSpelling, "{difference}");
    let structure = &difference.models[0].structure;
    assert!(structure.inputs.is_empty() && structure.interface[0].at_best == Sameness::OtherSpelling, "{difference}");
    let [weight] = weights(&difference).different.as_slice() else { panic!("{difference}") };
    assert_eq!((weight.error.unwrap().max_abs, weight.beyond), (0.0, false));
    assert_eq!(weights(&difference).only, Pair { a: None, b: None });
}

#[test]
fn a_node_more_is_another_model_unless_it_hands_on() {
    let graph = |between: Option<&str>| {
        let folder = tempfile::tempdir().unwrap();
        let mut nodes = vec![sample::node("MatMul", &["x", "weight"], &["product"], vec![])];
        nodes.extend(between.map(|op_type| sample::node(op_type, &["product"], &["between"], vec![])));
        let last = if between.is_some() { "between" } else { "product" };
        nodes.push(sample::node("Softmax", &[last], &["y"], vec![]));
        let graph = GraphProto {
            input: vec![sample::value("x", DataType::Float, &["batch", "16"])],
            output: vec![sample::value("y", DataType::Float, &["batch", "8"])],
            initializer: vec![sample::floats("weight", &[16, 8], &[0.5; 128])],
            node: nodes,
            ..GraphProto::default()
        };
        sample::write(folder.path(), graph);
        folder
    };
    let plain = graph(None);
    for (op_type, sameness) in [
        ("Identity", Sameness::OtherSpelling),
        ("Cast", Sameness::OtherQuantization),
        ("Transpose", Sameness::Different),
        ("Tanh", Sameness::Different),
    ] {
        let difference = compared(&plain, &graph(Some(op_type)));
        assert_eq!(difference.sameness, sameness, "{op_type}: {difference}");
    }
}

#[test]
fn settings_are_told_by_path() {
    let a = Package::default().written(false);
    let setting = r#"{"search": {"top_k": 40}, "model": {"eos_token_id": [1, 2]}}"#;
    let b = Package { setting, ..Package::default() }.written(false);
    let difference = compared(&a, &b);
    assert_eq!(difference.sameness, Sameness::Different);
    let paths: Vec<_> = difference.settings.iter().map(|setting| setting.path.as_str()).collect();
    assert_eq!(paths, ["model", "search.top_k"]);
    assert!(difference.to_string().contains("genai_config.json search.top_k: 50 and 40"), "{difference}");
    let other = r#"{"search": { "top_k": 50.0 }}"#;
    let spelled = Package { setting: other, ..Package::default() }.written(false);
    assert_eq!(compared(&a, &spelled).sameness, Sameness::OtherSpelling);
}

#[test]
fn without_weights_no_tensor_is_read() {
    let a = Package::default();
    let mut b = Package { softcap: 20.0, ..Package::default() };
    b.weights[0] += 1.0;
    let (a, b) = (a.written(false), b.written(false));
    let difference = compare(a.path(), b.path(), Options { weights: false }).unwrap();
    assert_eq!(difference.models[0].weights, None);
    assert_eq!(difference.models[0].structure.attributes.len(), 1);
    assert!(difference.to_string().contains("not read"));
}

#[test]
fn roles_have_no_numbers() {
    assert_eq!(nodes::role("/model/layers.11/mlp/MatMul_2"), "/model/layers.*/mlp/MatMul_2");
    assert_eq!(nodes::role("model.layers.0.w"), "model.layers.*.w");
    assert_eq!([nodes::unmarked("a_Q4"), nodes::unmarked("a_Quant"), nodes::unmarked("a_Q")], ["a", "a_Quant", "a_Q"]);
}
