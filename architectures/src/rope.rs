//! Rotary position embedding: every kind that a config can ask for, resolved to frequencies.

use crate::{Config, Error, Result};

/// One rotary table: pair `i` of a head turns by `position * inverse_frequencies[i]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// How many leading dimensions of a head are rotated; even.
    pub dim: usize,
    pub theta: f64,
    pub layout: RopeLayout,
    pub scaling: RopeScaling,
}

/// Which dimensions form a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeLayout {
    /// `(i, i + dim / 2)`
    Half,
    /// `(2i, 2i + 1)`
    Interleaved,
}

/// How frequencies are changed to stretch the context.
///
/// Formulas: `transformers` 5.23, `modeling_rope_utils.py`.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    None,
    /// All frequencies divided by `factor`.
    Linear {
        factor: f64,
    },
    /// NTK-aware: past `original_context` the base grows with the current length, so the table depends on it.
    Dynamic {
        factor: f64,
        original_context: usize,
    },
    /// NTK by parts: slow pairs are interpolated, fast ones kept, a ramp between.
    Yarn {
        factor: f64,
        original_context: usize,
        beta_fast: f64,
        beta_slow: f64,
        /// Ends of the ramp rounded outwards to whole pairs.
        truncate: bool,
        /// Multiplies cosine and sine.
        attention_factor: f32,
    },
    /// Llama 3.1: long waves divided by `factor`, short ones kept, a smooth step between.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_context: usize,
    },
    /// Each frequency divided by `factor`, and those past the first `pairs` pairs zero: they never turn.
    Proportional {
        pairs: usize,
        factor: f64,
    },
    /// Each frequency divided by a factor of its own: those of `short` up to `original_context` tokens, those of `long`
    /// for the whole of a longer sequence.
    LongRope {
        /// `[dim / 2]`
        short: Vec<f64>,
        /// `[dim / 2]`
        long: Vec<f64>,
        original_context: usize,
        /// Multiplies cosine and sine of a sequence that `short` turns.
        short_attention_factor: f32,
        /// The same for `long`.
        long_attention_factor: f32,
    },
}

impl RopeScaling {
    /// The `rope_type` that asks for this in a config.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::None => "default",
            Self::Linear { .. } => "linear",
            Self::Dynamic { .. } => "dynamic",
            Self::Yarn { .. } => "yarn",
            Self::Llama3 { .. } => "llama3",
            Self::Proportional { .. } => "proportional",
            Self::LongRope { .. } => "longrope",
        }
    }
}

/// What a family knows of its heads before the rope is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RotaryHead {
    pub(crate) head_dim: usize,
    pub(crate) max_position_embeddings: usize,
    /// The base where the config has none.
    pub(crate) theta: f64,
    /// The share of a head that is rotated where the config does not say; `None` where the family always rotates all
    /// of it and reads no such key.
    pub(crate) partial: Option<f64>,
    pub(crate) layout: RopeLayout,
    /// What `original_max_position_embeddings` beside the rope's own parameters is where it is absent; `None` leaves it
    /// to these parameters.
    pub(crate) original_context: Option<usize>,
    /// The kinds that mean longrope.
    pub(crate) longrope: &'static [&'static str],
}

impl RotaryHead {
    /// Whole heads, base 10000, pairs half a head apart: what most families assume.
    pub(crate) fn whole(head_dim: usize, max_position_embeddings: usize) -> Self {
        Self {
            head_dim,
            max_position_embeddings,
            theta: 10_000.0,
            partial: None,
            layout: RopeLayout::Half,
            original_context: None,
            longrope: &["longrope", "su"],
        }
    }
}

impl Rope {
    /// Reads the rope of a config in either spelling: `rope_theta` with `rope_scaling` (transformers 4), or
    /// `rope_parameters` (transformers 5).
    pub(crate) fn read(config: &Config, head: &RotaryHead) -> Result<Self> {
        Self::from_parameters(config, Self::parameters(config)?.as_ref(), head)
    }

    /// The object that holds the parameters, where there is one.
    pub(crate) fn parameters(config: &Config) -> Result<Option<Config>> {
        // transformers takes `rope_scaling` over `rope_parameters` where a file has both.
        match config.object("rope_scaling")? {
            Some(scaling) if !scaling.is_empty() => Ok(Some(scaling)),
            _ => config.object("rope_parameters"),
        }
    }

    /// Reads the rope of one kind of layers, where `rope_parameters` holds an object for each kind. `None` where there
    /// is no such object, or it is null.
    pub(crate) fn read_for(config: &Config, layer_type: &str, head: &RotaryHead) -> Result<Option<Self>> {
        let Some(parameters) = config.object("rope_parameters")? else { return Ok(None) };
        let Some(parameters) = parameters.object(layer_type)? else { return Ok(None) };
        Self::from_parameters(config, Some(&parameters), head).map(Some)
    }

    /// Reads a rope from `parameters`, and from the outer `config` what they leave open.
    pub(crate) fn from_parameters(config: &Config, parameters: Option<&Config>, head: &RotaryHead) -> Result<Self> {
        let max_position_embeddings = head.max_position_embeddings;
        let layout = head.layout;
        let outer_theta = config.opt_f64("rope_theta")?;
        let outer_context = config.opt_usize("original_max_position_embeddings")?.or(head.original_context);
        let dim = match head.partial {
            None => head.head_dim,
            Some(default) => {
                let outer = config.opt_f64("partial_rotary_factor")?;
                let nested = parameters.map(|nested| nested.opt_f64("partial_rotary_factor")).transpose()?.flatten();
                if nested.or(outer).is_none() && config.has("partial_rotary_factor") && default != 1.0 {
                    // To some classes this is the whole head, to others what they assume where nothing is written.
                    let path = config.path("partial_rotary_factor");
                    return Err(Error::invalid(path, "a share above 0, at most 1, or no such key", "null"));
                }
                let factor = nested.or(outer).unwrap_or(default);
                if !(factor > 0.0 && factor <= 1.0) {
                    let path = config.path("partial_rotary_factor");
                    return Err(Error::invalid(path, "a share above 0, at most 1", factor));
                }
                (head.head_dim as f64 * factor) as usize
            }
        };
        let Some(parameters) = parameters else {
            let theta = outer_theta.unwrap_or(head.theta);
            return Self { dim, theta, layout, scaling: RopeScaling::None }.checked(config);
        };
        let theta = parameters.opt_f64("rope_theta")?.or(outer_theta).unwrap_or(head.theta);
        let legacy_kind = parameters.opt_str("type")?;
        let kind = parameters.opt_str("rope_type")?.or(legacy_kind).unwrap_or_else(|| "default".to_owned());
        // A top-level value wins over the nested one, as in transformers' standardize_rope_params.
        let nested_context = parameters.opt_usize("original_max_position_embeddings")?;
        let original_context = outer_context.or(nested_context).unwrap_or(max_position_embeddings);

        if kind == "proportional" {
            return proportional(config, parameters, theta, head)?.checked(config);
        }
        check_sections(parameters, dim)?;
        let scaling = match kind.as_str() {
            kind if head.longrope.contains(&kind) => {
                long_rope(parameters, dim, original_context, max_position_embeddings)?
            }
            "default" | "mrope" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: parameters.positive("factor")? },
            "dynamic" => RopeScaling::Dynamic {
                factor: parameters.positive("factor")?,
                original_context: max_position_embeddings,
            },
            "yarn" => yarn(parameters, original_context, max_position_embeddings)?,
            "llama3" => RopeScaling::Llama3 {
                factor: parameters.positive("factor")?,
                low_freq_factor: parameters.positive("low_freq_factor")?,
                high_freq_factor: parameters.positive("high_freq_factor")?,
                original_context,
            },
            _ => {
                return Err(Error::Unsupported {
                    key: parameters.path("rope_type"),
                    value: kind,
                    supported: "default, linear, dynamic, yarn, llama3, longrope, proportional".to_owned(),
                });
            }
        };
        Self { dim, theta, layout, scaling }.checked(config)
    }

    /// Radians per position of each pair, `[dim / 2]`, for a sequence of `length` tokens in all.
    ///
    /// `length` matters to [`RopeScaling::Dynamic`] and [`RopeScaling::LongRope`] alone.
    pub fn inverse_frequencies(&self, length: usize) -> Vec<f32> {
        let base = match self.scaling {
            RopeScaling::Dynamic { factor, original_context } => {
                let context = original_context as f64;
                let stretch = factor * (length.max(original_context) as f64) / context - (factor - 1.0);
                self.theta * libm::pow(stretch, self.dim as f64 / (self.dim as f64 - 2.0))
            }
            _ => self.theta,
        };
        let plain = (0..self.dim / 2).map(|pair| 1.0 / libm::pow(base, (2 * pair) as f64 / self.dim as f64));
        plain.enumerate().map(|(pair, frequency)| self.scaled(pair, frequency, length) as f32).collect()
    }

    /// The factor on cosine and sine, for a sequence of `length` tokens in all.
    ///
    /// `length` matters to [`RopeScaling::LongRope`] alone.
    pub fn attention_factor(&self, length: usize) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor,
            RopeScaling::LongRope { original_context, short_attention_factor, long_attention_factor, .. } => {
                if length > original_context { long_attention_factor } else { short_attention_factor }
            }
            RopeScaling::None
            | RopeScaling::Linear { .. }
            | RopeScaling::Dynamic { .. }
            | RopeScaling::Proportional { .. }
            | RopeScaling::Llama3 { .. } => 1.0,
        }
    }

    /// The longest sequence that a model trained on `max_position_embeddings` positions reads with this rope.
    ///
    /// `dynamic` takes the config's figure as the length before stretching; `yarn` states that length itself, and
    /// published configs give either the stretched or the original one as `max_position_embeddings`. For `linear` and
    /// `llama3` the published figure is the stretched one.
    pub fn context_length(&self, max_position_embeddings: usize) -> usize {
        let stretched = match self.scaling {
            RopeScaling::Dynamic { factor, original_context } | RopeScaling::Yarn { factor, original_context, .. } => {
                (original_context as f64 * factor) as usize
            }
            RopeScaling::None
            | RopeScaling::Linear { .. }
            | RopeScaling::Proportional { .. }
            | RopeScaling::Llama3 { .. }
            | RopeScaling::LongRope { .. } => 0,
        };
        stretched.max(max_position_embeddings)
    }

    fn scaled(&self, pair: usize, frequency: f64, length: usize) -> f64 {
        match self.scaling {
            RopeScaling::LongRope { ref short, ref long, original_context, .. } => {
                frequency / if length > original_context { long[pair] } else { short[pair] }
            }
            RopeScaling::None | RopeScaling::Dynamic { .. } => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Proportional { pairs, factor } => {
                if pair < pairs {
                    frequency / factor
                } else {
                    0.0
                }
            }
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, truncate, .. } => {
                let (low, high) = self.yarn_ramp(original_context, beta_fast, beta_slow, truncate);
                let interpolated = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                frequency / factor * interpolated + frequency * (1.0 - interpolated)
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let context = original_context as f64;
                let wavelength = std::f64::consts::TAU / frequency;
                if wavelength < context / high_freq_factor {
                    frequency
                } else if wavelength > context / low_freq_factor {
                    frequency / factor
                } else {
                    let smooth = (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        }
    }

    /// The pairs between which yarn goes from kept to interpolated.
    fn yarn_ramp(&self, original_context: usize, beta_fast: f64, beta_slow: f64, truncate: bool) -> (f64, f64) {
        let dim = self.dim as f64;
        let pair_of = |rotations: f64| {
            dim * libm::log(original_context as f64 / (rotations * std::f64::consts::TAU))
                / (2.0 * libm::log(self.theta))
        };
        let (mut low, mut high) = (pair_of(beta_fast), pair_of(beta_slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        // The reference widens an empty ramp by this much, to divide by it.
        if low == high { (low, high + 0.001) } else { (low, high) }
    }

    fn checked(self, config: &Config) -> Result<Self> {
        if self.dim == 0 || !self.dim.is_multiple_of(2) {
            return Err(Error::invalid(config.path("head_dim"), "an even number of rotated dimensions", self.dim));
        }
        if !(self.theta.is_finite() && self.theta > 1.0) {
            return Err(Error::invalid(config.path("rope_theta"), "a number above 1", self.theta));
        }
        if self.dim == 2 && matches!(self.scaling, RopeScaling::Dynamic { .. }) {
            return Err(Error::invalid(config.path("head_dim"), "more than 2 dimensions for dynamic rope", self.dim));
        }
        Ok(self)
    }
}

/// Multimodal rope turns sections of the pairs by the time, the height and the width of a token. All three are the plain
/// position where the token is text, so for text the sections change nothing, whatever their layout.
fn check_sections(parameters: &Config, dim: usize) -> Result<()> {
    parameters.bool_or("mrope_interleaved", false)?;
    let Some(sections) = parameters.opt_positives("mrope_section")? else { return Ok(()) };
    let pairs: f64 = sections.iter().sum();
    if sections.len() == 3 && pairs == (dim / 2) as f64 {
        return Ok(());
    }
    let expected = format!("3 sections of {} pairs in all", dim / 2);
    Err(Error::invalid(parameters.path("mrope_section"), expected, format!("{sections:?}")))
}

/// A share of the pairs of a whole head turns, by the frequencies that these pairs have in the head.
fn proportional(config: &Config, parameters: &Config, theta: f64, head: &RotaryHead) -> Result<Rope> {
    let outer = config.positive_or("partial_rotary_factor", 1.0)?;
    let share = parameters.positive_or("partial_rotary_factor", outer)?;
    if share > 1.0 {
        return Err(Error::invalid(parameters.path("partial_rotary_factor"), "a share above 0, at most 1", share));
    }
    let pairs = (share * head.head_dim as f64 / 2.0) as usize;
    let factor = parameters.positive_or("factor", 1.0)?;
    let scaling = RopeScaling::Proportional { pairs, factor };
    Ok(Rope { dim: head.head_dim, theta, layout: head.layout, scaling })
}

fn long_rope(
    parameters: &Config,
    dim: usize,
    original_context: usize,
    max_position_embeddings: usize,
) -> Result<RopeScaling> {
    let factors = |key| {
        let factors = parameters.opt_positives(key)?;
        let expected = format!("a list of {} numbers above 0, one for each rotated pair", dim / 2);
        let factors = factors.ok_or_else(|| parameters.missing(key, &expected))?;
        if factors.len() == dim / 2 {
            Ok(factors)
        } else {
            Err(Error::invalid(parameters.path(key), expected, format!("a list of {}", factors.len())))
        }
    };
    let factor = match parameters.opt_f64("factor")? {
        Some(factor) => factor,
        None => max_position_embeddings as f64 / original_context as f64,
    };
    let attention_factor = match parameters.opt_f64("attention_factor")? {
        Some(given) => given,
        None if factor <= 1.0 => 1.0,
        None => (1.0 + libm::log(factor) / libm::log(original_context as f64)).sqrt(),
    };
    Ok(RopeScaling::LongRope {
        short: factors("short_factor")?,
        long: factors("long_factor")?,
        original_context,
        short_attention_factor: attention_factor as f32,
        long_attention_factor: attention_factor as f32,
    })
}

fn yarn(parameters: &Config, original_context: usize, max_position_embeddings: usize) -> Result<RopeScaling> {
    // Whether the model was trained with it, which says nothing about how it runs.
    parameters.ignore("finetuned");
    let factor = match parameters.opt_f64("factor")? {
        Some(_) => parameters.positive("factor")?,
        None => max_position_embeddings as f64 / original_context as f64,
    };
    let attention_factor = parameters.opt_f64("attention_factor")?;
    let mscale = parameters.opt_f64("mscale")?.filter(|value| *value != 0.0);
    let mscale_all_dim = parameters.opt_f64("mscale_all_dim")?.filter(|value| *value != 0.0);
    let magnitude = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * libm::log(factor) + 1.0 };
    let attention_factor = match (attention_factor, mscale, mscale_all_dim) {
        (Some(given), _, _) => given,
        (None, Some(mscale), Some(all_dim)) => magnitude(mscale) / magnitude(all_dim),
        (None, _, _) => magnitude(1.0),
    };
    // The reference reads `beta_fast or 32`, so a zero or a null means the default.
    let beta = |key, default: f64| -> Result<f64> {
        Ok(parameters.opt_f64(key)?.filter(|value| *value != 0.0).unwrap_or(default))
    };
    Ok(RopeScaling::Yarn {
        factor,
        original_context,
        beta_fast: beta("beta_fast", 32.0)?,
        beta_slow: beta("beta_slow", 1.0)?,
        truncate: parameters.bool_or("truncate", true)?,
        attention_factor: attention_factor as f32,
    })
}
