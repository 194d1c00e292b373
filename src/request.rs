//! From what was typed to what is wanted: every default is decided here, once.

use std::{collections::BTreeMap, path::Path};

use genai_builder::{
    Adaptation, CacheQuantization, CacheScales, DEFAULT_BLOCK_SIZE, Interface, Logits, Matrices, Paged, Pool,
    Precision, Recipe, Request, RuntimeConfig, Settings, TARGETS, Target,
    materialize::Limits,
    target::{AttentionForm, MatrixForm},
};
use genai_checkpoint::Checkpoint;
use genai_quantize::{Method, Simd};

use crate::{
    adapters::Adapters,
    args::{PrecisionArg, SourceArgs, TargetArgs},
    console::note,
    envelope::Envelope,
    failure::{Failure, code},
    hub,
    options::{self, ExtraOptions, Graph, Quantization, Session},
    targets::{self, Wanted},
    token::TokenChoice,
};

/// Opens the checkpoint that was named, headers only. What is on the Hub alone is fetched first, unless its family is
/// unknown.
pub(crate) fn open(source: &SourceArgs, offline: bool, token: &TokenChoice) -> Result<Checkpoint, Failure> {
    match (&source.input, &source.model_name) {
        (Some(_), _) if source.hub.revision.is_some() => {
            Err(Failure::usage("--revision belongs to a model on the Hub, and -i names a folder")
                .with_hint("name the model with -m ORG/NAME"))
        }
        (Some(input), _) => Ok(Checkpoint::open(input)?),
        (None, Some(name)) => hub::open(name, &source.hub, offline, token, hub::describable),
        (None, None) => {
            Err(Failure::usage("no model given").with_hint("name a folder with -i DIR, or a model with -m ORG/NAME"))
        }
    }
}

/// What a build is to make, how, and how its checkpoint is fetched.
pub(crate) struct Resolved {
    pub(crate) wanted: Vec<Wanted>,
    /// A package for each of these.
    pub(crate) requests: Vec<Request>,
    pub(crate) limits: Limits,
    pub(crate) token: TokenChoice,
    pub(crate) adapters: Adapters,
}

pub(crate) fn resolve(args: &TargetArgs) -> Result<Resolved, Failure> {
    let mut envelope = Envelope::read(&args.envelope)?;
    let wanted = targets::wanted(args, envelope.target.precision())?;
    let mut typed = args.extra_options.clone();
    if args.lenient_options {
        options::take_unknown(&mut typed).iter().for_each(|line| note(&format!("warning: {line}")));
    }
    let options = ExtraOptions::parse(&typed)?;
    options.notes.iter().for_each(|line| note(&format!("note: {line}")));
    let adapters = Adapters::resolve(options.source.adapter_path.clone(), &args.adapters)?;
    if let Some(tokens) = options.session.max_draft_tokens {
        envelope.set_draft_tokens(tokens)?;
    }
    let threads = match args.threads {
        Some(0) => return Err(Failure::usage("--threads is 0, expected at least 1")),
        Some(threads) => threads,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let mut all = settings_of_all(&typed, &envelope, &wanted)?;
    for settings in &mut all {
        settings.adaptation = adapters.adaptation;
        if settings.adaptation == Adaptation::Swappable {
            without_capture(settings, &options.session)?;
        }
    }
    let requests = all.into_iter().map(|settings| Request {
        settings,
        config_only: options.graph.config_only.unwrap_or(false),
        filename: options.filename().to_owned(),
        allow_unused: args.allow_unused.clone(),
        hash_inputs: args.hash_inputs,
        runtime_config: RuntimeConfig { object: envelope.runtime_config.clone() },
    });
    let requests = requests.collect();
    let limits = Limits { max_memory: memory(&args.max_memory)?, threads, simd: simd()? };
    Ok(Resolved { wanted, requests, limits, token: options.source.hf_token, adapters })
}

/// The settings of each package. Of several packages an option need have a meaning for one only; the others are made
/// without it, which is told.
fn settings_of_all(typed: &[String], envelope: &Envelope, wanted: &[Wanted]) -> Result<Vec<Settings>, Failure> {
    let mut all = Vec::with_capacity(wanted.len());
    let mut left_out: BTreeMap<String, (Vec<String>, Failure)> = BTreeMap::new();
    for one in wanted {
        let given = envelope.target.extra_options(one, typed)?;
        let given = given.iter().map(|given| format!("{}={}", given.key, given.value));
        let mut typed: Vec<String> = typed.iter().cloned().chain(given).collect();
        let settings = loop {
            let failure = match settings(one.target, one.precision, &ExtraOptions::parse(&typed)?) {
                Ok(settings) => break settings,
                Err(failure) => failure,
            };
            let Some(key) = failure.details.meaningless.clone().filter(|_| wanted.len() > 1) else {
                return Err(failure);
            };
            let others = options::without(&typed, &key);
            if others.len() == typed.len() {
                return Err(failure);
            }
            typed = others;
            left_out.entry(key).or_insert((Vec::new(), failure)).0.push(one.name());
        };
        all.push(settings);
    }
    for (key, (names, failure)) in left_out {
        if names.len() == wanted.len() {
            return Err(failure);
        }
        note(&format!("note: extra option {key} has no meaning for {}, made without it", names.join(" and ")));
    }
    Ok(all)
}

/// A recorded step reads the weights of the adapter that it was recorded with, whatever the session is given later.
fn without_capture(settings: &mut Settings, given: &Session) -> Result<(), Failure> {
    let asked = [given.enable_cuda_graph, given.enable_dml_graph, given.enable_webgpu_graph];
    if asked.contains(&Some(true)) {
        let option = settings.target.capture.as_ref().map_or("", |capture| capture.option);
        return Err(Failure::unsupported(
            format!("extra option {option} is true, and --adapter is given: a recorded step keeps its adapter"),
            "leave one of them out, or bake the adapter in with adapter_path",
        ));
    }
    settings.session.capture = settings.target.capture.as_ref().map(|_| false);
    Ok(())
}

/// The defaults of a target, changed by what was asked for. An option that has no meaning here is refused.
fn settings(target: &'static Target, precision: Precision, options: &ExtraOptions) -> Result<Settings, Failure> {
    let mut settings = Settings::of(target, precision)?;
    let given = &options.quantization;
    if precision.bits().is_none() {
        let quantization = [
            ("block_size", given.block_size.is_some()),
            ("is_symmetric", given.is_symmetric.is_some()),
            ("accuracy_level", given.accuracy_level.is_some()),
            ("algo_config", given.method.is_some()),
            ("matmul_mixed_precision", !given.mixed.is_empty()),
            ("nodes_to_exclude", !given.nodes_to_exclude.is_empty()),
            ("op_types_to_quantize", given.operators.is_some()),
            ("use_qdq", options.session.use_qdq.is_some()),
        ];
        if let Some((key, _)) = quantization.iter().find(|(_, given)| *given) {
            return Err(meaningless(key, precision.name()).with_hint("it belongs to -p int4 and -p int8"));
        }
    }
    settings.recipe = recipe(precision, given)?;
    matrix_form(&mut settings, options)?;
    graph(&mut settings, &options.graph)?;
    session(&mut settings, &options.session)?;
    cache(&mut settings, options)?;
    settings.cache.paged = paged(&options.cache)?;
    if options.sizes.static_context_length.is_some() && !settings.is_fixed() {
        return Err(meaningless("static_context_length", target.provider)
            .with_hint("its graphs take sequences of any length that the model has positions for"));
    }
    settings.fixed_context = options.sizes.static_context_length;
    Ok(settings)
}

/// What the graph takes, gives and computes together.
fn graph(settings: &mut Settings, given: &Graph) -> Result<(), Failure> {
    settings.fusion.qkv = match (given.fuse_qkv, given.disable_qkv_fusion) {
        (Some(fuse), Some(disable)) if fuse == disable => {
            return Err(Failure::usage(format!(
                "extra option fuse_qkv is {fuse}, and so is its opposite disable_qkv_fusion"
            ))
            .with_hint("leave disable_qkv_fusion out"));
        }
        (Some(fuse), _) => fuse,
        (None, Some(disable)) => !disable,
        (None, None) => settings.fusion.qkv,
    };
    if let Some(inside) = given.fuse_qk_norm_gqa {
        if !matches!(settings.attention, AttentionForm::GroupQuery { norms_heads: true, .. }) {
            let here = format!("-p {} -e {}", settings.precision.name(), settings.target.provider);
            return Err(meaningless("fuse_qk_norm_gqa", &here).with_hint("its attention has no norms of heads"));
        }
        settings.fusion.head_norms = inside;
    }
    settings.fusion.gate_up = given.fuse_mlp_gate_up.unwrap_or(false);
    settings.interface = interface(given)?;
    Ok(())
}

fn interface(given: &Graph) -> Result<Interface, Failure> {
    let asked = |option: Option<bool>| option.unwrap_or(false);
    let without_head = asked(given.exclude_lm_head);
    let of_head = [("include_hidden_states", given.include_hidden_states), ("prune_lm_head", given.prune_lm_head)];
    if let Some((key, _)) = of_head.iter().find(|(_, option)| without_head && asked(*option)) {
        return Err(Failure::usage(format!("extra options exclude_lm_head and {key} are both true"))
            .with_hint("without its head a model gives hidden_states and no logits"));
    }
    Ok(Interface {
        layers: given.num_hidden_layers,
        inputs_embeds: asked(given.exclude_embeds),
        logits: match (without_head, asked(given.prune_lm_head)) {
            (true, _) => Logits::None,
            (false, true) => Logits::Last,
            (false, false) => Logits::All,
        },
        hidden_states: without_head || asked(given.include_hidden_states),
        aux_hidden_states: given.aux_hidden_state_layers.clone(),
    })
}

/// How matrices are stored.
fn recipe(precision: Precision, given: &Quantization) -> Result<Recipe, Failure> {
    let method = given.method.unwrap_or_default();
    if method == Method::KQuant && given.is_symmetric == Some(true) {
        return Err(meaningless("is_symmetric", "algo_config=k_quant, which always has zero points")
            .with_hint("leave is_symmetric out"));
    }
    let block_size = given.block_size.unwrap_or(DEFAULT_BLOCK_SIZE);
    let mut recipe = Recipe::uniform(precision, block_size, given.is_symmetric.unwrap_or(true))?.with_method(method);
    let by_method = given.mixed_by_method.iter().map(|(selector, bits)| (Matrices::Selected(*selector), *bits));
    let added = by_method.filter(|(added, _)| given.mixed.iter().all(|(asked, _)| asked != added));
    for (matrices, bits) in given.mixed.iter().cloned().chain(added) {
        recipe = recipe.with_bits(matrices, bits)?;
    }
    for node in &given.nodes_to_exclude {
        recipe = recipe.keeping(node);
    }
    if let Some(operators) = given.operators {
        recipe = recipe.with_operators(operators);
    }
    Ok(match given.shared_embeddings {
        Some(shared) => recipe.with_shared_embeddings(shared),
        None => recipe,
    })
}

/// Variants of the target, and what a session is opened with.
fn session(settings: &mut Settings, given: &Session) -> Result<(), Failure> {
    let (target, precision) = (settings.target, settings.precision);
    let out_of_place = |key: &str| {
        let here = format!("-p {} -e {}", precision.name(), target.provider);
        meaningless(key, &here).with_hint("`genai-build options` says where it has")
    };
    for (key, asked) in [
        ("enable_cuda_graph", given.enable_cuda_graph),
        ("enable_dml_graph", given.enable_dml_graph),
        ("enable_webgpu_graph", given.enable_webgpu_graph),
    ] {
        if asked.is_some() {
            target.capture.as_ref().filter(|capture| capture.option == key).ok_or_else(|| out_of_place(key))?;
            settings.session.capture = asked;
        }
    }
    let alternative = target.cell(precision).and_then(|cell| cell.alternative);
    for (key, asked) in [("use_webgpu_fp32", given.use_webgpu_fp32), ("use_cuda_bf16", given.use_cuda_bf16)] {
        let Some(asked) = asked else { continue };
        let (_, dtype) = alternative.filter(|(option, _)| *option == key).ok_or_else(|| out_of_place(key))?;
        if asked {
            settings.dtype = dtype;
        }
    }
    let entries = &mut settings.session.entries;
    let switch = |on: bool| if on { "1" } else { "0" };
    if let Some(on) = given.use_device_allocator_for_initializers {
        entries.insert("session.use_device_allocator_for_initializers", switch(on));
    }
    if let Some(on) = given.enable_cuda_fpa_intb_gemm {
        let key = "enable_cuda_fpa_intb_gemm";
        let entry = target.product_options.iter().find(|(option, _)| *option == key && precision.bits().is_some());
        let (_, entry) = entry.ok_or_else(|| out_of_place(key))?;
        entries.insert(entry, switch(on));
    }
    Ok(())
}

/// A cache in pages, and its engine.
fn paged(given: &options::Cache) -> Result<Option<Paged>, Failure> {
    if given.use_paged_attention != Some(true) {
        let of_pages = [
            ("paged_block_size", given.paged_block_size.is_some()),
            ("paged_chunk_size", given.paged_chunk_size.is_some()),
            ("gpu_utilization_factor", given.gpu_utilization_factor.is_some()),
            ("num_blocks", given.num_blocks.is_some()),
            ("max_scheduled_tokens", given.max_scheduled_tokens.is_some()),
            ("max_batch_size", given.max_batch_size.is_some()),
        ];
        return match of_pages.iter().find(|(_, given)| *given) {
            None => Ok(None),
            Some((key, _)) => {
                Err(meaningless(key, "a cache without pages").with_hint("use_paged_attention=true has some"))
            }
        };
    }
    let pool = match (given.num_blocks, given.gpu_utilization_factor) {
        (Some(_), Some(_)) => {
            return Err(Failure::usage(
                "extra options num_blocks and gpu_utilization_factor both say how many pages there are",
            )
            .with_hint("leave one out"));
        }
        (Some(pages), None) => Pool::Pages(pages),
        (None, share) => Pool::ShareOfFree(share.unwrap_or(0.6)),
    };
    Ok(Some(Paged {
        block_size: given.paged_block_size.unwrap_or(256),
        pool,
        max_batch_size: given.max_batch_size.unwrap_or(100),
        max_scheduled_tokens: given.max_scheduled_tokens,
        chunk_size: given.paged_chunk_size,
    }))
}

/// How the cache is kept.
fn cache(settings: &mut Settings, options: &ExtraOptions) -> Result<(), Failure> {
    const FILE: &str = "kv_cache_scale_file";
    let given = &options.cache;
    if let Some(windowed) = given.windowed {
        let target = settings.target;
        if windowed && target.cache.windowed.is_none() {
            let works = TARGETS.iter().filter(|target| target.cache.windowed.is_some()).map(|target| target.provider);
            let works: Vec<_> = works.collect();
            return Err(Failure::unsupported(
                format!("extra option windowed_kv_cache is true, and {} keeps every token", target.provider),
                &format!("it works on {}", works.join(", ")),
            ));
        }
        settings.cache.windowed = windowed;
    }
    let Some(scheme) = given.quant_scheme else {
        return match &given.scale_file {
            None => Ok(()),
            Some(_) => {
                Err(meaningless(FILE, "a cache that is not quantized").with_hint("kv_cache_quant_scheme says how"))
            }
        };
    };
    let target = settings.target;
    if !target.cache.codes.contains(&scheme.code) {
        let works = |target: &&Target| target.cache.codes.contains(&scheme.code);
        let providers: Vec<_> = TARGETS.iter().filter(works).map(|target| target.provider).collect();
        let here: Vec<_> = target.cache.codes.iter().map(|code| code.name()).collect();
        let here = if here.is_empty() { "no quantized cache".to_owned() } else { here.join(", ") };
        return Err(Failure::unsupported(
            format!(
                "extra option kv_cache_quant_scheme is {}, which {} has no kernels for",
                scheme.name(),
                target.provider
            ),
            &format!("{} takes {here}; {} works on {}", target.provider, scheme.code.name(), providers.join(", ")),
        ));
    }
    let Some(path) = &given.scale_file else {
        return Err(Failure::usage(format!("kv_cache_quant_scheme={} needs {FILE}=FILE", scheme.name())).with_hint(
            "the scales are those of the peer's kv_cache_calibration; `genai-build options` says what the file holds",
        ));
    };
    let unreadable = |error: std::io::Error| {
        Failure::new(code::RESOURCES, format!("extra option {FILE}: cannot read {}: {error}", path.display()))
    };
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > options::LARGEST_SCALE_FILE {
        let limit = options::LARGEST_SCALE_FILE;
        return Err(Failure::usage(format!("{} has {size} bytes, expected at most {limit}", path.display())));
    }
    let text = std::fs::read(path).map_err(unreadable)?;
    let name = path.file_name().map_or_else(|| FILE.into(), |name| name.to_string_lossy());
    let graph = Path::new(options.filename());
    let section = graph.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
    let scales = CacheScales::parse(&name, &text, &section, scheme)?;
    settings.cache.quantization = Some(CacheQuantization { scheme, scales });
    Ok(())
}

/// Whether quantized weights are a `MatMulNBits` or a `DequantizeLinear`.
fn matrix_form(settings: &mut Settings, given: &ExtraOptions) -> Result<(), Failure> {
    match (given.session.use_qdq, settings.form.matrices) {
        (None, _) | (Some(false), MatrixForm::NBits { .. }) => {}
        (Some(true), _) => settings.form.matrices = MatrixForm::Qdq,
        (Some(false), MatrixForm::Qdq) => {
            return Err(Failure::unsupported(
                format!("extra option use_qdq is false, and {} has no MatMulNBits", settings.target.provider),
                "leave it out",
            ));
        }
    }
    match (given.quantization.accuracy_level, settings.form.matrices) {
        (Some(_), MatrixForm::Qdq) => {
            return Err(meaningless("accuracy_level", "weights as DequantizeLinear")
                .with_hint("it belongs to MatMulNBits, which use_qdq=false is"));
        }
        (Some(level), MatrixForm::NBits { .. }) => settings.accuracy_level = level,
        (None, MatrixForm::Qdq) => settings.accuracy_level = 0,
        (None, MatrixForm::NBits { .. }) => {}
    }
    Ok(())
}

fn meaningless(key: &str, place: &str) -> Failure {
    let mut failure = Failure::usage(format!("extra option {key} has no meaning for {place}"));
    failure.details.meaningless = Some(key.to_owned());
    failure
}

/// Refuses an output that is the checkpoint itself.
pub(crate) fn check_output(output: &Path, checkpoint: &Checkpoint) -> Result<(), Failure> {
    let same = match (output.canonicalize(), checkpoint.dir().canonicalize()) {
        (Ok(output), Ok(input)) => output == input,
        _ => false,
    };
    if same {
        return Err(Failure::new(
            crate::failure::code::OUTPUT_CONFLICT,
            format!("the output {} is the checkpoint itself", output.display()),
        )
        .with_hint("give another folder with -o"));
    }
    Ok(())
}

/// The vector instructions that the environment names, or the widest that there are. For tests and for doubters: the
/// bytes are the same.
fn simd() -> Result<Simd, Failure> {
    const VARIABLE: &str = "GENAI_BUILD_SIMD";
    let Some(name) = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()) else { return Ok(Simd::detect()) };
    Simd::named(&name.to_string_lossy()).map_err(|error| Failure::usage(format!("{VARIABLE}: {error}")))
}

/// `512M`, `2G`, `65536`: bytes, with a binary suffix or none.
fn memory(text: &str) -> Result<u64, Failure> {
    let wrong = || Failure::usage(format!("--max-memory is {text:?}, expected a size such as 512M or 2G"));
    let upper = text.trim().to_ascii_uppercase();
    let upper = upper.strip_suffix("IB").or(upper.strip_suffix('B')).unwrap_or(&upper);
    let (digits, shift) = match upper.char_indices().last() {
        Some((end, 'K')) => (&upper[..end], 10),
        Some((end, 'M')) => (&upper[..end], 20),
        Some((end, 'G')) => (&upper[..end], 30),
        Some((end, 'T')) => (&upper[..end], 40),
        _ => (upper, 0),
    };
    let number: u64 = digits.trim().parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

impl From<PrecisionArg> for Precision {
    fn from(precision: PrecisionArg) -> Self {
        match precision {
            PrecisionArg::Fp32 => Self::Fp32,
            PrecisionArg::Fp16 => Self::Fp16,
            PrecisionArg::Bf16 => Self::Bf16,
            PrecisionArg::Int8 => Self::Int8,
            PrecisionArg::Int4 => Self::Int4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::memory;

    #[test]
    fn sizes_have_binary_suffixes() {
        assert_eq!(memory("512M").unwrap(), 512 << 20);
        assert_eq!(memory("2GiB").unwrap(), 2 << 30);
        assert_eq!(memory("4096").unwrap(), 4096);
        for bad in ["", "0", "-1", "1.5G", "99999999999T", "G", "ü"] {
            assert!(memory(bad).is_err(), "{bad}");
        }
    }
}
