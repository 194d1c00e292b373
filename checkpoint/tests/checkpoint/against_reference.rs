//! Differential tests against the `safetensors` crate: what we accept it accepts, with the same tensors.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use genai_checkpoint::Checkpoint;
use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::support::{Model, SINGLE, safetensors};

const DTYPES: [&str; 23] = [
    "BOOL",
    "F4",
    "F6_E2M3",
    "F6_E3M2",
    "U8",
    "I8",
    "F8_E5M2",
    "F8_E4M3",
    "F8_E8M0",
    "F8_E4M3FNUZ",
    "F8_E5M2FNUZ",
    "I16",
    "U16",
    "F16",
    "BF16",
    "I32",
    "U32",
    "F32",
    "C64",
    "F64",
    "I64",
    "U64",
    "F5",
];

/// Opens `bytes` with both. Panics if we accept what the reference does not, or see other tensors; returns who accepts.
fn compare(model: &Model, bytes: &[u8]) -> (bool, bool) {
    model.write(SINGLE, bytes);
    // Sums of hostile offsets overflow in the reference when it is built with overflow checks.
    let theirs = catch_unwind(AssertUnwindSafe(|| SafeTensors::deserialize(bytes))).ok().and_then(Result::ok);
    let ours = model.open();
    if let Ok(ours) = &ours {
        let Some(theirs) = &theirs else { panic!("we accept what the reference rejects: {bytes:?}") };
        same_tensors(ours, theirs);
    }
    (ours.is_ok(), theirs.is_some())
}

fn same_tensors(ours: &Checkpoint, theirs: &SafeTensors) {
    assert_eq!(ours.tensors().len(), theirs.len());
    for tensor in ours.tensors() {
        let view = theirs.tensor(&tensor.name).unwrap();
        assert_eq!(tensor.dtype.name(), view.dtype().to_string());
        assert_eq!(tensor.dtype.bits(), view.dtype().bitsize() as u64);
        assert!(tensor.shape.iter().eq(view.shape().iter().map(|d| *d as u64).collect::<Vec<_>>().iter()));
        let mut data = vec![0; tensor.byte_len() as usize];
        ours.read(tensor, 0, &mut data).unwrap();
        assert_eq!(data, view.data());
    }
}

#[derive(Debug, Clone)]
struct Planned {
    dtype: usize,
    shape: Vec<u64>,
    /// Added to the true begin and end of the data.
    skew: (i8, i8),
    extra: bool,
}

fn planned() -> impl Strategy<Value = Planned> {
    let dim = prop_oneof![12 => 0..5u64, 1 => Just(u64::MAX), 1 => Just(1 << 62), 1 => Just(1u64 << 32)];
    let skew = || prop_oneof![30 => Just(0i8), 1 => -2..=2i8];
    // Mostly byte-sized dtypes and few odd cases, so that a good part is valid.
    let dtype = prop_oneof![20 => 4..22usize, 2 => 0..23usize];
    (dtype, prop::collection::vec(dim, 0..4), (skew(), skew()), prop::bool::weighted(0.1))
        .prop_map(|(dtype, shape, skew, extra)| Planned { dtype, shape, skew, extra })
}

/// A file of these tensors in this order of the header, with `slack` bytes of data too many or too few.
fn write(plan: &[Planned], reversed: bool, padding: usize, slack: i8) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut end = 0u64;
    for (i, tensor) in plan.iter().enumerate() {
        let name = DTYPES[tensor.dtype];
        let bits = genai_checkpoint::Dtype::from_name(name).map_or(8, |dtype| dtype.bits());
        let elements = tensor.shape.iter().fold(1u64, |a, b| a.wrapping_mul(*b));
        let begin = end;
        end = begin.saturating_add(elements.wrapping_mul(bits) / 8 % 4096);
        let offsets =
            [begin.saturating_add_signed(tensor.skew.0.into()), end.saturating_add_signed(tensor.skew.1.into())];
        let extra = if tensor.extra { r#","extra":[1.5,{"x":null}]"# } else { "" };
        let shape = &tensor.shape;
        entries.push(format!(r#""t{i}":{{"dtype":"{name}","shape":{shape:?},"data_offsets":{offsets:?}{extra}}}"#));
    }
    if reversed {
        entries.reverse();
        entries.insert(0, r#""__metadata__":{"format":"pt"}"#.to_owned());
    }
    let header = format!("{{{}}}{}", entries.join(","), " ".repeat(padding));
    safetensors(header, end.saturating_add_signed(slack.into()) as usize)
}

fn plans() -> impl Strategy<Value = Vec<u8>> {
    let slack = prop_oneof![12 => Just(0i8), 1 => -3..=3i8];
    (prop::collection::vec(planned(), 0..5), any::<bool>(), 0..3usize, slack)
        .prop_map(|(plan, reversed, padding, slack)| write(&plan, reversed, padding, slack))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    /// These headers have none of the things on which we are stricter, so both must agree in full.
    #[test]
    fn verdicts_agree_on_generated_headers(bytes in plans()) {
        let (ours, theirs) = compare(&Model::new(), &bytes);
        prop_assert_eq!(ours, theirs, "{:?}", String::from_utf8_lossy(&bytes));
    }

    /// Bytes changed, removed or doubled anywhere: never a panic, never more than the reference accepts.
    #[test]
    fn damaged_files_are_a_subset(
        bytes in plans(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, any::<u8>()), 1..4),
        grow in any::<bool>(),
    ) {
        let mut bytes = bytes;
        for (at, what, byte) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match what {
                0 => bytes[at] = byte,
                1 => bytes[at] = b"{}[]\",:0123456789-e.u\\ x"[usize::from(byte) % 24],
                2 => drop(bytes.remove(at)),
                _ => bytes.insert(at, bytes[at]),
            }
        }
        if grow && bytes.len() > 8 {
            // Keep the declared header length right after an insertion, so that the JSON is reached.
            if let Some(end) = bytes.iter().rposition(|b| *b == b'}') && end >= 8 {
                bytes[..8].copy_from_slice(&((end - 7) as u64).to_le_bytes());
            }
        }
        compare(&Model::new(), &bytes);
    }
}

#[test]
fn generated_headers_are_of_both_sorts() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let model = Model::new();
    let accepted = (0..300)
        .filter(|_| {
            let bytes = plans().new_tree(&mut runner).unwrap().current();
            compare(&model, &bytes).0
        })
        .count();
    assert!((60..=240).contains(&accepted), "{accepted} of 300 accepted: the comparison sees one sort only");
}

#[test]
fn where_we_are_stricter() {
    let tensor = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    for header in [
        format!(r#"{{"a":{tensor},"a":{tensor}}}"#),
        format!(r#"{{"a":{tensor},"a":{}}}"#, tensor.replace("F32", "I32")),
        format!(r#" {{"a":{tensor}}}"#),
        format!(r#"{{"__metadata__":{{"x":"1","x":"2"}},"a":{tensor}}}"#),
        format!(r#"{{"__metadata__":null,"a":{tensor}}}"#),
        r#"{"a":["F32",[1],[0,4]]}"#.to_owned(),
    ] {
        assert_eq!(compare(&Model::new(), &safetensors(&header, 4)), (false, true), "{header}");
    }
}

#[test]
fn what_the_reference_writes_we_read() {
    let data: Vec<u8> = (0..=255).collect();
    let view = |dtype, shape: &[usize], len: usize| TensorView::new(dtype, shape.to_vec(), &data[..len]).unwrap();
    use safetensors::Dtype::{BF16, BOOL, F4, F8_E4M3, F32, I64, U8};
    let tensors = [
        ("z", view(F32, &[2, 3], 24)),
        ("a.b", view(BF16, &[7], 14)),
        ("scalar", view(I64, &[], 8)),
        ("empty", view(F32, &[0, 5], 0)),
        ("fp8", view(F8_E4M3, &[3, 3], 9)),
        ("fp4", view(F4, &[6], 3)),
        ("mask", view(BOOL, &[5], 5)),
        ("ünïcode \"\\ \u{0}", view(U8, &[1], 1)),
    ];
    for metadata in [None, Some(HashMap::from([("format".to_owned(), "pt".to_owned())]))] {
        let bytes = safetensors::serialize(tensors.clone(), metadata).unwrap();
        assert_eq!(compare(&Model::new(), &bytes), (true, true));
    }
}
