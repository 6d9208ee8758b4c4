//! Stands in for `cubecl-llvm`, whose build script downloads LLVM. `cubecl-cuda` has two compilers of kernels, and refers to
//! the types of both: LLVM and NVRTC. This workspace chooses NVRTC (feature `cpp`), so nothing here is ever called.
//!
//! The names are those of `cubecl-llvm` 0.11.3 that `cubecl-cuda` 0.11.3 uses. `[patch.crates-io]` in the workspace's manifest
//! puts this crate in its place.

use core::fmt;

use cubecl_core::ir::attributes::BufferIOAttr;
use cubecl_core::ir::nvidia::SmArch;
use cubecl_core::prelude::KernelDefinition;
use cubecl_server::compiler::{CompilationError, Compiler};

const UNREACHABLE: &str = "LLVM is not part of this build, which compiles kernels by NVRTC";

/// Versions of PTX.
pub mod nvptx {
    /// Versions of PTX.
    pub mod ptx_version {
        /// A version of PTX. There is none.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum PtxVersion {}

        impl PtxVersion {
            /// Returns nothing: no version is known.
            pub fn for_driver(_driver: i32) -> Option<Self> {
                None
            }
        }

        impl core::fmt::Display for PtxVersion {
            fn fmt(&self, _: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match *self {}
            }
        }
    }
}

/// What LLVM's targets share.
pub mod shared {
    /// Features of devices that LLVM does not lower.
    pub mod lowered_features {
        use cubecl_core::ir::DeviceProperties;

        /// A target of LLVM.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum GpuTarget {
            /// NVIDIA's PTX.
            Nvptx,
        }

        /// Would take features from a device's properties.
        pub fn restrict_features(_properties: &mut DeviceProperties, _target: GpuTarget) {
            unreachable!("{}", crate::UNREACHABLE);
        }
    }
}

/// A target of LLVM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LlvmTarget {
    /// NVIDIA's PTX.
    #[default]
    Nvptx,
}

/// Options of the compiler.
#[derive(Clone, Debug, Default)]
pub struct PlironOptions {
    /// The processor's architecture.
    pub arch: Option<()>,
    /// The card's architecture.
    pub sm_arch: Option<SmArch>,
    /// The version of PTX.
    pub ptx_version: Option<nvptx::ptx_version::PtxVersion>,
    /// Whether arguments are constants of the grid.
    pub grid_constants: bool,
}

/// A compiled kernel.
#[derive(Clone, Debug)]
pub struct NvptxModule {
    /// The code.
    pub ptx: Vec<core::ffi::c_char>,
    /// The name of the kernel.
    pub entrypoint: String,
    /// The code before it was compiled.
    pub ir: String,
    /// The bytes of shared memory.
    pub shared_memory_size: usize,
    /// How buffers are used.
    pub io: Vec<BufferIOAttr>,
}

/// What the compiler makes.
#[derive(Clone, Debug)]
pub enum PlironArtifact {
    /// Code of the processor.
    Jit,
    /// Code of a card.
    NvptxCode(NvptxModule),
}

impl fmt::Display for PlironArtifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(UNREACHABLE)
    }
}

/// The compiler.
#[derive(Clone, Debug, Default)]
pub struct PlironCompiler {
    /// What it compiles for.
    pub target: LlvmTarget,
}

impl Compiler for PlironCompiler {
    type Representation = PlironArtifact;
    type CompilationOptions = PlironOptions;

    fn compile(&mut self, _: KernelDefinition, _: &PlironOptions) -> Result<PlironArtifact, CompilationError> {
        unreachable!("{UNREACHABLE}");
    }

    fn extension(&self) -> &'static str {
        "ll"
    }

    fn lang_tag(&self) -> &'static str {
        "llvm"
    }
}
