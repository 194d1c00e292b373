//! What the generator says, against what onnxruntime-genai 0.18 said to the same (`fixtures/record/generator.py`), and
//! where it must not say the same.

use std::fs;
use std::sync::Arc;

use genai_validate::{Config, Generator, LoadOptions, Model, SearchOptions};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::support::{Outcome, build, fixture, for_each, runtime, tell};

#[derive(Deserialize)]
struct Package {
    checkpoint: String,
    precision: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    search: Map<String, Value>,
    /// In place of the package's end tokens.
    eos: Option<u32>,
    steps: Vec<Step>,
    /// Behind each generation.
    sequences: Vec<Vec<Vec<u32>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Step {
    Append(Vec<Vec<u32>>),
    Generate(usize),
    Rewind(usize),
}

fn options(search: &Map<String, Value>) -> Outcome<SearchOptions> {
    let mut options = SearchOptions::default();
    for (name, value) in search {
        options.set(name, value)?;
    }
    Ok(options)
}

fn run(model: &Arc<Model>, case: &Case) -> Outcome<Vec<Vec<Vec<u32>>>> {
    let search = options(&case.search)?;
    let count = search.batch_size * search.num_return_sequences;
    let mut generator = Generator::new(model, search)?;
    let (mut seen, mut chosen) = (Vec::new(), false);
    for step in &case.steps {
        match step {
            Step::Append(rows) => {
                // As the recorder does: quantized matrices of one row and of several round in other ways.
                if chosen {
                    generator.logits()?;
                }
                generator.append_tokens(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
            }
            Step::Rewind(length) => {
                chosen = false;
                generator.rewind_to(*length)?;
            }
            Step::Generate(tokens) => {
                for _ in 0..*tokens {
                    if generator.is_done() {
                        break;
                    }
                    generator.generate_next_token()?;
                }
                chosen = !generator.is_done();
                seen.push((0..count).map(|index| generator.sequence(index)).collect::<Result<_, _>>()?);
            }
        }
    }
    Ok(seen)
}

#[test]
fn tokens_are_those_of_the_peer() {
    let recorded = fs::read(fixture("generator").join("recorded.json")).unwrap();
    let packages: Vec<Package> = serde_json::from_slice(&recorded).unwrap();
    assert!(packages.iter().map(|package| package.cases.len()).sum::<usize>() >= 200);
    for_each(
        &packages,
        |package| format!("{} {}", package.checkpoint, package.precision),
        |package| {
            let folder = build(&fixture(&package.checkpoint), &package.precision, "cpu", &[])?;
            let mut config = Config::open(folder.path())?;
            let ends = config.eos_token_ids.clone();
            let mut failures = Vec::new();
            // A model of its own for each set of end tokens.
            let mut cases: Vec<&Case> = package.cases.iter().collect();
            cases.sort_by_key(|case| case.eos);
            for cases in cases.chunk_by(|first, second| first.eos == second.eos) {
                config.eos_token_ids = cases[0].eos.map_or_else(|| ends.clone(), |eos| vec![eos]);
                let options = LoadOptions { threads: Some(1), ..LoadOptions::default() };
                let model = Arc::new(Model::load(&config, runtime(), options)?);
                for case in cases {
                    let said = run(&model, case);
                    if said.as_ref().ok() != Some(&case.sequences) {
                        let (steps, search) = (case.steps.len(), Value::from(case.search.clone()));
                        failures.push(format!("{search} in {steps} steps: {said:?}, recorded {:?}", case.sequences));
                    }
                }
            }
            if failures.is_empty() {
                Ok(())
            } else {
                let (count, all) = (failures.len(), package.cases.len());
                failures.truncate(3);
                Err(format!("{count} of {all}, such as\n{}", failures.join("\n")).into())
            }
        },
    );
}

/// The runtime's own small models, where `GENAI_PEER_MODELS` says that they are: `test/models` of its repository.
#[test]
fn models_of_the_peer_say_what_they_say_there() -> Outcome {
    let Some(folder) = std::env::var_os("GENAI_PEER_MODELS").map(std::path::PathBuf::from) else {
        tell("GENAI_PEER_MODELS is not set: the models of onnxruntime-genai's tests were not run");
        return Ok(());
    };
    let load = |name: &str| -> Outcome<Arc<Model>> {
        Ok(Arc::new(Model::load(&Config::open(&folder.join(name))?, runtime(), LoadOptions::default())?))
    };
    let finish = |mut generator: Generator| -> Outcome<Generator> {
        while !generator.is_done() {
            generator.generate_next_token()?;
        }
        Ok(generator)
    };

    // One tensor for keys and values; its golden numbers are those of the runtime's tests.
    let gpt = load("hf-internal-testing/tiny-random-gpt2-fp32")?;
    let search = SearchOptions { max_length: 10, batch_size: 2, ..SearchOptions::default() };
    let prompts: [&[u32]; 2] = [&[0, 0, 0, 52], &[0, 0, 195, 731]];
    let mut generator = Generator::new(&gpt, search.clone())?;
    generator.append_tokens(&prompts)?;
    let logits = generator.output("logits")?;
    assert_eq!(logits.shape, [2, 4, 1000]);
    let logits = logits.floats().unwrap();
    for (row, expected) in [
        (0, [0.296_945, 0.009_55, 0.043_082, 0.100_639, 0.043_724]),
        (3, [-0.126_754, -0.044_439, 0.144_923, 0.030_212, -0.032_129]),
        (7, [0.293_893, -0.105_389, -0.002_267, 0.120_507, -0.106_227]),
    ] {
        for (column, expected) in expected.into_iter().enumerate() {
            let found: f32 = logits[row * 1000 + column * 200];
            assert!((found - expected).abs() < 1e-5, "row {row}, column {}: {found}", column * 200);
        }
    }
    let mut generator = finish(generator)?;
    assert_eq!(generator.sequence(0)?, [0, 0, 0, 52, 204, 204, 204, 204, 204, 204]);
    assert_eq!(generator.sequence(1)?, [0, 0, 195, 731, 731, 114, 114, 114, 114, 114]);
    // Rewound and asked again, it says the same.
    generator.rewind_to(0)?;
    generator.append_tokens(&prompts)?;
    assert_eq!(finish(generator)?.sequence(1)?, [0, 0, 195, 731, 731, 114, 114, 114, 114, 114]);

    let beams = SearchOptions { max_length: 20, batch_size: 3, num_beams: 4, ..search.clone() };
    let mut generator = Generator::new(&gpt, beams)?;
    generator.append_tokens(&[
        &[0, 0, 0, 0, 0, 52, 195, 731, 321, 301, 734, 620],
        &[41, 554, 74, 622, 206, 222, 75, 223, 221, 198, 224, 572],
        &[0, 0, 0, 52, 328, 219, 328, 206, 288, 227, 896, 328],
    ])?;
    let generator = finish(generator)?;
    for (index, expected) in [
        [131, 131, 131, 181, 638, 638, 638, 638],
        [292, 292, 292, 292, 292, 292, 292, 292],
        [328, 669, 669, 669, 669, 669, 669, 669],
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(generator.sequence(index)?[12..], expected);
    }

    // Layers with keys and values, and layers with the state of a convolution, which only computing anew takes back.
    let mixed = load("hf-internal-testing/tiny-random-lfm2-fp32")?;
    let alone = SearchOptions { batch_size: 1, ..search };
    let mut generator = Generator::new(&mixed, alone.clone())?;
    generator.append(&[0, 0, 0, 52])?;
    let mut generator = finish(generator)?;
    assert_eq!(generator.sequence(0)?, [0, 0, 0, 52, 221, 325, 401, 373, 420, 649]);
    generator.rewind_to(6)?;
    assert_eq!(finish(generator)?.sequence(0)?, [0, 0, 0, 52, 221, 325, 401, 373, 420, 649]);
    // The same with buffers that stay in place.
    let mut generator = Generator::new(&mixed, SearchOptions { past_present_share_buffer: true, ..alone })?;
    let refused = generator.append(&[0, 0, 195, 731]).and_then(|()| generator.generate_next_token());
    assert!(refused.is_err(), "this graph makes its caches longer and cannot write them in place");

    // Pages: the next token is (first + last + length) mod 64.
    let paged = load("engine/synthetic-paged")?;
    let mut generator =
        Generator::new(&paged, SearchOptions { max_length: 21, batch_size: 3, ..SearchOptions::default() })?;
    let prompts: [&[u32]; 3] = [&[3, 5, 7], &[8, 9, 10, 11, 12, 13], &[40]];
    generator.append_tokens(&prompts)?;
    let generator = finish(generator)?;
    for (index, prompt) in prompts.into_iter().enumerate() {
        let mut expected = prompt.to_vec();
        let said = generator.sequence(index)?;
        while expected.len() < said.len() {
            expected.push((expected[0] + expected[expected.len() - 1] + expected.len() as u32) % 64);
        }
        assert_eq!(said, expected);
        assert!(said.len() > 12 || (expected[0] + said[said.len() - 1] + said.len() as u32) % 64 == 1, "{said:?}");
    }
    Ok(())
}
