//! `Moshi` and `MoshiStream`.

use std::sync::Mutex;

use kaiwa_core::device::Device;
use kaiwa_core::formats::{KvFormat, WeightFormat};
use kaiwa_core::lm::{self, Logits, MoshiOptions, Sampling, StepInput};
use numpy::{PyArray1, PyArray2, PyArray3, PyReadonlyArrayDyn};
use pyo3::prelude::*;

use crate::arrays::{give2, give3, take};
use crate::gate::{detached, detached_long, lock};
use crate::lm_files::LmFiles;
use crate::lm_rows as rows;

/// Weights of the language model, shared by the streams made from it.
#[pyclass(frozen, module = "kaiwa._native")]
pub struct Moshi(pub(crate) lm::Moshi);

/// A slot's settings as (temp, temp_text, top_k, top_k_text).
pub(crate) type Settings = (f32, f32, usize, usize);

pub(crate) fn sampling((temp, temp_text, top_k, top_k_text): Settings) -> Sampling {
    Sampling {
        temp,
        temp_text,
        top_k,
        top_k_text,
    }
}

/// The sampling settings of a model that brings none of its own. As the decimal numbers that they
/// are in the core's single precision: 0.8, not 0.800000012.
pub(crate) fn default_sampling() -> (f64, f64, usize, usize) {
    let decimal = |value: f32| value.to_string().parse().unwrap_or(f64::from(value));
    let s = Sampling::default();
    (decimal(s.temp), decimal(s.temp_text), s.top_k, s.top_k_text)
}

#[pymethods]
impl Moshi {
    /// Reads every weight.
    #[staticmethod]
    #[pyo3(signature = (files, device, dtype=None, quantize=None, kv_dtype=None, progress=None))]
    fn load(
        py: Python<'_>,
        files: &LmFiles,
        device: String,
        dtype: Option<String>,
        quantize: Option<String>,
        kv_dtype: Option<String>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        detached_long(py, progress, |hook| {
            let options = MoshiOptions {
                device: Device::parse(&device)?,
                weights: WeightFormat::of_options(dtype.as_deref(), quantize.as_deref())?,
                kv: kv_dtype.as_deref().map(KvFormat::parse).transpose()?,
            };
            let moshi = lm::Moshi::load(files.tensors.as_ref(), &options, &mut |done, total| {
                hook(done as usize, total as usize)
            })?;
            Ok(Self(moshi))
        })
    }

    #[getter]
    fn num_codebooks_in(&self) -> usize {
        self.0.config().user_codebooks()
    }
    #[getter]
    #[expect(
        clippy::misnamed_getters,
        reason = "what is run, not what the file has"
    )]
    fn dep_q(&self) -> usize {
        self.0.config().spoken
    }
    /// Count and classes of the heads beside the text's.
    #[getter]
    fn extra_heads(&self) -> (usize, usize) {
        self.0.config().extra_heads
    }
    #[getter]
    fn card(&self) -> usize {
        self.0.config().card
    }
    #[getter]
    fn text_card(&self) -> usize {
        self.0.config().text_card
    }
    #[getter]
    fn max_delay(&self) -> usize {
        self.0.config().max_delay()
    }
    #[getter]
    fn default_sampling(&self) -> Settings {
        let s = self.0.config().sampling;
        (s.temp, s.temp_text, s.top_k, s.top_k_text)
    }
    #[getter]
    fn device(&self) -> String {
        self.0.device().name()
    }
    #[getter]
    fn weights(&self) -> &'static str {
        self.0.weights().name()
    }
    #[getter]
    fn kv_dtype(&self) -> &'static str {
        self.0.kv().name()
    }
    #[getter]
    fn weight_bytes(&self) -> usize {
        self.0.weight_bytes()
    }
    #[getter]
    fn step_bytes(&self) -> Vec<(&'static str, usize)> {
        self.0.step_bytes()
    }

    /// A stream of one conversation per seed.
    fn stream(
        &self,
        py: Python<'_>,
        seeds: Vec<u64>,
        settings: Vec<Settings>,
    ) -> PyResult<MoshiStream> {
        detached(py, || {
            let settings: Vec<Sampling> = settings.into_iter().map(sampling).collect();
            let stream = self.0.stream(&seeds, &settings)?;
            Ok(MoshiStream {
                slots: seeds.len(),
                stream: Mutex::new(stream),
            })
        })
    }
}

/// Running state of the conversations over one `Moshi`.
#[pyclass(frozen, module = "kaiwa._native")]
pub struct MoshiStream {
    slots: usize,
    stream: Mutex<lm::MoshiStream>,
}

/// text, audio, ready, step text, step audio, extra heads.
type Step<'py> = (
    Bound<'py, PyArray1<i32>>,
    Bound<'py, PyArray2<i32>>,
    Bound<'py, PyArray1<bool>>,
    Bound<'py, PyArray1<i32>>,
    Bound<'py, PyArray2<i32>>,
    Bound<'py, PyArray3<f32>>,
);

#[pymethods]
impl MoshiStream {
    #[getter]
    fn slots(&self) -> usize {
        self.slots
    }
    #[getter]
    fn state_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        detached(py, || Ok(lock(&self.stream).state_bytes()))
    }
    #[getter]
    fn slot_bytes(&self, py: Python<'_>) -> PyResult<Vec<usize>> {
        detached(py, || Ok(lock(&self.stream).slot_bytes()))
    }
    #[getter]
    fn steps(&self, py: Python<'_>) -> PyResult<Vec<u64>> {
        detached(py, || Ok(lock(&self.stream).steps()))
    }
    #[getter]
    fn seeds(&self, py: Python<'_>) -> PyResult<Vec<u64>> {
        detached(py, || Ok(lock(&self.stream).seeds()))
    }

    /// One step of every active slot; `user_codes` is `[slots, codebooks]`.
    #[pyo3(signature = (user_codes, active=None, force_text=None, force_audio=None))]
    fn step<'py>(
        &self,
        py: Python<'py>,
        user_codes: PyReadonlyArrayDyn<'py, i64>,
        active: Option<Vec<bool>>,
        force_text: Option<PyReadonlyArrayDyn<'py, i64>>,
        force_audio: Option<PyReadonlyArrayDyn<'py, i64>>,
    ) -> PyResult<Step<'py>> {
        let (codes, [heard_slots, codebooks]) = take(py, "user_codes", &user_codes)?;
        let text = match &force_text {
            Some(text) => Some(take::<i64, 1>(py, "force_text", text)?.0),
            None => None,
        };
        let audio = match &force_audio {
            Some(audio) => Some(take::<i64, 2>(py, "force_audio", audio)?.0),
            None => None,
        };
        let slots = self.slots;
        let (out, on, books, (heads, classes)) = detached(py, || {
            let mut stream = lock(&self.stream);
            // Shared pointers: nothing is copied.
            let moshi = stream.moshi().clone();
            let config = moshi.config();
            let (books, size) = (config.spoken, config.card);
            let on = rows::active(active.as_deref(), slots)?;
            let shape = [heard_slots, codebooks];
            let codes = rows::user_codes(&codes, shape, &on, (slots, config))?;
            let text = text.as_deref();
            let text = rows::forced("force_text", text, &on, (slots, 1), config.text_card)?;
            let audio = audio.as_deref();
            let audio = rows::forced("force_audio", audio, &on, (slots, books), size)?;
            let out = stream.step(StepInput {
                slots: &on,
                user_codes: &codes,
                codebooks,
                force_text: &text,
                force_audio: &audio,
            })?;
            Ok((out, on, books, config.extra_heads))
        })?;
        let tokens = |rows: &[i32], width| rows::spread_tokens(rows, &on, slots, width);
        let ready = rows::spread(&out.ready, &on, slots, 1, false);
        Ok((
            PyArray1::from_vec(py, tokens(&out.text, 1)),
            give2(py, tokens(&out.audio, books), [slots, books])?,
            PyArray1::from_vec(py, ready),
            PyArray1::from_vec(py, tokens(&out.step_text, 1)),
            give2(py, tokens(&out.step_audio, books), [slots, books])?,
            give3(
                py,
                rows::spread(&out.heads, &on, slots, heads * classes, 0.0),
                [slots, heads, classes],
            )?,
        ))
    }

    /// Text logits of the last step, `[slots, text_card]`.
    fn text_logits<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (logits, width) = detached(py, || {
            let mut stream = lock(&self.stream);
            let width = stream.moshi().config().text_card_out;
            let Logits { slots, text, .. } = stream.logits()?;
            Ok((rows::spread(&text, &slots, self.slots, width, 0.0), width))
        })?;
        give2(py, logits, [self.slots, width])
    }

    /// Audio logits of the last step, `[slots, dep_q, card]`.
    fn audio_logits<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray3<f32>>> {
        let (logits, books, card) = detached(py, || {
            let mut stream = lock(&self.stream);
            let config = stream.moshi().config();
            let (books, card) = (config.spoken, config.card);
            let Logits { slots, audio, .. } = stream.logits()?;
            let width = books * card;
            let all = rows::spread(&audio, &slots, self.slots, width, 0.0);
            Ok((all, books, card))
        })?;
        give3(py, logits, [self.slots, books, card])
    }

    /// Returns slots (all if `None`) to their beginning.
    #[pyo3(signature = (slots=None))]
    fn reset(&self, py: Python<'_>, slots: Option<Vec<usize>>) -> PyResult<()> {
        detached(py, || lock(&self.stream).reset(slots.as_deref()))
    }

    fn set_seed(&self, py: Python<'_>, slot: usize, seed: u64) -> PyResult<()> {
        detached(py, || lock(&self.stream).set_seed(slot, seed))
    }

    fn set_sampling(&self, py: Python<'_>, slot: usize, settings: Settings) -> PyResult<()> {
        detached(py, || {
            lock(&self.stream).set_sampling(slot, sampling(settings))
        })
    }

    fn sampling(&self, py: Python<'_>, slot: usize) -> PyResult<Settings> {
        let s = detached(py, || lock(&self.stream).sampling(slot))?;
        Ok((s.temp, s.temp_text, s.top_k, s.top_k_text))
    }

    #[pyo3(signature = (slot, name, value=None))]
    fn set_condition(
        &self,
        py: Python<'_>,
        slot: usize,
        name: String,
        value: Option<String>,
    ) -> PyResult<()> {
        detached(py, || {
            lock(&self.stream).set_condition(slot, &name, value.as_deref())
        })
    }

    #[getter]
    fn stage_seconds(&self, py: Python<'_>) -> PyResult<Vec<(&'static str, f64)>> {
        detached(py, || Ok(lock(&self.stream).stage_seconds()))
    }

    fn clear_stage_seconds(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, || {
            lock(&self.stream).clear_stage_seconds();
            Ok(())
        })
    }

    fn prefill_silence(&self, py: Python<'_>, steps: usize) -> PyResult<()> {
        detached(py, || lock(&self.stream).prefill_silence(steps))
    }
}
