//! Tensors under other names than those in the file.

use genai_checkpoint::ErrorKind::Incomplete;

use crate::support::{Model, SINGLE, assert_fails, f32_tensors};

fn model() -> Model {
    Model::of(f32_tensors(&[("a.w", 2), ("text.m", 1), ("z", 3)]))
}

#[test]
fn a_renamed_tensor_is_found_in_order_and_keeps_its_data() {
    let checkpoint = model().open_ok();
    let renamed = checkpoint.renamed(|name| name.strip_prefix("a.").map(|rest| format!("x.{rest}"))).unwrap();
    let names: Vec<_> = renamed.tensors().map(|tensor| (tensor.name.as_str(), tensor.stored_name())).collect();
    assert_eq!(names, [("text.m", "text.m"), ("x.w", "a.w"), ("z", "z")]);
    let read = |checkpoint: &genai_checkpoint::Checkpoint, name: &str| {
        let mut bytes = [0; 8];
        checkpoint.read(checkpoint.tensor(name).unwrap(), 0, &mut bytes).unwrap();
        bytes
    };
    assert_eq!(read(&renamed, "x.w"), read(&checkpoint, "a.w"));
    assert!(renamed.tensor("a.w").is_none());
}

#[test]
fn names_are_given_to_what_is_in_the_file() {
    let twice = model().open_ok().renamed(|_| Some("q".to_owned()));
    assert_fails(twice, Incomplete, &["`a.w`", "`text.m`"]);
    let back =
        model().open_ok().renamed(|name| (name == "z").then(|| "b".to_owned())).unwrap().renamed(|_| None).unwrap();
    assert!(back.tensor("z").is_some() && back.tensor("b").is_none());
}

#[test]
fn a_failed_read_names_the_tensor_as_stored() {
    let model = model();
    let renamed = model.open_ok().renamed(|name| (name == "z").then(|| "b".to_owned())).unwrap();
    let tensor = renamed.tensor("b").unwrap();
    assert_fails(renamed.read(tensor, 0, &mut [0; 99]), Incomplete, &[SINGLE, "`z`"]);
}
