//! `--target_options` and `--speculative_options`, as the precision and the extra options that say the same.

use genai_builder::{Precision, graph::Dtype};
use serde_json::{Map, Value};

use super::{
    schema::{Field, Kind, check, field},
    twice,
};
use crate::{
    failure::Failure,
    options::{self, ExtraOptions},
    targets::Wanted,
};

#[derive(Debug, Default)]
pub(crate) struct TargetOptions {
    object: Map<String, Value>,
    speculative: Map<String, Value>,
}

/// An extra option, and what said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    path: String,
    pub(crate) key: &'static str,
    pub(crate) value: String,
}

const ROOT: &[Field] = &[
    field("quant_config", Kind::Object(QUANTIZATION)),
    field("attention", Kind::Object(ATTENTION)),
    field("optimizations", Kind::Object(&[field("fuse_mlp_gate_up", Kind::Flag), field("fuse_qkv", Kind::Flag)])),
    field("vision", Kind::Refused("text decoders alone are built")),
];

const QUANTIZATION: &[Field] = &[
    field("io_dtype", Kind::OneOf(&["fp16", "bf16", "fp32"])),
    field("weights", Kind::Object(WEIGHTS)),
    field("format", Kind::Object(FORMAT)),
    field("runtime", Kind::Object(FORMAT)),
    field("moe", Kind::Refused("no family with experts is supported")),
    field("checkpoint_policy", Kind::Refused("checkpoints that are quantized already are not supported")),
];

const WEIGHTS: &[Field] = &[
    field("type", Kind::OneOf(&["none", "int4", "uint4", "int8", "uint8"])),
    field("block_size", Kind::Whole(0, i64::MAX)),
    field("symmetric", Kind::Flag),
    field("method", Kind::Text),
    field("accuracy_level", Kind::Whole(0, 4)),
    field("op_types", Kind::Texts),
    field("overrides", Kind::Objects(OVERRIDE)),
];

const OVERRIDE: &[Field] = &[
    field("match", Kind::Object(&[field("preset", Kind::Text), field("name", Kind::Text)])),
    field("type", Kind::Text),
    field("exclude", Kind::Flag),
];

const FORMAT: &[Field] = &[
    field("use_qdq", Kind::Flag),
    // 0 is the layout that every package has.
    field("matmulnbits_weights_prepacked", Kind::Whole(0, 0)),
];

const ATTENTION: &[Field] = &[
    field("implementation", Kind::OneOf(&["auto", "paged"])),
    field("paged", Kind::Object(&[field("block_size", Kind::Whole(1, i64::MAX))])),
    field(
        "kv_cache",
        Kind::Object(&[field("scheme", Kind::Text), field("scale_file", Kind::Text), field("windowed", Kind::Flag)]),
    ),
];

const SPECULATIVE: &[Field] =
    &[field("aux_hidden_state_layers", Kind::Wholes(1, i64::MAX)), field("state_update_capacity", Kind::Whole(0, 0))];

/// Where a key leads, as the extra option of the same meaning, and what stands between several values.
const SAME: &[(&str, &str, &str)] = &[
    ("quant_config.weights.block_size", "block_size", ""),
    ("quant_config.weights.symmetric", "is_symmetric", ""),
    ("quant_config.weights.method", "algo_config", ""),
    ("quant_config.weights.accuracy_level", "accuracy_level", ""),
    ("quant_config.weights.op_types", "op_types_to_quantize", "/"),
    ("quant_config.format.use_qdq", "use_qdq", ""),
    ("quant_config.runtime.use_qdq", "use_qdq", ""),
    ("attention.paged.block_size", "paged_block_size", ""),
    ("attention.kv_cache.scheme", "kv_cache_quant_scheme", ""),
    ("attention.kv_cache.scale_file", "kv_cache_scale_file", ""),
    ("attention.kv_cache.windowed", "windowed_kv_cache", ""),
    ("optimizations.fuse_mlp_gate_up", "fuse_mlp_gate_up", ""),
    ("optimizations.fuse_qkv", "fuse_qkv", ""),
];

const FLAG: &str = "--target_options";
const TYPE: &str = "quant_config.weights.type";
const IO: &str = "quant_config.io_dtype";

impl TargetOptions {
    pub(super) fn new(object: Map<String, Value>, speculative: Map<String, Value>) -> Result<Self, Failure> {
        check(FLAG, &object.clone().into(), &Kind::Object(ROOT))?;
        check("--speculative_options", &speculative.clone().into(), &Kind::Object(SPECULATIVE))?;
        let options = Self { object, speculative };
        if options.at("attention.paged").is_some() && options.text("attention.implementation") != Some("paged") {
            return Err(Failure::usage(format!(
                "{FLAG}.attention.paged is given, and the implementation is not \"paged\""
            )));
        }
        if options.at("quant_config.format").is_some() && options.at("quant_config.runtime").is_some() {
            return Err(Failure::usage(format!("{FLAG}.quant_config has format and runtime, two names of the same")));
        }
        Ok(options)
    }

    fn at(&self, path: &str) -> Option<&Value> {
        let mut keys = path.split('.');
        let first = self.object.get(keys.next()?)?;
        keys.try_fold(first, |value, key| value.get(key))
    }

    fn text(&self, path: &str) -> Option<&str> {
        self.at(path)?.as_str()
    }

    /// The precision that follows from the type of the weights, where that is given.
    pub(crate) fn precision(&self) -> Option<Precision> {
        match self.text(TYPE)? {
            "int4" | "uint4" => Some(Precision::Int4),
            "int8" | "uint8" => Some(Precision::Int8),
            _ => match self.text(IO)? {
                "fp16" => Some(Precision::Fp16),
                "bf16" => Some(Precision::Bf16),
                _ => Some(Precision::Fp32),
            },
        }
    }

    /// The extra options of the same meaning for one package.
    ///
    /// # Errors
    /// What contradicts itself, the precision, or an extra option as it was typed, and a value that no such option has.
    pub(crate) fn extra_options(&self, wanted: &Wanted, typed: &[String]) -> Result<Vec<Given>, Failure> {
        let given = self.translated(wanted)?;
        for one in &given {
            if options::without(typed, one.key).len() != typed.len() {
                return Err(twice(one.key, &one.path));
            }
            ExtraOptions::default()
                .set(one.key, &one.value)
                .map_err(|failure| Failure { message: format!("{}: {}", one.path, failure.message), ..failure })?;
        }
        Ok(given)
    }

    fn translated(&self, wanted: &Wanted) -> Result<Vec<Given>, Failure> {
        self.check_type(wanted)?;
        let mut given = Vec::new();
        for (path, key, between) in SAME {
            if let Some(value) = self.at(path) {
                given.push(Given { path: format!("{FLAG}.{path}"), key, value: spelled(value, between) });
            }
        }
        given.extend(self.symmetry()?);
        given.extend(self.overrides()?);
        given.extend(self.activations(wanted)?);
        if self.text("attention.implementation") == Some("paged") {
            let path = format!("{FLAG}.attention.implementation");
            given.push(Given { path, key: "use_paged_attention", value: "true".to_owned() });
        }
        if let Some(layers) = self.speculative.get("aux_hidden_state_layers") {
            let path = "--speculative_options.aux_hidden_state_layers".to_owned();
            given.push(Given { path, key: "aux_hidden_state_layers", value: spelled(layers, ",") });
        }
        Ok(given)
    }

    fn check_type(&self, wanted: &Wanted) -> Result<(), Failure> {
        let Some(kind) = self.text(TYPE) else { return Ok(()) };
        let bits = match kind {
            "int4" | "uint4" => Some(4),
            "int8" | "uint8" => Some(8),
            _ => None,
        };
        if bits == wanted.precision.bits() {
            return Ok(());
        }
        Err(Failure::usage(format!("{FLAG}.{TYPE} is {kind:?}, and the precision is {}", wanted.precision.name()))
            .with_hint("leave out one of them"))
    }

    /// An unsigned type has zero points.
    fn symmetry(&self) -> Result<Option<Given>, Failure> {
        let unsigned = match self.text(TYPE) {
            Some("uint4" | "uint8") => true,
            Some("int4" | "int8") => false,
            _ => return Ok(None),
        };
        match self.at("quant_config.weights.symmetric").and_then(Value::as_bool) {
            Some(true) if unsigned => Err(Failure::usage(format!(
                "{FLAG}.quant_config.weights has the type {:?} and symmetric true, and a symmetric type is signed",
                self.text(TYPE).unwrap_or_default()
            ))),
            None if unsigned => {
                Ok(Some(Given { path: format!("{FLAG}.{TYPE}"), key: "is_symmetric", value: "false".to_owned() }))
            }
            _ => Ok(None),
        }
    }

    /// Other types for some matrices, by the name of a group, and nodes by name that stay float.
    fn overrides(&self) -> Result<Vec<Given>, Failure> {
        let (mut types, mut excluded) = (Vec::new(), Vec::new());
        let path = format!("{FLAG}.quant_config.weights.overrides");
        let list = self.at("quant_config.weights.overrides").and_then(Value::as_array);
        for (at, one) in list.into_iter().flatten().enumerate() {
            let text = |path: &[&str]| path.iter().try_fold(one, |value, key| value.get(key))?.as_str();
            let exclude = one.get("exclude").and_then(Value::as_bool).unwrap_or(false);
            match (text(&["match", "preset"]), text(&["match", "name"]), text(&["type"]), exclude) {
                (Some(some), None, Some(kind), false) | (None, Some(some), Some(kind), false) => {
                    types.push(format!("{some}:{kind}"));
                }
                (None, Some(name), None, true) => excluded.push(name.to_owned()),
                _ => {
                    return Err(Failure::usage(format!(
                        "{path}[{at}] is {one}, expected match.preset or match.name with a type, or match.name with \
                         \"exclude\": true"
                    )));
                }
            }
        }
        let mut given = Vec::new();
        if !types.is_empty() {
            given.push(Given { path: path.clone(), key: "matmul_mixed_precision", value: types.join(",") });
        }
        if !excluded.is_empty() {
            given.push(Given { path, key: "nodes_to_exclude", value: excluded.join(",") });
        }
        Ok(given)
    }

    /// The dtype of activations: that of the target, or one that an option asks for.
    fn activations(&self, wanted: &Wanted) -> Result<Option<Given>, Failure> {
        let Some(io) = self.text(IO) else { return Ok(None) };
        let dtype = match io {
            "fp16" => Dtype::F16,
            "bf16" => Dtype::Bf16,
            _ => Dtype::F32,
        };
        let cell = wanted.target.expect_cell(wanted.precision)?;
        match cell.alternative {
            _ if cell.activations == dtype => Ok(None),
            Some((key, other)) if other == dtype => {
                Ok(Some(Given { path: format!("{FLAG}.{IO}"), key, value: "true".to_owned() }))
            }
            _ => Err(Failure::unsupported(
                format!(
                    "{FLAG}.{IO} is {io:?}, in which {} does not compute {}",
                    wanted.target.provider,
                    wanted.precision.name()
                ),
                "`genai-build targets` says what each precision is computed in",
            )),
        }
    }
}

/// A value as it stands behind the equals sign of an extra option.
fn spelled(value: &Value, between: &str) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(|item| spelled(item, between)).collect::<Vec<_>>().join(between),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn every_key_leads_to_an_extra_option() {
        let options = serde_json::json!({
            "quant_config": {
                "io_dtype": "bf16",
                "weights": {
                    "type": "uint4", "block_size": 64, "method": "k_quant", "accuracy_level": 4,
                    "op_types": ["MatMul", "Gather"],
                    "overrides": [
                        {"match": {"preset": "last_matmul"}, "type": "int8"},
                        {"match": {"name": "/a"}, "exclude": true},
                        {"match": {"preset": "mixed_layers"}, "type": "int8"},
                        {"match": {"name": "/b"}, "exclude": true},
                        {"match": {"name": "/c"}, "type": "int8"},
                    ],
                },
                "runtime": {"use_qdq": false},
            },
            "attention": {
                "implementation": "paged",
                "paged": {"block_size": 128},
                "kv_cache": {"scheme": "int8_per_tensor", "scale_file": "scales.json", "windowed": false},
            },
            "optimizations": {"fuse_mlp_gate_up": true, "fuse_qkv": false},
        });
        let speculative = serde_json::json!({"aux_hidden_state_layers": [1, 4]});
        let options = TargetOptions::new(object(&options), object(&speculative)).unwrap();
        assert_eq!(options.precision(), Some(Precision::Int4));
        let wanted = Wanted::of(genai_builder::Target::find("cuda").unwrap(), Precision::Int4);
        let mut found: Vec<_> = options
            .translated(&wanted)
            .unwrap()
            .into_iter()
            .map(|given| format!("{}={}", given.key, given.value))
            .collect();
        found.sort();
        assert_eq!(
            found,
            [
                "accuracy_level=4",
                "algo_config=k_quant",
                "aux_hidden_state_layers=1,4",
                "block_size=64",
                "fuse_mlp_gate_up=true",
                "fuse_qkv=false",
                "is_symmetric=false",
                "kv_cache_quant_scheme=int8_per_tensor",
                "kv_cache_scale_file=scales.json",
                "matmul_mixed_precision=last_matmul:int8,mixed_layers:int8,/c:int8",
                "nodes_to_exclude=/a,/b",
                "op_types_to_quantize=MatMul/Gather",
                "paged_block_size=128",
                "use_cuda_bf16=true",
                "use_paged_attention=true",
                "use_qdq=false",
                "windowed_kv_cache=false",
            ]
        );
    }
}
