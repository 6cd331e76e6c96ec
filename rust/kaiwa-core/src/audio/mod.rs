//! Audio that is not the codec's: sample rates, and Opus in Ogg pages.

mod ogg_reader;
mod opus;
mod resample;
pub mod samples;

pub use ogg_reader::{OggReader, Packet};
pub use opus::{OpusReader, OpusWriter, ReadSummary};
pub use resample::Resampler;
