//! Devices: what their names mean, and opening them.
//!
//! | name | arithmetic |
//! |---|---|
//! | `cpu` | this crate's own kernels on the processor |
//! | `candle-cpu` | Candle's operators on the processor: slow, for comparison and tests |
//! | `cuda`, `cuda:N` | the CUDA device of number N (0 if none is given) |
//! | `metal`, `metal:N` | the Metal device of number N (0 if none is given) |
//! | `cuda-sim` | our CUDA kernels, run on the processor: for tests, in builds with that feature |
//! | `auto` | `cuda:0` if it can be opened here, else `metal:0` if that can, else `cpu` |
//!
//! A [`Device`] is a name; an [`OpenDevice`] is the device itself. A device is open once in a
//! process: codec and language model on the same card share one context, one stream and one lock.

pub mod capability;
#[cfg(feature = "cuda")]
mod cuda;
pub mod cuda_path;
pub(crate) mod memory;

use std::sync::atomic::{AtomicBool, Ordering};
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
    /// CUDA kernels of our own, run on the processor: very slow, for tests. What has no such
    /// kernels runs as on [`Device::CandleCpu`].
    #[cfg(feature = "cuda-sim")]
    CudaSim,
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
            #[cfg(feature = "cuda-sim")]
            ("cuda-sim", None) => Ok(Self::CudaSim),
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
            #[cfg(feature = "cuda-sim")]
            Self::CudaSim => "cuda-sim".into(),
        }
    }

    /// Whether it is a graphics card, with memory of its own or the processor's.
    pub fn is_gpu(&self) -> bool {
        matches!(self, Self::Cuda(_) | Self::Metal(_))
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
            turn: Mutex::new(()),
            lost: AtomicBool::new(false),
            #[cfg(test)]
            breaks_in: std::sync::atomic::AtomicI64::new(-1),
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
    /// Held while a card is given work: its scratch memory exists once.
    turn: Mutex<()>,
    /// The card has failed for good.
    lost: AtomicBool,
    /// Pieces of work until the device fails, for tests; negative: never.
    #[cfg(test)]
    breaks_in: std::sync::atomic::AtomicI64,
}

impl OpenDevice {
    /// Which device this is.
    pub fn device(&self) -> Device {
        self.0.device
    }

    /// Name and compute capability of a CUDA card; nothing for other devices.
    pub fn describe(&self) -> Option<(String, capability::Capability)> {
        #[cfg(feature = "cuda")]
        if matches!(self.0.device, Device::Cuda(_)) {
            return cuda::describe(&self.0.candle);
        }
        None
    }

    /// The device for Candle's operators. On a GPU they belong inside [`Self::run`].
    pub(crate) fn candle(&self) -> &CandleDevice {
        &self.0.candle
    }

    /// Does a piece of work with the device's operators. A card takes one piece at a time, from
    /// whichever thread: in between nothing of it is under way.
    ///
    /// # Errors
    /// Those of the work; [`Error::DeviceLost`] once the card has failed for good.
    pub(crate) fn run<T>(&self, work: impl FnOnce(&CandleDevice) -> Result<T>) -> Result<T> {
        if !self.is_gpu() {
            #[cfg(test)]
            self.break_if_due()?;
            return work(&self.0.candle);
        }
        self.turn(|candle| {
            // Without waiting here, an error of a kernel would show in somebody else's work.
            work(candle).and_then(|done| self.works().map(|()| done))
        })
    }

    /// [`Self::run`] of work that waits itself for what it gives the card.
    pub(crate) fn turn<T>(&self, work: impl FnOnce(&CandleDevice) -> Result<T>) -> Result<T> {
        let _turn = self.0.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.lost.load(Ordering::SeqCst) {
            return Err(self.lost("it failed before".into()));
        }
        self.bind()?;
        work(&self.0.candle).map_err(|error| match (&error, self.works()) {
            (Error::Backend(_), Err(lost)) => lost,
            _ => error,
        })
    }

    /// Prepares this thread for dropping what lies in the device's memory.
    pub(crate) fn prepare_drop(&self) {
        // A card that is gone has nothing to free.
        let _ = self.bind();
    }

    /// Bytes that can still be allocated; `None` where it is not known.
    pub(crate) fn free_bytes(&self) -> Option<usize> {
        #[cfg(feature = "cuda")]
        if matches!(self.0.device, Device::Cuda(_)) {
            return cuda::free_bytes(&self.0.candle);
        }
        None
    }

    fn is_gpu(&self) -> bool {
        matches!(self.0.device, Device::Cuda(_) | Device::Metal(_))
    }

    fn bind(&self) -> Result<()> {
        #[cfg(feature = "cuda")]
        if matches!(self.0.device, Device::Cuda(_)) {
            return cuda::bind(&self.0.candle).map_err(|reason| self.lost(reason));
        }
        Ok(())
    }

    fn works(&self) -> Result<()> {
        #[cfg(feature = "cuda")]
        if matches!(self.0.device, Device::Cuda(_)) {
            return cuda::works(&self.0.candle).map_err(|reason| self.lost(reason));
        }
        Ok(())
    }

    /// Notes that the card is lost.
    fn lost(&self, reason: String) -> Error {
        self.0.lost.store(true, Ordering::SeqCst);
        Error::DeviceLost {
            device: self.0.device.name(),
            reason,
        }
    }
}

#[cfg(test)]
impl OpenDevice {
    /// A processor device of its own that fails for good after some pieces of work.
    pub(crate) fn breaking(pieces: i64) -> Self {
        Self(Arc::new(Inner {
            device: Device::CandleCpu,
            candle: CandleDevice::Cpu,
            turn: Mutex::new(()),
            lost: AtomicBool::new(false),
            breaks_in: std::sync::atomic::AtomicI64::new(pieces),
        }))
    }

    fn break_if_due(&self) -> Result<()> {
        let left = &self.0.breaks_in;
        if left.load(Ordering::SeqCst) == 0 || self.0.lost.load(Ordering::SeqCst) {
            return Err(self.lost("a planted error".into()));
        }
        left.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }
}

/// Starts a device; both kinds of processor device give Candle's only one.
fn start(device: Device) -> Result<CandleDevice> {
    match device {
        Device::Cpu | Device::CandleCpu => Ok(CandleDevice::Cpu),
        #[cfg(feature = "cuda-sim")]
        Device::CudaSim => Ok(CandleDevice::Cpu),
        Device::Cuda(index) => start_cuda(device, index),
        Device::Metal(index) => start_metal(device, index),
    }
}

#[cfg(feature = "cuda")]
fn start_cuda(device: Device, index: usize) -> Result<CandleDevice> {
    let remedy = "check that nvidia-smi lists it and that CUDA_VISIBLE_DEVICES does not hide it";
    load_driver(device, remedy, || cuda::open(index))
}

#[cfg(not(feature = "cuda"))]
fn start_cuda(device: Device, _index: usize) -> Result<CandleDevice> {
    not_built(device, "CUDA", "cuda")
}

#[cfg(feature = "metal")]
fn start_metal(device: Device, index: usize) -> Result<CandleDevice> {
    let remedy = "check that this machine has a Metal device of that number";
    load_driver(device, remedy, || {
        CandleDevice::new_metal(index).map_err(|e| e.to_string())
    })
}

#[cfg(not(feature = "metal"))]
fn start_metal(device: Device, _index: usize) -> Result<CandleDevice> {
    not_built(device, "Metal", "metal")
}

/// Starts a device's driver. Loading one that is not installed panics inside the binding, and "no
/// such device" must not take the program down.
#[cfg(any(feature = "cuda", feature = "metal"))]
fn load_driver(
    device: Device,
    remedy: &str,
    start: impl FnOnce() -> std::result::Result<CandleDevice, String> + std::panic::UnwindSafe,
) -> Result<CandleDevice> {
    let reason = match std::panic::catch_unwind(start) {
        Ok(Ok(opened)) => return Ok(opened),
        // Its own remedy, if it has one.
        Ok(Err(error)) if error.contains(';') => error,
        Ok(Err(error)) => format!("{error}; {remedy}"),
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
    fn a_device_that_has_failed_takes_no_more_work() {
        let device = OpenDevice::breaking(2);
        assert!(device.run(|_| Ok(())).is_ok());
        assert!(device.clone().run(|_| Ok(())).is_ok());
        for _ in 0..3 {
            let error = device.run(|_| Ok(())).unwrap_err();
            assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
        }
        // An error of the work itself is no loss.
        let device = OpenDevice::breaking(-1);
        let wrong = || Err::<(), _>(Error::SlotIndex { got: 1, slots: 1 });
        assert!(matches!(
            device.run(|_| wrong()),
            Err(Error::SlotIndex { .. })
        ));
        assert!(device.run(|_| Ok(())).is_ok());
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
