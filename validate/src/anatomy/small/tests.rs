use genai_onnx::tensor_proto::DataType;
use genai_onnx::{AttributeProto, GraphProto, TensorProto};

use super::*;
use crate::graph::sample::{int, ints, node, tensor, value, write};

fn whole_numbers(name: &str, shape: &[i64], values: &[i64]) -> TensorProto {
    tensor(name, DataType::Int64, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn opened(graph: GraphProto) -> Graph {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), graph);
    Graph::open(folder.path(), "model.onnx").unwrap()
}

const LAST: Run = Run { past: 3, tokens: 1, padding: 0 };

/// What one operator makes of `x`, `[0, 1, 2, 3, 4, 5]` in two rows, and further inputs.
fn made(op_type: &str, others: &[(&[i64], &[i64])], attributes: Vec<AttributeProto>) -> Option<(Vec<usize>, Vec<f64>)> {
    let slots = ["a", "b", "c", "d"];
    let mut initializer = vec![whole_numbers("x", &[2, 3], &[0, 1, 2, 3, 4, 5])];
    initializer.extend(others.iter().zip(slots).map(|((shape, values), name)| whole_numbers(name, shape, values)));
    let inputs: Vec<&str> = ["x"].into_iter().chain(slots.into_iter().take(others.len())).collect();
    let graph = opened(GraphProto {
        node: vec![node(op_type, &inputs, &["y"], attributes)],
        initializer,
        ..GraphProto::default()
    });
    let value = Small::new(&graph, &Names::usual(), LAST)?.value("y")?;
    Some((value.shape.clone(), value.values.clone()))
}

#[test]
fn operators_give_what_the_standard_says() {
    let is = |shape: &[usize], values: &[f64]| Some((shape.to_vec(), values.to_vec()));
    let axis = |axis| vec![int("axis", axis)];
    assert_eq!(made("Add", &[(&[3], &[10, 20, 30])], vec![]), is(&[2, 3], &[10., 21., 32., 13., 24., 35.]));
    assert_eq!(made("Div", &[(&[], &[2])], vec![]), is(&[2, 3], &[0., 0., 1., 1., 2., 2.]), "whole numbers");
    assert_eq!(made("Greater", &[(&[], &[3])], vec![]), is(&[2, 3], &[0., 0., 0., 0., 1., 1.]));
    assert_eq!(made("Transpose", &[], vec![ints("perm", &[1, 0])]), is(&[3, 2], &[0., 3., 1., 4., 2., 5.]));
    assert_eq!(made("Reshape", &[(&[3], &[0, -1, 1])], vec![]), is(&[2, 3, 1], &[0., 1., 2., 3., 4., 5.]));
    assert_eq!(made("Unsqueeze", &[(&[1], &[-1])], vec![]).unwrap().0, [2, 3, 1]);
    assert_eq!(made("Gather", &[(&[2], &[-1, 0])], axis(1)), is(&[2, 2], &[2., 0., 5., 3.]));
    assert_eq!(made("GatherND", &[(&[1, 2], &[1, -1])], vec![]), is(&[1], &[5.]));
    assert_eq!(made("GatherND", &[(&[1, 1], &[1])], vec![]), is(&[1, 3], &[3., 4., 5.]));
    let last = [i64::MAX];
    assert_eq!(made("Slice", &[(&[1], &[-2]), (&[1], &last), (&[1], &[1])], vec![]), is(&[2, 2], &[1., 2., 4., 5.]));
    let back: [(&[i64], &[i64]); 4] = [(&[1], &[-1]), (&[1], &[i64::MIN]), (&[1], &[1]), (&[1], &[-2])];
    assert_eq!(made("Slice", &back, vec![]), is(&[2, 2], &[2., 0., 5., 3.]));
    assert_eq!(made("Trilu", &[(&[], &[1])], vec![]), is(&[2, 3], &[0., 1., 2., 0., 0., 5.]));
    assert_eq!(made("CumSum", &[(&[], &[1])], vec![]), is(&[2, 3], &[0., 1., 3., 3., 7., 12.]));
    assert_eq!(made("ReduceSum", &[(&[1], &[0])], vec![int("keepdims", 0)]), is(&[3], &[3., 5., 7.]));
    assert_eq!(made("ReduceMax", &[], vec![]), is(&[1, 1], &[5.]));
    assert_eq!(made("Concat", &[(&[2, 1], &[8, 9])], axis(1)), is(&[2, 4], &[0., 1., 2., 8., 3., 4., 5., 9.]));
    assert_eq!(made("Shape", &[], vec![int("start", -1)]), is(&[1], &[3.]));
}

#[test]
fn a_graph_cannot_ask_for_all_memory() {
    let names_of = |index: usize| format!("y{index}");
    let nodes = (0..6).map(|index| node("ConstantOfShape", &["x"], &[&names_of(index)], vec![]));
    let side = 1 << 11;
    let graph = opened(GraphProto {
        node: nodes.collect(),
        initializer: vec![whole_numbers("x", &[2], &[side, side])],
        ..GraphProto::default()
    });
    let mut small = Small::new(&graph, &Names::usual(), LAST).unwrap();
    let known = (0..6).filter(|index| small.value(&graph.nodes[*index].outputs[0]).is_some()).count();
    assert_eq!(known, ROOM / tensor::MOST, "of {} elements each", side * side);

    let axes: Vec<i64> = (0..40).collect();
    assert_eq!(made("Unsqueeze", &[(&[40], &axes)], vec![]), None);
    assert_eq!(made("ReduceSum", &[(&[40], &[0; 40])], vec![]), None);
    assert_eq!(made("Reshape", &[(&[20], &[[1; 18].as_slice(), &[2, 3]].concat())], vec![]), None);
}

#[test]
fn what_cannot_be_computed_is_nothing() {
    assert_eq!(made("Div", &[(&[], &[0])], vec![]), None);
    assert_eq!(made("Add", &[(&[2], &[1, 2])], vec![]), None);
    assert_eq!(made("Gather", &[(&[1], &[2])], vec![]), None);
    assert_eq!(made("Slice", &[(&[1], &[0]), (&[1], &[1]), (&[1], &[0]), (&[1], &[0])], vec![]), None);
    assert_eq!(made("Expand", &[(&[3], &[1 << 40, 2, 3])], vec![]), None);
    assert_eq!(made("Reshape", &[(&[2], &[4, -1])], vec![]), None);
    assert_eq!(made("Transpose", &[], vec![ints("perm", &[0, 2])]), None);
    assert_eq!(made("Softmax", &[], vec![]), None);
}

#[test]
fn circles_and_weights_end_the_search() {
    let graph = opened(GraphProto {
        node: vec![
            node("Add", &["round", "attention_mask"], &["about"], vec![]),
            node("Neg", &["about"], &["round"], vec![]),
            node("MatMul", &["attention_mask", "attention_mask"], &["product"], vec![]),
            node("Neg", &["product"], &["hidden"], vec![]),
        ],
        input: vec![value("attention_mask", DataType::Int64, &["batch", "total"])],
        ..GraphProto::default()
    });
    let mut small = Small::new(&graph, &Names::usual(), LAST).unwrap();
    assert_eq!(small.value("round"), None);
    assert_eq!(small.value("hidden"), None);
    assert_eq!(small.value("attention_mask").unwrap().values, [1.0; 4]);
}

#[test]
fn sizes_are_those_of_the_run() {
    let inputs = |total: &str| {
        opened(GraphProto {
            node: vec![node("Shape", &["past.0.key"], &["y"], vec![])],
            input: vec![
                value("input_ids", DataType::Int64, &["batch", "tokens"]),
                value("attention_mask", DataType::Int64, &["batch", total]),
                value("position_ids", DataType::Int64, &["batch", "tokens"]),
                value("past.0.key", DataType::Float, &["batch", "2", "past", "16"]),
            ],
            ..GraphProto::default()
        })
    };
    let graph = inputs("total");
    let mut small = Small::new(&graph, &Names::usual(), LAST).unwrap();
    assert_eq!(small.value("y").unwrap().values, [1.0, 2.0, 3.0, 16.0]);
    assert_eq!(small.value("position_ids").unwrap().values, [3.0]);
    let padded = Small::new(&graph, &Names::usual(), Run { past: 0, tokens: 3, padding: 1 });
    assert_eq!(padded.unwrap().value("position_ids").unwrap().values, [0.0, 0.0, 1.0]);
    assert!(Small::new(&inputs("tokens"), &Names::usual(), LAST).is_none(), "one name for two sizes");
    assert!(Small::new(&inputs("16"), &Names::usual(), LAST).is_none(), "a mask of another length");
}
