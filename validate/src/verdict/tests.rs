use super::*;
use crate::Matrix;
use crate::metrics::compare;

/// Two positions over three tokens; the standard deviation is below 1, so limits are taken as they stand.
fn parity(change: impl FnOnce(&mut [f32])) -> PromptParity {
    let reference = Matrix::new(2, 3, vec![1.0, 0.0, -1.0, 0.5, 0.0, -0.5]).unwrap();
    let mut test = reference.clone();
    change(test.data_mut());
    PromptParity { name: "p".to_owned(), logits: compare(&reference, &test).unwrap(), greedy: None }
}

fn greedy(margin_there: Option<f64>) -> PromptParity {
    let greedy = GreedyMatch { equal: 3, of: 8, first_divergence: Some(3), margin_there };
    PromptParity { greedy: Some(greedy), ..parity(|_| ()) }
}

fn report(precision: Precision, prompts: Vec<PromptParity>) -> ParityReport {
    ParityReport::new(precision, 1_000, "transformers", prompts).unwrap()
}

#[test]
fn equal_is_a_pass_at_every_precision() {
    for precision in [Precision::Fp32, Precision::Fp16, Precision::Bf16, Precision::Int8, Precision::Int4] {
        let report = report(precision, vec![parity(|_| ())]);
        assert_eq!((report.verdict, report.reasons), (Verdict::Pass, vec![]));
    }
}

#[test]
fn fp32_grades_by_the_greatest_difference() {
    let verdict = |error: f32| report(Precision::Fp32, vec![parity(|logits| logits[2] += error)]).verdict;
    assert_eq!(verdict(0.9e-4), Verdict::Pass);
    assert_eq!(verdict(2e-4), Verdict::Ambiguous);
    assert_eq!(verdict(2e-3), Verdict::Fail);
}

#[test]
fn limits_grow_with_the_spread_of_the_logits() {
    let wide = Matrix::new(1, 2, vec![20.0, -20.0]).unwrap();
    let mut test = wide.clone();
    test.data_mut()[1] += 1e-3;
    let prompt = PromptParity { name: "wide".to_owned(), logits: compare(&wide, &test).unwrap(), greedy: None };
    assert_eq!(report(Precision::Fp32, vec![prompt]).verdict, Verdict::Pass);
}

#[test]
fn non_finite_logits_always_fail() {
    for precision in [Precision::Fp32, Precision::Int4] {
        let report = report(precision, vec![parity(|_| ()), parity(|logits| logits[4] = f32::NEG_INFINITY)]);
        assert_eq!(report.verdict, Verdict::Fail);
        assert_eq!(report.reasons[0], "p: logits are not finite: -inf at position 1, token 1");
    }
}

#[test]
fn a_swapped_near_tie_is_ambiguous() {
    let reference = Matrix::new(1, 3, vec![1.0, 0.99999, 0.0]).unwrap();
    let test = Matrix::new(1, 3, vec![0.99999, 1.0, 0.0]).unwrap();
    let prompt = PromptParity { name: "tie".to_owned(), logits: compare(&reference, &test).unwrap(), greedy: None };
    let report = report(Precision::Fp32, vec![prompt]);
    assert_eq!((report.verdict, report.reasons.len()), (Verdict::Ambiguous, 1));
}

#[test]
fn greedy_divergence_is_a_tie_or_a_fault_by_its_margin() {
    assert_eq!(report(Precision::Fp32, vec![greedy(Some(1e-4))]).verdict, Verdict::Ambiguous);
    assert_eq!(report(Precision::Fp32, vec![greedy(Some(3e-4))]).verdict, Verdict::Fail);
    assert_eq!(report(Precision::Fp32, vec![greedy(Some(f64::NAN))]).verdict, Verdict::Fail);
    assert_eq!(report(Precision::Fp32, vec![greedy(None)]).verdict, Verdict::Fail);
    // Quantised models may say something else; their distributions are judged.
    assert_eq!(report(Precision::Int4, vec![greedy(Some(0.3))]).verdict, Verdict::Pass);
}

#[test]
fn quantised_models_are_judged_by_share_and_divergence() {
    let swap = |logits: &mut [f32]| logits.swap(3, 4);
    let equal = |count: usize| (0..count).map(|_| parity(|_| ())).collect::<Vec<_>>();
    let with_swap = |others: usize, parameters: u64| {
        let mut prompts = equal(others);
        prompts.push(parity(swap));
        ParityReport::new(Precision::Int4, parameters, "transformers", prompts).unwrap().verdict
    };
    // One of 2 x 10, 2 x 4 and 2 x 2 positions: 95 %, 87.5 % and 75 % the same.
    assert_eq!(with_swap(9, 1_000_000_000), Verdict::Pass);
    assert_eq!(with_swap(3, 1_000_000_000), Verdict::Ambiguous);
    assert_eq!(with_swap(1, 1_000_000_000), Verdict::Fail);
    // The greater the model, the less it may lose.
    assert_eq!(with_swap(3, 1_000_000), Verdict::Pass);
    assert_eq!(with_swap(3, 8_000_000_000), Verdict::Fail);
    assert_eq!(with_swap(1, 1_000_000), Verdict::Ambiguous);
    // No disagreement, but a distribution that is far off.
    assert_eq!(report(Precision::Int4, vec![parity(|logits| logits[0] += 5.0)]).verdict, Verdict::Fail);
}

#[test]
fn nothing_compared_is_an_error() {
    assert!(ParityReport::new(Precision::Fp32, 0, "transformers", vec![]).is_err());
}

#[test]
fn the_report_reads_as_a_table_and_as_json() {
    let report = report(Precision::Fp32, vec![parity(|_| ()), greedy(Some(1.0))]);
    let expected = "\
parity of fp32 with transformers: fail
  prompt  positions  max abs  mean abs  mean KL  max KL  top-1  greedy
  p               2   0.00e0    0.00e0   0.00e0  0.00e0    2/2       -
  p               2   0.00e0    0.00e0   0.00e0  0.00e0    2/2     3/8
  all             4   0.00e0    0.00e0   0.00e0  0.00e0    4/4     3/8
  - p: greedy search parts at token 3 with a margin of 1.000e0, a tie is below 2.0e-4
";
    assert_eq!(report.to_string(), expected);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["verdict"], "fail");
    assert_eq!(json["prompts"][1]["greedy"]["first_divergence"], 3);
    assert_eq!(json["prompts"][0]["logits"]["max_abs"], 0.0);
}
