//! Module paths of a whole description, for families that differ from another in these.

use crate::{Activation, Attention, DecoderSpec, Layer, LmHead, Mixer, Mlp};

impl DecoderSpec {
    /// Replaces parts of module paths, the rules one after another.
    pub(crate) fn rename(&mut self, rules: &[(&str, &str)]) {
        self.for_each_path(|path| {
            for (from, to) in rules {
                *path = path.replace(from, to);
            }
        });
    }

    /// Visits every module path once, and the tensors of `copies` and `constants`.
    fn for_each_path(&mut self, mut visit: impl FnMut(&mut String)) {
        visit(&mut self.embedding.path);
        if let Some(positions) = &mut self.embedding.positions {
            visit(&mut positions.path);
        }
        if let Some(norm) = &mut self.embedding.norm {
            visit(&mut norm.path);
        }
        for layer in &mut self.layers {
            layer.for_each_path(&mut visit);
        }
        visit(&mut self.final_norm.path);
        if let LmHead::Own(head) = &mut self.lm_head {
            visit(&mut head.path);
        }
        if let Some(inputs) = &mut self.layer_inputs {
            visit(&mut inputs.table);
            visit(&mut inputs.projection.path);
            visit(&mut inputs.norm.path);
        }
        for linear in self.streams.iter_mut().flat_map(|streams| streams.expand.iter_mut().chain(&mut streams.merge)) {
            visit(&mut linear.path);
        }
        for (copy, original) in &mut self.copies {
            visit(copy);
            visit(original);
        }
        for (tensor, _) in &mut self.constants {
            visit(tensor);
        }
    }
}

impl Layer {
    fn for_each_path(&mut self, visit: &mut impl FnMut(&mut String)) {
        let Mixer::Attention(Attention { q, key_value, o, q_norm, k_norm, v_norm, .. }) = &mut self.mixer;
        for linear in key_value.linears_mut().into_iter().chain([q, o]) {
            visit(&mut linear.path);
        }
        for norm in [q_norm, k_norm, v_norm].into_iter().flatten() {
            visit(&mut norm.norm.path);
        }
        let (linears, activation) = match &mut self.mlp {
            Mlp::Gated { gate, up, down, activation, .. } => (vec![gate, up, down], Some(activation)),
            Mlp::Plain { up, down, activation } => (vec![up, down], Some(activation)),
            Mlp::ClampedGate { gate_up, down, .. } => (vec![gate_up, down], None),
        };
        for linear in linears {
            visit(&mut linear.path);
        }
        match activation {
            Some(Activation::XIelu { path, .. }) => visit(path),
            None
            | Some(
                Activation::Silu | Activation::Gelu | Activation::GeluTanh | Activation::Relu | Activation::ReluSquared,
            ) => {}
        }
        for norm in self.residual.norms_mut() {
            visit(&mut norm.path);
        }
        for linear in self.residual.linears_mut() {
            visit(&mut linear.path);
        }
        for tensor in self.residual.tensors_mut() {
            visit(tensor);
        }
    }
}
