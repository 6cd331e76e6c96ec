//! Mimi's configuration: every width the codec needs, from JSON or the released constants.

use crate::error::{Error, Result};

/// Shape of a Mimi codec. Field names follow Kyutai's `mimi_config` JSON (docs/spec/mimi.md 6.3).
#[derive(Debug, Clone, PartialEq)]
pub struct MimiConfig {
    /// Samples per second of the waveform (24 000).
    pub sample_rate: usize,
    /// Code columns per second (12.5).
    pub frame_rate: f64,
    /// Convolutional encoder and decoder.
    pub seanet: SeanetConfig,
    /// Both transformers.
    pub transformer: TransformerConfig,
    /// Split residual vector quantiser.
    pub quantizer: QuantizerConfig,
}

/// Widths of the SEANet encoder and decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct SeanetConfig {
    /// Latent width (512).
    pub dimension: usize,
    /// Channels after the first convolution (64).
    pub n_filters: usize,
    /// Residual blocks per stage (1); block `j` has dilation `dilation_base^j`.
    pub n_residual_layers: usize,
    /// Channel reduction inside a residual block (2).
    pub compress: usize,
    /// Growth of the dilation (2).
    pub dilation_base: usize,
    /// Kernel of the first convolution (7).
    pub kernel_size: usize,
    /// Kernel of the residual blocks' first convolution (3).
    pub residual_kernel_size: usize,
    /// Kernel of the last convolution (3).
    pub last_kernel_size: usize,
    /// Up-sampling ratios in decoder order ([8, 6, 5, 4]).
    pub ratios: Vec<usize>,
    /// Identity skip connections; false means a 1x1 convolution named `shortcut`.
    pub true_skip: bool,
    /// Left padding of SEANet's own convolutions repeats the first column instead of zeros.
    pub replicate_pad: bool,
}

/// Widths of the two transformers (same structure, separate weights).
#[derive(Debug, Clone, PartialEq)]
pub struct TransformerConfig {
    /// Width (512).
    pub d_model: usize,
    /// Width of what goes in and comes out (512), always the latent width; if it differs from
    /// `d_model`, linear layers translate ([`Self::has_io_proj`]).
    pub io_dimension: usize,
    /// Heads (8).
    pub num_heads: usize,
    /// Layers (8).
    pub num_layers: usize,
    /// Attention context in latent steps (250).
    pub context: usize,
    /// RoPE base (10 000).
    pub max_period: f64,
    /// Hidden width of the feed-forward part (2048).
    pub dim_feedforward: usize,
    /// Whether layer scales are present in the file.
    pub layer_scale: bool,
    /// LayerNorm epsilon (1e-5).
    pub norm_eps: f64,
}

/// Widths of the quantiser.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizerConfig {
    /// Codebook vector width (256).
    pub dimension: usize,
    /// Codebooks in the file (32); the first is semantic.
    pub n_q: usize,
    /// Entries per codebook (2048).
    pub bins: usize,
}

impl Default for MimiConfig {
    /// The released model (docs/spec/mimi.md 1).
    fn default() -> Self {
        Self {
            sample_rate: 24_000,
            frame_rate: 12.5,
            seanet: SeanetConfig {
                dimension: 512,
                n_filters: 64,
                n_residual_layers: 1,
                compress: 2,
                dilation_base: 2,
                kernel_size: 7,
                residual_kernel_size: 3,
                last_kernel_size: 3,
                ratios: vec![8, 6, 5, 4],
                true_skip: true,
                replicate_pad: false,
            },
            transformer: TransformerConfig {
                d_model: 512,
                io_dimension: 512,
                num_heads: 8,
                num_layers: 8,
                context: 250,
                max_period: 10_000.0,
                dim_feedforward: 2048,
                layer_scale: true,
                norm_eps: 1e-5,
            },
            quantizer: QuantizerConfig {
                dimension: 256,
                n_q: 32,
                bins: 2048,
            },
        }
    }
}

impl TransformerConfig {
    /// Whether each transformer has `input_proj.weight` `[d_model, io_dimension]` in front and
    /// `output_projs.0.weight` `[io_dimension, d_model]` behind (no biases, docs/spec/mimi.md 3).
    pub fn has_io_proj(&self) -> bool {
        self.io_dimension != self.d_model
    }

    /// Width of one attention head (64).
    pub fn head_dim(&self) -> usize {
        self.d_model.checked_div(self.num_heads).unwrap_or(0)
    }
}

impl MimiConfig {
    /// Samples per latent step: the product of the ratios (960).
    pub fn hop(&self) -> usize {
        self.seanet.ratios.iter().product()
    }

    /// Latent steps per frame (2); the stride of the down- and up-sampling layers.
    pub fn steps_per_frame(&self) -> usize {
        self.frame_size().checked_div(self.hop()).unwrap_or(0)
    }

    /// Samples per frame (1920).
    pub fn frame_size(&self) -> usize {
        (self.sample_rate as f64 / self.frame_rate) as usize
    }

    /// Checks that the widths fit together (docs/spec/mimi.md 6.3) and that none is so large that
    /// running state could not be allocated; weights are bounded by the file that holds them.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first entry that breaks a rule.
    pub fn validate(&self) -> Result<()> {
        let Self {
            sample_rate,
            frame_rate,
            seanet,
            transformer,
            quantizer,
        } = self;
        range("sample_rate", *sample_rate, 1, 1_000_000)?;
        seanet.validate()?;
        rule(
            frame_rate.is_finite() && *frame_rate > 0.0 && *frame_rate <= 100_000.0,
            "frame_rate",
            frame_rate,
            "use frames per second as a positive number (12.5)",
        )?;
        let samples = *sample_rate as f64 / frame_rate;
        let whole = samples >= 1.0 && (samples - samples.round()).abs() < 1e-6;
        // `frame_size` truncates, so the quotient must not fall short of the integer either.
        rule(
            whole && self.frame_size() as f64 == samples.round(),
            "frame_rate",
            frame_rate,
            "sample_rate / frame_rate must be a whole number of samples",
        )?;
        let (frame, hop) = (self.frame_size(), self.hop());
        rule(
            frame % hop == 0 && (2..=64).contains(&(frame / hop)),
            "seanet.ratios",
            format!("{:?} (product {hop})", seanet.ratios),
            &format!("a frame of {frame} samples must be 2 to 64 times their product"),
        )?;
        transformer.validate()?;
        rule(
            transformer.io_dimension == seanet.dimension,
            "transformer.input_dimension",
            transformer.io_dimension,
            &format!("it must equal seanet.dimension, {}", seanet.dimension),
        )?;
        rule(
            transformer.context >= self.steps_per_frame(),
            "transformer.context",
            transformer.context,
            &format!("it must hold a frame, {} steps", self.steps_per_frame()),
        )?;
        range("quantizer.dimension", quantizer.dimension, 1, MAX_WIDTH)?;
        range("quantizer.n_q", quantizer.n_q, 1, 256)?;
        range("quantizer.bins", quantizer.bins, 2, 1 << 20)
    }
}

/// Widest accepted vector, 32 times the released one.
const MAX_WIDTH: usize = 16_384;

/// Most key/value elements per slot and direction: 2^28 f32 are 1 GiB, 130 times the released
/// model.
const MAX_KV: usize = 1 << 28;

impl SeanetConfig {
    fn validate(&self) -> Result<()> {
        range("seanet.dimension", self.dimension, 1, MAX_WIDTH)?;
        range("seanet.n_filters", self.n_filters, 1, MAX_WIDTH)?;
        range("seanet.n_residual_layers", self.n_residual_layers, 0, 16)?;
        range("seanet.compress", self.compress, 1, MAX_WIDTH)?;
        range("seanet.dilation_base", self.dilation_base, 1, 64)?;
        range("seanet.kernel_size", self.kernel_size, 1, 256)?;
        range(
            "seanet.residual_kernel_size",
            self.residual_kernel_size,
            1,
            256,
        )?;
        range("seanet.last_kernel_size", self.last_kernel_size, 1, 256)?;
        let ratios = format!("{:?}", self.ratios);
        let sane = (1..=8).contains(&self.ratios.len())
            && self.ratios.iter().all(|r| (1..=256).contains(r));
        rule(
            sane,
            "seanet.ratios",
            &ratios,
            "use 1 to 8 strides of 1 to 256",
        )?;
        let hop = self
            .ratios
            .iter()
            .try_fold(1usize, |n, r| n.checked_mul(*r));
        rule(
            hop.is_some_and(|n| n <= 1 << 16),
            "seanet.ratios",
            &ratios,
            "their product must be at most 65536",
        )?;
        rule(
            self.n_filters.is_multiple_of(self.compress),
            "seanet.compress",
            self.compress,
            &format!("it must divide n_filters, {}", self.n_filters),
        )?;
        rule(
            self.n_filters << self.ratios.len() <= 1 << 17,
            "seanet.n_filters",
            self.n_filters,
            "doubled once per ratio it must stay at or below 131072",
        )?;
        let deepest = self.n_residual_layers.saturating_sub(1) as u32;
        let dilation = self
            .dilation_base
            .checked_pow(deepest)
            .unwrap_or(usize::MAX);
        rule(
            dilation.saturating_mul(self.residual_kernel_size) <= 4096,
            "seanet.dilation_base",
            self.dilation_base,
            "the dilated residual kernel must span at most 4096 steps",
        )
    }
}

impl TransformerConfig {
    fn validate(&self) -> Result<()> {
        range("transformer.d_model", self.d_model, 1, MAX_WIDTH)?;
        range(
            "transformer.input_dimension",
            self.io_dimension,
            1,
            MAX_WIDTH,
        )?;
        range("transformer.num_heads", self.num_heads, 1, MAX_WIDTH)?;
        range("transformer.num_layers", self.num_layers, 1, 256)?;
        range("transformer.context", self.context, 1, 1 << 20)?;
        range(
            "transformer.dim_feedforward",
            self.dim_feedforward,
            1,
            1 << 18,
        )?;
        rule(
            self.d_model.is_multiple_of(self.num_heads),
            "transformer.num_heads",
            self.num_heads,
            &format!("it must divide d_model, {}", self.d_model),
        )?;
        rule(
            self.head_dim().is_multiple_of(2),
            "transformer.num_heads",
            self.num_heads,
            &format!(
                "d_model / num_heads is {}, but rotary positions need it even",
                self.head_dim()
            ),
        )?;
        let kv = self
            .num_layers
            .saturating_mul(self.context)
            .saturating_mul(self.d_model);
        rule(
            kv <= MAX_KV / 2,
            "transformer.context",
            self.context,
            &format!(
                "num_layers * context * d_model is {kv}, but keys and values of one                        conversation may take at most 1 GiB (product {})",
                MAX_KV / 2
            ),
        )?;
        rule(
            self.max_period.is_finite() && self.max_period >= 1.0,
            "transformer.max_period",
            self.max_period,
            "use a number of at least 1 (10000)",
        )?;
        rule(
            self.norm_eps.is_finite() && self.norm_eps > 0.0 && self.norm_eps <= 1.0,
            "transformer.norm_eps",
            self.norm_eps,
            "use a small positive number (1e-5)",
        )
    }
}

/// An error unless `low <= got <= high`.
fn range(field: &str, got: usize, low: usize, high: usize) -> Result<()> {
    rule(
        (low..=high).contains(&got),
        field,
        got,
        &format!("use {low} to {high}"),
    )
}

/// An error naming the entry, its value and the rule, unless `ok`.
fn rule(ok: bool, field: &str, got: impl ToString, wanted: &str) -> Result<()> {
    if ok {
        return Ok(());
    }
    Err(Error::Config {
        field: field.into(),
        got: got.to_string(),
        wanted: wanted.into(),
    })
}
