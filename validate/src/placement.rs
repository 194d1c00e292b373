//! Which execution provider ran which node, from the profile that ONNX Runtime writes of a session.
//!
//! A session that asks for a provider still runs on the CPU whatever that provider has no kernel for, and says nothing:
//! only the profile tells. It lists a run of a node as
//! `{"cat": "Node", "name": "NODE_kernel_time", "args": {"op_name": …, "provider": …}}`, once for each run
//! (onnxruntime/core/framework/sequential_executor.cc).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::runtime::Provider;
use crate::{Error, Result};

/// A node as it was run: after ONNX Runtime's rewriting, so that a node of the file may be part of another, and copies
/// between devices are nodes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlacedNode {
    pub op_type: String,
    pub node: String,
    /// As [`Provider::name`] spells it.
    pub provider: String,
}

/// The nodes that a session ran. A node that ran on two providers is listed for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    nodes: Vec<PlacedNode>,
}

impl Placement {
    /// Reads a profile, the JSON file that a session writes when profiling ends.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Execution`] if the file is no profile, or is one of a session that ran no node.
    pub fn read(profile: &Path) -> Result<Self> {
        let bytes = fs::read(profile).map_err(Error::io(profile))?;
        Self::parse(&bytes).map_err(Error::execution(format!("reading the profile {}", profile.display())))
    }

    fn parse(profile: &[u8]) -> Result<Self, String> {
        let events: Vec<Value> = serde_json::from_slice(profile).map_err(|error| error.to_string())?;
        let mut nodes = BTreeSet::new();
        for event in &events {
            let text = |value: &Value| value.as_str().map(str::to_owned);
            if event["cat"] != "Node" {
                continue;
            }
            // Beside the kernel, older releases list what comes before and after it.
            let Some(node) = event["name"].as_str().and_then(|name| name.strip_suffix("_kernel_time")) else {
                continue;
            };
            let args = &event["args"];
            let (Some(op_type), Some(provider)) = (text(&args["op_name"]), text(&args["provider"])) else {
                return Err(format!("node `{node}` has no op_name or no provider"));
            };
            nodes.insert(PlacedNode { op_type, node: node.to_owned(), provider });
        }
        if nodes.is_empty() {
            return Err("it lists no node, so nothing was run".to_owned());
        }
        Ok(Self { nodes: nodes.into_iter().collect() })
    }

    /// All of them, sorted by kind and name.
    pub fn nodes(&self) -> &[PlacedNode] {
        &self.nodes
    }

    /// How many nodes of a kind there are, if all of them ran on the provider.
    ///
    /// # Errors
    /// [`Error::Misplaced`] with those that ran elsewhere, or if no such node ran at all: a kind that was rewritten away
    /// proves nothing.
    pub fn expect(&self, op_type: &str, provider: Provider) -> Result<usize> {
        let of_kind = || self.nodes.iter().filter(|placed| placed.op_type == op_type);
        let elsewhere = of_kind().filter(|placed| placed.provider != provider.name());
        let elsewhere: Vec<_> = elsewhere.map(|placed| format!("`{}` on {}", placed.node, placed.provider)).collect();
        let found = match (of_kind().count(), elsewhere.is_empty()) {
            (0, _) => "no such node ran".to_owned(),
            (count, true) => return Ok(count),
            (_, false) => elsewhere.join(", "),
        };
        Err(Error::Misplaced { op_type: op_type.to_owned(), provider: provider.name(), found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = r#"[
        {"cat": "Session", "name": "model_loading_uri", "args": {}},
        {"cat": "Node", "name": "/a/MatMul_kernel_time", "args": {"op_name": "MatMul", "provider": "CPUExecutionProvider"}},
        {"cat": "Node", "name": "/a/MatMul_fence_before", "args": {"op_name": "MatMul"}},
        {"cat": "Node", "name": "/b/MatMul_kernel_time", "args": {"op_name": "MatMul", "provider": "WebGpuExecutionProvider"}},
        {"cat": "Node", "name": "/a/Add_kernel_time", "args": {"op_name": "Add", "provider": "CPUExecutionProvider"}},
        {"cat": "Node", "name": "/a/MatMul_kernel_time", "args": {"op_name": "MatMul", "provider": "CPUExecutionProvider"}}
    ]"#;

    #[test]
    fn nodes_are_counted_once_and_told_by_where_they_ran() {
        let placement = Placement::parse(PROFILE.as_bytes()).unwrap();
        assert_eq!(placement.nodes().len(), 3);
        assert_eq!(placement.expect("Add", Provider::Cpu).unwrap(), 1);
        let told = |op_type, provider| placement.expect(op_type, provider).unwrap_err().to_string();
        assert_eq!(
            told("MatMul", Provider::Cpu),
            "MatMul did not run on CPUExecutionProvider alone: `/b/MatMul` on WebGpuExecutionProvider"
        );
        assert!(told("Add", Provider::WebGpu).contains("`/a/Add` on CPUExecutionProvider"));
        assert!(told("Gather", Provider::Cpu).contains("no such node ran"));
    }

    #[test]
    fn a_profile_that_proves_nothing_is_refused() {
        for (profile, expected) in [
            ("[]", "nothing was run"),
            ("[{", "EOF"),
            (r#"[{"cat": "Node", "name": "x_kernel_time", "args": {"op_name": "Add"}}]"#, "`x` has no op_name"),
        ] {
            let told = Placement::parse(profile.as_bytes()).unwrap_err();
            assert!(told.contains(expected), "{told}");
        }
    }
}
