//! Audio that is not the codec's: sample rates.

mod resample;

pub use resample::Resampler;
