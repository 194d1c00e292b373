use std::path::PathBuf;

use genai_validate::{
    Adapter, CacheMode, Config, GenerateOptions, Sampler, SamplingOptions, SequenceOptions, SpecialTokens, Tokenizer,
    generate,
};

use super::validate;
use crate::console::{note, print};
use crate::{args::RunArgs, failure::Failure};

pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    let package = Config::open(&args.package)?;
    let tokenizer = Tokenizer::load(&package.folder)?;
    let ids = tokenizer.encode(&args.prompt, SpecialTokens::Added)?;
    if ids.is_empty() {
        return Err(Failure::usage("the prompt has no tokens"));
    }
    let model = validate::load(&package, &args.runtime)?;
    let adapter = match &args.adapter {
        Some(name) => Some(Adapter::load(&adapter_file(&package, name)?)?),
        None => None,
    };
    let room = model.context_length();
    if ids.len() >= room {
        return Err(Failure::usage(format!(
            "the prompt has {} tokens, and the context of the model is {room}",
            ids.len()
        )));
    }
    let options = GenerateOptions {
        sequence: SequenceOptions {
            max_length: ids.len().saturating_add(args.max_tokens).min(room),
            // ONNX Runtime gives adapters to runs whose cache grows.
            cache: if adapter.is_some() { CacheMode::Growing } else { CacheMode::of(&model) },
            adapter: adapter.as_ref(),
        },
        eos_token_ids: &package.eos_token_ids,
        sampling: sampling(args, &package),
    };
    // A setting out of range is told before anything is printed.
    Sampler::new(options.sampling)?;
    let penalty = package.search.repetition_penalty;
    if penalty != 1.0 {
        note(&format!("the package asks for a repetition penalty of {penalty}, which `run` does not apply"));
    }
    print(&args.prompt)?;
    let mut printed = Ok(());
    let generation = generate(&model, &tokenizer, &ids, options, &mut |piece| {
        if printed.is_ok() {
            printed = print(piece);
        }
    })?;
    printed?;
    print("\n")?;
    let decoded = generation.ids.len().saturating_sub(1);
    if decoded > 0 && generation.decode_seconds > 0.0 {
        let rate = decoded as f64 / generation.decode_seconds;
        note(&format!("{} tokens, {rate:.1} tokens/s", generation.ids.len()));
    }
    Ok(())
}

/// The file of an adapter, which lies beside the graph.
fn adapter_file(package: &Config, name: &str) -> Result<PathBuf, Failure> {
    let file = package.folder.join(format!("{name}.onnx_adapter"));
    let plain = !name.contains(['/', '\\', ':']);
    if plain && file.is_file() {
        return Ok(file);
    }
    let hint = "a build with --adapter NAME=DIR writes NAME.onnx_adapter";
    Err(Failure::usage(format!("the package has no adapter {name:?}")).with_hint(hint))
}

/// What was asked for; a sampling flag turns sampling on, and what it leaves open is the package's own setting.
fn sampling(args: &RunArgs, package: &Config) -> SamplingOptions {
    let asked = args.temperature.is_some() || args.top_k.is_some() || args.top_p.is_some() || args.seed.is_some();
    if !asked {
        return SamplingOptions::of(&package.search, None);
    }
    SamplingOptions {
        temperature: args.temperature.unwrap_or(package.search.temperature),
        top_k: args.top_k.unwrap_or(package.search.top_k),
        top_p: args.top_p.unwrap_or(package.search.top_p),
        seed: args.seed,
    }
}
