//! What a user adds to `genai_config.json`: sampling, batching, how sessions are opened. It is merged last, and what the
//! graph decides stays.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::{Error, Result, Settings, Target};

/// An object as it stands in `genai_config.json`, of what is to be different there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RuntimeConfig {
    pub object: Map<String, Value>,
}

/// Provider options that say how the graph was made, whether or not they are there.
const OF_THE_GRAPH: [&str; 4] =
    ["enableGraphCapture", "enable_graph_capture", "multiRotaryCacheConcatOffset", "multi_rotary_cache_concat_offset"];

/// Session options that may be given another value than the package has.
const FREE: [&str; 1] = ["log_id"];

impl RuntimeConfig {
    /// Merges the object into what was generated: objects key by key, the options of a provider into those of that
    /// provider, all else in place of what was there.
    ///
    /// # Errors
    /// `Unsupported` where it contradicts the model, the graph or itself.
    pub(crate) fn merge_into(&self, generated: &mut Value, settings: &Settings) -> Result<()> {
        self.check_engine(generated)?;
        self.check_profiles(settings.target)?;
        self.check_sessions(generated, settings.target)?;
        let shares = at(generated, "search.past_present_share_buffer").cloned();
        if self.at("search.past_present_share_buffer") == Some(&Value::Bool(true)) && shares == Some(false.into()) {
            return Err(contradicts(
                "search.past_present_share_buffer",
                "true",
                "the graph's cache grows with each step",
            ));
        }
        for key in ["chunk_size", "num_beams"] {
            let path = format!("search.{key}");
            let decided = at(generated, &path).filter(|_| settings.is_fixed());
            if let (Some(decided), Some(given)) = (decided, self.at(&path))
                && decided != given
            {
                return Err(contradicts(&path, given, "each run of the graph takes one token of one sequence"));
            }
        }
        for (key, value) in &self.object {
            merge(key, generated, value);
        }
        if let Some(batching) = at_mut(generated, "engine.dynamic_batching") {
            // One stands for the other.
            let (given, other) = match self.at("engine.dynamic_batching.num_blocks") {
                Some(_) => (true, "gpu_utilization_factor"),
                None => (self.at("engine.dynamic_batching.gpu_utilization_factor").is_some(), "num_blocks"),
            };
            if given {
                batching.remove(other);
            }
        }
        if self.object.contains_key("search") { check_search(generated) } else { Ok(()) }
    }

    fn at(&self, path: &str) -> Option<&Value> {
        let (first, rest) = path.split_once('.').unwrap_or((path, ""));
        let value = self.object.get(first)?;
        if rest.is_empty() { Some(value) } else { at(value, rest) }
    }

    /// Only a package whose cache is in pages is run by an engine that takes them.
    fn check_engine(&self, generated: &Value) -> Result<()> {
        match (self.object.get("engine"), at(generated, "engine.dynamic_batching")) {
            (Some(_), None) => Err(unsupported(
                "engine is given, and the package has no dynamic batching",
                "it belongs to packages with paged attention: the extra option use_paged_attention",
            )),
            _ => Ok(()),
        }
    }

    fn check_profiles(&self, target: &Target) -> Result<()> {
        match self.object.get("runtime_profiles") {
            Some(_) if !target.takes_profiles() => Err(unsupported(
                format!("runtime_profiles is given, which onnxruntime-genai does not load for {}", target.provider),
                "leave it out",
            )),
            _ => Ok(()),
        }
    }

    /// Sessions are of components that there are; what was generated for them stays.
    fn check_sessions(&self, generated: &Value, target: &Target) -> Result<()> {
        let components = self.object.get("model").and_then(Value::as_object);
        for (component, options) in components.into_iter().flatten() {
            let path = format!("model.{component}.session_options");
            let Some(there) = at(generated, &path).and_then(Value::as_object) else {
                return Err(unsupported(
                    format!("model.{component} is given, and the package has none"),
                    "leave it out",
                ));
            };
            let given = options.get("session_options").and_then(Value::as_object);
            for (key, value) in given.into_iter().flatten() {
                if key == "provider_options" {
                    check_providers(&path, there.get(key), value, target)?;
                    continue;
                }
                if there.get(key).is_some_and(|there| there != value) && !FREE.contains(&key.as_str()) {
                    return Err(contradicts(&format!("{path}.{key}"), value, "the package has another value"));
                }
                let of_another = key.strip_prefix("ep.").is_some_and(|rest| {
                    let provider = rest.split('.').next().unwrap_or_default();
                    !provider.eq_ignore_ascii_case(target.provider)
                });
                if of_another {
                    let reason = format!("the package is for {}", target.provider);
                    return Err(contradicts(&format!("{path}.{key}"), value, &reason));
                }
            }
        }
        Ok(())
    }
}

/// Options may be added to the providers that there are, in any case of their names.
fn check_providers(path: &str, there: Option<&Value>, given: &Value, target: &Target) -> Result<()> {
    let path = format!("{path}.provider_options");
    let there = providers(there);
    let names = |list: &[(&str, &Value)]| {
        let mut names: Vec<_> = list.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
        names.sort();
        names
    };
    let given = providers(Some(given));
    if names(&given) != names(&there) {
        let there: Vec<_> = there.iter().map(|(name, _)| *name).collect();
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        return Err(unsupported(
            format!("{path} names other providers than the package has"),
            format!("the package has {there}; another target is another package"),
        ));
    }
    let capture = target.capture.iter().flat_map(|capture| capture.provider_options).flatten().map(|(key, _)| *key);
    let of_the_graph: Vec<_> = OF_THE_GRAPH.into_iter().chain(capture).collect();
    for (name, options) in given {
        let before = there.iter().find(|(there, _)| there.eq_ignore_ascii_case(name)).map(|(_, options)| *options);
        for (key, value) in options.as_object().into_iter().flatten() {
            let before = before.and_then(|before| before.get(key));
            let decided = before.is_some() || of_the_graph.contains(&key.as_str());
            if decided && before != Some(value) {
                let reason = "it was decided with the graph, by the target or an extra option";
                return Err(contradicts(&format!("{path}.{name}.{key}"), value, reason));
            }
        }
    }
    Ok(())
}

/// The entries of a list of objects of one provider each.
fn providers(list: Option<&Value>) -> Vec<(&str, &Value)> {
    let entries = list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object);
    entries.flatten().map(|(name, options)| (name.as_str(), options)).collect()
}

/// Settings that do not go together, whoever gave them.
fn check_search(generated: &Value) -> Result<()> {
    let number = |path: &str| at(generated, path).and_then(Value::as_f64);
    for (less, greater) in [
        ("search.max_length", "model.context_length"),
        ("search.min_length", "search.max_length"),
        ("search.num_return_sequences", "search.num_beams"),
    ] {
        if let (Some(a), Some(b)) = (number(less), number(greater))
            && a > b
        {
            return Err(unsupported(format!("{less} is {a}, more than {greater}, which is {b}"), "lower the former"));
        }
    }
    if at(generated, "search.do_sample") == Some(&Value::Bool(true)) && number("search.num_beams") > Some(1.0) {
        return Err(unsupported(
            "search has do_sample and more than one beam, which onnxruntime-genai does not run together",
            "set do_sample to false, or num_beams to 1",
        ));
    }
    Ok(())
}

/// Puts a value at a key of an object.
fn merge(key: &str, into: &mut Value, value: &Value) {
    let Some(into) = into.as_object_mut() else { return };
    match (into.get_mut(key), value) {
        (Some(there @ Value::Object(_)), Value::Object(more)) => {
            more.iter().for_each(|(key, value)| merge(key, there, value));
        }
        (Some(Value::Array(there)), Value::Array(_)) if key == "provider_options" => {
            for (name, options) in providers(Some(value)) {
                for entry in there.iter_mut().filter_map(Value::as_object_mut).flatten() {
                    if entry.0.eq_ignore_ascii_case(name) {
                        let entry = entry.1;
                        options.as_object().into_iter().flatten().for_each(|(key, value)| merge(key, entry, value));
                    }
                }
            }
        }
        _ => drop(into.insert(key.to_owned(), value.clone())),
    }
}

fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, key| value.get(key))
}

fn at_mut<'a>(value: &'a mut Value, path: &str) -> Option<&'a mut Map<String, Value>> {
    path.split('.').try_fold(value, |value, key| value.get_mut(key))?.as_object_mut()
}

fn contradicts(path: &str, value: impl std::fmt::Display, reason: &str) -> Error {
    unsupported(format!("{path} is {value}, but {reason}"), "leave it out")
}

fn unsupported<'a>(what: impl Into<Cow<'a, str>>, hint: impl Into<Cow<'a, str>>) -> Error {
    Error::Unsupported { what: format!("runtime_config.{}", what.into()), hint: hint.into().into_owned() }
}
