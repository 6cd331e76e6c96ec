//! Audio that is not the codec's: sample rates, Opus in Ogg pages, 16 bits and G.711.

mod coded;
pub mod g711;
mod ogg_reader;
mod ogg_streams;
mod opus;
mod resample;
pub mod samples;
mod short_filter;

pub use coded::{CodedReader, CodedWriter, Coding};
pub use ogg_reader::{OggReader, Packet};
pub use opus::{OpusReader, OpusWriter, ReadSummary};
pub use resample::Resampler;
