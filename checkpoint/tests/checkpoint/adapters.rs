//! LoRA adapters: what they change and by how much, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};

use genai_checkpoint::{Checkpoint, ErrorKind, LowRankUpdate};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{assert_fails, safetensors};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name)
}

fn base() -> Checkpoint {
    Checkpoint::open(&fixture("llama-default")).unwrap()
}

/// An adapter of one linear, `[8, 4]`, of rank 2, with this config over one that says so.
fn adapter(config: Value) -> TempDir {
    let tensors = [("q_proj.lora_A.weight", [2, 4]), ("q_proj.lora_B.weight", [8, 2])];
    stored(config, &tensors.map(|(name, shape)| (format!("base_model.model.{name}"), shape.to_vec())))
}

fn stored(config: Value, tensors: &[(String, Vec<usize>)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut whole = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 3});
    for (key, value) in config.as_object().unwrap() {
        whole[key] = value.clone();
    }
    fs::write(folder.path().join("adapter_config.json"), whole.to_string()).unwrap();
    let mut end = 0;
    let entries = tensors.iter().map(|(name, shape)| {
        let begin = end;
        end += 4 * shape.iter().product::<usize>();
        format!(r#"{name:?}:{{"dtype":"F32","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#)
    });
    let header = format!("{{{}}}", entries.collect::<Vec<_>>().join(","));
    fs::write(folder.path().join("adapter_model.safetensors"), safetensors(header, end)).unwrap();
    folder
}

fn open(folder: &TempDir) -> genai_checkpoint::Result<Checkpoint> {
    base().with_adapter("tales", folder.path())
}

fn only_update(folder: &TempDir) -> LowRankUpdate {
    let checkpoint = open(folder).unwrap();
    checkpoint.adapters()[0].updates().next().unwrap().1.clone()
}

#[test]
fn tensors_join_those_of_the_checkpoint() {
    let own = base().tensors().len();
    let checkpoint = base().with_adapter("a", &fixture("adapters/llama-attention")).unwrap();
    // Queries and values of layers 0 and 2.
    assert_eq!(checkpoint.tensors().len(), own + 8);
    let updates: Vec<_> = checkpoint.adapters()[0].updates().collect();
    assert_eq!(updates.len(), 4);
    let (module, update) = updates[0];
    assert_eq!(module, "model.layers.0.self_attn.q_proj");
    let expected = LowRankUpdate {
        rank: 4,
        in_features: 72,
        out_features: 64,
        scale: 2.0,
        a: format!("a/base_model.model.{module}.lora_A.weight"),
        b: format!("a/base_model.model.{module}.lora_B.weight"),
    };
    assert_eq!(*update, expected);

    let mut values = vec![0.0; 4 * 72];
    checkpoint.read_f32(checkpoint.tensor(&update.a).unwrap(), 0, &mut values).unwrap();
    assert!(values.iter().any(|value| value.abs() > 0.1), "{values:?}");
    checkpoint.verify_unchanged().unwrap();

    // Renaming is for the names of the checkpoint's own tensors.
    let renamed = checkpoint.renamed(|stored| stored.strip_prefix("model.").map(str::to_owned)).unwrap();
    assert!(renamed.tensor(&update.a).is_some() && renamed.tensor("layers.0.self_attn.q_proj.weight").is_some());
}

#[test]
fn ranks_and_scales_follow_patterns() {
    let checkpoint = base().with_adapter("a", &fixture("adapters/llama-patterns")).unwrap();
    let update = |module: &str| {
        let mut updates = checkpoint.adapters()[0].updates();
        updates.find(|(candidate, _)| *candidate == module).unwrap_or_else(|| panic!("{module}")).1
    };
    for (module, rank, alpha) in [
        ("model.layers.0.self_attn.q_proj", 3, 4.0),
        ("model.layers.0.self_attn.v_proj", 5, 4.0),
        ("model.layers.1.mlp.down_proj", 2, 4.0),
        ("model.layers.2.mlp.down_proj", 3, 4.0),
        ("model.layers.0.mlp.up_proj", 3, 4.0),
        ("model.layers.1.mlp.up_proj", 3, 9.0),
        ("lm_head", 3, 2.0),
    ] {
        let expected = (alpha / f64::from(rank).sqrt()) as f32;
        assert_eq!((update(module).rank, update(module).scale), (rank as usize, expected), "{module}");
    }
}

#[test]
fn a_pattern_matches_from_a_dot_on_and_the_first_one_counts() {
    for (pattern, alpha) in [
        (json!({"proj": 9}), 3.0),
        (json!({"q_proj": 9}), 9.0),
        (json!({"attn.q_proj": 9}), 9.0),
        (json!({"self_attn": 9}), 3.0),
        (json!({"[qk]_proj": 9, "q_proj": 5}), 9.0),
        (json!({"q_proj": 5, "[qk]_proj": 9}), 5.0),
        (json!({"^self.attn.q_proj": 9}), 9.0),
        (json!({"^attn.q_proj": 9}), 3.0),
        (json!({"k_proj|q_proj": 9}), 9.0),
    ] {
        let tensors =
            ["A", "B"].map(|part| (format!("base_model.model.self.attn.q_proj.lora_{part}.weight"), vec![2, 2]));
        let folder = stored(json!({"alpha_pattern": pattern}), &tensors);
        assert_eq!(only_update(&folder).scale, alpha / 2.0, "{pattern}");
    }
}

#[test]
fn what_changes_the_maths_and_is_not_supported_is_named() {
    for (key, value) in [
        ("peft_type", json!("IA3")),
        ("use_dora", json!(true)),
        ("bias", json!("all")),
        ("lora_bias", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("layer_replication", json!([[0, 2]])),
        ("init_lora_weights", json!("pissa_niter_16")),
        ("trainable_token_indices", json!([1, 2])),
        ("target_parameters", json!(["experts.gate_up_proj"])),
        ("use_qalora", json!(true)),
        ("megatron_config", json!({"a": 1})),
        ("of_the_future", json!(0.5)),
        ("rank_pattern", json!({"(?=q_proj)": 2})),
    ] {
        let error = open(&adapter(json!({key: value})));
        assert_fails(error, ErrorKind::Unsupported, &["adapter_config.json", &format!("`{key}` is"), "supported: "]);
    }
    for (key, value) in [
        ("r", json!(0)),
        ("r", json!("2")),
        ("lora_alpha", json!(null)),
        ("use_rslora", json!("yes")),
        ("rank_pattern", json!(["q_proj"])),
        ("alpha_pattern", json!({"q_proj": "1"})),
    ] {
        assert_fails(open(&adapter(json!({key: value}))), ErrorKind::Malformed, &[key, "expected"]);
    }
    for off in [json!(null), json!(false), json!([]), json!({})] {
        assert_eq!(only_update(&adapter(json!({"of_the_future": off}))).scale, 1.5);
    }
    assert_eq!(only_update(&adapter(json!({"init_lora_weights": "gaussian", "bias": "none"}))).rank, 2);
}

#[test]
fn every_tensor_is_half_of_a_pair() {
    let name = |name: &str| format!("base_model.model.{name}");
    let good = [(name("q.lora_A.weight"), vec![2, 4]), (name("q.lora_B.weight"), vec![8, 2])];
    let cases: &[(&str, Vec<usize>, ErrorKind, &str)] = &[
        ("k.lora_A.weight", vec![2, 4], ErrorKind::Incomplete, "k.lora_B.weight`: is missing"),
        ("k.lora_B.weight", vec![8, 2], ErrorKind::Incomplete, "k.lora_A.weight`: is missing"),
        ("embed_tokens.lora_embedding_A", vec![2, 4], ErrorKind::Unsupported, "embedding table"),
        ("q.lora_magnitude_vector", vec![8], ErrorKind::Unsupported, "DoRA"),
        ("q.lora_B.bias", vec![8], ErrorKind::Unsupported, "is a bias"),
        ("embed_tokens.weight", vec![8, 4], ErrorKind::Unsupported, "no part of an update"),
    ];
    for (stranger, shape, kind, says) in cases {
        let tensors = [&good[..], &[(name(stranger), shape.clone())]].concat();
        assert_fails(open(&stored(json!({}), &tensors)), *kind, &["adapter_model.safetensors", says]);
    }
    let foreign = [("model.q.lora_A.weight".to_owned(), vec![2, 4])];
    assert_fails(open(&stored(json!({}), &foreign)), ErrorKind::Unsupported, &["base_model.model.MODULE"]);
    assert_fails(open(&stored(json!({}), &[])), ErrorKind::Incomplete, &["holds no tensor"]);

    for (a, b, kind, says) in [
        (vec![2, 4], vec![8, 3], ErrorKind::Incomplete, "expected rank 2"),
        (vec![3, 4], vec![8, 3], ErrorKind::Incomplete, "has rank 3, adapter_config.json says 2"),
        (vec![2, 4, 1], vec![8, 2], ErrorKind::Unsupported, "expected [rank, in]"),
        (vec![0, 4], vec![8, 0], ErrorKind::Unsupported, "expected [rank, in]"),
    ] {
        let tensors = [(name("q.lora_A.weight"), a), (name("q.lora_B.weight"), b)];
        assert_fails(open(&stored(json!({}), &tensors)), kind, &[says]);
    }
}

#[test]
fn what_is_missing_is_named() {
    let folder = adapter(json!({}));
    fs::rename(folder.path().join("adapter_model.safetensors"), folder.path().join("adapter_model.bin")).unwrap();
    assert_fails(open(&folder), ErrorKind::Refused, &["pickle is not read", "save_pretrained"]);
    fs::remove_file(folder.path().join("adapter_model.bin")).unwrap();
    assert_fails(open(&folder), ErrorKind::Incomplete, &["holds no adapter_model.safetensors"]);
    fs::remove_file(folder.path().join("adapter_config.json")).unwrap();
    assert_fails(open(&folder), ErrorKind::Incomplete, &["holds no adapter_config.json"]);
    assert_fails(base().with_adapter("a", &folder.path().join("none")), ErrorKind::NotFound, &["no such folder"]);

    let (a, b) = (adapter(json!({})), adapter(json!({})));
    let one = base().with_adapter("same", a.path()).unwrap();
    assert_fails(one.with_adapter("same", b.path()), ErrorKind::Incomplete, &["`same` is the name of two adapters"]);
}

#[test]
fn the_record_names_the_files_of_an_adapter_and_notices_changes() {
    let folder = adapter(json!({}));
    let checkpoint = open(&folder).unwrap();
    let weights = checkpoint.weight_inputs(false).unwrap();
    let [own, adapter] = &weights[..] else { panic!("{weights:?}") };
    assert_eq!((own.name.as_str(), own.sha256.is_none()), ("model.safetensors", true));
    assert_eq!((adapter.name.as_str(), adapter.sha256.is_some()), ("tales/adapter_model.safetensors", true));
    let configs = checkpoint.adapter_configs().unwrap();
    assert_eq!(configs[0].name, "tales/adapter_config.json");
    assert!(configs[0].sha256.is_some());

    fs::write(folder.path().join("adapter_config.json"), "{}").unwrap();
    assert_fails(
        checkpoint.verify_unchanged(),
        ErrorKind::Malformed,
        &["adapter_config.json", "changed while reading"],
    );
}

/// Values that a config may hold where another is expected.
fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0..4u64).prop_map(Value::from),
        "[a-z_.*+()\\[\\]|^$]{0,12}".prop_map(Value::from),
        prop::collection::vec(any::<u8>().prop_map(Value::from), 0..3).prop_map(Value::from),
        prop::collection::btree_map("[a-z_.*+()\\[\\]|^$?]{0,12}", (0..4u64).prop_map(Value::from), 0..3)
            .prop_map(|map| Value::Object(map.into_iter().collect())),
    ]
}

type Shapes = Vec<(String, Vec<usize>)>;

/// Tensors as they should be, but for the rank, which the config may not know.
fn pairs() -> impl Strategy<Value = Shapes> {
    prop::collection::vec((1..4usize, 1..4usize, 1..4usize), 0..3).prop_map(|modules| {
        let pair = |(module, (rank, inputs, outputs)): (usize, (usize, usize, usize))| {
            let name = |part: &str| format!("base_model.model.m{module}.lora_{part}.weight");
            [(name("A"), vec![rank, inputs]), (name("B"), vec![outputs, rank])]
        };
        modules.into_iter().enumerate().flat_map(pair).collect()
    })
}

fn strangers() -> impl Strategy<Value = Shapes> {
    let name = "(base_model\\.model\\.)?[a-b]{0,2}\\.lora_(A|B|embedding_A)(\\.weight|\\.bias)?";
    prop::collection::btree_map(name, prop::collection::vec(0..4usize, 0..4), 0..4)
        .prop_map(|tensors| tensors.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_stands_in_an_adapter_it_is_read_or_refused(
        config in prop::collection::btree_map(
            prop_oneof![
                Just("peft_type"), Just("r"), Just("lora_alpha"), Just("use_rslora"), Just("rank_pattern"),
                Just("alpha_pattern"), Just("bias"), Just("init_lora_weights"), Just("use_dora"),
            ],
            any_value(),
            0..3,
        ),
        tensors in prop_oneof![pairs(), strangers()],
    ) {
        let config = Value::Object(config.into_iter().map(|(key, value)| (key.to_owned(), value)).collect());
        let Ok(checkpoint) = open(&stored(config, &tensors)) else { return Ok(()) };
        let updates: Vec<_> = checkpoint.adapters()[0].updates().collect();
        // Two tensors for each, so none is left over.
        prop_assert_eq!(2 * updates.len(), tensors.len());
        for (_, update) in updates {
            prop_assert!(update.rank > 0 && update.scale.is_finite());
            prop_assert!(checkpoint.tensor(&update.a).is_some() && checkpoint.tensor(&update.b).is_some());
        }
    }
}
