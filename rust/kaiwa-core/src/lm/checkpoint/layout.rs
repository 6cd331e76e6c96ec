//! Which of the published layouts a file has, and what it calls a tensor (docs/spec/checkpoints.md
//! 1 to 5 and 9).

use crate::lm::LmConfig;

/// A published layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Layout A: safetensors of the PyTorch runtime.
    PyTorch,
    /// Layout B: the same with 8-bit rows.
    PyTorchInt8,
    /// Layout C: safetensors of the Candle runtime.
    Candle,
    /// Layout D: GGUF with layout C's names.
    Gguf,
    /// Layout E: safetensors of the MLX runtime.
    Mlx,
    /// Layout E, quantised.
    MlxQuantized {
        /// Bits of an integer, 4 or 8.
        bits: u8,
        /// Inputs per scale.
        group: usize,
    },
}

impl Layout {
    /// A name for people.
    pub fn name(self) -> String {
        match self {
            Self::PyTorch => "PyTorch".into(),
            Self::PyTorchInt8 => "PyTorch int8".into(),
            Self::Candle => "Candle".into(),
            Self::Gguf => "Candle GGUF".into(),
            Self::Mlx => "MLX".into(),
            Self::MlxQuantized { bits, group } => format!("MLX int{bits} (groups of {group})"),
        }
    }

    /// True for layouts that keep the depth transformer per sub-step.
    fn per_step(self) -> bool {
        !matches!(self, Self::PyTorch | Self::PyTorchInt8)
    }

    fn mlx(self) -> bool {
        matches!(self, Self::Mlx | Self::MlxQuantized { .. })
    }
}

/// Where a tensor may be: a name in the file, and which of how many equal runs of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::lm) struct Candidate {
    pub name: String,
    pub run: usize,
    pub runs: usize,
}

/// All spellings of a canonical name in a layout, likeliest first.
pub(super) fn candidates(layout: Layout, name: &str, config: &LmConfig) -> Vec<Candidate> {
    if let Some(rest) = name.strip_prefix("condition.") {
        return vec![whole(format!("condition_provider.conditioners.{rest}"))];
    }
    if layout.per_step() {
        let steps = match first_step(name, config) {
            Some(step) => per_step_names(name, step),
            None => temporal_names(name),
        };
        return steps
            .into_iter()
            .map(|n| whole(mlx_name(layout, n)))
            .collect();
    }
    let mut found = vec![whole(name.into())];
    if let Some((prefix, part, set)) = attention(name) {
        let runs = match prefix.starts_with("depformer") {
            true => config.depth.as_ref().map_or(1, |d| d.sets()),
            false => 1,
        };
        let spellings: &[&str] = match part {
            "in_projs" => &["in_proj_weight", "in_proj.weight"],
            _ => &["out_proj.weight", "out_proj_weight"],
        };
        found.extend(spellings.iter().map(|s| Candidate {
            name: format!("{prefix}.self_attn.{s}"),
            run: set,
            runs,
        }));
    }
    found
}

/// Where a tensor is written: every copy, in the released spelling. Empty if the layout has no
/// place for it.
pub(in crate::lm) fn written(layout: Layout, name: &str, config: &LmConfig) -> Vec<Candidate> {
    let norms = name.starts_with("depformer_norms.");
    if name.starts_with("condition.") || !layout.per_step() {
        // The last spelling is that of the released files.
        let stacked = candidates(layout, name, config);
        let attention = attention(name).is_some();
        let position = if attention { 1 } else { 0 };
        return stacked.into_iter().skip(position).take(1).collect();
    }
    if norms {
        return Vec::new();
    }
    let names = match first_step(name, config) {
        None => temporal_names(name).into_iter().take(1).collect(),
        Some(_) => {
            let steps = (0..config.dep_q).filter(|k| uses(name, *k, config));
            let first = steps.filter_map(|k| per_step_names(name, k).into_iter().next());
            first.collect::<Vec<_>>()
        }
    };
    names
        .into_iter()
        .map(|n| whole(mlx_name(layout, n)))
        .collect()
}

/// Names in a per-step layout that repeat what another sub-step has: norms, and weight sets that
/// the schedule shares. They are not read, but belong to the file.
pub(super) fn repeats(layout: Layout, name: &str, config: &LmConfig) -> Vec<String> {
    if !layout.per_step() || first_step(name, config).is_none() {
        return Vec::new();
    }
    let steps = (0..config.dep_q).filter(|k| uses(name, *k, config));
    steps
        .flat_map(|k| per_step_names(name, k))
        .map(|n| mlx_name(layout, n))
        .collect()
}

fn whole(name: String) -> Candidate {
    Candidate {
        name,
        run: 0,
        runs: 1,
    }
}

/// Prefix, part and set of an attention matrix's name.
fn attention(name: &str) -> Option<(&str, &str, usize)> {
    let (prefix, rest) = name.split_once(".self_attn.")?;
    let (part, rest) = rest.split_once('.')?;
    let set = rest.strip_suffix(".weight")?.parse().ok()?;
    Some((prefix, part, set))
}

/// The weight set in a canonical name of the depth transformer.
fn set_of(name: &str) -> Option<usize> {
    if let Some((_, _, set)) = attention(name) {
        return Some(set);
    }
    let rest = match name.split_once(".gating.") {
        Some((_, rest)) => rest,
        None => name.strip_prefix("depformer_in.")?,
    };
    rest.split('.').next()?.parse().ok()
}

/// Does sub-step `k` use the tensor?
fn uses(name: &str, k: usize, config: &LmConfig) -> bool {
    let own = |prefix: &str, shift: usize| {
        let rest = name.strip_prefix(prefix)?;
        Some(rest.split('.').next()?.parse::<usize>().ok()? + shift == k)
    };
    if name.starts_with("depformer_text_emb.") {
        return k == 0;
    }
    if let Some(yes) = own("depformer_emb.", 1)
        .or_else(|| own("linears.", 0))
        .or_else(|| own("depformer_norms.", 0))
    {
        return yes;
    }
    match set_of(name) {
        Some(set) => {
            let schedule = config.depth.as_ref().map(|d| &d.schedule);
            schedule.is_some_and(|s| s.get(k) == Some(&set))
        }
        // Norms of the layers are shared by all.
        None => true,
    }
}

/// The first sub-step that uses a tensor of the depth transformer.
fn first_step(name: &str, config: &LmConfig) -> Option<usize> {
    if !(name.starts_with("depformer") || name.starts_with("linears.")) {
        return None;
    }
    (0..config.dep_q).find(|k| uses(name, *k, config))
}

/// Layout C's names of a tensor in sub-step `k`.
fn per_step_names(name: &str, k: usize) -> Vec<String> {
    let step = |tail: &str| vec![format!("depformer.{k}.{tail}")];
    let last = |prefix: &str| {
        let rest = name.strip_prefix(prefix)?;
        Some(rest.split_once('.').map_or(rest, |(_, tail)| tail))
    };
    if let Some(tail) = name.strip_prefix("depformer_text_emb.") {
        return step(&format!("emb.{tail}"));
    }
    if let Some(tail) = last("depformer_emb.") {
        return step(&format!("emb.{tail}"));
    }
    if let Some(tail) = last("depformer_in.") {
        return step(&format!("linear_in.{tail}"));
    }
    if let Some(tail) = last("linears.") {
        return step(&format!("linear_out.{tail}"));
    }
    if let Some(tail) = last("depformer_norms.") {
        return step(&format!("norm.{tail}"));
    }
    let layer = name.strip_prefix("depformer.").unwrap_or(name);
    if let Some((prefix, part, _)) = attention(layer) {
        let names = attention_names(prefix, part);
        return names
            .into_iter()
            .map(|n| format!("depformer.{k}.transformer.{n}"))
            .collect();
    }
    let tail = match layer.split_once(".gating.") {
        Some((prefix, rest)) => {
            let part = rest.split_once('.').map_or(rest, |(_, part)| part);
            format!("{prefix}.gating.{part}")
        }
        None => layer.to_owned(),
    };
    step(&format!("transformer.{tail}"))
}

/// Layout C's names of a tensor outside the depth transformer.
fn temporal_names(name: &str) -> Vec<String> {
    match attention(name) {
        Some((prefix, part, _)) => attention_names(prefix, part),
        None => vec![name.to_owned()],
    }
}

fn attention_names(prefix: &str, part: &str) -> Vec<String> {
    let spellings: &[&str] = match part {
        "in_projs" => &["in_proj_weight", "in_proj.weight", "in_projs.0.weight"],
        _ => &["out_proj.weight", "out_projs.0.weight"],
    };
    spellings
        .iter()
        .map(|s| format!("{prefix}.self_attn.{s}"))
        .collect()
}

/// Layout E's spelling of layout C's name.
fn mlx_name(layout: Layout, name: String) -> String {
    if !layout.mlx() {
        return name;
    }
    let mut name = name.replace("in_proj_weight", "in_proj.weight");
    if let Some(rest) = name.strip_prefix("emb.") {
        name = format!("audio_embs.{rest}");
    }
    if let Some(rest) = name.strip_prefix("depformer.") {
        name = format!("depformer.slices.{rest}");
    }
    match name.strip_suffix(".alpha") {
        Some(prefix) => format!("{prefix}.weight"),
        None => name,
    }
}
