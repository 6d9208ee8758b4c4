//! Devices by name.

use burn::tensor::Device;

/// A device that cannot be had.
#[derive(Clone, Debug, thiserror::Error)]
#[error("device `{name}`: {reason}")]
pub struct DeviceError {
    name: String,
    reason: String,
}

/// The kinds of devices that this build has, the best first.
pub fn devices() -> Vec<&'static str> {
    let mut names = Vec::new();
    if cfg!(feature = "cuda") {
        names.push("cuda");
    }
    if cfg!(feature = "rocm") {
        names.push("rocm");
    }
    if cfg!(feature = "metal") {
        names.push("metal");
    }
    if cfg!(feature = "vulkan") {
        names.push("vulkan");
    }
    if cfg!(feature = "wgpu") {
        names.push("wgpu");
    }
    names.push("cpu");
    names
}

/// The device of a name: `cpu`, `cuda`, `rocm`, `vulkan`, `metal` or `wgpu`, with `:N` for the N-th card, or
/// `wgpu:cpu` for a software adapter. Without a name, the best kind that was compiled in.
///
/// # Errors
/// If the name is unknown, or the kind was not compiled in (says with which feature it would be).
pub fn device(name: Option<&str>) -> Result<Device, DeviceError> {
    let name = name.unwrap_or(devices()[0]);
    let fail = |reason: String| DeviceError { name: name.to_owned(), reason };
    let (kind, number) = match name.split_once(':') {
        Some((kind, number)) => (kind, Some(number)),
        None => (name, None),
    };
    const KNOWN: [&str; 6] = ["cpu", "cuda", "rocm", "vulkan", "metal", "wgpu"];
    if !KNOWN.contains(&kind) {
        return Err(fail(format!("unknown; there are {}", KNOWN.join(", "))));
    }
    if !devices().contains(&kind) {
        return Err(fail(format!(
            "this build has {} only; build with `cargo build --release --features {kind}`",
            devices().join(", ")
        )));
    }
    let index =
        || number.map_or(Ok(0), |n| n.parse::<usize>().map_err(|_| fail(format!("`{n}` is not the number of a card"))));
    match kind {
        "cpu" => match number {
            None => Ok(Device::flex()),
            Some(_) => Err(fail("the CPU has no number; use --threads".into())),
        },
        _ => gpu(kind, number, &index),
    }
}

#[cfg_attr(
    not(any(feature = "cuda", feature = "rocm", feature = "wgpu")),
    expect(unused_variables, reason = "without a GPU feature there is nothing to choose")
)]
fn gpu(
    kind: &str,
    number: Option<&str>,
    index: &dyn Fn() -> Result<usize, DeviceError>,
) -> Result<Device, DeviceError> {
    match kind {
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(index()?)),
        #[cfg(feature = "rocm")]
        "rocm" => Ok(Device::rocm(index()?)),
        #[cfg(feature = "wgpu")]
        _ => {
            use burn::tensor::DeviceKind;
            let adapter = match number {
                None => DeviceKind::DefaultDevice,
                Some("cpu") => DeviceKind::Cpu,
                Some(_) => DeviceKind::DiscreteGpu(index()?),
            };
            match kind {
                #[cfg(feature = "vulkan")]
                "vulkan" => Ok(Device::vulkan(adapter)),
                #[cfg(feature = "metal")]
                "metal" => Ok(Device::metal(adapter)),
                _ => Ok(Device::wgpu(adapter)),
            }
        }
        #[cfg(not(feature = "wgpu"))]
        _ => Err(DeviceError { name: kind.into(), reason: "not compiled in".into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(device(Some("cpu")).is_ok());
        assert!(device(Some("tpu")).unwrap_err().to_string().contains("unknown"));
        assert!(device(Some("cpu:1")).unwrap_err().to_string().contains("--threads"));
        if !cfg!(feature = "cuda") {
            assert!(device(Some("cuda")).unwrap_err().to_string().contains("--features cuda"));
        }
    }
}
