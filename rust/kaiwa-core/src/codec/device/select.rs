//! Naming devices and opening them.

use candle_core::Device as CandleDevice;

use crate::codec::Device;
use crate::error::{Error, Result};

/// Parses `auto`, `cpu`, `candle-cpu`, `cuda`, `cuda:N`, `metal`, `metal:N`. `auto` is the first
/// CUDA device, else the first Metal device, else the processor; the others are not tried here.
pub(crate) fn parse(text: &str) -> Result<Device> {
    let wrong = || Error::OptionValue {
        name: "device",
        got: format!("{text:?}"),
        allowed: "\"auto\", \"cpu\", \"candle-cpu\", \"cuda\", \"cuda:N\", \"metal\" or \
                  \"metal:N\" with N counted from 0"
            .into(),
    };
    let (kind, number) = match text.split_once(':') {
        None => (text, None),
        Some((kind, number)) => (kind, Some(number)),
    };
    let index = match number {
        None => 0,
        // Digits only: `parse` alone would take "+1".
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().map_err(|_| wrong())?
        }
        Some(_) => return Err(wrong()),
    };
    match (kind, number) {
        ("auto", None) => Ok(best()),
        ("cpu", None) => Ok(Device::Cpu),
        ("candle-cpu", None) => Ok(Device::CandleCpu),
        ("cuda", _) => Ok(Device::Cuda(index)),
        ("metal", _) => Ok(Device::Metal(index)),
        _ => Err(wrong()),
    }
}

/// The fastest device that works here.
fn best() -> Device {
    [Device::Cuda(0), Device::Metal(0)]
        .into_iter()
        .find(|device| open(*device).is_ok())
        .unwrap_or(Device::Cpu)
}

/// Opens a device for Candle's operators; both kinds of processor device give the same one.
///
/// # Errors
/// [`Error::DeviceUnavailable`] if this build cannot use it, or the machine does not have it.
pub fn open(device: Device) -> Result<CandleDevice> {
    match device {
        Device::Cpu | Device::CandleCpu => Ok(CandleDevice::Cpu),
        Device::Cuda(index) => cuda(device, index),
        Device::Metal(index) => metal(device, index),
    }
}

#[cfg(feature = "cuda")]
fn cuda(device: Device, index: usize) -> Result<CandleDevice> {
    let remedy = "check that nvidia-smi lists it and that CUDA_VISIBLE_DEVICES does not hide it";
    start(device, remedy, || CandleDevice::new_cuda(index))
}

#[cfg(not(feature = "cuda"))]
fn cuda(device: Device, _index: usize) -> Result<CandleDevice> {
    not_built(device, "CUDA", "cuda")
}

#[cfg(feature = "metal")]
fn metal(device: Device, index: usize) -> Result<CandleDevice> {
    let remedy = "check that this machine has a Metal device of that number";
    start(device, remedy, || CandleDevice::new_metal(index))
}

#[cfg(not(feature = "metal"))]
fn metal(device: Device, _index: usize) -> Result<CandleDevice> {
    not_built(device, "Metal", "metal")
}

/// Starts a driver. Loading one that is not installed panics inside the binding, and "no such
/// device" must not take the program down.
#[cfg(any(feature = "cuda", feature = "metal"))]
fn start(
    device: Device,
    remedy: &str,
    start: impl FnOnce() -> candle_core::Result<CandleDevice> + std::panic::UnwindSafe,
) -> Result<CandleDevice> {
    let reason = match std::panic::catch_unwind(start) {
        Ok(Ok(opened)) => return Ok(opened),
        // Candle appends a backtrace where one is asked for.
        Ok(Err(error)) => {
            let error = error.to_string();
            format!("{}; {remedy}", error.lines().next().unwrap_or_default())
        }
        Err(_) => format!("its driver could not be loaded; {remedy}"),
    };
    Err(Error::DeviceUnavailable {
        device: device.name(),
        reason,
    })
}

#[cfg(not(all(feature = "cuda", feature = "metal")))]
fn not_built(device: Device, what: &str, feature: &str) -> Result<CandleDevice> {
    Err(Error::DeviceUnavailable {
        device: device.name(),
        reason: format!(
            "this build has no {what}; build with --features {feature}, or use \"cpu\""
        ),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_round_trip() {
        for text in [
            "cpu",
            "candle-cpu",
            "cuda:0",
            "cuda:7",
            "metal:0",
            "metal:1",
        ] {
            assert_eq!(parse(text).unwrap().name(), text);
        }
        assert_eq!(parse("cuda").unwrap(), Device::Cuda(0));
        assert_eq!(parse("metal").unwrap(), Device::Metal(0));
        assert!(open(parse("auto").unwrap()).is_ok());
    }

    #[test]
    fn other_names_are_refused() {
        let huge = format!("cuda:{}", "9".repeat(40));
        for text in [
            "", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "cpu:0", "auto:0", &huge,
        ] {
            let error = parse(text).unwrap_err();
            assert!(
                matches!(error, Error::OptionValue { name: "device", .. }),
                "{text}"
            );
            assert!(error.to_string().contains("\"cuda:N\""));
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn missing_features_name_the_remedy() {
        let error = open(Device::Cuda(1)).unwrap_err();
        assert!(matches!(&error, Error::DeviceUnavailable { device, .. } if device == "cuda:1"));
        assert!(error.to_string().contains("--features cuda"), "{error}");
    }
}
