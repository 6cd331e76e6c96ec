//! Devices: what their names mean, and opening them.
//!
//! | name | arithmetic |
//! |---|---|
//! | `cpu` | this crate's own kernels on the processor |
//! | `candle-cpu` | Candle's operators on the processor: slow, for comparison and tests |
//! | `cuda`, `cuda:N` | the CUDA device of number N (0 if none is given) |
//! | `metal`, `metal:N` | the Metal device of number N (0 if none is given) |
//! | `auto` | `cuda:0` if it can be opened here, else `metal:0` if that can, else `cpu` |
//!
//! A [`Device`] is a name; an [`OpenDevice`] is the device itself. A device is open once in a
//! process: codec and language model on the same card share one context.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use candle_core::Device as CandleDevice;

use crate::error::{Error, Result};

/// Where the arithmetic runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// Own kernels on the processor.
    Cpu,
    /// Candle's operators on the processor: slow, for comparison and tests.
    CandleCpu,
    /// A CUDA device.
    Cuda(usize),
    /// A Metal device.
    Metal(usize),
}

impl Device {
    /// Parses `auto`, `cpu`, `candle-cpu`, `cuda`, `cuda:N`, `metal`, `metal:N`. `auto` is the
    /// first CUDA device that works, else the first Metal device, else the processor.
    ///
    /// # Errors
    /// [`Error::OptionValue`] for anything else; whether a device exists is seen on opening it.
    pub fn parse(text: &str) -> Result<Self> {
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
            ("auto", None) => Ok(Self::best()),
            ("cpu", None) => Ok(Self::Cpu),
            ("candle-cpu", None) => Ok(Self::CandleCpu),
            ("cuda", _) => Ok(Self::Cuda(index)),
            ("metal", _) => Ok(Self::Metal(index)),
            _ => Err(wrong()),
        }
    }

    /// The name [`Self::parse`] reads back.
    pub fn name(&self) -> String {
        match self {
            Self::Cpu => "cpu".into(),
            Self::CandleCpu => "candle-cpu".into(),
            Self::Cuda(n) => format!("cuda:{n}"),
            Self::Metal(n) => format!("metal:{n}"),
        }
    }

    /// The fastest device that works here.
    fn best() -> Self {
        [Self::Cuda(0), Self::Metal(0)]
            .into_iter()
            .find(|device| device.open().is_ok())
            .unwrap_or(Self::Cpu)
    }

    /// Opens the device; gives the one that is open already while somebody holds it.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`] if this build cannot use it, or the machine does not have it.
    pub fn open(self) -> Result<OpenDevice> {
        static OPEN: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());
        // Held while a device starts, so that two callers at once do not start it twice.
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|held| held.strong_count() > 0);
        let same = |held: Arc<Inner>| (held.device == self).then_some(held);
        if let Some(held) = open.iter().filter_map(Weak::upgrade).find_map(same) {
            return Ok(OpenDevice(held));
        }
        let inner = Arc::new(Inner {
            device: self,
            candle: start(self)?,
        });
        open.push(Arc::downgrade(&inner));
        Ok(OpenDevice(inner))
    }
}

/// A device that was opened. Clones are the same device; it is closed with the last of them.
#[derive(Debug, Clone)]
pub struct OpenDevice(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    device: Device,
    candle: CandleDevice,
}

impl OpenDevice {
    /// Which device this is.
    pub fn device(&self) -> Device {
        self.0.device
    }

    /// The device for Candle's operators.
    pub(crate) fn candle(&self) -> &CandleDevice {
        &self.0.candle
    }
}

/// Starts a device; both kinds of processor device give Candle's only one.
fn start(device: Device) -> Result<CandleDevice> {
    match device {
        Device::Cpu | Device::CandleCpu => Ok(CandleDevice::Cpu),
        Device::Cuda(index) => cuda(device, index),
        Device::Metal(index) => metal(device, index),
    }
}

#[cfg(feature = "cuda")]
fn cuda(device: Device, index: usize) -> Result<CandleDevice> {
    let remedy = "check that nvidia-smi lists it and that CUDA_VISIBLE_DEVICES does not hide it";
    load_driver(device, remedy, || CandleDevice::new_cuda(index))
}

#[cfg(not(feature = "cuda"))]
fn cuda(device: Device, _index: usize) -> Result<CandleDevice> {
    not_built(device, "CUDA", "cuda")
}

#[cfg(feature = "metal")]
fn metal(device: Device, index: usize) -> Result<CandleDevice> {
    let remedy = "check that this machine has a Metal device of that number";
    load_driver(device, remedy, || CandleDevice::new_metal(index))
}

#[cfg(not(feature = "metal"))]
fn metal(device: Device, _index: usize) -> Result<CandleDevice> {
    not_built(device, "Metal", "metal")
}

/// Starts a device's driver. Loading one that is not installed panics inside the binding, and "no
/// such device" must not take the program down.
#[cfg(any(feature = "cuda", feature = "metal"))]
fn load_driver(
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
            assert_eq!(Device::parse(text).unwrap().name(), text);
        }
        assert_eq!(Device::parse("cuda").unwrap(), Device::Cuda(0));
        assert_eq!(Device::parse("metal").unwrap(), Device::Metal(0));
        assert!(Device::parse("auto").unwrap().open().is_ok());
    }

    #[test]
    fn other_names_are_refused() {
        let huge = format!("cuda:{}", "9".repeat(40));
        for text in [
            "", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "cpu:0", "auto:0", &huge,
        ] {
            let error = Device::parse(text).unwrap_err();
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
        let error = Device::Cuda(1).open().unwrap_err();
        assert!(matches!(&error, Error::DeviceUnavailable { device, .. } if device == "cuda:1"));
        assert!(error.to_string().contains("--features cuda"), "{error}");
    }

    #[test]
    fn an_open_device_is_shared() {
        let codec = Device::CandleCpu.open().unwrap();
        let lm = Device::CandleCpu.open().unwrap();
        assert!(Arc::ptr_eq(&codec.0, &lm.0));
        let other = Device::Cpu.open().unwrap();
        assert!(!Arc::ptr_eq(&codec.0, &other.0));
        assert_eq!(other.device(), Device::Cpu);
    }
}
