use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::ErrorKind;

fn valid() -> Value {
    json!({
        "model": {
            "type": "llama", "vocab_size": 2048, "context_length": 1024,
            "bos_token_id": 1, "eos_token_id": [2, 5], "pad_token_id": 0,
            "decoder": {
                "filename": "model.onnx", "head_size": 32, "num_hidden_layers": 6, "num_key_value_heads": 2,
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "inputs": {"input_ids": "ids"},
                "outputs": {"present_key_names": "new.%d.k"}
            }
        },
        "search": {"max_length": 512, "past_present_share_buffer": true, "top_k": 7, "temperature": 0.5}
    })
}

fn parse(config: &Value) -> Result<Config> {
    Config::parse(config.to_string().as_bytes(), Path::new("folder"))
}

/// The valid configuration with the value at `pointer` set, or removed.
fn with(pointer: &str, value: Option<Value>) -> Value {
    let mut config = valid();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = config.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Some(value) => drop(parent.insert(key.to_owned(), value)),
        None => assert!(parent.shift_remove(key).is_some(), "{pointer} is not there to remove"),
    }
    config
}

/// The JSON path and the problem of the error.
fn refused(config: &Value) -> (String, String) {
    match parse(config) {
        Err(Error::Config { key, problem, .. }) => (key, problem),
        other => panic!("{config}: {other:?}"),
    }
}

#[test]
fn reads_values_and_fills_defaults() {
    let package = parse(&valid()).unwrap();
    assert_eq!((package.vocab_size, package.context_length), (2048, 1024));
    assert_eq!(package.eos_token_ids, [2, 5]);
    assert_eq!(package.decoder.model, Path::new("folder/model.onnx"));
    assert_eq!(package.decoder.inputs.input_ids, "ids");
    assert_eq!(package.decoder.inputs.past_key.name(3), "past_key_values.3.key");
    assert_eq!(package.decoder.outputs.present_key.name(3), "new.3.k");
    assert_eq!(package.decoder.outputs.present_value.name(3), "present.3.value");
    assert_eq!(package.decoder.beyond_plain, [""; 0]);
    assert_eq!((package.search.max_length, package.search.top_k), (512, 7));
    assert_eq!((package.search.temperature, package.search.top_p), (0.5, 0.0));
    assert!(package.search.past_present_share_buffer && !package.search.do_sample);
    assert_eq!(package.tokenizer_folder, Path::new("folder"));
}

#[test]
fn a_missing_required_field_is_named_by_its_path() {
    for pointer in [
        "/model",
        "/model/type",
        "/model/vocab_size",
        "/model/context_length",
        "/model/decoder",
        "/model/decoder/filename",
        "/model/decoder/head_size",
        "/model/decoder/num_hidden_layers",
        "/model/decoder/num_key_value_heads",
    ] {
        let (key, problem) = refused(&with(pointer, None));
        assert_eq!((key, problem.as_str()), (pointer.trim_start_matches('/').replace('/', "."), "is missing"));
    }
}

#[test]
fn values_of_the_wrong_kind_are_refused() {
    for (pointer, value, expected) in [
        ("/model/vocab_size", json!(0), "is 0, expected a whole number of at least 1"),
        ("/model/vocab_size", json!(-5), "expected a whole number"),
        ("/model/vocab_size", json!(98.5), "is 98.5"),
        ("/model/vocab_size", json!(u64::MAX), "expected a whole number"),
        ("/model/context_length", json!("1024"), "expected a whole number"),
        ("/model/decoder", json!([]), "is a list, expected an object"),
        ("/model/pad_token_id", json!(null), "is null, expected a token id"),
        ("/model/eos_token_id", json!([]), "is an empty list"),
        ("/model/eos_token_id", json!([1, -1]), "is -1, expected a token id"),
        ("/model/decoder/filename", json!(""), "is empty"),
        ("/search/max_length", json!(1025), "is 1025, expected at most model.context_length 1024"),
        ("/search/temperature", json!(1e300), "expected a finite number"),
        ("/search/do_sample", json!(1), "is 1, expected true or false"),
        ("/model/decoder/inputs/input_ids", json!(7), "is 7, expected a text"),
        ("/model/type", json!(5), "is 5, expected a text"),
        ("/model/bos_token_id", json!(1u64 << 31), "is 2147483648, expected a token id"),
        ("/model/bot_token_id", json!(true), "is true, expected a token id"),
        ("/search/top_k", json!(1.5), "is 1.5, expected a whole number"),
        ("/search/min_length", json!(-3), "is -3, expected a whole number from 0"),
        ("/model/decoder/session_options/intra_op_num_threads", json!(1.5), "is 1.5, expected a whole number"),
        ("/model/decoder/session_options/enable_profiling", json!(true), "is true, expected a text"),
        ("/model/decoder/session_options/enable_mem_pattern", json!(1), "is 1, expected true or false"),
        ("/model/decoder/session_options/session.some_entry", json!(1), "is 1, expected a text"),
        ("/model/decoder/session_options/graph_optimization_level", json!("ALL"), "one of ORT_DISABLE_ALL, ORT_ENABLE"),
        ("/model/decoder/session_options/provider_options", json!({"cuda": {}}), "is an object, expected a list"),
        ("/model/decoder/sliding_window", json!(null), "is null, expected an object"),
        ("/model/decoder/sliding_window", json!([]), "is a list, expected an object"),
        ("/model/decoder/layer_types", json!("x"), "expected a list of texts"),
        ("/model/vision", json!(1), "is 1, expected an object"),
        ("/engine", json!([]), "is a list, expected an object"),
    ] {
        let (key, problem) = refused(&with(pointer, Some(value)));
        assert_eq!(key, pointer.trim_start_matches('/').replace('/', "."));
        assert!(problem.contains(expected), "{pointer}: {problem}");
    }
}

#[test]
fn hostile_templates_are_refused_with_their_path() {
    for text in ["past.%s", "past", "past.%d.%d", "%n", "past.%02d"] {
        let (key, problem) = refused(&with("/model/decoder/inputs/past_value_names", Some(json!(text))));
        assert_eq!(key, "model.decoder.inputs.past_value_names");
        assert!(problem.contains("exactly one %d"), "{problem}");
    }
}

#[test]
fn paths_stay_inside_the_package() {
    for path in ["/etc/passwd", "../model.onnx", "a/../../b", "..\\b", "C:model.onnx", "\\\\host\\x", "a\0b"] {
        for pointer in ["/model/decoder/filename", "/model/tokenizer_dir"] {
            let (_, problem) = refused(&with(pointer, Some(json!(path))));
            assert!(problem.contains("inside the package"), "{path}: {problem}");
        }
    }
    let package = parse(&with("/model/decoder/filename", Some(json!("./cpu/model.onnx")))).unwrap();
    assert_eq!(package.decoder.model, Path::new("folder/cpu/model.onnx"));
}

#[test]
fn the_end_token_falls_back_to_the_pad_token_as_in_the_peer() {
    let without = with("/model/eos_token_id", None);
    assert_eq!(parse(&without).unwrap().eos_token_ids, [0]);
    let mut neither = without;
    neither["model"].as_object_mut().unwrap().shift_remove("pad_token_id");
    assert_eq!(refused(&neither).0, "model.eos_token_id");
    assert_eq!(parse(&with("/model/pad_token_id", Some(json!(-1)))).unwrap().pad_token_id, None);
}

#[test]
fn what_is_more_than_a_plain_decoder_is_listed() {
    for (pointer, value, expected) in [
        ("/model/vision", json!({}), "model.vision"),
        ("/model/decoder/pipeline", json!([{}]), "model.decoder.pipeline"),
        (
            "/model/decoder/sliding_window",
            json!({"window_size": 8, "slide_inputs": false}),
            "model.decoder.sliding_window.slide_key_value_cache",
        ),
        (
            "/model/decoder/session_options/custom_ops_library",
            json!("evil.so"),
            "model.decoder.session_options.custom_ops_library",
        ),
    ] {
        assert_eq!(parse(&with(pointer, Some(value))).unwrap().decoder.beyond_plain, [expected]);
    }
    let mut bare = with("/model/encoder", Some(json!({"filename": "encoder.onnx"})));
    bare["model"]["decoder"] = json!({"filename": "decoder.onnx", "num_hidden_layers": 2});
    let bare = parse(&bare).unwrap().decoder;
    assert_eq!((bare.num_hidden_layers, bare.head_size, &bare.beyond_plain[0][..]), (2, 0, "model.encoder"));
    let harmless = json!({"window_size": 8, "slide_inputs": false, "slide_key_value_cache": false});
    assert!(parse(&with("/model/decoder/sliding_window", Some(harmless))).unwrap().decoder.beyond_plain.is_empty());
}

#[test]
fn bytes_that_are_no_configuration_are_errors() {
    let said = |text: &str| Config::parse(text.as_bytes(), Path::new("folder")).unwrap_err().to_string();
    let text = valid().to_string();
    assert!(said(&format!("\u{feff}{text}")).contains("byte order mark"));
    assert!(said(&format!("{text} x")).contains("trailing characters at line 1"));
    assert!(
        said(&text.replacen("\"vocab_size\"", "\"type\":\"x\",\"vocab_size\"", 1))
            .contains("\"model.type\" is there twice")
    );
    assert!(said(&text.replacen("2048", "1e999", 1)).contains("number out of range"));
    assert!(said(&text.replacen("2048", "NaN", 1)).contains("expected value"));
    assert!(said(&text.replacen("2048", "2048,", 1)).contains("line 1 column"));
    let nested = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    for bytes in [&b""[..], b"{", b"[]", b"null", b"{} trailing", b"\xff\xfe", &nested] {
        let error = Config::parse(bytes, Path::new("folder")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Package, "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Config::open(folder.path()).unwrap_err().kind(), ErrorKind::Io);
}

/// What onnxruntime-genai 0.18 says of each was recorded with its `Config`: it accepts and refuses the same.
#[test]
fn the_schema_is_that_of_the_peer() {
    for (pointer, value, key, problem) in [
        ("/x", json!([1]), "x", "is no key"),
        ("/x", json!({}), "x", "is no key"),
        ("/model/x", json!(1), "model.x", "is no key"),
        ("/model/decoder/x", json!(null), "model.decoder.x", "is no key"),
        (
            "/model/decoder/inputs/attention_maks",
            json!("a"),
            "model.decoder.inputs.attention_maks",
            "`attention_mask`?",
        ),
        ("/search/temprature", json!(1), "search.temprature", "did you mean `temperature`?"),
        ("/model/decoder/sliding_window", json!({"x": 1}), "model.decoder.sliding_window.x", "is no key"),
        (
            "/model/decoder/sliding_window",
            json!({"window_size": 128, "cache_slak": 256}),
            "model.decoder.sliding_window.cache_slak",
            "did you mean `cache_slack`?",
        ),
        (
            "/model/decoder/sliding_window",
            json!({"window_size": 128, "cache_slack": "256"}),
            "model.decoder.sliding_window.cache_slack",
            "is \"256\", expected a whole number",
        ),
        (
            "/model/decoder/sliding_window",
            json!({"window_size": 128, "cache_slack": 4_000_000_000u32}),
            "model.decoder.sliding_window.cache_slack",
            "expected a whole number",
        ),
        ("/model/vision", json!({"x": 1}), "model.vision.x", "is no key"),
        ("/model/decoder/layer_types", json!(["a", 1]), "model.decoder.layer_types[1]", "is 1, expected a text"),
        ("/model/decoder/run_options", json!({"a": 1}), "model.decoder.run_options.a", "is 1, expected a text"),
        (
            "/model/decoder/session_options/provider_options",
            json!([{}, {"cuda": {"a": 1}}]),
            "model.decoder.session_options.provider_options[1].cuda.a",
            "is 1, expected a text",
        ),
        (
            "/model/decoder/session_options/provider_options",
            json!([{"cuda": {"device_filtering_options": {"hardware_device_type": "x"}}}]),
            "model.decoder.session_options.provider_options[0].cuda.device_filtering_options.hardware_device_type",
            "expected one of cpu, gpu, npu",
        ),
        ("/model/decoder/state_groups", json!([{"kind": "x"}]), "model.decoder.state_groups[0].kind", "paged_kv"),
        (
            "/model/decoder/pipeline",
            json!([{"a": {"run_on_prompt": 1}}]),
            "model.decoder.pipeline.a.run_on_prompt",
            "is 1",
        ),
        ("/model/encoder", json!({"filename": "../x"}), "model.encoder.filename", "inside the package"),
        ("/model/vision", json!({"config_filename": "/x"}), "model.vision.config_filename", "inside the package"),
        ("/model/speech", json!({"adapter_filename": "a/../b"}), "model.speech.adapter_filename", "inside the package"),
        ("/engine", json!({"x": 1}), "engine.x", "is no key"),
        ("/engine", json!({"dynamic_batching": {"block_size": 0}}), "engine.dynamic_batching.block_size", "at least 1"),
        (
            "/engine",
            json!({"dynamic_batching": {"max_batch_size": 0}}),
            "engine.dynamic_batching.max_batch_size",
            "is 0",
        ),
        ("/engine", json!({"dynamic_batching": {"num_blocks": 0}}), "engine.dynamic_batching.num_blocks", "is 0"),
        (
            "/engine",
            json!({"dynamic_batching": {"max_scheduled_tokens": -1}}),
            "engine.dynamic_batching.max_scheduled_tokens",
            "is -1",
        ),
        (
            "/engine",
            json!({"dynamic_batching": {"max_scheduled_tokens": 1.5}}),
            "engine.dynamic_batching.max_scheduled_tokens",
            "is 1.5",
        ),
        (
            "/engine",
            json!({"dynamic_batching": {"gpu_utilization_factor": 1.5}}),
            "engine.dynamic_batching.gpu_utilization_factor",
            "is 1.5, expected a number above 0 and at most 1",
        ),
        ("/engine", json!({"static_batching": {"max_batch_size": 0}}), "engine.static_batching.max_batch_size", "is 0"),
        ("/speculative", json!({"max_draft_tokens": 17}), "speculative.max_draft_tokens", "from 1 to 16"),
        ("/speculative", json!({"ngram_size": 1}), "speculative.ngram_size", "0 or a whole number from 2 to 16"),
        ("/speculative", json!({"min_adaptive_k": 17}), "speculative.min_adaptive_k", "from 0 to 16"),
    ] {
        let (told, said) = refused(&with(pointer, Some(value)));
        assert_eq!(told, key);
        assert!(said.contains(problem), "{key}: {said}");
    }
    for (pointer, value) in [
        ("/model/vocab_size", json!(98.0)),
        ("/model/decoder/state_groups", json!([{"kind": "paged_kv", "layer_ids": [0]}])),
        ("/model/decoder/layer_types", json!(["full_attention"])),
        ("/model/decoder/run_options", json!({"a": "b"})),
        ("/model/decoder/session_options/session.some_entry", json!("1")),
        ("/model/decoder/session_options/provider_options", json!([{}])),
        ("/model/decoder/pipeline", json!({"a": {"filename": "x"}})),
        ("/model/decoder/inputs/position_ids", json!("")),
        ("/model/decoder/filename", json!("./model.onnx")),
        ("/model/decoder/filename", json!("cpu/model.onnx")),
        ("/model/decoder/sliding_window", json!({"window_size": 128})),
        ("/engine", json!({"dynamic_batching": {"max_scheduled_tokens": 321}})),
        ("/model/vision", json!({"filename": "v.onnx", "inputs": {"pixel_values": "x"}})),
        ("/model/draft", json!({"filename": "d.onnx"})),
        ("/model/mtp", json!({"filename": "m.onnx", "num_hidden_layers": 1})),
        ("/search/chunk_size", json!(-1)),
        ("/search/random_seed", json!(-5)),
        ("/search/audio_top_k", json!(1)),
        ("/runtime_profiles", json!([{"id": "a", "eligibility": {"minimum_total_device_memory_bytes": 8e9}}])),
        ("/engine", json!({"dynamic_batching": {"num_blocks": 4, "gpu_utilization_factor": 0.5}})),
    ] {
        let config = parse(&with(pointer, Some(value))).unwrap();
        assert_eq!(config.warnings, [], "{pointer}");
    }
}

#[test]
fn what_the_peer_passes_over_in_silence_is_told() {
    let config = parse(&with("/x", Some(json!(1)))).unwrap();
    let told: Vec<String> = config.warnings.iter().map(ConfigWarning::to_string).collect();
    assert_eq!(
        told,
        ["genai_config.json: x: is no key of genai_config.json, and onnxruntime-genai ignores it in silence"]
    );
    let long = "x".repeat(1000);
    let warned = parse(&with(&format!("/{long}"), Some(json!(1)))).unwrap().warnings;
    assert_eq!((warned.len(), warned[0].key.len()), (1, 80));
    let text = valid().to_string().replacen("llama", r"a\\\u006c", 1);
    let config = Config::parse(text.as_bytes(), Path::new("folder")).unwrap();
    assert_eq!(config.model_type, r"a\l");
    assert!(config.warnings[0].problem.contains(r"\u escape"), "{:?}", config.warnings);
    // An escaped backslash before a `u` is none.
    let text = valid().to_string().replacen("llama", r"\\u006c", 1);
    assert_eq!(Config::parse(text.as_bytes(), Path::new("folder")).unwrap().warnings, []);
    let provider = json!([{"tpu": {}}]);
    let config = parse(&with("/model/decoder/session_options/provider_options", Some(provider))).unwrap();
    assert!(config.warnings[0].to_string().contains("provider_options.tpu"), "{:?}", config.warnings);
}

#[test]
fn session_engine_and_windows_are_read() {
    let mut config = valid();
    config["model"]["decoder"]["session_options"] = json!({
        "intra_op_num_threads": 3, "graph_optimization_level": "ORT_ENABLE_BASIC", "session.a": "1", "enable_mem_pattern": false,
        "provider_options": [{"CUDAExecutionProvider": {"a": "b", "device_filtering_options": {"hardware_device_id": 1}}}, {"webgpu": {}}],
    });
    config["model"]["decoder"]["sliding_window"] = json!({"window_size": 8, "layers": [0, 2], "cache_slack": 4, "slide_inputs": false, "slide_key_value_cache": false});
    config["engine"] = json!({"dynamic_batching": {"num_blocks": 7}});
    config["speculative"] = json!({"ngram_size": 3});
    let read = parse(&config).unwrap();
    let session = &read.decoder.session;
    assert_eq!((session.intra_op_num_threads, session.enable_mem_pattern), (Some(3), Some(false)));
    assert_eq!(session.graph_optimization_level, Some(OptimizationLevel::Basic));
    assert_eq!(session.entries, [("session.a".to_owned(), "1".to_owned())]);
    let [cuda, webgpu] = &session.providers[..] else { panic!("{session:?}") };
    assert_eq!((cuda.name.as_str(), webgpu.name.as_str()), ("cuda", "WebGPU"));
    assert_eq!(cuda.options, [("a".to_owned(), "b".to_owned())]);
    assert_eq!(cuda.devices.as_ref().unwrap().hardware_device_id, Some(1));
    let window = read.decoder.window.as_ref().unwrap();
    assert_eq!((window.of(2), window.of(1), window.slack, window.slides_cache), (Some(8), None, 4, false));
    let Some(Engine::Dynamic { block_size: 256, num_blocks: Some(7), max_batch_size: 16, .. }) = read.engine else {
        panic!("{:?}", read.engine)
    };
    assert_eq!((read.speculative.ngram_size, read.speculative.max_draft_tokens), (3, 4));
    config["engine"]["static_batching"] = json!({});
    assert_eq!(parse(&config).unwrap().engine, Some(Engine::Static { max_batch_size: 4 }), "the last one counts");
}

#[test]
fn an_overlay_is_a_merge_patch() {
    let mut config = parse(&valid()).unwrap();
    let before = config.clone();
    let patch = json!({"model": {"eos_token_id": [5], "bos_token_id": null}, "search": {"top_k": 3, "max_length": 0}});
    config.overlay(&patch).unwrap();
    assert_eq!((&config.eos_token_ids[..], config.bos_token_id), (&[5][..], None));
    assert_eq!((config.search.top_k, config.search.max_length), (3, 1024));
    assert_eq!(config.decoder, before.decoder);
    // A second one goes on from there, and one that is wrong changes nothing.
    let changed = config.clone();
    let wrong = json!({"search": {"top_k": 4, "top_p": "x"}});
    assert!(config.overlay(&wrong).unwrap_err().to_string().contains("search.top_p: is \"x\""));
    assert_eq!(config, changed);
    config.overlay(&json!({"search": {"temperature": 2}})).unwrap();
    assert_eq!((config.search.top_k, config.search.temperature), (3, 2.0));
    assert!(config.overlay(&json!(7)).is_err());
}

#[test]
fn an_overlay_as_the_peer_reads_it_appends() {
    let mut config = valid();
    config["model"]["eos_token_id"] = json!(98);
    config["model"]["decoder"]["session_options"]["provider_options"] = json!([{"cuda": {"a": "1"}}]);
    config["model"]["decoder"]["run_options"] = json!({"a": "1"});
    let mut config = parse(&config).unwrap();
    for ids in [json!([98, 731]), json!([5])] {
        config.overlay_as_peer(&json!({"model": {"eos_token_id": ids}})).unwrap();
    }
    assert_eq!(config.eos_token_ids, [98, 98, 731, 5]);
    config
        .overlay_as_peer(&json!({"model": {"decoder": {
            "session_options": {"provider_options": [{"cuda": {"b": "2"}}, {"DML": {}}]},
            "run_options": {"b": "2"},
        }}}))
        .unwrap();
    let providers: Vec<_> =
        config.decoder.session.providers.iter().map(|p| (p.name.as_str(), p.options.len())).collect();
    assert_eq!(providers, [("cuda", 2), ("DML", 0)]);
    assert_eq!(config.decoder.run_options, [("b".to_owned(), "2".to_owned())]);
    config.overlay_as_peer(&json!({"model": {"eos_token_id": 7}})).unwrap();
    assert_eq!(config.eos_token_ids, [7]);
    assert!(config.overlay_as_peer(&json!({"model": {"pad_token_id": null}})).is_err());
}

#[test]
fn providers_are_changed_by_any_of_their_names() {
    let mut config = parse(&valid()).unwrap();
    for name in ["CUDAExecutionProvider", "cuda", "Cuda", "webgpu"] {
        config.append_provider(name).unwrap();
    }
    let names = |config: &Config| config.decoder.session.providers.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&config), ["cuda", "WebGPU"]);
    config.set_provider_option("CUDA", "device_id", "1").unwrap();
    config.set_provider_option("cuda", "device_id", "2").unwrap();
    assert_eq!(config.decoder.session.providers[0].options, [("device_id".to_owned(), "2".to_owned())]);
    let filter = DeviceFilter { hardware_device_type: Some("gpu".into()), ..DeviceFilter::default() };
    config.set_device_filter("cuda", &filter).unwrap();
    assert_eq!(config.decoder.session.providers[0].devices, Some(filter.clone()));
    assert_eq!(config.decoder.session.providers[0].options.len(), 1);
    config.set_device_filter("cuda", &DeviceFilter::default()).unwrap();
    assert_eq!(config.decoder.session.providers[0].devices, None);
    assert!(config.set_device_filter("dml", &filter).unwrap_err().to_string().contains("one that the decoder has"));
    let error = config.append_provider("tpu").unwrap_err().to_string();
    assert!(error.contains("\"tpu\"") && error.contains("NvTensorRtRtx"), "{error}");
    assert!(config.set_provider_option("cuda", "a\nb", "").unwrap_err().to_string().contains("control characters"));
    config.clear_providers().unwrap();
    assert_eq!(names(&config), [""; 0]);
}
