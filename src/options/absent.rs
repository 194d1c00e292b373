//! Options about parts that no supported model has. They are known, so that the answer is the reason and not the name of
//! another option.

use super::{Row, Wrong};
use crate::failure::Failure;

macro_rules! absent {
    ($key:literal, $part:literal) => {
        Row {
            key: $key,
            values: "none",
            default: "none",
            applies: concat!("models with ", $part, ", of which none is supported so far"),
            about: concat!("Refused: no supported model has ", $part, "."),
            set: |_, value| {
                Err(Wrong::Other(Failure::unsupported(
                    format!("extra option {} is {value:?}, and no supported model has {}", $key, $part),
                    "leave it out",
                )))
            },
        }
    };
}

pub(super) const ROWS: &[Row] = &[
    absent!("qmoe_block_size", "experts"),
    absent!("qmoe_weights_prepacked", "experts"),
    absent!("moe_quant_type", "experts"),
    absent!("use_8bits_moe", "experts"),
    absent!("exclude_mtp", "a predictor of several tokens"),
    absent!("mtp_quant_config", "a predictor of several tokens"),
    absent!("dflash2_path", "a drafter"),
    absent!("dflash2_num_draft_tokens", "a drafter"),
    absent!("dflash2_precision", "a drafter"),
    absent!("dflash2_fuse_gate_up", "a drafter"),
    absent!("dflash2_fuse_qkv", "a drafter"),
    absent!("dspark_path", "a drafter"),
    absent!("dspark_num_draft_tokens", "a drafter"),
    absent!("dspark_top_k", "a drafter"),
    absent!("linear_attn_op", "linear attention"),
    absent!("state_window", "recurrent states"),
    absent!("state_update_capacity", "recurrent states"),
];
