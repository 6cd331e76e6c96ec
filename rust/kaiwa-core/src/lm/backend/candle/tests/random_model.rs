//! Models of random weights, in every variant of a layer.

use std::collections::BTreeMap;

use super::fixtures::{Held, Tensors};
use crate::lm::{DepthConfig, FeedForward, LmConfig, Norm, NormKind, Rope, Sampling};

/// What varies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Variant {
    pub norm: Norm,
    pub feed_forward: FeedForward,
    pub rope: Rope,
    pub kv_repeat: usize,
    pub layer_scale: bool,
    pub low_rank: Option<usize>,
    pub final_norm: Option<Norm>,
    /// Sub-steps run, of 4.
    pub spoken: usize,
}

pub(super) const BASE: Variant = Variant {
    norm: Norm::rms(1e-8),
    feed_forward: FeedForward::SwiGlu,
    rope: Rope::Interleaved,
    kv_repeat: 1,
    layer_scale: false,
    low_rank: None,
    final_norm: None,
    spoken: 4,
};

/// A tiny model: a window of 7 keys, a schedule with a shared set.
pub(super) fn config(v: Variant) -> LmConfig {
    LmConfig {
        model_type: "test".into(),
        dim: 24,
        num_layers: 2,
        num_heads: 4,
        kv_repeat: v.kv_repeat,
        hidden: 20,
        feed_forward: v.feed_forward,
        layer_scale: v.layer_scale,
        norm: v.norm,
        context: 7,
        max_period: 100.0,
        rope: v.rope,
        n_q: 5,
        dep_q: 4,
        spoken: v.spoken,
        card: 10,
        text_card: 12,
        text_card_out: 11,
        delays: vec![0; 6],
        padding_id: 3,
        end_padding_id: 0,
        depth: Some(DepthConfig {
            dim: 16,
            num_layers: 2,
            num_heads: 4,
            kv_repeat: v.kv_repeat,
            hidden: vec![14, 12, 10],
            feed_forward: v.feed_forward,
            layer_scale: v.layer_scale,
            schedule: vec![0, 1, 1, 2],
            low_rank: v.low_rank,
            final_norm: v.final_norm,
        }),
        conditions: Vec::new(),
        extra_heads: (0, 0),
        speech_to_text: None,
        sampling: Sampling::default(),
    }
}

/// Numbers that look random, from -1 to 1.
pub(super) struct Rng(pub u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
    pub(super) fn number(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 30) as f32 - 1.0
    }
    pub(super) fn below(&mut self, n: usize) -> i32 {
        (self.next() % n as u64) as i32
    }
}

/// All tensors of the names table, random; norms and scales around 1.
pub(super) fn tensors(config: LmConfig) -> Tensors {
    let mut held = BTreeMap::new();
    let mut rng = Rng(7);
    let mut add = |name: String, rows: usize, cols: usize| {
        let vector = rows == 1;
        let reach = if vector {
            0.5
        } else {
            (3.0 / cols as f32).sqrt()
        };
        let middle = if vector && !name.ends_with("bias") {
            1.0
        } else {
            0.0
        };
        let values = (0..rows * cols).map(|_| middle + reach * rng.number());
        let clash = held.insert(name, Held::f32(rows, values.collect()));
        assert!(clash.is_none());
    };
    let norm =
        |add: &mut dyn FnMut(String, usize, usize), name: &str, norm: Norm, dim| match norm.kind {
            NormKind::Rms => add(format!("{name}.alpha"), 1, dim),
            NormKind::Layer => {
                add(format!("{name}.weight"), 1, dim);
                add(format!("{name}.bias"), 1, dim);
            }
        };
    let depth = config.depth.as_ref().unwrap();
    add("text_emb.weight".into(), config.text_card + 1, config.dim);
    for i in 0..config.n_q {
        add(format!("emb.{i}.weight"), config.card + 1, config.dim);
    }
    add(
        "text_linear.weight".into(),
        config.text_card_out,
        config.dim,
    );
    norm(&mut add, "out_norm", config.norm, config.dim);
    let parts = [
        (
            "transformer",
            config.num_layers,
            config.dim,
            config.kv_repeat,
            1,
        ),
        (
            "depformer",
            depth.num_layers,
            depth.dim,
            depth.kv_repeat,
            depth.sets(),
        ),
    ];
    for (part, layers, dim, kv_repeat, sets) in parts {
        for l in 0..layers {
            let name = format!("{part}.layers.{l}");
            for set in 0..sets {
                let rows = dim + 2 * dim / kv_repeat;
                add(format!("{name}.self_attn.in_projs.{set}.weight"), rows, dim);
                add(format!("{name}.self_attn.out_projs.{set}.weight"), dim, dim);
                let (index, hidden) = match part {
                    "transformer" => (String::new(), config.hidden),
                    _ => (format!(".{set}"), depth.hidden[set]),
                };
                if config.feed_forward == FeedForward::SwiGlu {
                    let name = format!("{name}.gating{index}");
                    add(format!("{name}.linear_in.weight"), 2 * hidden, dim);
                    add(format!("{name}.linear_out.weight"), dim, hidden);
                } else if set == 0 {
                    add(format!("{name}.linear1.weight"), hidden, dim);
                    add(format!("{name}.linear2.weight"), dim, hidden);
                }
            }
            norm(&mut add, &format!("{name}.norm1"), config.norm, dim);
            norm(&mut add, &format!("{name}.norm2"), config.norm, dim);
            if config.layer_scale {
                add(format!("{name}.layer_scale_1.scale"), 1, dim);
                add(format!("{name}.layer_scale_2.scale"), 1, dim);
            }
        }
    }
    for w in 0..depth.sets() {
        add(format!("depformer_in.{w}.weight"), depth.dim, config.dim);
    }
    for k in 0..config.dep_q {
        let (name, rows) = match k {
            0 => ("depformer_text_emb".into(), config.text_card + 1),
            _ => (format!("depformer_emb.{}", k - 1), config.card + 1),
        };
        add(
            format!("{name}.weight"),
            rows,
            depth.low_rank.unwrap_or(depth.dim),
        );
        if let Some(rank) = depth.low_rank {
            add(format!("{name}.low_rank.weight"), depth.dim, rank);
        }
        add(format!("linears.{k}.weight"), config.card, depth.dim);
        if let Some(kind) = depth.final_norm {
            norm(&mut add, &format!("depformer_norms.{k}"), kind, depth.dim);
        }
    }
    Tensors { config, held }
}
