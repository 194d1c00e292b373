use std::collections::BTreeSet;

use super::*;

#[test]
fn a_pair_without_kernels_is_refused_with_the_pairs_that_work() {
    let error = Target::find("cpu").unwrap().expect_cell(Precision::Bf16).unwrap_err();
    assert_eq!(error.to_string(), "cpu has no bf16 kernels for a decoder");
    assert_eq!(error.hint().unwrap(), "cpu runs fp32, fp16, int8, int4; bf16 runs on cuda, NvTensorRtRtx");
    assert!(Target::find("tpu").unwrap_err().hint().unwrap().contains("cpu, cuda"));
    assert_eq!(Target::find("trt-rtx").unwrap().provider, "NvTensorRtRtx");
}

#[test]
fn names_are_unique() {
    let names = || TARGETS.iter().flat_map(|target| target.aliases.iter().copied().chain([target.provider]));
    assert_eq!(names().collect::<BTreeSet<_>>().len(), names().count());
}

/// What facts of a row exclude one another.
fn contradictions(target: &Target) -> Vec<&'static str> {
    let integers = || target.cells.iter().filter(|cell| cell.precision.bits().is_some());
    let qdq = target.form.matrices == MatrixForm::Qdq;
    let rows = [
        ("no cells", target.cells.is_empty()),
        (
            "two cells of a precision",
            target.cells.iter().any(|cell| target.cells.iter().filter(|c| c.precision == cell.precision).count() > 1),
        ),
        ("an accuracy level without MatMulNBits", qdq && target.accuracy_level != 0),
        ("an accuracy level that the operator has not", target.accuracy_level > 4),
        (
            "a float precision in another dtype",
            target.cells.iter().any(|cell| match cell.precision {
                Precision::Fp32 => cell.activations != Dtype::F32,
                Precision::Fp16 => cell.activations != Dtype::F16,
                Precision::Bf16 => cell.activations != Dtype::Bf16,
                Precision::Int8 | Precision::Int4 => false,
            }),
        ),
        (
            "an alternative that is none",
            target.cells.iter().any(|cell| cell.alternative.is_some_and(|(_, dtype)| dtype == cell.activations)),
        ),
        (
            "options of integer products without such products",
            !target.product_options.is_empty() && (qdq || integers().next().is_none()),
        ),
        (
            "rotation of heads that are never that wide",
            target.cells.iter().any(|cell| match cell.attention {
                AttentionForm::GroupQuery { rotates: Some(rotates), head_multiple, .. } => {
                    head_multiple == 0 || rotates == 0 || !rotates.is_multiple_of(head_multiple)
                }
                AttentionForm::GroupQuery { head_multiple, .. } => head_multiple == 0,
                AttentionForm::Standard | AttentionForm::Fixed => false,
            }),
        ),
        (
            "pages for activations of no cell",
            target.cache.paged.iter().any(|paged| {
                let mut dtypes = target
                    .cells
                    .iter()
                    .flat_map(|cell| std::iter::once(cell.activations).chain(cell.alternative.map(|(_, dtype)| dtype)));
                dtypes.all(|dtype| dtype != *paged)
            }),
        ),
        ("a recording switch without a provider", target.capture.is_some() && target.provider_options.is_empty()),
    ];
    rows.into_iter().filter(|(_, holds)| *holds).map(|(what, _)| what).collect()
}

#[test]
fn rows_do_not_contradict_themselves() {
    for target in TARGETS {
        assert_eq!(contradictions(target), Vec::<&str>::new(), "{}", target.provider);
    }
}

#[test]
fn contradictions_are_found() {
    const WRONG: Target = Target {
        provider: "wrong",
        aliases: &[],
        cells: &[
            cell(Precision::Fp16, Dtype::F32, AttentionForm::Standard, None),
            cell(
                Precision::Fp16,
                Dtype::F16,
                AttentionForm::GroupQuery {
                    packed: true,
                    rotates: Some(12),
                    head_multiple: 8,
                    norms_heads: false,
                    heeds: ALL,
                },
                None,
            )
            .or("use", Dtype::F16),
        ],
        form: STANDARD,
        cache: CacheForms { paged: &[Dtype::Bf16], ..PLAIN_CACHE },
        accuracy_level: 5,
        provider_options: &[],
        capture: Some(Capture {
            option: "record",
            provider_options: [&[], &[]],
            default: false,
            lengths_of_mask: false,
        }),
        product_options: &[("fast", "fast")],
    };
    // All but that it has no cells at all.
    assert_eq!(contradictions(&WRONG).len(), 9, "{:?}", contradictions(&WRONG));
    assert_eq!(contradictions(&Target { cells: &[], ..WRONG })[0], "no cells");
}
