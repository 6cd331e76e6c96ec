//! The crate's model, in one of two forms that do the same arithmetic.
//!
//! `Whole` is the crate's `LmModel`. It cannot be given a history other than by stepping through
//! it, which for a window of 3000 frames takes longer than everything else together. `Layers`
//! holds the crate's transformer layers, norm, linears and depth transformer one by one; so keys
//! and values of a full window can be put into their caches. Both are checked against the same
//! reference tokens.

use std::path::Path;

use candle::{DType, Device, Module, Result, Tensor};
use candle_transformers::generation::LogitsProcessor;
use moshi::kv_cache::KvCache;
use moshi::lm::{DepFormer, LmModel, load_lm_model};
use moshi::nn::{MaybeQuantizedEmbedding, MaybeQuantizedLinear, MaybeQuantizedVarBuilder, linear};
use moshi::transformer::{Norm, RotaryEmbedding, StreamingTransformerLayer};

use crate::sizes::Sizes;

/// A loaded model with the state of one conversation.
pub enum Model {
    /// The crate's own assembly.
    Whole(Box<LmModel>),
    /// Its parts.
    Layers(Box<Layers>),
}

/// The crate's parts, put together here.
pub struct Layers {
    text: MaybeQuantizedEmbedding,
    audio: Vec<MaybeQuantizedEmbedding>,
    layers: Vec<StreamingTransformerLayer>,
    rope: RotaryEmbedding,
    norm: Norm,
    head: MaybeQuantizedLinear,
    depth: DepFormer,
    /// Steps done; the rotary position.
    position: usize,
}

impl Model {
    /// The crate's own loading.
    pub fn whole(path: &Path, sizes: &Sizes) -> Result<Self> {
        let model = load_lm_model(sizes.lm.clone(), path, DType::F32, &Device::Cpu)?;
        Ok(Self::Whole(Box::new(model)))
    }

    /// The same file, part by part.
    pub fn layers(path: &Path, sizes: &Sizes) -> Result<Self> {
        let weights =
            candle_transformers::quantized_var_builder::VarBuilder::from_gguf(path, &Device::Cpu)?;
        let vb = MaybeQuantizedVarBuilder::Quantized(weights);
        let config = &sizes.lm;
        let t = &config.transformer;
        let Some(depth) = &config.depformer else {
            candle::bail!("the model has no depth transformer");
        };
        let embedding = |rows, vb| MaybeQuantizedEmbedding::new(rows, t.d_model, vb);
        let layers = Layers {
            text: embedding(config.text_in_vocab_size, vb.pp("text_emb"))?,
            audio: (0..sizes.n_q)
                .map(|i| embedding(config.audio_vocab_size, vb.pp("emb").pp(i)))
                .collect::<Result<_>>()?,
            layers: (0..t.num_layers)
                .map(|l| {
                    let vb = vb.pp("transformer").pp("layers").pp(l);
                    StreamingTransformerLayer::new(t, vb, None)
                })
                .collect::<Result<_>>()?,
            rope: RotaryEmbedding::new(t.d_model / t.num_heads, t.max_period as f32, &Device::Cpu)?,
            norm: Norm::new(t.d_model, t, vb.pp("out_norm"))?,
            head: linear(
                t.d_model,
                config.text_out_vocab_size,
                false,
                vb.pp("text_linear"),
            )?,
            depth: DepFormer::new(
                config.text_in_vocab_size,
                config.audio_vocab_size,
                t.d_model,
                depth,
                vb.pp("depformer"),
            )?,
            position: 0,
        };
        Ok(Self::Layers(Box::new(layers)))
    }

    /// Text logits and the vector for the depth transformer.
    pub fn temporal(&mut self, text: u32, audio: &[u32]) -> Result<(Tensor, Tensor)> {
        let text = id(text)?;
        let audio = audio.iter().map(|&a| id(a));
        let (logits, z) = match self {
            Self::Whole(model) => {
                let audio = audio.map(|a| a.map(Some)).collect::<Result<_>>()?;
                model.forward(Some(text), audio, &().into())?
            }
            Self::Layers(model) => model.temporal(&text, &audio.collect::<Result<Vec<_>>>()?)?,
        };
        Ok((logits.flatten_all()?, z))
    }

    /// One code per spoken codebook.
    pub fn depth(&mut self, z: &Tensor, text: u32, pick: &mut LogitsProcessor) -> Result<Vec<u32>> {
        match self {
            Self::Whole(model) => match model.depformer_sample(z, Some(text), &[], pick)? {
                Some(codes) => Ok(codes),
                None => candle::bail!("the model has no depth transformer"),
            },
            Self::Layers(model) => model.depth.sample(z, Some(text), &[], pick),
        }
    }

    /// Puts `steps` random keys and values into every cache, at most a full window.
    pub fn fill(&mut self, sizes: &Sizes, steps: usize) -> Result<()> {
        let Self::Layers(model) = self else {
            candle::bail!("the crate's own assembly takes no history");
        };
        let t = &sizes.lm.transformer;
        let kept = steps.min(t.context);
        let shape = (1, t.num_heads, kept, t.d_model / t.num_heads);
        for layer in &mut model.layers {
            let mut cache = KvCache::new(2, t.context);
            if kept > 0 {
                let keys = Tensor::randn(0f32, 1f32, shape, &Device::Cpu)?;
                let values = Tensor::randn(0f32, 1f32, shape, &Device::Cpu)?;
                cache.append(&keys, &values)?;
            }
            layer.set_kv_cache(cache);
        }
        model.position = steps;
        Ok(())
    }
}

impl Layers {
    fn temporal(&mut self, text: &Tensor, audio: &[Tensor]) -> Result<(Tensor, Tensor)> {
        let mut x = self.text.forward(text)?;
        for (table, ids) in self.audio.iter().zip(audio) {
            x = (x + table.forward(ids)?)?;
        }
        let position = self.position as u32;
        let position = Tensor::arange(position, position + 1, &Device::Cpu)?;
        let rope = self.rope.rope(&position)?;
        for layer in &mut self.layers {
            x = layer.forward(&x, Some(&rope), None, None)?;
        }
        self.position += 1;
        let z = self.norm.forward(&x)?;
        Ok((self.head.forward(&z)?, z))
    }
}

fn id(token: u32) -> Result<Tensor> {
    Tensor::from_vec(vec![token], (1, 1), &Device::Cpu)
}
