//! Does this driver make the crate do the reference's work? Compares greedy tokens.

use std::path::Path;

use candle::{Error, Result};
use safetensors::{Dtype, SafeTensors};

use crate::conversation::Conversation;
use crate::model::Model;
use crate::sizes::Sizes;

/// Steps through the file's `user_codes` and compares `step_text_tokens`, `step_audio_tokens`.
/// Gives the number of tokens compared; a different one is an error.
pub fn run(sizes: &Sizes, model: &mut Model, expected: &Path) -> Result<usize> {
    let bytes = std::fs::read(expected)?;
    let file = SafeTensors::deserialize(&bytes).map_err(Error::wrap)?;
    let (user, [codebooks, steps]) = integers(&file, "user_codes")?;
    let (text, [text_steps, _]) = integers(&file, "step_text_tokens")?;
    let (audio, [audio_steps, spoken]) = integers(&file, "step_audio_tokens")?;
    let fits = codebooks == sizes.n_q - sizes.dep_q && spoken == sizes.dep_q;
    if !fits || steps == 0 || text_steps != steps || audio_steps != steps {
        candle::bail!("{} does not fit the model", expected.display());
    }
    let mut conversation = Conversation::new(sizes, model);
    for step in 0..steps {
        let codes = (0..codebooks).map(|k| user[k * steps + step]).collect();
        let frame = conversation.step(codes)?;
        let wanted = &audio[step * spoken..][..spoken];
        if frame.text != text[step] || frame.audio != wanted {
            candle::bail!(
                "step {step}: text {} and audio {:?}, expected {} and {wanted:?}",
                frame.text,
                frame.audio,
                text[step]
            );
        }
    }
    Ok(steps * (1 + spoken))
}

/// A tensor of one or two axes of 32-bit integers.
fn integers(file: &SafeTensors<'_>, name: &str) -> Result<(Vec<u32>, [usize; 2])> {
    let tensor = file.tensor(name).map_err(Error::wrap)?;
    let shape = match (tensor.dtype(), tensor.shape()) {
        (Dtype::I32, [n]) => [*n, 1],
        (Dtype::I32, [a, b]) => [*a, *b],
        (dtype, shape) => candle::bail!("{name} is {dtype:?} of shape {shape:?}"),
    };
    let (words, _) = tensor.data().as_chunks::<4>();
    Ok((
        words.iter().map(|w| u32::from_le_bytes(*w)).collect(),
        shape,
    ))
}
