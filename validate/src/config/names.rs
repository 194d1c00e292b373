//! Names of the decoder's graph inputs and outputs.
//!
//! The defaults are those of onnxruntime-genai 0.18. A name that the file leaves out or empty and that has no default
//! there is empty here, and so that of no input.

use super::Template;
use super::fields::Fields;
use crate::Result;

/// Graph names of the decoder's inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    pub input_ids: String,
    /// Of hidden states in place of ids, where the package has no embedding.
    pub inputs_embeds: String,
    pub attention_mask: String,
    pub position_ids: String,
    pub past_key: Template,
    pub past_value: Template,
    /// Keys and values of a layer in one tensor `[2, batch, heads, tokens, head_size]`, where it is given.
    pub past: Option<Template>,
    /// States of short convolutions.
    pub past_conv: Template,
    /// States of linear attention.
    pub past_recurrent: Template,
    /// Scales of caches that hold codes.
    pub past_key_scale: Option<Template>,
    pub past_value_scale: Option<Template>,
    pub cross_past_key: Option<Template>,
    pub cross_past_value: Option<Template>,
    /// int32 `[1, 1]`: the last position before this run's end.
    pub past_sequence_length: String,
    /// int32 `[1]`: tokens behind this run.
    pub current_sequence_length: String,
    pub total_sequence_length: String,
    pub past_key_values_length: String,
    pub cache_indirection: String,
    pub encoder_hidden_states: String,
    pub encoder_attention_mask: String,
    pub rnn_states_prev: String,
    /// int32 `[batch + 1]`, of packed tokens with a paged cache, as are the next four.
    pub cumulative_sequence_lengths: String,
    pub past_sequence_lengths: String,
    pub block_table: String,
    pub block_table_windowed: String,
    pub attention_metadata: String,
    /// Rows of which logits are wanted.
    pub logits_indices: String,
    pub hidden_states: String,
    pub per_layer_inputs: String,
    pub targets: String,
    pub targets_length: String,
    pub lstm_hidden_state: String,
    pub lstm_cell_state: String,
    pub state_update_active: String,
    pub state_update_capture_count: String,
}

/// Graph names of the decoder's outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outputs {
    pub logits: String,
    /// Of the final norm's output, where the package gives it.
    pub hidden_states: String,
    /// Of outputs of layers in between, for a drafter.
    pub aux_hidden_states: String,
    pub present_key: Template,
    pub present_value: Template,
    /// As [`Inputs::past`].
    pub present: Option<Template>,
    pub present_conv: Template,
    pub present_recurrent: Template,
    pub present_key_scale: Option<Template>,
    pub present_value_scale: Option<Template>,
    pub cross_qk: Template,
    pub rnn_states: String,
    pub outputs: String,
    pub outputs_length: String,
    pub lstm_hidden_state: String,
    pub lstm_cell_state: String,
    pub state_update_conv_value: Option<Template>,
    pub state_update_recurrent_capsule: Option<Template>,
}

impl Inputs {
    pub(super) fn read(fields: &Fields) -> Result<Self> {
        let own = |key: &str| fields.name(key, key);
        let optional = |key: &str| fields.name(key, "");
        Ok(Self {
            input_ids: own("input_ids")?,
            inputs_embeds: own("inputs_embeds")?,
            attention_mask: own("attention_mask")?,
            position_ids: own("position_ids")?,
            past_key: fields.template("past_key_names", "past_key_values.%d.key")?,
            past_value: fields.template("past_value_names", "past_key_values.%d.value")?,
            past: fields.optional_template("past_names")?,
            past_conv: fields.template("past_conv_names", "past_conv.%d")?,
            past_recurrent: fields.template("past_recurrent_names", "past_key_values.%d.recurrent_state")?,
            past_key_scale: fields.optional_template("past_key_scale_names")?,
            past_value_scale: fields.optional_template("past_value_scale_names")?,
            cross_past_key: fields.optional_template("cross_past_key_names")?,
            cross_past_value: fields.optional_template("cross_past_value_names")?,
            past_sequence_length: own("past_sequence_length")?,
            current_sequence_length: own("current_sequence_length")?,
            total_sequence_length: own("total_sequence_length")?,
            past_key_values_length: own("past_key_values_length")?,
            cache_indirection: own("cache_indirection")?,
            encoder_hidden_states: own("encoder_hidden_states")?,
            encoder_attention_mask: own("encoder_attention_mask")?,
            rnn_states_prev: own("rnn_states_prev")?,
            cumulative_sequence_lengths: own("cumulative_sequence_lengths")?,
            past_sequence_lengths: own("past_sequence_lengths")?,
            block_table: own("block_table")?,
            block_table_windowed: own("block_table_windowed")?,
            attention_metadata: own("attention_metadata")?,
            logits_indices: optional("logits_indices")?,
            hidden_states: optional("hidden_states")?,
            per_layer_inputs: optional("per_layer_inputs")?,
            targets: optional("targets")?,
            targets_length: optional("targets_length")?,
            lstm_hidden_state: optional("lstm_hidden_state")?,
            lstm_cell_state: optional("lstm_cell_state")?,
            state_update_active: optional("state_update_active")?,
            state_update_capture_count: optional("state_update_capture_count")?,
        })
    }
}

impl Outputs {
    pub(super) fn read(fields: &Fields) -> Result<Self> {
        let optional = |key: &str| fields.name(key, "");
        Ok(Self {
            logits: fields.name("logits", "logits")?,
            hidden_states: fields.name("hidden_states", "hidden_states")?,
            aux_hidden_states: optional("aux_hidden_states")?,
            present_key: fields.template("present_key_names", "present.%d.key")?,
            present_value: fields.template("present_value_names", "present.%d.value")?,
            present: fields.optional_template("present_names")?,
            present_conv: fields.template("present_conv_names", "present_conv.%d")?,
            present_recurrent: fields.template("present_recurrent_names", "present.%d.recurrent_state")?,
            present_key_scale: fields.optional_template("present_key_scale_names")?,
            present_value_scale: fields.optional_template("present_value_scale_names")?,
            cross_qk: fields.template("output_cross_qk_names", "output_cross_qk_%d")?,
            rnn_states: fields.name("rnn_states", "rnn_states")?,
            outputs: optional("outputs")?,
            outputs_length: optional("outputs_length")?,
            lstm_hidden_state: optional("lstm_hidden_state")?,
            lstm_cell_state: optional("lstm_cell_state")?,
            state_update_conv_value: fields.optional_template("state_update_conv_value_names")?,
            state_update_recurrent_capsule: fields.optional_template("state_update_recurrent_capsule_names")?,
        })
    }
}
