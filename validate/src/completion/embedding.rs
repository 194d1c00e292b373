//! Texts as vectors, by the hidden states of packages that give them.

use serde::{Deserialize, Serialize};

use super::llm::{BATCH, Llm};
use crate::{Error, Matrix, Result, SpecialTokens};

/// How the vectors of tokens become that of the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// The last one, which alone has seen the whole text.
    Last,
    /// The first one, for models that see both ways.
    Cls,
}

/// Of [`Llm::create_embedding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbeddingOptions {
    pub pooling: Pooling,
    /// To length 1.
    pub normalize: bool,
    /// Takes the beginning of a text that is longer than the context; otherwise it is an error.
    pub truncate: bool,
}

impl Default for EmbeddingOptions {
    fn default() -> Self {
        Self { pooling: Pooling::Mean, normalize: true, truncate: false }
    }
}

/// Vectors in the shape of OpenAI's API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Embeddings {
    /// `list`
    pub object: String,
    pub data: Vec<Embedding>,
    pub model: String,
    pub usage: EmbeddingUsage,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Embedding {
    /// `embedding`
    pub object: String,
    pub index: usize,
    pub embedding: Vec<f32>,
}

/// In tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddingUsage {
    pub prompt_tokens: usize,
    pub total_tokens: usize,
}

impl Llm {
    /// The vector of each text. Leaves the last one in the context.
    ///
    /// # Errors
    /// As [`Self::embed`].
    pub fn create_embedding(&mut self, texts: &[&str], options: EmbeddingOptions) -> Result<Embeddings> {
        let (mut data, mut prompt_tokens) = (Vec::new(), 0);
        for (index, text) in texts.iter().enumerate() {
            let mut tokens = self.tokenize(text, SpecialTokens::Added)?;
            if options.truncate {
                tokens.truncate(self.n_ctx());
            }
            prompt_tokens += tokens.len();
            let embedding = self.embed(&tokens, options)?;
            data.push(Embedding { object: "embedding".to_owned(), index, embedding });
        }
        let usage = EmbeddingUsage { prompt_tokens, total_tokens: prompt_tokens };
        Ok(Embeddings { object: "list".to_owned(), data, model: self.name().to_owned(), usage })
    }

    /// The vector of a text of tokens, of `hidden_size` numbers.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a package that gives no hidden states; [`Error::Argument`] for no tokens, and more than
    /// fit; as [`crate::Sequence::append`].
    pub fn embed(&mut self, tokens: &[u32], options: EmbeddingOptions) -> Result<Vec<f32>> {
        let name = self.config.decoder.outputs.hidden_states.clone();
        if !self.model.gives(&name) {
            let what = format!("embeddings of a package without output `{name}`");
            return Err(Error::unsupported(what, "packages built with include_hidden_states"));
        }
        self.model.check_ids(tokens)?;
        self.reset()?;
        let mut rows: Vec<Vec<f32>> = Vec::new();
        for batch in tokens.chunks(BATCH) {
            self.eval(batch)?;
            let states = self.sequence.output(&name)?;
            let wrong = || Error::execution("reading hidden states")(format!("of shape {:?}", states.shape));
            let (Some(values), [1, count, size]) = (states.floats(), states.shape.as_slice()) else {
                return Err(wrong());
            };
            if *count != batch.len() {
                return Err(wrong());
            }
            rows.extend(Matrix::new(*count, *size, values)?.data().chunks_exact((*size).max(1)).map(<[f32]>::to_vec));
        }
        let mut vector = pooled(&rows, options.pooling);
        if options.normalize {
            let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
            if length > 0.0 {
                vector.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
            }
        }
        Ok(vector)
    }
}

fn pooled(rows: &[Vec<f32>], pooling: Pooling) -> Vec<f32> {
    match pooling {
        Pooling::Last => rows.last().cloned().unwrap_or_default(),
        Pooling::Cls => rows.first().cloned().unwrap_or_default(),
        Pooling::Mean => {
            let mut sums = vec![0.0f64; rows.first().map_or(0, Vec::len)];
            for row in rows {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
            }
            sums.into_iter().map(|sum| (sum / rows.len().max(1) as f64) as f32).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pooling() {
        let rows = [vec![1.0, 2.0], vec![3.0, -2.0], vec![5.0, 3.0]];
        assert_eq!(pooled(&rows, Pooling::Mean), [3.0, 1.0]);
        assert_eq!(pooled(&rows, Pooling::Last), [5.0, 3.0]);
        assert_eq!(pooled(&rows, Pooling::Cls), [1.0, 2.0]);
    }
}
