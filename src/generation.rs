//! What `run` and `chat` share: a package opened as its flags say, and replies that come in pieces.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use genai_validate::{
    Adapters, Config, Generator, GeneratorParams, GrammarCompiler, Guidance, LoadOptions, Model, Network,
    SearchOptions, StopStrings, Tokenizer, runtime::find_or_install,
};
use serde_json::Value;

use crate::args::GenerationArgs;
use crate::console::note;
use crate::failure::{Failure, code};

/// A package, ready to generate.
pub(crate) struct Opened {
    pub(crate) package: Config,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) model: Arc<Model>,
    /// What the package asks for, with what was typed in its place.
    pub(crate) search: SearchOptions,
    /// Whether `max_length` was typed.
    pub(crate) length_given: bool,
    adapter: Option<(Adapters, String)>,
    stops: StopStrings,
    guidance: Option<Guidance>,
    /// Of the package, where it is opened as it asks.
    run_options: Vec<(String, String)>,
    /// To find the runtime library and load the model.
    pub(crate) load_seconds: f64,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// An end token.
    Eos,
    /// A stop string.
    Stop,
    /// As many tokens as were asked for, or fit.
    Length,
    /// The user.
    Interrupted,
}

impl Ending {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Eos => "eos",
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Interrupted => "interrupted",
        }
    }
}

pub(crate) struct Reply {
    /// Without the token that ended it; with those of a stop string.
    pub(crate) ids: Vec<u32>,
    /// Without a stop string.
    pub(crate) text: String,
    pub(crate) ending: Ending,
}

impl Opened {
    pub(crate) fn new(folder: &Path, args: &GenerationArgs) -> Result<Self, Failure> {
        let mut package = Config::open(folder)?;
        if let Some(patch) = &args.overlay {
            package.overlay(&json_argument("--overlay", patch)?)?;
        }
        for warning in &package.warnings {
            note(&format!("warning: {warning}"));
        }
        let (search, length_given) = search(args, &package)?;
        let run_options = if args.package_session { package.decoder.run_options.clone() } else { Vec::new() };
        let stops = StopStrings::new(&args.stop)?;
        let guidance = guidance(args)?;
        let tokenizer = Tokenizer::load(&package.tokenizer_folder)?;
        let adapter = args.adapter.as_deref().map(|name| Ok::<_, Failure>((name, adapter_file(&package, name)?)));
        let adapter = adapter.transpose()?;
        let started = Instant::now();
        let network = if args.runtime.offline { Network::Offline } else { Network::Allowed };
        let runtime = find_or_install(args.runtime.ort_lib.as_deref(), network, &mut note)?;
        let mut options =
            if args.package_session { LoadOptions::from_config(&package)? } else { LoadOptions::default() };
        options.threads = args.threads.or(options.threads);
        let model = Arc::new(Model::load(&package, &runtime, options)?);
        search.check(model.vocab_size(), model.context_length())?;
        let adapter = match adapter {
            Some((name, file)) => {
                let adapters = Adapters::new();
                adapters.load(&file, name)?;
                Some((adapters, name.to_owned()))
            }
            None => None,
        };
        let load_seconds = started.elapsed().as_secs_f64();
        Ok(Self {
            package,
            tokenizer,
            model,
            search,
            length_given,
            adapter,
            stops,
            guidance,
            run_options,
            load_seconds,
        })
    }

    pub(crate) fn generator(&self, search: SearchOptions) -> Result<Generator, Failure> {
        let mut params = GeneratorParams::from(search);
        if let Some(guidance) = &self.guidance {
            let compiler = GrammarCompiler::new(&self.tokenizer, self.model.vocab_size(), self.model.eos_token_ids())?;
            params.constraints.push(Box::new(compiler.compile(guidance)?));
        }
        let mut generator = Generator::new(&self.model, params)?;
        for (key, value) in &self.run_options {
            generator.set_runtime_option(key, value)?;
        }
        if let Some((adapters, name)) = &self.adapter {
            generator.set_active_adapter(adapters, name)?;
        }
        Ok(generator)
    }

    /// Goes on behind what was appended, until the text ends or has `most` tokens; `on_text` gets it piece by piece, in
    /// whole characters, and `interrupted` is asked before each token.
    pub(crate) fn reply(
        &self,
        generator: &mut Generator,
        most: usize,
        interrupted: &dyn Fn() -> bool,
        on_text: &mut dyn FnMut(&str) -> Result<(), Failure>,
    ) -> Result<Reply, Failure> {
        let mut stops = self.stops.clone();
        let mut stream = self.tokenizer.stream();
        let (mut ids, mut text) = (Vec::new(), String::new());
        let mut emit = |piece: &str| {
            text.push_str(piece);
            if piece.is_empty() { Ok(()) } else { on_text(piece) }
        };
        let mut ending = loop {
            if interrupted() {
                break Ending::Interrupted;
            }
            if ids.len() >= most || generator.is_done() {
                break Ending::Length;
            }
            generator.generate_next_token()?;
            let Some(&id) = generator.next_tokens().first() else { break Ending::Length };
            if self.model.eos_token_ids().contains(&id) {
                break Ending::Eos;
            }
            ids.push(id);
            let passed = stops.push(&stream.push(id)?);
            emit(&passed.text)?;
            if passed.stop.is_some() {
                break Ending::Stop;
            }
        };
        if ending != Ending::Stop {
            let passed = stops.push(&stream.finish()?.0);
            emit(&passed.text)?;
            if passed.stop.is_some() {
                ending = Ending::Stop;
            }
            emit(&stops.finish())?;
        }
        Ok(Reply { ids, text, ending })
    }
}

/// The package's search options with what was typed; and whether that has a `max_length`. A flag of sampling turns
/// sampling on.
fn search(args: &GenerationArgs, package: &Config) -> Result<(SearchOptions, bool), Failure> {
    let mut search = package.search.clone();
    let sampling = args.temperature.is_some() || args.top_k.is_some() || args.top_p.is_some() || args.seed.is_some();
    search.do_sample |= sampling;
    search.temperature = args.temperature.unwrap_or(search.temperature);
    search.top_k = args.top_k.unwrap_or(search.top_k);
    search.top_p = args.top_p.unwrap_or(search.top_p);
    search.random_seed = args.seed.or(search.random_seed);
    search.repetition_penalty = args.repetition_penalty.unwrap_or(search.repetition_penalty);
    search.num_beams = args.num_beams.unwrap_or(search.num_beams);
    let mut length_given = false;
    for pair in &args.search {
        let Some((name, text)) = pair.split_once('=') else {
            return Err(Failure::usage(format!("--search {pair:?}: expected NAME=VALUE")));
        };
        let value = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
        search.set(name, &value)?;
        length_given |= name == "max_length" && search.max_length > 0;
    }
    if search.batch_size != 1 {
        let what = format!("batch_size {}", search.batch_size);
        return Err(Failure::unsupported(what, "the command line has one prompt; the library takes batches"));
    }
    Ok((search, length_given))
}

fn guidance(args: &GenerationArgs) -> Result<Option<Guidance>, Failure> {
    if let Some(schema) = &args.json_schema {
        return Ok(Some(Guidance::json_schema(json_argument("--json-schema", schema)?)));
    }
    if let Some(file) = &args.grammar {
        return Ok(Some(Guidance::Lark(text_of("--grammar", &file.display().to_string())?)));
    }
    Ok(args.regex.clone().map(Guidance::Regex))
}

fn text_of(flag: &str, file: &str) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| Failure::new(code::RESOURCES, format!("{flag} {file}: {error}")))
}

/// A JSON object that was typed, or the path of a file with one.
pub(crate) fn json_argument(flag: &str, text: &str) -> Result<Value, Failure> {
    let from_file;
    let text = match text.trim_start().starts_with(['{', '[']) {
        true => text,
        false => {
            from_file = text_of(flag, text)?;
            &from_file
        }
    };
    serde_json::from_str(text).map_err(|error| Failure::usage(format!("{flag}: {error}")))
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
