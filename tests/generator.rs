//! What the generator says, against what onnxruntime-genai 0.18 said to the same (`fixtures/record/generator.py`), and
//! where it must not say the same.

use std::fs;
use std::sync::Arc;

use genai_validate::{Config, Generator, LoadOptions, Model, SearchOptions};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::support::{Outcome, build, fixture, for_each, runtime};

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
