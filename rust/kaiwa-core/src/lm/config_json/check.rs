//! Rules between the values of a configuration.

use crate::error::{Error, Result};
use crate::lm::{FeedForward, LmConfig};

/// Rules between values (docs/spec/checkpoints.md 10).
pub(super) fn check(c: &LmConfig) -> Result<()> {
    let rule = |ok: bool, field: &str, got: String, wanted: String| match ok {
        true => Ok(()),
        false => Err(Error::Config {
            field: field.into(),
            got,
            wanted,
        }),
    };
    let sizes = [
        ("dim", c.dim),
        ("num_layers", c.num_layers),
        ("num_heads", c.num_heads),
        ("kv_repeat", c.kv_repeat),
        ("hidden_scale", c.hidden),
        ("context", c.context),
        ("n_q", c.n_q),
        ("card", c.card),
        ("text_card", c.text_card),
        ("text_card_out", c.text_card_out),
    ];
    for (field, value) in sizes {
        let wanted = "use a value that makes it at least 1".into();
        rule(value > 0, field, value.to_string(), wanted)?;
    }
    let heads = |dim: usize, heads: usize, repeat: usize| {
        heads > 0
            && repeat > 0
            && dim.is_multiple_of(heads)
            && heads.is_multiple_of(repeat)
            && (dim / heads).is_multiple_of(2)
    };
    let wanted = "it must divide dim into heads of even width, and be a multiple of kv_repeat";
    let got = format!("{} for dim {}", c.num_heads, c.dim);
    rule(
        heads(c.dim, c.num_heads, c.kv_repeat),
        "num_heads",
        got,
        wanted.into(),
    )?;
    let wanted = format!("it must not be more than text_card = {}", c.text_card);
    let got = c.text_card_out.to_string();
    rule(c.text_card_out <= c.text_card, "text_card_out", got, wanted)?;
    let got = format!("{} entries", c.delays.len());
    let wanted = format!("it needs n_q + 1 = {} entries, text first", c.n_q + 1);
    rule(c.delays.len() == c.n_q + 1, "delays", got, wanted)?;
    let longest = c.max_delay();
    let wanted = "delays are at most 1000 steps".to_owned();
    rule(longest <= 1000, "delays", longest.to_string(), wanted)?;
    let wanted = format!("it must not be more than n_q = {}", c.n_q);
    rule(c.dep_q <= c.n_q, "dep_q", c.dep_q.to_string(), wanted)?;
    let (heads_beside, classes) = c.extra_heads;
    let got = format!("{heads_beside} heads of {classes}");
    let wanted = "there are at most 64 extra heads of 1 to 1024 classes".to_owned();
    let fits = heads_beside == 0 || (heads_beside <= 64 && (1..=1024).contains(&classes));
    rule(fits, "extra_heads_num_heads", got, wanted)?;
    if let Some(stt) = &c.speech_to_text {
        let sum = stt.audio_delay_seconds + stt.audio_silence_prefix_seconds;
        let wanted = "delay and prefix are at most 60 seconds".to_owned();
        rule(sum <= 60.0, "stt_config", format!("{sum} seconds"), wanted)?;
    }
    if c.n_q > 1024 || c.num_layers > 1024 {
        let got = format!("n_q {} and num_layers {}", c.n_q, c.num_layers);
        return rule(
            false,
            "n_q",
            got,
            "neither is above 1024 in any model".into(),
        );
    }
    if let Some(d) = &c.depth {
        let got = format!("{} for depformer_dim {}", d.num_heads, d.dim);
        let wanted = "it must divide depformer_dim into heads of even width, and be a multiple of \
                      depformer_kv_repeat (which is kv_repeat if left out)";
        let fits = d.dim > 0 && heads(d.dim, d.num_heads, d.kv_repeat);
        rule(fits, "depformer_num_heads", got, wanted.into())?;
        let fits = (1..=1024).contains(&d.num_layers);
        let got = d.num_layers.to_string();
        rule(fits, "depformer_num_layers", got, "use 1 to 1024".into())?;
        let fits = d.hidden.iter().all(|h| *h > 0) && d.low_rank != Some(0);
        let got = format!("{:?}, low rank {:?}", d.hidden, d.low_rank);
        let wanted = "widths are at least 1".into();
        rule(fits, "depformer_dim_feedforward", got, wanted)?;
        if d.feed_forward == FeedForward::Gelu && d.sets() > 1 {
            let wanted = "with several weight sets only \"silu\" is supported".into();
            return rule(false, "depformer_gating", "none".into(), wanted);
        }
    }
    Ok(())
}
