//! A graph's end.

use ort::value::{Outlet, TensorElementType as Element};

use crate::Error;

/// A graph input or output; a dimension that is not fixed is -1.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) element: Option<Element>,
    pub(crate) dims: Vec<i64>,
}

impl Port {
    pub(super) fn of(outlet: &Outlet) -> Self {
        let dims = outlet.dtype().tensor_shape().map(|shape| shape.to_vec()).unwrap_or_default();
        Self { name: outlet.name().to_owned(), element: outlet.dtype().tensor_type(), dims }
    }

    pub(super) fn shown(&self) -> String {
        self.element.map_or_else(|| "other than tensor".into(), |element| element.to_string())
    }

    pub(super) fn wrong_element(&self, supported: &str) -> Error {
        Error::unsupported(format!("element type {} of `{}`", self.shown(), self.name), supported)
    }
}
