//! The tensors that a configuration implies, under the names of `tensors`.

use super::{FeedForward, LmConfig, Norm, NormKind};

/// One tensor of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spec {
    pub name: String,
    /// Outputs of a matrix, rows of a table; 1 for a vector.
    pub rows: usize,
    pub cols: usize,
    pub kind: Kind,
    /// Entry of the configuration that most likely sets its shape.
    pub entry: &'static str,
}

/// What a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Matrix,
    Table,
    Vector,
}

/// All tensors, in the order of the model. Sub-steps that are not run are among them.
pub(crate) fn tensors(config: &LmConfig) -> Vec<Spec> {
    let mut list = List { specs: Vec::new() };
    let c = config;
    list.add(
        "text_emb.weight".into(),
        c.text_card + 1,
        c.dim,
        Kind::Table,
        "text_card",
    );
    for i in 0..c.n_q {
        list.add(
            format!("emb.{i}.weight"),
            c.card + 1,
            c.dim,
            Kind::Table,
            "card",
        );
    }
    for l in 0..c.num_layers {
        let prefix = format!("transformer.layers.{l}");
        list.attention(&prefix, 1, c.dim, c.kv_repeat);
        match c.feed_forward {
            FeedForward::SwiGlu => list.swiglu(&format!("{prefix}.gating"), c.dim, c.hidden),
            FeedForward::Gelu => list.gelu(&prefix, c.dim, c.hidden),
        }
        list.norms(&prefix, c.norm, c.dim, c.layer_scale);
    }
    list.norm("out_norm", c.norm, c.dim);
    list.add(
        "text_linear.weight".into(),
        c.text_card_out,
        c.dim,
        Kind::Matrix,
        "text_card",
    );
    for i in 0..c.extra_heads.0 {
        list.add(
            format!("extra_heads.{i}.weight"),
            c.extra_heads.1,
            c.dim,
            Kind::Matrix,
            "extra_heads_dim",
        );
    }
    if let Some(d) = &c.depth {
        let sets = d.sets();
        for w in 0..sets {
            list.add(
                format!("depformer_in.{w}.weight"),
                d.dim,
                c.dim,
                Kind::Matrix,
                "depformer_dim",
            );
        }
        let width = d.low_rank.unwrap_or(d.dim);
        for k in 0..c.dep_q {
            let (prefix, rows, entry) = match k {
                0 => (
                    "depformer_text_emb".to_owned(),
                    c.text_card + 1,
                    "text_card",
                ),
                k => (format!("depformer_emb.{}", k - 1), c.card + 1, "card"),
            };
            list.add(format!("{prefix}.weight"), rows, width, Kind::Table, entry);
            if let Some(rank) = d.low_rank {
                let name = format!("{prefix}.low_rank.weight");
                list.add(
                    name,
                    d.dim,
                    rank,
                    Kind::Matrix,
                    "depformer_low_rank_embeddings",
                );
            }
        }
        for l in 0..d.num_layers {
            let prefix = format!("depformer.layers.{l}");
            list.attention(&prefix, sets, d.dim, d.kv_repeat);
            for (w, hidden) in d.hidden.iter().enumerate() {
                match d.feed_forward {
                    FeedForward::SwiGlu => {
                        list.swiglu(&format!("{prefix}.gating.{w}"), d.dim, *hidden)
                    }
                    FeedForward::Gelu if w == 0 => list.gelu(&prefix, d.dim, *hidden),
                    FeedForward::Gelu => {}
                }
            }
            list.norms(&prefix, c.norm, d.dim, d.layer_scale);
        }
        for k in 0..c.dep_q {
            if let Some(kind) = d.final_norm {
                list.norm(&format!("depformer_norms.{k}"), kind, d.dim);
            }
            list.add(
                format!("linears.{k}.weight"),
                c.card,
                d.dim,
                Kind::Matrix,
                "card",
            );
        }
    }
    for one in &c.conditions {
        let prefix = format!("condition.{}", one.name);
        let entry = "conditioners";
        list.add(
            format!("{prefix}.embed.weight"),
            one.bins + 1,
            one.dim,
            Kind::Table,
            entry,
        );
        list.add(
            format!("{prefix}.output_proj.weight"),
            c.dim,
            one.dim,
            Kind::Matrix,
            entry,
        );
        list.add(
            format!("{prefix}.learnt_padding"),
            1,
            c.dim,
            Kind::Vector,
            entry,
        );
    }
    list.specs
}

struct List {
    specs: Vec<Spec>,
}

impl List {
    fn add(&mut self, name: String, rows: usize, cols: usize, kind: Kind, entry: &'static str) {
        self.specs.push(Spec {
            name,
            rows,
            cols,
            kind,
            entry,
        });
    }

    fn attention(&mut self, prefix: &str, sets: usize, dim: usize, repeat: usize) {
        for w in 0..sets {
            let name = |part: &str| format!("{prefix}.self_attn.{part}.{w}.weight");
            let rows = dim + 2 * dim / repeat.max(1);
            self.add(name("in_projs"), rows, dim, Kind::Matrix, "kv_repeat");
            self.add(name("out_projs"), dim, dim, Kind::Matrix, "dim");
        }
    }

    fn swiglu(&mut self, prefix: &str, dim: usize, hidden: usize) {
        let entry = "hidden_scale";
        let name = |part: &str| format!("{prefix}.{part}.weight");
        self.add(name("linear_in"), 2 * hidden, dim, Kind::Matrix, entry);
        self.add(name("linear_out"), dim, hidden, Kind::Matrix, entry);
    }

    fn gelu(&mut self, prefix: &str, dim: usize, hidden: usize) {
        let entry = "hidden_scale";
        self.add(
            format!("{prefix}.linear1.weight"),
            hidden,
            dim,
            Kind::Matrix,
            entry,
        );
        self.add(
            format!("{prefix}.linear2.weight"),
            dim,
            hidden,
            Kind::Matrix,
            entry,
        );
    }

    fn norms(&mut self, prefix: &str, norm: Norm, dim: usize, scaled: bool) {
        self.norm(&format!("{prefix}.norm1"), norm, dim);
        self.norm(&format!("{prefix}.norm2"), norm, dim);
        if scaled {
            for part in ["layer_scale_1", "layer_scale_2"] {
                let name = format!("{prefix}.{part}.scale");
                self.add(name, 1, dim, Kind::Vector, "layer_scale");
            }
        }
    }

    fn norm(&mut self, prefix: &str, norm: Norm, dim: usize) {
        match norm.kind {
            NormKind::Rms => {
                self.add(format!("{prefix}.alpha"), 1, dim, Kind::Vector, "norm");
            }
            NormKind::Layer => {
                self.add(format!("{prefix}.weight"), 1, dim, Kind::Vector, "norm");
                self.add(format!("{prefix}.bias"), 1, dim, Kind::Vector, "norm");
            }
        }
    }
}
