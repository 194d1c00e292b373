use genai_onnx::tensor_proto::DataType;
use genai_onnx::{GraphProto, NodeProto, TensorProto};

use crate::graph::sample::{floats, int, ints, node, packed, tensor, write};
use crate::graph::{Graph, Use, Weights};

fn open(nodes: Vec<NodeProto>, tensors: Vec<TensorProto>) -> (Graph, Weights) {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), GraphProto { node: nodes, initializer: tensors, ..GraphProto::default() });
    let graph = Graph::open(folder.path(), "model.onnx").unwrap();
    let weights = graph.weights();
    (graph, weights)
}

/// The only matrix: its rows, read in two pieces, and how it is stored.
fn only((graph, weights): &(Graph, Weights)) -> (Vec<Vec<f32>>, String) {
    assert_eq!(weights.problems, []);
    let [weight] = weights.matrices.as_slice() else { panic!("{weights:?}") };
    let mut rows = Vec::new();
    weight
        .for_each_rows(graph, weight.k * weight.n.div_ceil(2), |_, numbers| {
            rows.extend(numbers.chunks(weight.k).map(<[f32]>::to_vec));
            Ok(())
        })
        .unwrap();
    assert_eq!(rows.len(), weight.n);
    (rows, weight.stored.clone())
}

/// `[rows][columns]` where each number says where it stands.
fn table(rows: usize, columns: usize) -> Vec<Vec<f32>> {
    (0..rows).map(|row| (0..columns).map(|column| (row * 100 + column) as f32).collect()).collect()
}

fn transpose(table: &[Vec<f32>]) -> Vec<Vec<f32>> {
    (0..table[0].len()).map(|column| table.iter().map(|row| row[column]).collect()).collect()
}

#[test]
fn products_are_read_as_rows_of_outputs() {
    let numbers = table(3, 5);
    let w = || vec![floats("w", &[3, 5], &numbers.concat())];
    let product = open(vec![node("MatMul", &["x", "w"], &["y"], vec![])], w());
    assert_eq!(only(&product), (transpose(&numbers), "fp32".to_owned()));
    let gemm = open(vec![node("Gemm", &["x", "w"], &["y"], vec![int("transB", 1)])], w());
    assert_eq!(only(&gemm).0, numbers);
    let turned = vec![
        node("Transpose", &["w"], &["t"], vec![ints("perm", &[1, 0])]),
        node("Cast", &["t"], &["c"], vec![int("to", 1)]),
        node("MatMul", &["x", "c"], &["y"], vec![]),
    ];
    assert_eq!(only(&open(turned, w())).0, numbers);
    let gather = open(vec![node("Gather", &["w", "ids"], &["y"], vec![])], w());
    assert_eq!((only(&gather).0, gather.1.matrices[0].used), (numbers.clone(), Use::Embedding));
}

#[test]
fn products_of_experts_are_matrices_of_their_own() {
    let stack = open(
        vec![node("MatMul", &["x", "w"], &["y"], vec![])],
        vec![floats("w", &[2, 3, 5], &[table(3, 5), table(3, 5)].concat().concat())],
    );
    assert_eq!(stack.1.matrices.len(), 2);
    let mut rows = Vec::new();
    stack.1.matrices[1].rows(&stack.0, 0..5, &mut rows).unwrap();
    assert_eq!((rows, stack.1.matrices[1].used), (transpose(&table(3, 5)).concat(), Use::Expert(1)));
}

/// Codes of 3 rows and 40 columns in blocks of 16, the last one cut off; scales and zero points of each block.
fn blocks(bits: usize) -> (Vec<Vec<u8>>, Vec<f32>, Vec<u8>) {
    let most = (1_u16 << bits) - 1;
    let codes = (0..3).map(|row| (0..48).map(|column| (((row * 7 + column * 5) as u16) & most) as u8).collect());
    let scales = (1..=9_u8).map(|block| f32::from(block) / 8.0).collect();
    let zeros = (0..9_u16).map(|block| ((block * 3) & most) as u8).collect();
    (codes.collect(), scales, zeros)
}

fn expected(codes: &[Vec<u8>], scales: &[f32], zero: impl Fn(usize) -> f32) -> Vec<Vec<f32>> {
    let value = |row: usize, column: usize| {
        let block = row * 3 + column / 16;
        (f32::from(codes[row][column]) - zero(block)) * scales[block]
    };
    (0..3).map(|row| (0..40).map(|column| value(row, column)).collect()).collect()
}

#[test]
fn matmul_nbits_is_read_with_every_width_and_kind_of_zero_point() {
    for bits in [2, 4, 8] {
        let (codes, scales, zeros) = blocks(bits);
        let attributes = || vec![int("K", 40), int("N", 3), int("bits", bits as i64), int("block_size", 16)];
        let b = tensor("b", DataType::Uint8, &[3, 3, 2 * bits as i64], packed(&codes.concat(), bits));
        let s = floats("s", &[3, 3], &scales);
        let symmetric =
            open(vec![node("MatMulNBits", &["x", "b", "s"], &["y"], attributes())], vec![b.clone(), s.clone()]);
        let middle = f32::from(1_u16 << (bits - 1));
        assert_eq!(only(&symmetric), (expected(&codes, &scales, |_| middle), format!("int{bits}, blocks of 16")));
        // Each row of zero points begins with a byte of its own.
        let rows: Vec<u8> = zeros.chunks(3).flat_map(|row| packed(row, bits)).collect();
        let z = tensor("z", DataType::Uint8, &[3, rows.len() as i64 / 3], rows);
        let nodes = || vec![node("MatMulNBits", &["x", "b", "s", "z"], &["y"], attributes())];
        let packed_zeros = open(nodes(), vec![b.clone(), s.clone(), z]);
        let wanted = expected(&codes, &scales, |block| f32::from(zeros[block]));
        assert_eq!(only(&packed_zeros), (wanted.clone(), format!("int{bits}, blocks of 16, zero points")));
        let numbers: Vec<f32> = zeros.iter().map(|&zero| f32::from(zero)).collect();
        let float_zeros = open(nodes(), vec![b.clone(), s.clone(), floats("z", &[3, 3], &numbers)]);
        assert_eq!(only(&float_zeros).0, wanted);
    }
}

#[test]
fn group_indices_choose_the_scale() {
    let (codes, scales, _) = blocks(4);
    let groups: Vec<i32> = (0..40).map(|column| 2 - column / 16).collect();
    let read = open(
        vec![node(
            "MatMulNBits",
            &["x", "b", "s", "", "g"],
            &["y"],
            vec![int("K", 40), int("N", 3), int("bits", 4), int("block_size", 16)],
        )],
        vec![
            tensor("b", DataType::Uint8, &[3, 3, 8], packed(&codes.concat(), 4)),
            floats("s", &[3, 3], &scales),
            tensor("g", DataType::Int32, &[40], groups.iter().flat_map(|group| group.to_le_bytes()).collect()),
        ],
    );
    let (rows, stored) = only(&read);
    assert!(stored.ends_with("group indices"));
    assert_eq!(rows[1][39], (f32::from(codes[1][39]) - 8.0) * scales[3]);
    assert_eq!(rows[1][0], (f32::from(codes[1][0]) - 8.0) * scales[5]);
}

#[test]
fn dequantized_matrices_are_read_on_either_axis() {
    let (codes, scales, zeros) = blocks(4);
    // By rows: `[n, k]` in blocks along the columns, turned before the product.
    let turned = vec![
        node("DequantizeLinear", &["c", "s", "z"], &["d"], vec![int("axis", -1), int("block_size", 16)]),
        node("Transpose", &["d"], &["t"], vec![ints("perm", &[1, 0])]),
        node("MatMul", &["x", "t"], &["y"], vec![]),
    ];
    let short: Vec<u8> = codes.iter().flat_map(|row| &row[..40]).copied().collect();
    let read = open(
        turned,
        vec![
            tensor("c", DataType::Uint4, &[3, 40], packed(&short, 4)),
            floats("s", &[3, 3], &scales),
            tensor("z", DataType::Uint4, &[3, 3], packed(&zeros, 4)),
        ],
    );
    let wanted = expected(&codes, &scales, |block| f32::from(zeros[block]));
    assert_eq!(only(&read), (wanted.clone(), "uint4, blocks of 16, zero points".to_owned()));

    // The same, filled up to whole blocks and cut.
    let filled = vec![
        node("DequantizeLinear", &["c", "s", "z"], &["d"], vec![int("axis", 1), int("block_size", 16)]),
        node("Slice", &["d", "from", "to", "axes"], &["p"], vec![]),
        node("Transpose", &["p"], &["t"], vec![ints("perm", &[1, 0])]),
        node("MatMul", &["x", "t"], &["y"], vec![]),
    ];
    let number = |name: &str, value: i64| tensor(name, DataType::Int64, &[1], value.to_le_bytes().to_vec());
    let read = open(
        filled,
        vec![
            tensor("c", DataType::Uint4, &[3, 48], packed(&codes.concat(), 4)),
            floats("s", &[3, 3], &scales),
            tensor("z", DataType::Uint4, &[3, 3], packed(&zeros, 4)),
            number("from", 0),
            number("to", 40),
            number("axes", 1),
        ],
    );
    assert_eq!(only(&read).0, wanted);

    // By columns: `[k, n]` in blocks along the rows, packed along n, which is odd.
    let columns: Vec<u8> = (0..40).flat_map(|k| (0..3).map(move |n| (n, k))).map(|(n, k)| codes[n][k]).collect();
    let turn = |values: &[f32]| (0..9).map(|at| values[at % 3 * 3 + at / 3]).collect::<Vec<_>>();
    let zeros_turned: Vec<u8> = (0..9).map(|at| zeros[at % 3 * 3 + at / 3]).collect();
    let straight = vec![
        node("DequantizeLinear", &["c", "s", "z"], &["d"], vec![int("axis", 0), int("block_size", 16)]),
        node("MatMul", &["x", "d"], &["y"], vec![]),
    ];
    let read = open(
        straight,
        vec![
            tensor("c", DataType::Uint4, &[40, 3], packed(&columns, 4)),
            floats("s", &[3, 3], &turn(&scales)),
            tensor("z", DataType::Uint4, &[3, 3], packed(&zeros_turned, 4)),
        ],
    );
    assert_eq!(only(&read).0, wanted);
}

#[test]
fn signed_codes_with_a_scale_per_channel_or_one_scale() {
    let codes = [-128_i8, -1, 0, 1, 2, 127];
    let c = || tensor("c", DataType::Int8, &[2, 3], codes.iter().map(|code| code.cast_unsigned()).collect());
    let nodes = |attributes| {
        vec![node("DequantizeLinear", &["c", "s"], &["d"], attributes), node("MatMul", &["x", "d"], &["y"], vec![])]
    };
    let read = open(nodes(vec![int("axis", 1)]), vec![c(), floats("s", &[3], &[1.0, 2.0, 4.0])]);
    let wanted = vec![vec![-128.0, 1.0], vec![-2.0, 4.0], vec![0.0, 508.0]];
    assert_eq!(only(&read), (wanted, "int8, a scale per channel".to_owned()));
    let read = open(nodes(vec![]), vec![c(), floats("s", &[], &[0.5])]);
    assert_eq!(only(&read).0[0], [-64.0, 0.5]);
    let four = vec![0xf0_u8, 0x87, 0x1];
    let read = open(nodes(vec![]), vec![tensor("c", DataType::Int4, &[1, 5], four), floats("s", &[1], &[1.0])]);
    assert_eq!(only(&read).0.concat(), [0.0, -1.0, 7.0, -8.0, 1.0]);
}

#[test]
fn embeddings_of_codes_are_read_alone_and_shared() {
    let (codes, scales, zeros) = blocks(4);
    let even: Vec<u8> = codes.iter().flat_map(|row| packed(row, 4)).collect();
    let rows: Vec<u8> = zeros.chunks(3).flat_map(|row| packed(row, 4)).collect();
    let nodes = |data: &str| {
        node("GatherBlockQuantized", &[data, "ids", "s", "z"], &["y"], vec![int("bits", 4), int("block_size", 16)])
    };
    let rest = || [floats("s", &[3, 3], &scales), tensor("z", DataType::Uint8, &[3, 2], rows.clone())];
    let mut alone = vec![tensor("b", DataType::Uint8, &[3, 24], even.clone())];
    alone.extend(rest());
    let read = open(vec![nodes("b")], alone);
    let (found, stored) = only(&read);
    let wanted = expected(&codes, &scales, |block| f32::from(zeros[block]));
    let cut: Vec<_> = found.iter().map(|row| row[..40].to_vec()).collect();
    assert_eq!((cut, stored.as_str()), (wanted, "int4, blocks of 16, zero points"));
    let mut shared = vec![tensor("b", DataType::Uint8, &[3, 3, 8], even)];
    shared.extend(rest());
    let read = open(vec![node("Reshape", &["b", "shape"], &["r"], vec![]), nodes("r")], shared);
    assert_eq!(only(&read).0, found);
}

#[test]
fn codes_of_experts_are_read_one_by_one() {
    let (codes, scales, _) = blocks(4);
    let two = [codes.concat(), codes.concat().into_iter().rev().collect()].concat();
    let read = open(
        vec![node("QMoE", &["x", "r", "b", "s"], &["y"], vec![int("expert_weight_bits", 4), int("block_size", 16)])],
        vec![
            tensor("b", DataType::Uint8, &[2, 3, 24], packed(&two, 4)),
            floats("s", &[2, 3, 3], &[scales.clone(), scales.clone()].concat()),
        ],
    );
    assert_eq!((read.1.problems.as_slice(), read.1.matrices.len()), ([].as_slice(), 2));
    let mut rows = Vec::new();
    read.1.matrices[1].rows(&read.0, 0..1, &mut rows).unwrap();
    assert_eq!(rows[0], (f32::from(codes[2][47]) - 8.0) * scales[0]);
}

#[test]
fn tensors_that_do_not_fit_together_are_told_with_both_sizes() {
    let (codes, scales, zeros) = blocks(4);
    let b = tensor("b", DataType::Uint8, &[3, 3, 8], packed(&codes.concat(), 4));
    let product = |k, bits, block| {
        let attributes = vec![int("K", k), int("N", 3), int("bits", bits), int("block_size", block)];
        vec![node("MatMulNBits", &["x", "b", "s", "z"], &["y"], attributes)]
    };
    let s = || floats("s", &[3, 3], &scales);
    let z = tensor("z", DataType::Uint8, &[3, 2], vec![0; 6]);
    let unpacked = tensor("z", DataType::Uint8, &[3, 3], zeros);
    let cases = [
        (product(40, 4, 16), vec![s(), z.clone()], ""),
        (product(56, 4, 16), vec![s(), z.clone()], "expected UINT8 [3, 4, 8] for N 3, K 56"),
        (product(40, 8, 16), vec![s(), z.clone()], "expected UINT8 [3, 3, 16]"),
        (product(40, 3, 16), vec![s(), z.clone()], "has 3 bits per code, expected 2, 4 or 8"),
        (product(40, 4, 24), vec![s(), z.clone()], "has blocks of 24"),
        (product(-1, 4, 16), vec![s(), z.clone()], "has K = -1"),
        (
            product(40, 4, 16),
            vec![floats("s", &[3, 2], &scales[..6]), z],
            "scales `s` of shape [3, 2], expected [3, 3]",
        ),
        (product(40, 4, 16), vec![s(), unpacked], "zero points `z` of UINT8 [3, 3], expected UINT8 [3, 2] of 4 bits"),
    ];
    for (nodes, mut tensors, says) in cases {
        tensors.push(b.clone());
        let (_, weights) = open(nodes, tensors);
        match weights.problems.as_slice() {
            [] => assert_eq!(says, "", "nothing was found"),
            [problem] => assert!(!says.is_empty() && problem.message.contains(says), "{says}: {problem:?}"),
            more => panic!("{says}: {more:?}"),
        }
    }
}
