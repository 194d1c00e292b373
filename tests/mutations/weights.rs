//! Wrong numbers.

use genai_validate::report::Stage::{Anatomy, Structure};

use super::{ASYMMETRIC, By, Damage, cells, floats, fp32, int4};

const DOWN: &str = "model.layers.0.mlp.down_proj.MatMul.weight";
const QKV: &str = "model.layers.0.attn.qkv_proj.MatMul.weight";
const O: &str = "model.layers.0.attn.o_proj.MatMul.weight";

pub(super) const ALL: &[Damage] = &[
    Damage {
        what: "scale of one block doubled",
        to: int4("llama-default"),
        by: By::Parts(|p| floats(p, "model.layers.0.mlp.down_proj.MatMul.weight_scales", |scales| scales[0] *= 2.0)),
        stage: Anatomy,
        check: "weights",
        at: "/model/layers.0/mlp/down_proj",
        says: &["`model.layers.0.mlp.down_proj`", "row 0, block 0", "2.0", "its scale in", "weight_scales"],
    },
    Damage {
        what: "all scales of a matrix halved",
        to: int4("llama-default"),
        by: By::Parts(|p| {
            floats(p, "model.layers.1.mlp.up_proj.MatMul.weight_scales", |s| s.iter_mut().for_each(|s| *s *= 0.5));
        }),
        stage: Anatomy,
        check: "weights",
        at: "/model/layers.1/mlp/up_proj",
        says: &["`model.layers.1.mlp.up_proj`", "its scale in", "312 blocks of 104 rows in all"],
    },
    Damage {
        what: "zero point of one block off by one",
        to: ASYMMETRIC,
        by: By::Parts(|p| p.data("model.layers.0.attn.qkv_proj.MatMul.weight_zero_points")[0] ^= 0x01),
        stage: Anatomy,
        check: "weights",
        at: "/model/layers.0/attn/qkv_proj",
        says: &["`model.layers.0.self_attn.q_proj`", "row 0, block 0", "shifted", "its zero point in"],
    },
    Damage {
        what: "high bit of one code",
        to: int4("llama-default"),
        by: By::Parts(|p| p.data("model.layers.1.attn.o_proj.MatMul.weight_Q4")[0] ^= 0x80),
        stage: Anatomy,
        check: "weights",
        at: "/model/layers.1/attn/o_proj",
        says: &["`model.layers.1.self_attn.o_proj`", "row 0, block 0", "damaged"],
    },
    Damage {
        what: "low and high codes change places",
        to: int4("qwen3-tied"),
        by: By::Parts(|p| {
            let codes = p.data("model.layers.0.mlp.gate_proj.MatMul.weight_Q4");
            codes.iter_mut().for_each(|byte| *byte = byte.rotate_left(4));
        }),
        stage: Anatomy,
        check: "weights",
        at: "/model/layers.0/mlp/gate_proj",
        says: &["neighbouring columns have changed places"],
    },
    Damage {
        what: "NaN in a scale",
        to: int4("llama-default"),
        by: By::Parts(|p| floats(p, "model.layers.0.mlp.up_proj.MatMul.weight_scales", |s| s[4] = f32::NAN)),
        stage: Anatomy,
        check: "weights",
        at: "/model/layers.0/mlp/up_proj",
        says: &["`model.layers.0.mlp.up_proj`", "NaN", "row 1", "weight_scales"],
    },
    Damage {
        what: "NaN in a scale, without the checkpoint",
        to: int4("llama-default"),
        by: By::Parts(|p| floats(p, "model.layers.0.mlp.up_proj.MatMul.weight_scales", |s| s[4] = f32::NAN)),
        stage: Structure,
        check: "weights",
        at: "model.layers.0.mlp.up_proj.MatMul.weight_scales",
        says: &["NaN"],
    },
    Damage {
        what: "queries and keys change places",
        to: fp32("llama-mha"),
        // Stored [k, n]: columns of queries, of keys and of values, 48 each.
        by: By::Parts(|p| {
            cells(p, QKV, 144, |before, row, column| {
                before[row * 144 + if column < 96 { (column + 48) % 96 } else { column }]
            });
        }),
        stage: Anatomy,
        check: "weights",
        at: "/model/layers.0/attn/qkv_proj",
        says: &["`model.layers.0.self_attn.q_proj`", "holds `model.layers.0.self_attn.k_proj` of the same layer"],
    },
    Damage {
        what: "gate and up change places",
        to: fp32("llama-default"),
        by: By::Parts(|p| {
            p.exchange("model.layers.0.mlp.gate_proj.MatMul.weight", "model.layers.0.mlp.up_proj.MatMul.weight");
        }),
        stage: Anatomy,
        check: "weights",
        at: "/model/layers.0/mlp/gate_proj",
        says: &["`model.layers.0.mlp.gate_proj`", "holds `model.layers.0.mlp.up_proj`"],
    },
    Damage {
        what: "two layers change places in a matrix",
        to: fp32("llama-default"),
        by: By::Parts(|p| p.exchange(O, "model.layers.1.attn.o_proj.MatMul.weight")),
        stage: Anatomy,
        check: "weights",
        at: "/model/layers.1/attn/o_proj",
        says: &["`model.layers.1.self_attn.o_proj`", "holds `model.layers.0.self_attn.o_proj`"],
    },
    Damage {
        what: "a square matrix transposed",
        to: fp32("llama-mha"),
        by: By::Parts(|p| cells(p, O, 48, |before, row, column| before[column * 48 + row])),
        stage: Anatomy,
        check: "weights",
        at: "/model/layers.0/attn/o_proj",
        says: &["`model.layers.0.self_attn.o_proj`", "transposed"],
    },
    Damage {
        what: "sign of a matrix flipped",
        to: fp32("llama-default"),
        by: By::Parts(|p| floats(p, DOWN, |values| values.iter_mut().for_each(|value| *value = -*value))),
        stage: Anatomy,
        check: "weights",
        at: "/model/layers.0/mlp/down_proj",
        says: &["`model.layers.0.mlp.down_proj`", "sign is flipped"],
    },
    Damage {
        what: "last row of the head zero",
        to: fp32("llama-default"),
        by: By::Parts(|p| {
            cells(
                p,
                "lm_head.MatMul.weight",
                331,
                |before, row, column| {
                    if column == 330 { 0.0 } else { before[row * 331 + column] }
                },
            );
        }),
        stage: Anatomy,
        check: "weights",
        at: "/lm_head/MatMul",
        says: &["`lm_head`", "row 330 is all zero"],
    },
    Damage {
        what: "a matrix never written",
        to: fp32("llama-default"),
        by: By::Parts(|p| floats(p, "model.layers.2.mlp.up_proj.MatMul.weight", |values| values.fill(0.0))),
        stage: Anatomy,
        check: "weights",
        at: "/model/layers.2/mlp/up_proj",
        says: &["`model.layers.2.mlp.up_proj`", "all of it is zero"],
    },
    Damage {
        what: "noise in the place of a matrix",
        to: fp32("llama-default"),
        by: By::Parts(|p| {
            let mut state = 1_u32;
            floats(p, "model.layers.2.mlp.up_proj.MatMul.weight", |values| {
                for value in values {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    *value = (f64::from(state) / f64::from(u32::MAX) - 0.5) as f32 * 0.1;
                }
            });
        }),
        stage: Anatomy,
        check: "weights",
        at: "/model/layers.2/mlp/up_proj",
        says: &["`model.layers.2.mlp.up_proj`", "noise"],
    },
    Damage {
        what: "one bit of one weight rotten",
        to: fp32("llama-default"),
        // A bit of the exponent of row 0's sixth value: stored [k, n] with 72 outputs.
        by: By::Parts(|p| p.data(DOWN)[(5 * 72) * 4 + 3] ^= 0x04),
        stage: Anatomy,
        check: "weights",
        at: "/model/layers.0/mlp/down_proj",
        says: &["`model.layers.0.mlp.down_proj`", "row 0, block 0", "damaged"],
    },
    Damage {
        what: "two rows of the embedding change places",
        to: fp32("llama-default"),
        by: By::Parts(|p| {
            cells(p, "model.embed_tokens.weight", 72, |before, row, column| {
                let row = match row {
                    5 => 9,
                    9 => 5,
                    row => row,
                };
                before[row * 72 + column]
            });
        }),
        stage: Anatomy,
        check: "weights",
        at: "/model/embed_tokens/Gather",
        says: &["`model.embed_tokens`", "row 5 holds row 9", "changed places"],
    },
    Damage {
        what: "embeddings one token late",
        to: fp32("llama-default"),
        by: By::Parts(|p| p.data("model.embed_tokens.weight").rotate_right(72 * 4)),
        stage: Anatomy,
        check: "weights",
        at: "/model/embed_tokens/Gather",
        says: &["`model.embed_tokens`", "one row late"],
    },
    Damage {
        what: "the head is that of another model: its own embedding",
        to: fp32("llama-default"),
        by: By::Parts(|p| {
            let mut table = Vec::new();
            floats(p, "model.embed_tokens.weight", |values| table = values.to_vec());
            cells(p, "lm_head.MatMul.weight", 331, |_, row, column| table[column * 72 + row]);
        }),
        stage: Anatomy,
        check: "weights",
        at: "/lm_head/MatMul",
        says: &["`lm_head`", "holds `model.embed_tokens`"],
    },
    Damage {
        what: "rows of queries in the other rotary layout",
        to: fp32("llama-default"),
        by: By::Parts(|p| {
            // 64 columns of queries, 16 to a head.
            cells(p, QKV, 128, |before, row, column| {
                let half = column - column % 16 + (column % 2) * 8 + column % 16 / 2;
                before[row * 128 + if column < 64 { half } else { column }]
            });
        }),
        stage: Anatomy,
        check: "weights",
        at: "/model/layers.0/attn/qkv_proj",
        says: &["`model.layers.0.self_attn.q_proj`", "other layout of rotated pairs"],
    },
    Damage {
        what: "norm weight without the one that belongs to it",
        to: fp32("gemma2-default"),
        by: By::Parts(|p| {
            floats(p, "model.layers.1.input_layernorm.weight", |values| {
                values.iter_mut().for_each(|value| *value -= 1.0)
            });
        }),
        stage: Anatomy,
        check: "norm",
        at: "model.layers.1.input_layernorm.weight",
        says: &["`model.layers.1.input_layernorm`", "without the 1"],
    },
    Damage {
        what: "norm weights of two layers change places",
        to: fp32("llama-default"),
        by: By::Parts(|p| {
            p.exchange("model.layers.0.input_layernorm.weight", "model.layers.1.input_layernorm.weight");
        }),
        stage: Anatomy,
        check: "norm",
        at: "model.layers.0.input_layernorm.weight",
        says: &["`model.layers.0.input_layernorm`", "that of `model.layers.1.input_layernorm`"],
    },
    Damage {
        what: "norms of queries and keys change places",
        to: fp32("qwen3-default"),
        by: By::Parts(|p| {
            let [q, k] = ["q", "k"].map(|part| format!("model.layers.1.attn.{part}_norm.layernorm.weight"));
            p.exchange(&q, &k);
        }),
        stage: Anatomy,
        check: "norm",
        at: "model.layers.1.attn.q_norm",
        says: &["the norm of queries of layer 1", "that of `model.layers.1.self_attn.k_norm`"],
    },
    Damage {
        what: "theta of the rotation",
        to: fp32("llama-default"),
        by: By::Parts(|p| {
            let frequency = |pair: usize| 1e4_f64.powf(-(pair as f64) / 8.0);
            cells(p, "cos_cache", 8, |_, row, pair| (row as f64 * frequency(pair)).cos() as f32);
            cells(p, "sin_cache", 8, |_, row, pair| (row as f64 * frequency(pair)).sin() as f32);
        }),
        stage: Anatomy,
        check: "rotation",
        at: "cos_cache",
        says: &["theta of 10000.0, expected 500"],
    },
    Damage {
        what: "tables of the rotation one position late",
        to: fp32("llama-default"),
        by: By::Parts(|p| {
            p.data("cos_cache").rotate_left(8 * 4);
            p.data("sin_cache").rotate_left(8 * 4);
        }),
        stage: Anatomy,
        check: "rotation",
        at: "cos_cache",
        says: &["begin at position 1", "off by one"],
    },
    Damage {
        what: "tables of the rotation zero from position 64 on",
        to: fp32("llama-default"),
        by: By::Parts(|p| p.data("cos_cache")[64 * 8 * 4..].fill(0)),
        stage: Anatomy,
        check: "rotation",
        at: "cos_cache",
        says: &["row 64", "the first rows are right"],
    },
    Damage {
        what: "the rotation of long texts for short ones",
        to: fp32("phi3-longrope"),
        // 32 rows for short texts, then those for long ones.
        by: By::Parts(|p| {
            for table in ["cos_cache", "sin_cache"] {
                let bytes = p.data(table);
                let row = bytes.len() / (32 + 256);
                bytes.copy_within(32 * row..64 * row, 0);
            }
        }),
        stage: Anatomy,
        check: "rotation",
        at: "cos_cache",
        says: &["not those of `longrope` rope"],
    },
    Damage {
        what: "a bias of another layer",
        to: fp32("qwen2-default"),
        by: By::Parts(|p| {
            p.exchange("model.layers.0.attn.qkv_proj.Add.bias", "model.layers.1.attn.qkv_proj.Add.bias");
        }),
        stage: Anatomy,
        check: "bias",
        at: "model.layers.0.attn.qkv_proj.Add.bias",
        says: &["the bias of model.layers.0.self_attn.q_proj", "differ"],
    },
];
