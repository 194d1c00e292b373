use std::fs;
use std::path::Path;

use genai_onnx::GraphProto;
use genai_onnx::tensor_proto::DataType;
use prost::Message;

use super::sample::{external, floats, model, node, value, write};
use super::*;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// `y = x · w` with a table of 40 × 16 numbers, more than what is kept in memory.
fn product() -> GraphProto {
    let numbers: Vec<f32> = (0..640_u16).map(f32::from).collect();
    GraphProto {
        node: vec![node("MatMul", &["x", "w"], &["y"], Vec::new())],
        initializer: vec![floats("w", &[40, 16], &numbers)],
        input: vec![value("x", DataType::Float, &["batch", "40"])],
        output: vec![value("y", DataType::Float, &["batch", "16"])],
        ..GraphProto::default()
    }
}

/// What opening a file of these bytes says.
fn refused(bytes: &[u8]) -> String {
    let folder = folder();
    fs::write(folder.path().join("model.onnx"), bytes).unwrap();
    Graph::open(folder.path(), "model.onnx").unwrap_err().to_string()
}

#[test]
fn large_tensors_stay_in_the_file() {
    let folder = folder();
    write(folder.path(), product());
    let graph = Graph::open(folder.path(), "model.onnx").unwrap();
    let w = graph.initializer("w").unwrap();
    assert!(matches!(&w.stored, Stored::In { file, .. } if file == "model.onnx"), "{w:?}");
    let mut numbers = Vec::new();
    graph.numbers(w, 37, 5, &mut numbers).unwrap();
    assert_eq!(numbers, [37.0, 38.0, 39.0, 40.0, 41.0]);
    graph.numbers(w, 638, 5, &mut numbers).unwrap();
    assert_eq!(numbers, [638.0, 639.0]);
    assert_eq!(graph.bytes_read(), 28);
    assert_eq!(graph.producer("y").unwrap().op_type, "MatMul");
    assert_eq!(graph.consumers("w").count(), 1);
    assert_eq!(graph.inputs[0].shape, Some(vec![Dimension::Named("batch".into()), Dimension::Fixed(40)]));
    assert_eq!(graph.problems, []);
    assert_eq!(graph.model().unwrap(), model(product()));
}

#[test]
fn bytes_that_are_no_model_are_refused() {
    let whole = model(product()).encode_to_vec();
    assert!(refused(b"").contains("holds no graph"));
    assert!(refused(&whole[..whole.len() / 2]).contains("declares"));
    assert!(refused(b"version https://git-lfs.github.com/spec/v1\n").contains("field"), "a pointer to a file");
    let trailing = [whole.as_slice(), &[0xfa, 0x3f, 0]].concat();
    assert!(refused(&trailing).contains("no part of an ONNX model"), "{}", refused(&trailing));
    let twice = [whole.as_slice(), whole.as_slice()].concat();
    assert!(refused(&twice).contains("second graph"));
}

#[test]
fn deep_graphs_are_refused_before_they_are_decoded() {
    let mut graph = GraphProto::default();
    for _ in 0..100 {
        let mut branch = super::sample::int("then_branch", 0);
        branch.g = Some(graph);
        graph = GraphProto { node: vec![node("If", &["c"], &["y"], vec![branch])], ..GraphProto::default() };
    }
    assert!(refused(&model(graph).encode_to_vec()).contains("nested more than"));
}

#[test]
fn every_single_damaged_byte_is_survived() {
    let bytes = model(product()).encode_to_vec();
    let folder = folder();
    let header = bytes.windows(4).position(|window| window == [0, 0, 0, 0]).unwrap();
    for at in (0..header).chain(bytes.len() - 60..bytes.len()) {
        for bit in [0, 3, 7] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            fs::write(folder.path().join("model.onnx"), damaged).unwrap();
            if let Ok(graph) = Graph::open(folder.path(), "model.onnx") {
                for weight in graph.weights().matrices {
                    drop(weight.for_each_rows(&graph, 100, |_, _| Ok(())));
                }
            }
        }
    }
}

fn with_tensors(tensors: Vec<genai_onnx::TensorProto>) -> GraphProto {
    GraphProto { initializer: tensors, ..GraphProto::default() }
}

fn problems(folder: &Path) -> Vec<String> {
    let graph = Graph::open(folder, "model.onnx").unwrap();
    graph.problems.iter().map(|problem| format!("{:?} {}: {}", problem.found, problem.at, problem.message)).collect()
}

#[test]
fn tensors_lie_in_files_of_the_package_alone() {
    let places = [
        ("/etc/passwd", "absolute"),
        ("../other.data", "`..`"),
        ("sub\\..\\..\\x", "`..`"),
        ("C:\\x", "drive"),
        ("\\\\server\\x", "absolute"),
        ("", "empty"),
        ("*/_ORT_MEM_ADDR_/*", "running session"),
        ("absent.data", "there is no absent.data"),
        ("sub", "is a folder"),
        ("link.data", "leads out of the folder"),
        ("hard.data", "hard link"),
    ];
    let folder = folder();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), [0; 16]).unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(outside.path().join("secret"), folder.path().join("link.data")).unwrap();
    fs::hard_link(outside.path().join("secret"), folder.path().join("hard.data")).unwrap();
    for (place, says) in places {
        if cfg!(not(unix)) && ["link.data", "hard.data"].contains(&place) {
            continue;
        }
        write(folder.path(), with_tensors(vec![external("w", &[4], &[("location", place), ("offset", "0")])]));
        let found = problems(folder.path());
        assert!(
            found.len() == 1 && found[0].contains(says) && found[0].starts_with("ExternalData"),
            "{place}: {found:?}"
        );
    }
}

#[cfg(unix)]
#[test]
fn links_of_the_hub_cache_are_followed() {
    let cache = folder();
    let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshots/abc"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(blobs.join("1234"), 2.5_f32.to_le_bytes()).unwrap();
    std::os::unix::fs::symlink("../../blobs/1234", snapshot.join("model.data")).unwrap();
    write(&snapshot, with_tensors(vec![external("w", &[1], &[("location", "model.data")])]));
    let graph = Graph::open(&snapshot, "model.onnx").unwrap();
    assert_eq!(graph.values_of("w").unwrap(), [2.5]);
    assert!(graph.is_linked("model.data"));
}

#[test]
fn tensors_keep_to_their_bytes() {
    let place =
        |offset: &'static str, length: &'static str| [("location", "w.data"), ("offset", offset), ("length", length)];
    let cases = [
        (vec![external("w", &[4], &place("0", "16"))], ""),
        (vec![external("w", &[4], &place("4", "16"))], "ends past its file"),
        (vec![external("w", &[4], &place("0", "12"))], "has 12 bytes, expected 16"),
        (vec![external("w", &[4], &place("-1", "16"))], "offset \"-1\""),
        (vec![external("w", &[4], &place("99999999999999999999", "16"))], "offset"),
        (vec![external("w", &[-4], &place("0", "16"))], "negative"),
        (vec![external("w", &[1 << 40, 1 << 40], &place("0", "16"))], "2^64"),
        (vec![external("a", &[2], &place("0", "8")), external("b", &[2], &place("4", "8"))], "overlaps `a`"),
        // One matrix under two names.
        (vec![external("a", &[2], &place("0", "8")), external("b", &[2], &place("0", "8"))], ""),
        (vec![floats("w", &[3], &[1.0, 2.0])], "has 8 bytes, expected 12"),
        (vec![floats("w", &[1], &[1.0]), floats("w", &[1], &[1.0])], "names two constant tensors"),
    ];
    let folder = folder();
    fs::write(folder.path().join("w.data"), [0; 16]).unwrap();
    for (tensors, says) in cases {
        write(folder.path(), with_tensors(tensors.clone()));
        let found = problems(folder.path());
        assert_eq!(found.len(), usize::from(!says.is_empty()), "{says}: {found:?}");
        assert!(found.iter().all(|problem| problem.contains(says)), "{says}: {found:?}");
    }
}

#[test]
fn names_that_nothing_gives_are_told() {
    let mut graph = product();
    graph.node[0].input[0] = "z".into();
    graph.output.push(value("logits", DataType::Float, &["1"]));
    let folder = folder();
    write(folder.path(), graph);
    let found = problems(folder.path());
    assert!(found[0].contains("z: is read by `MatMul_y`, and nothing gives it"), "{found:?}");
    assert!(found[1].contains("logits: is an output of the graph, and nothing computes it"), "{found:?}");
}
