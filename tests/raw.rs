//! Packages run without the tool's own runtime: any input, every output.

use std::collections::BTreeMap;
use std::path::Path;

use ort::session::{Session, SessionInputValue};
use ort::value::{DynTensor, Tensor, TensorElementType};

use crate::support::{Outcome, runtime};

/// A float output: its shape and values.
pub(crate) type Output = (Vec<usize>, Vec<f32>);

pub(crate) struct Raw {
    session: Session,
}

/// What goes in for the tokens of a batch: ids `[batch, sequence]` or embeddings `[batch, sequence, hidden]`.
pub(crate) enum Tokens {
    Ids(Vec<i64>),
    Embeddings(Vec<f32>),
}

impl Raw {
    pub(crate) fn open(package: &Path) -> Outcome<Self> {
        let environment = runtime().initialise()?;
        let mut builder = Session::builder(&environment)?.with_intra_threads(1).map_err(|error| error.to_string())?;
        Ok(Self { session: builder.commit_from_file(package.join("model.onnx"))? })
    }

    pub(crate) fn inputs(&self) -> Vec<&str> {
        self.session.inputs().iter().map(ort::value::Outlet::name).collect()
    }

    /// The float outputs of a first pass. `mask` is `[batch, sequence]`; positions count the tokens that it shows.
    pub(crate) fn prefill(&mut self, tokens: Tokens, mask: &[Vec<i64>]) -> Outcome<BTreeMap<String, Output>> {
        let (batch, sequence) = (mask.len(), mask[0].len());
        let mut inputs: Vec<(String, SessionInputValue)> = Vec::new();
        match tokens {
            Tokens::Ids(ids) => {
                inputs.push(("input_ids".into(), Tensor::from_array(([batch, sequence], ids))?.upcast().into()));
            }
            Tokens::Embeddings(values) => {
                let hidden = values.len() / batch / sequence;
                let values = Tensor::from_array(([batch, sequence, hidden], values))?;
                inputs.push(("inputs_embeds".into(), values.upcast().into()));
            }
        }
        let positions = mask.iter().flat_map(|row| {
            row.iter().scan(0, |count, shown| {
                *count += shown;
                Some((*count - 1).max(0) * shown)
            })
        });
        let positions = Tensor::from_array(([batch, sequence], positions.collect::<Vec<i64>>()))?;
        if self.inputs().contains(&"position_ids") {
            inputs.push(("position_ids".into(), positions.upcast().into()));
        }
        let mask = Tensor::from_array(([batch, sequence], mask.concat()))?;
        inputs.push(("attention_mask".into(), mask.upcast().into()));
        for input in self.session.inputs().iter().filter(|input| input.name().starts_with("past_key_values.")) {
            let shape = input.dtype().tensor_shape().ok_or("no shape")?.to_vec();
            let shape = [batch, usize::try_from(shape[1])?, 0, usize::try_from(shape[3])?];
            let empty = DynTensor::new(self.session.allocator(), TensorElementType::Float32, shape)?;
            inputs.push((input.name().to_owned(), empty.into()));
        }
        let outputs = self.session.run(inputs)?;
        let mut found = BTreeMap::new();
        for (name, value) in &outputs {
            let (shape, values) = value.try_extract_tensor::<f32>()?;
            let shape = shape.iter().map(|dim| usize::try_from(*dim)).collect::<Result<_, _>>()?;
            found.insert(name.to_owned(), (shape, values.to_vec()));
        }
        Ok(found)
    }
}
