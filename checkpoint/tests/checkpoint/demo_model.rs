//! The demo model of the repository, as transformers wrote it.

use std::path::Path;

use genai_checkpoint::{Checkpoint, Dtype};

#[test]
fn tales_llama_opens() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tales-llama");
    let checkpoint = Checkpoint::open(&dir).unwrap();
    assert!(checkpoint.warnings().is_empty());

    let config = checkpoint.config();
    let layers = config["num_hidden_layers"].as_u64().unwrap();
    let [hidden, intermediate, vocab] =
        ["hidden_size", "intermediate_size", "vocab_size"].map(|key| config[key].as_u64().unwrap());
    let kv = config["num_key_value_heads"].as_u64().unwrap() * config["head_dim"].as_u64().unwrap();

    let mut expected = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocab, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    for layer in 0..layers {
        for (name, shape) in [
            ("input_layernorm", vec![hidden]),
            ("mlp.down_proj", vec![hidden, intermediate]),
            ("mlp.gate_proj", vec![intermediate, hidden]),
            ("mlp.up_proj", vec![intermediate, hidden]),
            ("post_attention_layernorm", vec![hidden]),
            ("self_attn.k_proj", vec![kv, hidden]),
            ("self_attn.o_proj", vec![hidden, hidden]),
            ("self_attn.q_proj", vec![hidden, hidden]),
            ("self_attn.v_proj", vec![kv, hidden]),
        ] {
            expected.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    expected.sort();
    let found: Vec<_> = checkpoint.tensors().map(|t| (t.name.clone(), t.shape.clone())).collect();
    assert_eq!(found, expected);
    assert_eq!(found.len(), 56);
    assert!(checkpoint.tensors().all(|t| t.dtype == Dtype::Bf16));

    let norm = checkpoint.tensor("model.norm.weight").unwrap();
    let mut values = vec![f32::NAN; 192];
    checkpoint.read_f32(norm, 0, &mut values).unwrap();
    assert!(values.iter().all(|v| v.is_finite() && *v != 0.0), "{values:?}");
    assert!(checkpoint.generation_config().is_some());
    assert!(checkpoint.file("tokenizer.json").unwrap().is_some());
    checkpoint.verify_unchanged().unwrap();
}
