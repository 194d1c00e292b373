/// How the scale and the zero point of a block are found. The names are those of `algo_config` of onnxruntime-genai's
/// model builder.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Method {
    /// From the extremes of the block, as ONNX Runtime's native quantizer does it.
    #[default]
    Default,
    /// From the extremes too, as the round-to-nearest of Intel Neural Compressor does it: a symmetric scale is positive
    /// and gives both signs the same reach.
    Rtn,
    /// By a search, after the k-quants of llama.cpp: of 21 grids the one whose error, with more weight on larger
    /// weights, is least. There are always zero points.
    KQuant,
}

impl Method {
    pub const ALL: [Self; 3] = [Self::Default, Self::Rtn, Self::KQuant];

    /// `default`, `rtn` or `k_quant`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Rtn => "rtn",
            Self::KQuant => "k_quant",
        }
    }
}
