//! `kaiwa._native`: the core as Python classes. Translates, decides nothing.
//!
//! Every method has the same shape: copy the arrays in, [`gate::detached`], copy the result out.
//! Arrays are copied because another thread may change a borrowed one once the interpreter lock
//! is released; a frame is 7.5 KiB.

mod arrays;
mod audio;
mod codec;
mod duplex;
mod engine;
mod error;
mod gate;
mod info;
mod lm;
mod lm_files;
mod lm_rows;
mod records;

use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// The compiled half of the `kaiwa` package.
#[pymodule]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<codec::Mimi>()?;
    m.add_class::<codec::MimiStream>()?;
    m.add_class::<audio::Resampler>()?;
    m.add_class::<audio::CodedReader>()?;
    m.add_class::<audio::CodedWriter>()?;
    m.add_function(wrap_pyfunction!(audio::g711_decode, m)?)?;
    m.add_function(wrap_pyfunction!(audio::g711_encode, m)?)?;
    m.add_class::<audio::OggOpusWriter>()?;
    m.add_class::<audio::OggOpusReader>()?;
    m.add_class::<engine::Engine>()?;
    m.add_class::<engine::ByHand>()?;
    m.add_class::<engine::Session>()?;
    m.add_class::<engine::Notifier>()?;
    m.add_class::<records::Readiness>()?;
    m.add_class::<records::SessionInfo>()?;
    m.add_class::<records::Stats>()?;
    m.add_class::<records::Histogram>()?;
    m.add_class::<records::StepRecord>()?;
    m.add_class::<records::Metric>()?;
    m.add_class::<records::MetricFamily>()?;
    m.add_class::<records::Sample>()?;
    m.add_class::<records::StateEvent>()?;
    m.add_class::<records::AudioEvent>()?;
    m.add_class::<records::PagesEvent>()?;
    m.add_class::<records::TextEvent>()?;
    m.add_class::<records::PauseEvent>()?;
    m.add_class::<records::EndEvent>()?;
    m.add_class::<duplex::Duplex>()?;
    m.add("ENGINE_METRICS", PyTuple::new(m.py(), records::metrics())?)?;
    m.add("DEFAULT_SAMPLING", lm::default_sampling())?;
    m.add_class::<lm_files::LmFiles>()?;
    m.add_class::<lm::Moshi>()?;
    m.add_class::<lm::MoshiStream>()?;
    m.add("END_REASONS", PyTuple::new(m.py(), engine::end_reasons())?)?;
    m.add(
        "LM_SIZES",
        PyTuple::new(m.py(), kaiwa_core::lm::synth::Size::NAMES)?,
    )?;
    m.add("MAX_SLOTS", kaiwa_core::lm::MAX_SLOTS)?;
    m.add_function(wrap_pyfunction!(lm_files::lm_formats, m)?)?;
    m.add_function(wrap_pyfunction!(lm_files::lm_file_name, m)?)?;
    m.add_function(wrap_pyfunction!(info::safetensors_summary, m)?)?;
    m.add_function(wrap_pyfunction!(info::available_memory, m)?)?;
    m.add_function(wrap_pyfunction!(info::cpu_info, m)?)?;
    m.add_function(wrap_pyfunction!(info::build_info, m)?)?;
    m.add_function(wrap_pyfunction!(info::cuda_path, m)?)?;
    m.add_function(wrap_pyfunction!(info::describe_device, m)?)?;
    m.add_function(wrap_pyfunction!(info::read_bandwidth, m)?)?;
    Ok(())
}
