//! The sizes of a language model (docs/spec/checkpoints.md 7), already resolved: no inheritance, no
//! defaults left to apply.

/// What a norm computes, and so which tensors it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// RMSNorm; one tensor `alpha`.
    Rms,
    /// LayerNorm; tensors `weight` and `bias`.
    Layer,
}

/// Normalisation of a vector (docs/spec/moshi.md 3.3).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// RMSNorm or LayerNorm.
    pub kind: NormKind,
    /// What is added to the mean square (RMSNorm) or the variance (LayerNorm).
    pub eps: f32,
}

impl Norm {
    /// Every norm that a configuration can ask for, under its name there.
    pub(crate) const NAMED: [(&'static str, Self); 4] = [
        ("rms_norm_f32", Self::rms(1e-8)),
        ("rms_norm", Self::rms(1e-5)),
        ("layer_norm", Self::layer(1e-5)),
        ("layer_norm_f32", Self::layer(1e-8)),
    ];

    /// RMSNorm.
    pub const fn rms(eps: f32) -> Self {
        let kind = NormKind::Rms;
        Self { kind, eps }
    }

    /// LayerNorm.
    pub const fn layer(eps: f32) -> Self {
        let kind = NormKind::Layer;
        Self { kind, eps }
    }
}

/// Feed-forward part of a layer (docs/spec/moshi.md 3.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedForward {
    /// Gated: `linear_out(silu(u[..h]) * u[h..])` with `u = linear_in x`; `"silu"` in files.
    SwiGlu,
    /// Not gated: `linear2(gelu(linear1 x))`, exact GELU; `"none"` in files.
    Gelu,
}

/// Which pairs of a head's dimensions rotate together (docs/spec/moshi.md 3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rope {
    /// Neighbours, `(2i, 2i + 1)`, as in GPT-J.
    Interleaved,
    /// The two halves, `(i, i + head_dim / 2)`, as in GPT-NeoX.
    NeoX,
}

/// Sampling settings of a slot; a temperature of 0 means greedy (docs/spec/moshi.md 5).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Temperature of the audio codebooks.
    pub temp: f32,
    /// Temperature of the text.
    pub temp_text: f32,
    /// Candidates of an audio draw.
    pub top_k: usize,
    /// Candidates of the text draw.
    pub top_k_text: usize,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temp: 0.8,
            temp_text: 0.7,
            top_k: 250,
            top_k_text: 25,
        }
    }
}

/// A look-up conditioner whose vector is added to every input (docs/spec/moshi.md 9.2).
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// Name, e.g. `description`.
    pub name: String,
    /// Values in the order of their rows; the row after the last stands for "absent".
    pub values: Vec<String>,
    /// Rows of the table, without the one for "absent".
    pub bins: usize,
    /// Width of the table.
    pub dim: usize,
}

/// The depth transformer (docs/spec/moshi.md 4).
#[derive(Debug, Clone, PartialEq)]
pub struct DepthConfig {
    /// Width.
    pub dim: usize,
    /// Layers.
    pub num_layers: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Query heads per key/value head.
    pub kv_repeat: usize,
    /// Width inside the feed-forward part, one entry per weight set.
    pub hidden: Vec<usize>,
    /// Feed-forward kind.
    pub feed_forward: FeedForward,
    /// True if layers have `layer_scale_1` and `layer_scale_2`.
    pub layer_scale: bool,
    /// Weight set of each sub-step; as long as `LmConfig::dep_q`.
    pub schedule: Vec<usize>,
    /// Width of the embedding tables when they are low-rank.
    pub low_rank: Option<usize>,
    /// Norm before each head, if there is one.
    pub final_norm: Option<Norm>,
}

impl DepthConfig {
    /// Number of weight sets.
    pub fn sets(&self) -> usize {
        self.schedule.iter().max().map_or(0, |w| w + 1)
    }
}

/// How a speech to text model's text lies against its audio (docs/spec/moshi.md 9.3).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpeechToTextConfig {
    /// Seconds from a sound to the text of it.
    pub audio_delay_seconds: f64,
    /// Seconds of silence that the model wants before a recording.
    pub audio_silence_prefix_seconds: f64,
}

/// A language model's sizes (docs/spec/moshi.md 1, 2, 9.1).
#[derive(Debug, Clone, PartialEq)]
pub struct LmConfig {
    /// `moshi`, `hibiki`, `stt`...: what the repository calls it.
    pub model_type: String,
    /// Width of the temporal transformer.
    pub dim: usize,
    /// Its layers.
    pub num_layers: usize,
    /// Its attention heads.
    pub num_heads: usize,
    /// Query heads per key/value head.
    pub kv_repeat: usize,
    /// Width inside its feed-forward part.
    pub hidden: usize,
    /// Feed-forward kind.
    pub feed_forward: FeedForward,
    /// True if layers have `layer_scale_1` and `layer_scale_2`.
    pub layer_scale: bool,
    /// Norm of every layer of both transformers, and `out_norm`.
    pub norm: Norm,
    /// Keys that a step sees, itself included.
    pub context: usize,
    /// Base of the rotary angles.
    pub max_period: f64,
    /// Pairing of the rotary angles.
    pub rope: Rope,
    /// Audio streams that the temporal transformer reads.
    pub n_q: usize,
    /// Sub-steps of the depth transformer that the file has weights for.
    pub dep_q: usize,
    /// Codebooks that the model speaks: sub-steps that are run. Less than `dep_q` only where the
    /// later sub-steps predict the user's codes, which are supplied (docs/spec/moshi.md 9.5).
    pub spoken: usize,
    /// Audio vocabulary; id `card` is the initial token.
    pub card: usize,
    /// Text vocabulary of the input; id `text_card` is the initial token.
    pub text_card: usize,
    /// Text vocabulary of the output.
    pub text_card_out: usize,
    /// Delay of each stream, text first; `n_q + 1` entries.
    pub delays: Vec<usize>,
    /// Text id that means "nothing is said" (3).
    pub padding_id: usize,
    /// Text id that ends a run of padding (0).
    pub end_padding_id: usize,
    /// The depth transformer; `None` without sub-steps (speech to text).
    pub depth: Option<DepthConfig>,
    /// Conditioners whose vector is added to every input.
    pub conditions: Vec<Condition>,
    /// Heads beside the text's, which tell of pauses in what is heard: count, and classes of each
    /// (docs/spec/moshi.md 9.3).
    pub extra_heads: (usize, usize),
    /// What a speech to text model says of its delay; `None` for others.
    pub speech_to_text: Option<SpeechToTextConfig>,
    /// Sampling settings that the repository asks for.
    pub sampling: Sampling,
}

impl LmConfig {
    /// Codebooks that the caller supplies at each step.
    pub fn user_codebooks(&self) -> usize {
        self.n_q - self.spoken
    }

    /// Steps after which a frame is complete.
    pub fn max_delay(&self) -> usize {
        self.delays.iter().copied().max().unwrap_or(0)
    }

    /// Width of what all extra heads give for a row.
    pub fn extra_width(&self) -> usize {
        self.extra_heads.0 * self.extra_heads.1
    }

    /// Width of an attention head of the temporal transformer.
    pub fn head_dim(&self) -> usize {
        self.dim / self.num_heads
    }
}
