//! Checkpoints of published sizes: their shapes, filled with random weights or with nothing.

use std::f64::consts::TAU;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Map, json};

/// A decoder in the manner of Llama 3, in bf16.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) hidden: u64,
    pub(crate) inner: u64,
    pub(crate) layers: u64,
    pub(crate) heads: u64,
    pub(crate) kv_heads: u64,
    pub(crate) head_dim: u64,
    pub(crate) vocab: u64,
    /// Whether the head shares the table.
    pub(crate) tied: bool,
}

/// The widths of Qwen2.5-0.5B.
pub(crate) const HALF_BILLION: Shape = Shape {
    name: "0.5B",
    hidden: 896,
    inner: 4864,
    layers: 24,
    heads: 14,
    kv_heads: 2,
    head_dim: 64,
    vocab: 151_936,
    tied: true,
};

/// Llama-3.2-1B.
pub(crate) const ONE_BILLION: Shape = Shape {
    name: "1B",
    hidden: 2048,
    inner: 8192,
    layers: 16,
    heads: 32,
    kv_heads: 8,
    head_dim: 64,
    vocab: 128_256,
    tied: true,
};

/// Llama-3.3-70B.
pub(crate) const SEVENTY_BILLION: Shape = Shape {
    name: "70B",
    hidden: 8192,
    inner: 28_672,
    layers: 80,
    heads: 64,
    kv_heads: 8,
    head_dim: 128,
    vocab: 128_256,
    tied: false,
};

impl Shape {
    /// Names and dimensions in the order in which they are stored.
    fn tensors(&self) -> Vec<(String, Vec<u64>)> {
        let (hidden, q, kv) = (self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut tensors = vec![("model.embed_tokens".to_owned(), vec![self.vocab, hidden])];
        for layer in 0..self.layers {
            let modules = [
                ("input_layernorm", vec![hidden]),
                ("mlp.down_proj", vec![hidden, self.inner]),
                ("mlp.gate_proj", vec![self.inner, hidden]),
                ("mlp.up_proj", vec![self.inner, hidden]),
                ("post_attention_layernorm", vec![hidden]),
                ("self_attn.k_proj", vec![kv, hidden]),
                ("self_attn.o_proj", vec![hidden, q]),
                ("self_attn.q_proj", vec![q, hidden]),
                ("self_attn.v_proj", vec![kv, hidden]),
            ];
            tensors.extend(modules.map(|(module, dims)| (format!("model.layers.{layer}.{module}"), dims)));
        }
        tensors.push(("model.norm".to_owned(), vec![hidden]));
        if !self.tied {
            tensors.push(("lm_head".to_owned(), vec![self.vocab, hidden]));
        }
        tensors.into_iter().map(|(module, dims)| (format!("{module}.weight"), dims)).collect()
    }

    pub(crate) fn weights(&self) -> u64 {
        self.tensors().iter().map(|(_, dims)| dims.iter().product::<u64>()).sum()
    }

    /// Bytes of the largest tensor.
    pub(crate) fn largest(&self) -> u64 {
        self.tensors().iter().map(|(_, dims)| 2 * dims.iter().product::<u64>()).max().unwrap_or(0)
    }

    /// A checkpoint whose weights are a hole in the file: all zeros, and next to nothing on the disk.
    pub(crate) fn write_sparse(&self, folder: &Path) -> io::Result<()> {
        let file = self.write_all_but_weights(folder)?;
        let header = file.metadata()?.len();
        file.set_len(header + 2 * self.weights())
    }

    /// A checkpoint of random normal weights, the same each time.
    pub(crate) fn write_random(&self, folder: &Path) -> io::Result<()> {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        // A draw from many draws, which costs a fraction of one from the formula.
        let table: Vec<u16> = (0..1 << 16).map(|_| half::bf16::from_f64(0.02 * random.normal()).to_bits()).collect();
        let mut out = BufWriter::with_capacity(1 << 20, self.write_all_but_weights(folder)?);
        let mut left = self.weights();
        while left > 0 {
            let indices = random.bits().to_le_bytes();
            for pair in indices.as_chunks::<2>().0.iter().take(left.min(4) as usize) {
                out.write_all(&table[usize::from(u16::from_le_bytes(*pair))].to_le_bytes())?;
            }
            left = left.saturating_sub(4);
        }
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }

    /// Writes config, tokenizer and the header of the weights, and returns the file of the weights.
    fn write_all_but_weights(&self, folder: &Path) -> io::Result<File> {
        let (mut header, mut end) = (Map::new(), 0);
        for (name, dims) in self.tensors() {
            let begin = end;
            end += 2 * dims.iter().product::<u64>();
            header.insert(name, json!({"dtype": "BF16", "shape": dims, "data_offsets": [begin, end]}));
        }
        let mut header = serde_json::to_vec(&header)?;
        // The format wants the data on a multiple of 8.
        header.resize(header.len().next_multiple_of(8), b' ');
        fs::create_dir_all(folder)?;
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
            "hidden_size": self.hidden, "intermediate_size": self.inner, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "head_dim": self.head_dim,
            "vocab_size": self.vocab, "tie_word_embeddings": self.tied, "hidden_act": "silu", "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131_072, "rope_theta": 500_000.0, "bos_token_id": 1, "eos_token_id": 2,
        });
        fs::write(folder.join("config.json"), serde_json::to_vec_pretty(&config)?)?;
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/llama-default");
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            fs::copy(fixture.join(file), folder.join(file))?;
        }
        let mut weights = File::create(folder.join("model.safetensors"))?;
        weights.write_all(&(header.len() as u64).to_le_bytes())?;
        weights.write_all(&header)?;
        Ok(weights)
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// In (0, 1].
    fn uniform(&mut self) -> f64 {
        ((self.bits() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// By Box and Muller.
    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (TAU * self.uniform()).cos()
    }
}
