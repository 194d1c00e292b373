//! The execution providers that a package can be run on.

use std::path::Path;

use ort::ep::{CUDA, ExecutionProvider, WebGPU};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{Session, builder::SessionBuilder};

use crate::{Error, Result};

/// Where ONNX Runtime computes. A library holds some providers only; the CPU's is in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Provider {
    #[default]
    Cpu,
    Cuda,
    WebGpu,
}

impl Provider {
    /// As ONNX Runtime calls it, such as `CPUExecutionProvider`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPUExecutionProvider",
            Self::Cuda => CUDA::NAME,
            Self::WebGpu => WebGPU::NAME,
        }
    }

    /// Puts the provider before the CPU's. ONNX Runtime leaves to the CPU the nodes that the provider has no kernel
    /// for: [`crate::Placement`] says which.
    ///
    /// # Errors
    /// [`Error::ProviderMissing`] if the library, which is loaded, was built without the provider;
    /// [`Error::Execution`] if the provider finds no device or not its own libraries.
    pub(crate) fn register(self, builder: SessionBuilder, library: &Path) -> Result<SessionBuilder> {
        let doing = || format!("asking {} for {}", library.display(), self.name());
        let (available, dispatch) = match self {
            Self::Cpu => return Ok(builder),
            Self::Cuda => (CUDA::is_available(), CUDA::default().build()),
            Self::WebGpu => (WebGPU::is_available(), WebGPU::default().build()),
        };
        if !available.map_err(Error::execution(doing()))? {
            return Err(Error::ProviderMissing { provider: self.name(), library: library.to_path_buf() });
        }
        builder
            .with_execution_providers([dispatch.error_on_failure()])
            .map_err(|error| Error::execution(doing())(error.to_string()))
    }

    /// The memory that its kernels write, unless it is the session's own. A buffer that a node fills bit by bit has to
    /// be there: of other memory the node gets a copy, and ONNX Runtime gives what it wrote back as a whole.
    pub(crate) fn device_memory(self, session: &Session) -> Result<Option<Allocator>> {
        let device = match self {
            Self::Cpu => return Ok(None),
            Self::Cuda => AllocationDevice::CUDA,
            Self::WebGpu => AllocationDevice::WEBGPU_BUFFER,
        };
        MemoryInfo::new(device, 0, AllocatorType::Device, MemoryType::Default)
            .and_then(|memory| Allocator::new(session, memory))
            .map(Some)
            .map_err(Error::execution(format!("asking {} for memory", self.name())))
    }
}
