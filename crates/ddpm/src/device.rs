//! Devices by name.

use std::sync::OnceLock;

use burn::tensor::Device;
#[cfg(any(feature = "cuda", feature = "rocm", feature = "wgpu"))]
use burn::tensor::DeviceType;

/// The kinds of devices that the program knows, the best first, each with whether this build has it.
const KINDS: [(&str, bool); 6] = [
    ("cuda", cfg!(feature = "cuda")),
    ("rocm", cfg!(feature = "rocm")),
    ("metal", cfg!(feature = "metal")),
    ("vulkan", cfg!(feature = "vulkan")),
    ("wgpu", cfg!(feature = "wgpu")),
    ("cpu", true),
];

/// A device that cannot be had.
#[derive(Clone, Debug, thiserror::Error)]
#[error("device `{name}`: {reason}")]
pub struct DeviceError {
    name: String,
    reason: String,
}

/// A device that was found.
#[derive(Clone, Debug)]
pub struct FoundDevice {
    /// What [`device()`] takes, such as `cuda:0`.
    pub name: String,
    /// Whether a program imitates a graphics card on the processor, which takes far longer than the device `cpu`.
    pub is_software: bool,
    /// The device.
    pub device: Device,
}

impl FoundDevice {
    /// Names the part, such as `NVIDIA H100 PCIe`. Opens the device.
    pub fn description(&self) -> String {
        #[cfg(any(feature = "cuda", feature = "rocm", feature = "wgpu"))]
        if let Some(identity) = self.device.identity() {
            return format!("{}{}", identity.name, if self.is_software { ", on the processor" } else { "" });
        }
        self.name.clone()
    }
}

/// Lists the kinds of devices that this build has, the best first. The last one is `cpu`.
pub fn device_kinds() -> Vec<&'static str> {
    KINDS.into_iter().filter_map(|(kind, is_built)| is_built.then_some(kind)).collect()
}

/// Lists the devices of a kind that this machine has: none if the kind was not compiled in, or its driver is missing.
pub fn find_devices(kind: &str) -> Vec<FoundDevice> {
    let software = software(kind);
    let named = |(number, device): (usize, Device)| {
        let is_software = software.as_ref() == Some(&device);
        let name = if is_software { format!("{kind}:cpu") } else { format!("{kind}:{number}") };
        FoundDevice { name, is_software, device }
    };
    match kind {
        "cpu" => vec![FoundDevice { name: "cpu".into(), is_software: false, device: Device::flex() }],
        _ => enumerate(kind).into_iter().enumerate().map(named).collect(),
    }
}

/// Lists the devices of a kind of graphics card.
fn enumerate(kind: &str) -> Vec<Device> {
    match kind {
        #[cfg(feature = "cuda")]
        "cuda" => Device::enumerate(DeviceType::Cuda).to_vec(),
        #[cfg(feature = "rocm")]
        "rocm" => Device::enumerate(DeviceType::Rocm).to_vec(),
        #[cfg(feature = "metal")]
        "metal" => Device::enumerate(DeviceType::Metal).to_vec(),
        #[cfg(feature = "vulkan")]
        "vulkan" => Device::enumerate(DeviceType::Vulkan).to_vec(),
        #[cfg(feature = "wgpu")]
        "wgpu" => Device::enumerate(DeviceType::Wgpu).to_vec(),
        _ => Vec::new(),
    }
}

/// Returns the name of a kind's software adapter to Burn.
fn software(kind: &str) -> Option<Device> {
    match kind {
        #[cfg(feature = "metal")]
        "metal" => Some(Device::metal(burn::tensor::DeviceKind::Cpu)),
        #[cfg(feature = "vulkan")]
        "vulkan" => Some(Device::vulkan(burn::tensor::DeviceKind::Cpu)),
        #[cfg(feature = "wgpu")]
        "wgpu" => Some(Device::wgpu(burn::tensor::DeviceKind::Cpu)),
        _ => None,
    }
}

/// Returns the kind of device that is used if none is named: the best one that was compiled in and found. A software adapter
/// does not count. The drivers are asked once.
pub fn default_device() -> &'static str {
    static DEFAULT: OnceLock<&str> = OnceLock::new();
    DEFAULT.get_or_init(|| {
        let has_card =
            |kind: &&str| find_devices(kind).iter().any(|found| !found.is_software && missing(kind).is_none());
        device_kinds().into_iter().find(has_card).unwrap_or("cpu")
    })
}

/// Returns the device of a name: `cpu`, `cuda`, `rocm`, `vulkan`, `metal` or `wgpu`, the latter with `:N` for the N-th device
/// of [`find_devices()`], or `:cpu` for a software adapter. Without a name, it is the [`default_device()`].
///
/// # Errors
/// If the name is unknown, the kind was not compiled in (says with which feature it would be), or no such device is found
/// (says what is missing).
pub fn device(name: Option<&str>) -> Result<Device, DeviceError> {
    let name = name.unwrap_or_else(|| default_device());
    let fail = |reason: String| DeviceError { name: name.to_owned(), reason };
    let (kind, number) = match name.split_once(':') {
        Some((kind, number)) => (kind, Some(number)),
        None => (name, None),
    };
    match KINDS.iter().find(|(known, _)| *known == kind) {
        None => return Err(fail(format!("unknown; there are {}", KINDS.map(|(kind, _)| kind).join(", ")))),
        Some((_, false)) => {
            return Err(fail(format!(
                "this build has {} only; build with `cargo build --release --features {kind}`",
                device_kinds().join(", ")
            )));
        }
        Some((_, true)) => {}
    }
    if kind == "cpu" && number.is_some() {
        return Err(fail("the CPU has no number; use --threads".into()));
    }
    let mut found = find_devices(kind);
    if let Some(missing) = missing(kind).or_else(|| found.is_empty().then(|| no_driver(kind))) {
        return Err(fail(missing));
    }
    let names = || found.iter().map(|found| found.name.as_str()).collect::<Vec<_>>().join(", ");
    let place = match number {
        // A card precedes a software adapter.
        None => found.iter().position(|found| !found.is_software).unwrap_or(0),
        Some(_) => match found.iter().position(|found| found.name == name) {
            Some(place) => place,
            None => return Err(fail(format!("not found; there are {}", names()))),
        },
    };
    Ok(found.swap_remove(place).device)
}

/// Says why no device of a kind is found.
pub fn no_driver(kind: &str) -> String {
    match kind {
        "cuda" => "no NVIDIA card was found; it takes NVIDIA's driver (libcuda.so.1), which `nvidia-smi` shows",
        "rocm" => "no AMD card was found; it takes ROCm (libamdhip64.so), whose `rocminfo` shows the cards",
        "metal" => "no Metal device was found; Metal is on Apple's systems only",
        "vulkan" => {
            "no Vulkan device was found; it takes the loader (libvulkan.so.1) and the card's driver, which `vulkaninfo` shows"
        }
        _ => "no graphics card was found; it takes a driver of Vulkan, Metal, Direct3D 12 or OpenGL",
    }
    .into()
}

/// Says what else a kind needs, beside its driver, that is missing, since the back end panics where it looks for it.
#[cfg(feature = "cuda")]
fn missing(kind: &str) -> Option<String> {
    if kind != "cuda" {
        return None;
    }
    // SAFETY: it only tries to open the library.
    #[expect(unsafe_code, reason = "the constructors of a library that is opened could do anything")]
    let has_compiler = unsafe { cudarc::nvrtc::sys::is_culib_present() };
    if !has_compiler {
        return Some(
            "NVRTC (libnvrtc.so) is missing, which compiles the kernels; it is part of the CUDA toolkit, and of PyPI's \
             `nvidia-cuda-nvrtc`, whose folder must be in LD_LIBRARY_PATH"
                .into(),
        );
    }
    let Some(folder) = cubecl_cuda::install::cuda_path() else {
        return Some("CUDA's headers are missing; install the CUDA toolkit, or let CUDA_PATH name its folder".into());
    };
    let header = folder.join("include/cuda_fp16.h");
    (!header.is_file())
        .then(|| format!("{} is missing; install the CUDA toolkit, or let CUDA_PATH name its folder", header.display()))
}

#[cfg(not(feature = "cuda"))]
fn missing(_kind: &str) -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(device(Some("cpu")).is_ok());
        assert!(device(Some("tpu")).unwrap_err().to_string().contains("unknown"));
        assert!(device(Some("cpu:1")).unwrap_err().to_string().contains("--threads"));
    }

    /// Each kind is either not compiled in, and named with its feature; or found; or refused with what it needs.
    #[test]
    fn kinds_that_are_built_are_accepted() {
        for (kind, is_built) in KINDS {
            assert_eq!(device_kinds().contains(&kind), is_built);
            match device(Some(kind)) {
                Ok(_) => assert!(is_built && !find_devices(kind).is_empty()),
                Err(error) if is_built => {
                    assert!(!error.to_string().contains("build"), "{error}");
                    assert!(error.to_string().contains("no ") || error.to_string().contains("missing"), "{error}");
                }
                Err(error) => assert!(error.to_string().contains(&format!("--features {kind}")), "{error}"),
            }
        }
    }

    #[test]
    fn devices_that_are_found_are_named() {
        for kind in device_kinds() {
            for found in find_devices(kind) {
                assert_eq!(device(Some(&found.name)).unwrap(), found.device);
            }
            let error = device(Some(&format!("{kind}:99"))).unwrap_err().to_string();
            assert!(error.contains("--threads") || error.contains("no ") || error.contains("not found"), "{error}");
        }
        assert!(device(None).is_ok());
    }
}
