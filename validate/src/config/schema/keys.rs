//! The keys of each object.

/// Keys of an object, with what each holds.
pub(super) type Keys = &'static [(&'static str, Kind)];

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text,
    /// Of a file inside the package.
    Path,
    Integer,
    Number,
    Flag,
    /// Of a token, or -1 for none.
    Id,
    /// One id, or a list of them.
    Ids,
    Integers,
    Texts,
    OneOf(&'static [&'static str]),
    Object(Keys),
    /// An object of texts, under these keys: mostly what inputs and outputs of a graph are called.
    Names(&'static [&'static str]),
    List(Keys),
    /// Texts under any names.
    Entries,
    /// Objects of one shape under any names, in an object or in a list of such objects.
    Stages(Keys),
    Session,
    Providers,
    /// An object that nothing here looks into.
    Kept,
}

use Kind::{
    Entries, Flag, Id, Ids, Integer, Integers, Kept, List, Names, Number, Object, OneOf, Path as File, Providers,
    Session, Stages, Text, Texts,
};

pub(super) const ROOT: Keys = &[
    ("model", Object(MODEL)),
    ("search", Object(SEARCH)),
    ("speculative", Object(SPECULATIVE)),
    ("engine", Object(ENGINE)),
    ("runtime_profiles", List(PROFILE)),
];

const MODEL: Keys = &[
    ("type", Text),
    ("tokenizer_dir", File),
    ("vocab_size", Integer),
    ("context_length", Integer),
    ("pad_token_id", Id),
    ("eos_token_id", Ids),
    ("bos_token_id", Id),
    ("sep_token_id", Id),
    ("decoder_start_token_id", Id),
    ("image_token_id", Id),
    ("audio_token_id", Id),
    ("boa_token_id", Id),
    ("video_token_id", Id),
    ("vision_start_token_id", Id),
    ("bot_token_id", Id),
    ("eot_token_id", Id),
    ("bor_token_id", Id),
    ("eor_token_id", Id),
    ("num_mels", Integer),
    ("fft_size", Integer),
    ("hop_length", Integer),
    ("win_length", Integer),
    ("preemph", Number),
    ("log_eps", Number),
    ("norm_eps", Number),
    ("subsampling_factor", Integer),
    ("left_context", Integer),
    ("conv_context", Integer),
    ("pre_encode_cache_size", Integer),
    ("sample_rate", Integer),
    ("chunk_samples", Integer),
    ("blank_id", Id),
    ("max_symbols_per_step", Integer),
    ("left_context_samples", Integer),
    ("right_context_samples", Integer),
    ("tdt_durations", Integers),
    ("decoder", Object(DECODER)),
    ("draft", Object(DECODER)),
    ("encoder", Object(ENCODER)),
    ("embedding", Object(EMBEDDING)),
    ("vision", Object(VISION)),
    ("speech", Object(SPEECH)),
    ("joiner", Object(JOINER)),
    ("vad", Object(VAD)),
    ("mtp", Object(MTP)),
    ("dflash2", Object(BLOCK_DRAFTER)),
    ("dspark", Object(BLOCK_DRAFTER)),
    ("audio_output", Object(AUDIO_OUTPUT)),
];

const DECODER: Keys = &[
    ("filename", File),
    ("hidden_size", Integer),
    ("num_attention_heads", Integer),
    ("num_key_value_heads", Integer),
    ("num_hidden_layers", Integer),
    ("head_size", Integer),
    ("conv_cache_size", Integer),
    ("state_update_capacity", Integer),
    ("layer_types", Texts),
    ("shared_initializers", List(SHARED_INITIALIZER)),
    ("state_groups", List(STATE_GROUP)),
    ("session_options", Session),
    ("run_options", Entries),
    ("inputs", Names(DECODER_INPUTS)),
    ("outputs", Names(DECODER_OUTPUTS)),
    ("sliding_window", Object(SLIDING_WINDOW)),
    ("pipeline", Stages(STAGE)),
];

const DECODER_INPUTS: &[&str] = &[
    "input_ids",
    "inputs_embeds",
    "attention_mask",
    "position_ids",
    "past_key_names",
    "past_value_names",
    "past_names",
    "past_conv_names",
    "past_recurrent_names",
    "past_key_scale_names",
    "past_value_scale_names",
    "cross_past_key_names",
    "cross_past_value_names",
    "past_sequence_length",
    "current_sequence_length",
    "total_sequence_length",
    "past_key_values_length",
    "cache_indirection",
    "encoder_hidden_states",
    "encoder_attention_mask",
    "rnn_states_prev",
    "cumulative_sequence_lengths",
    "past_sequence_lengths",
    "block_table",
    "block_table_windowed",
    "attention_metadata",
    "logits_indices",
    "hidden_states",
    "per_layer_inputs",
    "targets",
    "targets_length",
    "lstm_hidden_state",
    "lstm_cell_state",
    "state_update_active",
    "state_update_capture_count",
];

const DECODER_OUTPUTS: &[&str] = &[
    "logits",
    "hidden_states",
    "aux_hidden_states",
    "present_key_names",
    "present_value_names",
    "present_names",
    "present_conv_names",
    "present_recurrent_names",
    "present_key_scale_names",
    "present_value_scale_names",
    "output_cross_qk_names",
    "rnn_states",
    "outputs",
    "outputs_length",
    "lstm_hidden_state",
    "lstm_cell_state",
    "state_update_conv_value_names",
    "state_update_recurrent_capsule_names",
];

const SLIDING_WINDOW: Keys = &[
    ("window_size", Integer),
    ("pad_value", Integer),
    ("alignment", OneOf(&["left", "right"])),
    ("slide_key_value_cache", Flag),
    ("slide_inputs", Flag),
    ("layers", Integers),
    ("cache_slack", Integer),
];

const STATE_GROUP: Keys = &[
    ("kind", OneOf(&["paged_kv", "fixed_conv", "fixed_recurrent"])),
    ("layer_ids", Integers),
    ("bindings", Kept),
    ("state_update", Kept),
];

const SHARED_INITIALIZER: Keys = &[
    ("name", Text),
    ("data_file", File),
    // Texts, because they may be larger than a double can count.
    ("offset", Text),
    ("length", Text),
    ("data_type", Integer),
    ("shape", Integers),
];

const STAGE: Keys = &[
    ("filename", File),
    ("inputs", Texts),
    ("outputs", Texts),
    ("output_names_forwarder", Entries),
    ("run_on_prompt", Flag),
    ("run_on_token_gen", Flag),
    ("is_lm_head", Flag),
    ("inherit_session_options", Flag),
    ("reset_session_idx", Integer),
    ("session_options", Session),
    ("run_options", Entries),
];

const ENCODER: Keys = &[
    ("filename", File),
    ("hidden_size", Integer),
    ("num_attention_heads", Integer),
    ("num_hidden_layers", Integer),
    ("num_key_value_heads", Integer),
    ("head_size", Integer),
    ("session_options", Session),
    ("run_options", Entries),
    (
        "inputs",
        Names(&[
            "input_ids",
            "inputs_embeds",
            "attention_mask",
            "position_ids",
            "audio_features",
            "input_lengths",
            "cache_last_channel",
            "cache_last_time",
            "cache_last_channel_len",
            "lang_id",
        ]),
    ),
    (
        "outputs",
        Names(&[
            "encoder_hidden_states",
            "encoder_outputs",
            "output_lengths",
            "cache_last_channel_next",
            "cache_last_time_next",
            "cache_last_channel_len_next",
            "cross_present_key_names",
            "cross_present_value_names",
        ]),
    ),
];

const EMBEDDING: Keys = &[
    ("filename", File),
    ("prefault", Flag),
    ("session_options", Session),
    ("run_options", Entries),
    ("inputs", Names(&["input_ids", "image_features", "audio_features"])),
    ("outputs", Names(&["inputs_embeds", "per_layer_inputs"])),
];

const VISION: Keys = &[
    ("filename", File),
    ("config_filename", File),
    ("adapter_filename", File),
    ("spatial_merge_size", Integer),
    ("tokens_per_second", Number),
    ("patch_size", Integer),
    ("num_visual_tokens", Integer),
    ("max_num_patches", Integer),
    ("window_size", Integer),
    ("session_options", Session),
    ("run_options", Entries),
    ("inputs", Names(&["pixel_values", "pixel_position_ids", "image_sizes", "image_grid_thw", "attention_mask"])),
    ("outputs", Names(&["image_features"])),
    ("pipeline", Stages(VISION_STAGE)),
];

const VISION_STAGE: Keys = &[
    ("filename", File),
    ("inputs", Texts),
    ("outputs", Texts),
    ("run_on_cpu", Flag),
    ("session_options", Session),
    ("run_options", Entries),
];

const SPEECH: Keys = &[
    ("filename", File),
    ("config_filename", File),
    ("adapter_filename", File),
    ("session_options", Session),
    ("run_options", Entries),
    ("inputs", Names(&["audio_embeds", "attention_mask", "audio_sizes", "audio_projection_mode"])),
    ("outputs", Names(&["audio_features"])),
];

const JOINER: Keys = &[
    ("filename", File),
    ("session_options", Session),
    ("run_options", Entries),
    ("inputs", Names(&["encoder_outputs", "decoder_outputs"])),
    ("outputs", Names(&["logits"])),
];

const VAD: Keys = &[
    ("filename", File),
    ("threshold", Number),
    ("silence_duration_ms", Integer),
    ("prefix_padding_ms", Integer),
    ("session_options", Session),
    ("run_options", Entries),
];

const MTP: Keys = &[
    ("enabled", Flag),
    ("filename", File),
    ("num_hidden_layers", Integer),
    ("num_key_value_heads", Integer),
    ("head_size", Integer),
    ("main_hidden_states", Text),
    ("shared_initializers", List(SHARED_INITIALIZER)),
    ("session_options", Session),
    ("run_options", Entries),
    (
        "inputs",
        Names(&["input_ids", "hidden_states", "attention_mask", "position_ids", "past_key_names", "past_value_names"]),
    ),
    ("outputs", Names(&["logits", "hidden_states", "present_key_names", "present_value_names"])),
];

/// Of drafters that write a block of tokens at once.
const BLOCK_DRAFTER: Keys = &[
    ("filename", File),
    ("block_size", Integer),
    ("head_size", Integer),
    ("independent_sampling", Flag),
    ("main_aux_hidden_states", Text),
    ("mask_token_id", Id),
    ("num_draft_tokens", Integer),
    ("num_hidden_layers", Integer),
    ("num_key_value_heads", Integer),
    ("sampled_proposal", Text),
    ("sampling_min_p", Number),
    ("sampling_temperature", Number),
    ("sampling_top_p", Number),
    ("selector_top_k", Integer),
    ("sliding_window", Integer),
    ("shared_initializers", List(SHARED_INITIALIZER)),
    ("session_options", Session),
    ("run_options", Entries),
    (
        "inputs",
        Names(&[
            "attention_metadata",
            "aux_hidden_states",
            "block_row_index",
            "block_table",
            "cumulative_sequence_lengths",
            "input_ids",
            "inputs_embeds",
            "past_key_names",
            "past_key_scale_names",
            "past_sequence_lengths",
            "past_value_names",
            "past_value_scale_names",
            "q_row_map",
            "qkv_row_map",
        ]),
    ),
    (
        "outputs",
        Names(&[
            "present_key_names",
            "present_key_scale_names",
            "present_value_names",
            "present_value_scale_names",
            "scores",
        ]),
    ),
];

const AUDIO_OUTPUT: Keys = &[
    ("audio_start_token_id", Id),
    ("codebook_size", Integer),
    ("interleaved_n_audio", Integer),
    ("interleaved_n_text", Integer),
    ("num_codebooks", Integer),
    ("text_end_token_id", Id),
    ("depthformer", Kept),
    ("embedding", Kept),
];

const SEARCH: Keys = &[
    ("do_sample", Flag),
    ("min_length", Integer),
    ("max_length", Integer),
    ("batch_size", Integer),
    ("num_beams", Integer),
    ("num_return_sequences", Integer),
    ("repetition_penalty", Number),
    ("top_k", Integer),
    ("top_p", Number),
    ("temperature", Number),
    ("early_stopping", Flag),
    ("no_repeat_ngram_size", Integer),
    ("diversity_penalty", Number),
    ("length_penalty", Number),
    ("past_present_share_buffer", Flag),
    ("random_seed", Integer),
    ("chunk_size", Number),
    ("blank_penalty", Number),
    ("audio_interleaved", Flag),
    ("audio_temperature", Number),
    ("audio_top_k", Integer),
];

const SPECULATIVE: Keys = &[
    ("max_draft_tokens", Integer),
    ("ngram_size", Integer),
    ("ngram_chained_lookup", Flag),
    ("min_adaptive_k", Integer),
    ("cooldown", Flag),
];

const ENGINE: Keys = &[
    (
        "dynamic_batching",
        Object(&[
            ("block_size", Integer),
            ("num_blocks", Integer),
            ("gpu_utilization_factor", Number),
            ("max_batch_size", Integer),
            ("max_scheduled_tokens", Integer),
        ]),
    ),
    ("static_batching", Object(&[("max_batch_size", Integer)])),
];

const PROFILE: Keys = &[
    ("id", Text),
    (
        "eligibility",
        Object(&[
            ("is_integrated", Flag),
            ("minimum_total_device_memory_bytes", Number),
            ("maximum_total_device_memory_bytes", Number),
            ("minimum_free_device_memory_bytes", Number),
            ("maximum_free_device_memory_bytes", Number),
        ]),
    ),
    ("overlay", Kept),
];

/// Any other key is the name of an entry of ONNX Runtime's own, whose value is a text.
pub(super) const SESSION: Keys = &[
    ("log_id", Text),
    // The beginning of a file's path.
    ("enable_profiling", Text),
    ("intra_op_num_threads", Integer),
    ("inter_op_num_threads", Integer),
    ("log_severity_level", Integer),
    ("log_verbosity_level", Integer),
    ("enable_cpu_mem_arena", Flag),
    ("enable_mem_pattern", Flag),
    (
        "graph_optimization_level",
        OneOf(&["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"]),
    ),
    ("custom_ops_library", Text),
    ("provider_options", Providers),
];

pub(super) const DEVICES: Keys = &[
    ("hardware_device_type", OneOf(&["cpu", "gpu", "npu"])),
    ("hardware_device_id", Integer),
    ("hardware_vendor_id", Integer),
];
