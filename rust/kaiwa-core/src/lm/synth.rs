//! Random models of any size, so that everything can be tried and timed without a download.
//!
//! | size | dim | layers | depth dim | matrices read per step | embedding tables |
//! |---|---|---|---|---|---|
//! | tiny | 128 | 2 | 64 | 1.5 M | 0.3 M |
//! | 300m | 1024 | 12 | 512 | 358 M | 88 M |
//! | 1b | 2048 | 16 | 768 | 1.24 G | 168 M |
//! | 7b | 4096 | 32 | 1024 | 7.37 G | 313 M |
//! | stt-tiny | 128 | 2 | - | 0.5 M | 0.1 M |
//! | stt-1b | 2048 | 16 | - | 839 M | 151 M |
//!
//! The first four have the released model's streams, delays and proportions; 7b is exactly its size.
//! The last two transcribe; stt-1b has the sizes of the released speech to text model of that name.

use std::collections::HashMap;
use std::ops::Range;

use half::bf16;

use super::schema::{self, Kind, Spec};
use super::{LmConfig, LmTensors, SpeechToTextConfig, TensorInfo};
use crate::checkpoint::{Encoding, RawRows};
use crate::error::{Error, Result};

/// A ready-made size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// For tests.
    Tiny,
    /// A third of a billion parameters.
    M300,
    /// One billion.
    B1,
    /// The released size.
    B7,
    /// Speech to text, for tests.
    SttTiny,
    /// Speech to text, one billion: the released size.
    Stt1B,
}

impl Size {
    /// The sizes by name: duplex models, smallest first, then those of speech to text.
    pub const NAMES: [&str; 6] = ["tiny", "300m", "1b", "7b", "stt-tiny", "stt-1b"];

    /// Parses one of [`Size::NAMES`].
    ///
    /// # Errors
    /// [`Error::OptionValue`] for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "tiny" => Ok(Self::Tiny),
            "300m" => Ok(Self::M300),
            "1b" => Ok(Self::B1),
            "7b" => Ok(Self::B7),
            "stt-tiny" => Ok(Self::SttTiny),
            "stt-1b" => Ok(Self::Stt1B),
            _ => Err(Error::OptionValue {
                name: "size",
                got: format!("{text:?}"),
                allowed: Self::NAMES.join(", "),
            }),
        }
    }

    /// The sizes of the model.
    pub fn config(self) -> LmConfig {
        let mut config = LmConfig::moshi_7b();
        let (dim, layers, heads, depth_dim, depth_layers, depth_heads) = match self {
            Self::B7 => return config,
            Self::B1 | Self::Stt1B => (2048, 16, 16, 768, 6, 12),
            Self::M300 => (1024, 12, 8, 512, 6, 8),
            Self::Tiny | Self::SttTiny => (128, 2, 4, 64, 2, 4),
        };
        (config.dim, config.num_layers, config.num_heads) = (dim, layers, heads);
        config.hidden = dim * 11 / 4;
        if let Some(depth) = &mut config.depth {
            (depth.dim, depth.num_layers, depth.num_heads) = (depth_dim, depth_layers, depth_heads);
            depth.hidden = vec![depth_dim * 11 / 4; 8];
        }
        if matches!(self, Self::Tiny | Self::SttTiny) {
            // The vocabulary of the small random codec.
            config.card = 64;
            (config.text_card, config.text_card_out, config.context) = (512, 512, 64);
            if let Some(depth) = &mut config.depth {
                // The formula's 176 is not a multiple of a block of 32 or 64; this is.
                depth.hidden = vec![192; 8];
            }
            config.hidden = 384;
        }
        match self {
            Self::Stt1B => {
                speech_to_text(&mut config, 32);
                (config.text_card, config.text_card_out) = (8000, 8000);
                (config.context, config.max_period) = (750, 100_000.0);
            }
            Self::SttTiny => speech_to_text(&mut config, 8),
            _ => {}
        }
        config
    }
}

/// Makes a model one that writes down what it hears in so many codebooks (docs/spec/moshi.md 9.3).
fn speech_to_text(config: &mut LmConfig, codebooks: usize) {
    config.model_type = "stt".into();
    (config.n_q, config.dep_q, config.spoken) = (codebooks, 0, 0);
    config.delays = vec![0; codebooks + 1];
    config.depth = None;
    config.extra_heads = (4, 6);
    config.speech_to_text = Some(SpeechToTextConfig {
        audio_delay_seconds: 0.5,
        audio_silence_prefix_seconds: 0.0,
    });
    (config.sampling.temp, config.sampling.temp_text) = (0.0, 0.0);
}

/// Levels of the normal distribution that values are drawn from.
const LEVELS: usize = 4096;

/// A model whose every value is a function of the seed and its place.
pub struct RandomLm {
    config: LmConfig,
    seed: u64,
    specs: Vec<Spec>,
    index: HashMap<String, usize>,
    /// Quantiles of the normal distribution.
    normal: Vec<f32>,
}

impl RandomLm {
    /// A model of the given sizes.
    pub fn new(config: LmConfig, seed: u64) -> Self {
        let specs = schema::tensors(&config);
        let names = specs.iter().enumerate();
        let index = names.map(|(i, s)| (s.name.clone(), i)).collect();
        Self {
            config,
            seed,
            specs,
            index,
            normal: normal_quantiles(),
        }
    }

    fn spec(&self, name: &str) -> Result<(usize, &Spec)> {
        let found = self
            .index
            .get(name)
            .and_then(|i| Some((*i, self.specs.get(*i)?)));
        found.ok_or_else(|| Error::TensorNames {
            path: "random model".into(),
            missing: format!("1 ({name})"),
            unexpected: "none".into(),
            hint: "use a name that the model has".into(),
        })
    }

    /// bf16 bits of some rows.
    fn draw(&self, name: &str, rows: Range<usize>, mut give: impl FnMut(u16)) -> Result<()> {
        let (number, spec) = self.spec(name)?;
        let head = name.starts_with("text_linear") || name.starts_with("linears.");
        let (middle, spread) = match spec.kind {
            Kind::Vector if name.ends_with(".bias") => (0.0, 0.1),
            Kind::Vector => (1.0, 0.1),
            Kind::Table => (0.0, 1.0),
            Kind::Matrix if head => (0.0, 3.0 / (spec.cols as f32).sqrt()),
            Kind::Matrix => (0.0, 1.0 / (spec.cols as f32).sqrt()),
        };
        let levels: Vec<u16> = self
            .normal
            .iter()
            .map(|v| bf16::from_f32(middle + spread * v).to_bits())
            .collect();
        let words = spec.cols.div_ceil(4) as u64;
        let base = mix(self.seed ^ ((number as u64) << 40));
        for row in rows {
            for word in 0..words {
                let mut bits = mix(base.wrapping_add(row as u64 * words + word));
                for _ in 0..4.min(spec.cols - word as usize * 4) {
                    give(levels[bits as usize % LEVELS]);
                    bits >>= 16;
                }
            }
        }
        Ok(())
    }
}

/// The finaliser of SplitMix64.
fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Medians of `LEVELS` equal parts of the normal distribution, by bisection of the logistic
/// approximation of its distribution function: exactness does not matter here.
fn normal_quantiles() -> Vec<f32> {
    (0..LEVELS)
        .map(|i| {
            let p = (i as f64 + 0.5) / LEVELS as f64;
            let (mut low, mut high) = (-5.0f64, 5.0f64);
            for _ in 0..40 {
                let x = (low + high) / 2.0;
                let below = 1.0 / (1.0 + (-1.5976 * x - 0.070_56 * x.powi(3)).exp());
                if below < p { low = x } else { high = x }
            }
            ((low + high) / 2.0) as f32
        })
        .collect()
}

impl LmTensors for RandomLm {
    fn config(&self) -> &LmConfig {
        &self.config
    }

    fn names(&self) -> Vec<String> {
        self.specs.iter().map(|s| s.name.clone()).collect()
    }

    fn info(&self, name: &str) -> Result<TensorInfo> {
        let (_, spec) = self.spec(name)?;
        Ok(TensorInfo {
            rows: spec.rows,
            cols: spec.cols,
            encoding: Encoding::Bf16,
            merged: false,
        })
    }

    fn read_raw(&self, name: &str, rows: Range<usize>, into: &mut RawRows) -> Result<()> {
        into.data.clear();
        into.scales.clear();
        into.biases.clear();
        into.data.reserve(rows.len() * self.spec(name)?.1.cols * 2);
        self.draw(name, rows, |bits| into.data.extend(bits.to_le_bytes()))
    }

    fn read_f32(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let mut at = 0;
        self.draw(name, rows, |bits| {
            if let Some(out) = out.get_mut(at) {
                *out = bf16::from_bits(bits).to_f32();
            }
            at += 1;
        })
    }
}
