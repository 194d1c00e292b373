//! How a session is opened: threads, optimisation, providers.

use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::{Config, document};
use crate::{Error, Result};

/// Names of execution providers as `genai_config.json` has them.
const PROVIDERS: [&str; 10] =
    ["CPU", "cuda", "QNN", "WebGPU", "DML", "OpenVINO", "VitisAI", "RyzenAI", "NvTensorRtRtx", "AMDGPU"];

const DEVICES: &str = "device_filtering_options";

/// What a package asks of ONNX Runtime for its decoder. None leaves it to the runtime.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionOptions {
    pub log_id: Option<String>,
    /// The beginning of a profile's path.
    pub enable_profiling: Option<String>,
    /// Within an operator. 0 is one for each core.
    pub intra_op_num_threads: Option<usize>,
    /// Of operators side by side.
    pub inter_op_num_threads: Option<usize>,
    /// 0 (all) to 4 (fatal).
    pub log_severity_level: Option<usize>,
    pub log_verbosity_level: Option<usize>,
    pub enable_cpu_mem_arena: Option<bool>,
    pub enable_mem_pattern: Option<bool>,
    pub graph_optimization_level: Option<OptimizationLevel>,
    /// A native library, which nothing here loads.
    pub custom_ops_library: Option<String>,
    /// Entries of ONNX Runtime's own, in the order of the file.
    pub entries: Vec<(String, String)>,
    /// In order of preference.
    pub providers: Vec<ProviderOptions>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptimizationLevel {
    None,
    Basic,
    Extended,
    All,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderOptions {
    /// As the peer has it, where the provider is known: `cuda` for `CUDAExecutionProvider`.
    pub name: String,
    pub options: Vec<(String, String)>,
    pub devices: Option<DeviceFilter>,
}

/// Which devices a provider may take; none of the three takes any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceFilter {
    /// `cpu`, `gpu` or `npu`
    pub hardware_device_type: Option<String>,
    pub hardware_device_id: Option<u32>,
    pub hardware_vendor_id: Option<u32>,
}

impl SessionOptions {
    pub(super) fn read(fields: &Fields) -> Result<Self> {
        let mut providers = Vec::new();
        for provider in fields.list("provider_options")? {
            for (name, options) in provider.objects()? {
                providers.push(ProviderOptions::read(name, &options)?);
            }
        }
        let text = |key: &str| Ok::<_, Error>(fields.optional_text(key)?.map(str::to_owned));
        let level = fields.optional_text("graph_optimization_level")?.map(|level| match level {
            "ORT_DISABLE_ALL" => OptimizationLevel::None,
            "ORT_ENABLE_BASIC" => OptimizationLevel::Basic,
            "ORT_ENABLE_EXTENDED" => OptimizationLevel::Extended,
            _ => OptimizationLevel::All,
        });
        Ok(Self {
            log_id: text("log_id")?,
            enable_profiling: text("enable_profiling")?,
            intra_op_num_threads: fields.optional_integer("intra_op_num_threads")?,
            inter_op_num_threads: fields.optional_integer("inter_op_num_threads")?,
            log_severity_level: fields.optional_integer("log_severity_level")?,
            log_verbosity_level: fields.optional_integer("log_verbosity_level")?,
            enable_cpu_mem_arena: fields.flag("enable_cpu_mem_arena")?,
            enable_mem_pattern: fields.flag("enable_mem_pattern")?,
            graph_optimization_level: level,
            custom_ops_library: text("custom_ops_library")?.filter(|name| !name.is_empty()),
            entries: fields.texts_but(&[
                "log_id",
                "enable_profiling",
                "graph_optimization_level",
                "custom_ops_library",
            ]),
            providers,
        })
    }
}

impl ProviderOptions {
    fn read(name: &str, fields: &Fields) -> Result<Self> {
        let devices = fields.object_or_empty(DEVICES)?;
        let id = |key: &str| Ok::<_, Error>(devices.optional_integer(key)?.and_then(|id| u32::try_from(id).ok()));
        let filter = DeviceFilter {
            hardware_device_type: devices.optional_text("hardware_device_type")?.map(str::to_owned),
            hardware_device_id: id("hardware_device_id")?,
            hardware_vendor_id: id("hardware_vendor_id")?,
        };
        Ok(Self {
            name: known_provider(name).unwrap_or(name).to_owned(),
            options: fields.texts_but(&[]),
            devices: fields.has(DEVICES).then_some(filter),
        })
    }
}

/// The provider's name in `genai_config.json`, from it, from ONNX Runtime's, in any case.
pub(super) fn known_provider(name: &str) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    let short = lower.strip_suffix("executionprovider").unwrap_or(&lower);
    PROVIDERS.into_iter().find(|known| known.eq_ignore_ascii_case(short))
}

impl Config {
    /// Puts a provider behind those that the decoder has, unless it is there. Names are those of `genai_config.json`
    /// or of ONNX Runtime, in any case.
    ///
    /// # Errors
    /// [`Error::Argument`] for a name that no provider has. (The peer takes any, and fails when it loads the model.)
    pub fn append_provider(&mut self, name: &str) -> Result<()> {
        self.change_provider(name, |_| ())
    }

    /// Sets an option of a provider, which is appended where it is missing.
    ///
    /// # Errors
    /// As [`Config::append_provider`]; also for control characters, which the peer refuses.
    pub fn set_provider_option(&mut self, provider: &str, key: &str, value: &str) -> Result<()> {
        if key.is_empty() || key == DEVICES {
            return Err(Error::argument("the name of a provider option", format!("{key:?}"), "that of an option"));
        }
        if let Some(control) = [key, value].into_iter().find(|text| text.chars().any(char::is_control)) {
            return Err(Error::argument(
                "a provider option",
                format!("{control:?}"),
                "text without control characters",
            ));
        }
        self.change_provider(provider, |options| drop(options.insert(key.to_owned(), value.into())))
    }

    /// Leaves the decoder to the CPU. What options the providers had is forgotten. (The peer remembers them, and they
    /// come back with the provider.)
    ///
    /// # Errors
    /// None: the signature is that of what changes the document.
    pub fn clear_providers(&mut self) -> Result<()> {
        self.set_providers(&Map::new())
    }

    /// Says which devices a provider may take.
    ///
    /// # Errors
    /// As [`Config::append_provider`]; also for a provider that the decoder does not have, where the peer does nothing.
    pub fn set_device_filter(&mut self, provider: &str, filter: &DeviceFilter) -> Result<()> {
        let known = checked_provider(provider)?;
        if !self.decoder.session.providers.iter().any(|provider| provider.name == known) {
            return Err(Error::argument("the provider of a device filter", provider, "one that the decoder has"));
        }
        let mut object = Map::new();
        object.extend(filter.hardware_device_type.clone().map(|kind| ("hardware_device_type".into(), kind.into())));
        object.extend(filter.hardware_device_id.map(|id| ("hardware_device_id".into(), id.into())));
        object.extend(filter.hardware_vendor_id.map(|id| ("hardware_vendor_id".into(), id.into())));
        self.change_provider(provider, |options| {
            options.shift_remove(DEVICES);
            if !object.is_empty() {
                options.insert(DEVICES.to_owned(), Value::Object(object));
            }
        })
    }

    fn change_provider(&mut self, name: &str, change: impl FnOnce(&mut Map<String, Value>)) -> Result<()> {
        let known = checked_provider(name)?;
        let list = self.document.pointer("/model/decoder/session_options/provider_options").and_then(Value::as_array);
        let mut providers = Map::new();
        for (name, options) in list.into_iter().flatten().filter_map(Value::as_object).flatten() {
            let name = known_provider(name).unwrap_or(name);
            document::merge(providers.entry(name).or_insert(Value::Null), options);
        }
        // The schema was checked: what a provider has is an object.
        if let Some(options) = providers.entry(known).or_insert_with(|| json!({})).as_object_mut() {
            change(options);
        }
        self.set_providers(&providers)
    }

    fn set_providers(&mut self, providers: &Map<String, Value>) -> Result<()> {
        let list: Vec<Value> = providers.iter().map(|(name, options)| json!({name: options})).collect();
        self.overlay(&json!({"model": {"decoder": {"session_options": {"provider_options": list}}}}))
    }
}

fn checked_provider(name: &str) -> Result<&'static str> {
    known_provider(name).ok_or_else(|| Error::argument("provider", format!("{name:?}"), PROVIDERS.join(", ")))
}
