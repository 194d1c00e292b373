use serde_json::json;

use super::*;

fn config(value: Value) -> Config {
    Config::from_json(value).unwrap()
}

#[test]
fn an_unread_maths_key_is_named_with_its_value() {
    let config = config(json!({"hidden_size": 8, "attn_logit_softcapping": 50.0, "transformers_version": "5"}));
    config.usize("hidden_size").unwrap();
    let error = config.finish().unwrap_err().to_string();
    assert!(error.ends_with("`attn_logit_softcapping` = 50.0"), "{error}");
}

#[test]
fn neutral_and_bookkeeping_values_pass() {
    let values = json!({
        "sliding_window": null, "use_qk_norm": false, "residual_multiplier": 1.0, "attention_dropout": 0.1,
        "layer_types": ["full_attention", "full_attention"], "bos_token_id": 7, "unsloth_fixed": true,
    });
    config(values).finish().unwrap();
}

#[test]
fn every_key_of_an_opened_object_must_be_read() {
    let config = config(json!({"rope_scaling": {"rope_type": "linear", "strange": 3.0}}));
    config.object("rope_scaling").unwrap().unwrap().opt_str("rope_type").unwrap();
    assert!(config.finish().unwrap_err().to_string().contains("`rope_scaling.strange` = 3.0"));
}

#[test]
fn a_part_has_bookkeeping_of_its_own() {
    let config = config(json!({"text_config": {"eos_token_id": 7, "new_scale": 2.0}, "vision_config": {"scale": 3.0}}));
    config.model("text_config").unwrap();
    config.ignore("vision_config");
    let error = config.finish().unwrap_err().to_string();
    assert!(error.ends_with(": `text_config.new_scale` = 2.0"), "{error}");
}

#[test]
fn defaults_fill_what_is_not_written() {
    let config = config(json!({"head_dim": null, "hidden_size": 8}));
    let config = config.with_defaults([("head_dim", 128.into()), ("hidden_size", 9.into()), ("kv", 2.into())]);
    assert_eq!(config.opt_usize("head_dim").unwrap(), None);
    assert_eq!(config.usize("hidden_size").unwrap(), 8);
    assert_eq!(config.usize("kv").unwrap(), 2);
}

#[test]
fn another_name_is_read_and_named_in_messages() {
    let config = config(json!({"num_layers": 0, "num_hidden_layers": 4}));
    let named = config.with_names(&[("num_hidden_layers", "num_layers")]);
    let error = named.usize("num_hidden_layers").unwrap_err().to_string();
    assert!(error.contains("`num_layers` is 0"), "{error}");
    assert!(config.finish().unwrap_err().to_string().contains("`num_hidden_layers` = 4"));
}

#[test]
fn a_key_with_one_meaning_refuses_any_other() {
    let config = config(json!({"use_rmsnorm": false, "compression_ratio": 1}));
    config.only("compression_ratio", 1.0).unwrap();
    config.only("absent", true).unwrap();
    assert!(config.only("use_rmsnorm", true).unwrap_err().to_string().contains("`use_rmsnorm`"));
}

#[test]
fn a_repeated_key_is_read_where_it_is_nested() {
    let config = config(json!({"hidden_size": 8, "new_scale": 2.0, "text": {"hidden_size": 8, "new_scale": 3.0}}));
    let nested = config.model("text").unwrap();
    nested.opt_f64("new_scale").unwrap();
    config.ignore_repeated(&nested);
    assert!(config.finish().unwrap_err().to_string().ends_with(": `new_scale` = 2.0, `text.hidden_size` = 8"));
}

#[test]
fn names_of_one_size_must_agree() {
    let config = config(json!({"n_head": 4, "heads": 4, "num_heads": 8}));
    assert_eq!(config.usize_of(&["n_head", "none", "heads"]).unwrap(), 4);
    let error = config.usize_of(&["n_head", "num_heads"]).unwrap_err().to_string();
    assert_eq!(error, "config key `num_heads` is 8, expected 4, as n_head is");
    assert!(config.usize_of(&["none", "nothing"]).unwrap_err().to_string().contains("`none` is missing"));
}

#[test]
fn sizes_are_checked() {
    for bad in [json!(0), json!(-1), json!(1.5), json!("2"), json!(3_000_000_000_u64), json!(true)] {
        let config = config(json!({"n": bad}));
        assert!(config.usize("n").is_err(), "{bad}");
    }
    assert_eq!(config(json!({"n": 4096.0})).usize("n").unwrap(), 4096);
}
