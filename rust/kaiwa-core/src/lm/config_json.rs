//! Reading a language model's `config.json` (docs/spec/checkpoints.md 7): the released schema, its
//! defaults and inheritance (docs/spec/moshi.md 8), and every rule that the values must keep.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{Condition, DepthConfig, FeedForward, LmConfig, Norm, Rope, Sampling};
use crate::error::{Error, Result};

/// What a `config.json` says beside the sizes: names of files and adapters.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Envelope {
    /// File of the language model.
    pub moshi_name: Option<String>,
    /// File of the codec.
    pub mimi_name: Option<String>,
    /// File of the tokenizer.
    pub tokenizer_name: Option<String>,
    /// File of an adapter.
    pub lora_name: Option<String>,
    /// True if the repository says that an adapter belongs to it.
    pub lora: bool,
    /// Rank of the adapter.
    pub lora_rank: Option<usize>,
    /// Scaling of the adapter, if it is given.
    pub lora_scaling: Option<f64>,
    /// True if matrices are 8-bit rows.
    pub quantize: bool,
    /// Entries of the architecture that are missing and so take a default that no released model
    /// has (docs/spec/checkpoints.md 7).
    pub left_out: Vec<&'static str>,
}

/// Entries whose defaults no released model has.
const TOY_DEFAULTS: [&str; 10] = [
    "dim",
    "num_heads",
    "hidden_scale",
    "gating",
    "norm",
    "n_q",
    "dep_q",
    "card",
    "delays",
    "depformer_dim",
];

/// Keys that name files or belong to training and other programs.
const ENVELOPE: [&str; 17] = [
    "moshi_name",
    "mimi_name",
    "mimi_config_name",
    "tokenizer_name",
    "lora_name",
    "model_type",
    "model_id",
    "lm_gen_config",
    "tts_config",
    "stt_config",
    "quantize",
    "lora",
    "lora_rank",
    "lora_scaling",
    "depformer_context",
    "depformer_causal",
    "depformer_max_period",
];

impl LmConfig {
    /// The released 7B, which is meant where a repository has no `config.json`.
    pub fn moshi_7b() -> Self {
        let mut delays = vec![1; 17];
        (delays[0], delays[1], delays[9]) = (0, 0, 0);
        Self {
            model_type: "moshi".into(),
            dim: 4096,
            num_layers: 32,
            num_heads: 32,
            kv_repeat: 1,
            hidden: 11264,
            feed_forward: FeedForward::SwiGlu,
            layer_scale: false,
            norm: Norm::rms(1e-8),
            context: 3000,
            max_period: 10_000.0,
            rope: Rope::Interleaved,
            n_q: 16,
            dep_q: 8,
            spoken: 8,
            card: 2048,
            text_card: 32_000,
            text_card_out: 32_000,
            delays,
            padding_id: 3,
            end_padding_id: 0,
            depth: Some(DepthConfig {
                dim: 1024,
                num_layers: 6,
                num_heads: 16,
                kv_repeat: 1,
                hidden: vec![2816; 8],
                feed_forward: FeedForward::SwiGlu,
                layer_scale: false,
                schedule: (0..8).collect(),
                low_rank: None,
                final_norm: None,
            }),
            conditions: Vec::new(),
            extra_heads: (0, 6),
            sampling: Sampling::default(),
        }
    }

    /// Reads a `config.json`.
    ///
    /// # Errors
    /// [`Error::Config`] naming the entry: wrong types, unknown or unsupported entries, and
    /// values that do not go together.
    pub fn from_json(text: &str) -> Result<Self> {
        let map = object(text)?;
        let reader = Reader::new(&map);
        let config = read(&reader)?;
        reader.finish()?;
        check(&config)?;
        Ok(config)
    }
}

impl Envelope {
    /// Reads the names of files out of a `config.json`.
    ///
    /// # Errors
    /// [`Error::Config`] for wrong types.
    pub fn from_json(text: &str) -> Result<Self> {
        let map = object(text)?;
        let reader = Reader::new(&map);
        Ok(Self {
            moshi_name: reader.text("moshi_name")?,
            mimi_name: reader.text("mimi_name")?,
            tokenizer_name: reader.text("tokenizer_name")?,
            lora_name: reader.text("lora_name")?,
            lora: reader.flag("lora")?.unwrap_or(false),
            lora_rank: reader.size("lora_rank")?,
            lora_scaling: reader.number("lora_scaling")?,
            quantize: reader.flag("quantize")?.unwrap_or(false),
            left_out: TOY_DEFAULTS
                .into_iter()
                .filter(|key| reader.get(key).is_none())
                .collect(),
        })
    }
}

fn object(text: &str) -> Result<Map<String, Value>> {
    let whole = |got: String| Error::Config {
        field: "(whole file)".into(),
        got,
        wanted: "pass the config.json that belongs to the language model".into(),
    };
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(whole("JSON, but not an object".into())),
        Err(e) => Err(whole(format!("not valid JSON ({e})"))),
    }
}

/// The entries of a file, and which of them have been looked at.
struct Reader<'a> {
    map: &'a Map<String, Value>,
    seen: RefCell<BTreeSet<String>>,
}

impl<'a> Reader<'a> {
    fn new(map: &'a Map<String, Value>) -> Self {
        Self {
            map,
            seen: RefCell::default(),
        }
    }

    /// Present and not null.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.seen.borrow_mut().insert(key.to_owned());
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn error(&self, key: &str, wanted: impl Into<String>) -> Error {
        // Shortened, since a hostile file may hold megabytes here.
        let got = self.map.get(key).map_or("missing".into(), Value::to_string);
        Error::Config {
            field: key.into(),
            got: got.chars().take(80).collect(),
            wanted: wanted.into(),
        }
    }

    fn read<T>(
        &self,
        key: &str,
        wanted: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match convert(value) {
                Some(value) => Ok(Some(value)),
                None => Err(self.error(key, wanted)),
            },
        }
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        self.read(key, "use a whole number from 0 to 10 000 000", whole)
    }

    fn needed(&self, key: &str) -> Result<usize> {
        self.size(key)?
            .filter(|n| *n > 0)
            .ok_or_else(|| self.error(key, "it is needed, as a whole number from 1"))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        let positive = |v: &Value| v.as_f64().filter(|v| v.is_finite() && *v > 0.0);
        self.read(key, "use a number above 0", positive)
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "use true or false", Value::as_bool)
    }

    fn text(&self, key: &str) -> Result<Option<String>> {
        self.read(key, "use a text", |v| v.as_str().map(str::to_owned))
    }

    fn sizes(&self, key: &str) -> Result<Option<Vec<usize>>> {
        self.read(key, "use a list of whole numbers from 0", |v| {
            let list = v.as_array().filter(|l| l.len() <= 4096)?;
            list.iter().map(whole).collect()
        })
    }

    /// Refuses a value other than those allowed; null and absence are allowed.
    fn only(&self, key: &str, allowed: &[Value], wanted: &str) -> Result<()> {
        match self.get(key) {
            Some(value) if !allowed.contains(value) => Err(self.error(key, wanted)),
            _ => Ok(()),
        }
    }

    /// Complains about entries nobody has asked for.
    fn finish(&self) -> Result<()> {
        let seen = self.seen.borrow();
        let known = |key: &&String| !seen.contains(*key) && !ENVELOPE.contains(&key.as_str());
        match self.map.keys().find(known) {
            None => Ok(()),
            Some(key) => Err(self.error(
                key,
                "this entry is not known: remove it, or use the config.json of a supported model",
            )),
        }
    }
}

fn whole(value: &Value) -> Option<usize> {
    let number = value.as_u64().or_else(|| {
        let float = value.as_f64().filter(|f| *f >= 0.0 && f.fract() == 0.0)?;
        Some(float as u64)
    })?;
    usize::try_from(number).ok().filter(|n| *n <= 10_000_000)
}

/// Width inside a feed-forward part (docs/spec/moshi.md 3.7).
pub(crate) fn hidden_of(kind: FeedForward, ff: usize, dim: usize) -> usize {
    match kind {
        FeedForward::Gelu => ff,
        FeedForward::SwiGlu if ff == 4 * dim => 21 * dim / 8,
        FeedForward::SwiGlu => 2 * ff / 3,
    }
}

fn gating(reader: &Reader<'_>, key: &str) -> Result<Option<FeedForward>> {
    reader.read(key, "use \"silu\" or \"none\"", |v| match v.as_str() {
        Some("silu") => Some(FeedForward::SwiGlu),
        Some("none") => Some(FeedForward::Gelu),
        _ => None,
    })
}

fn norm(reader: &Reader<'_>, key: &str) -> Result<Option<Norm>> {
    let wanted = "use \"rms_norm_f32\", \"rms_norm\", \"layer_norm\" or \"layer_norm_f32\"";
    reader.read(key, wanted, |v| {
        let named = Norm::NAMED.into_iter().find(|(name, _)| v == name);
        named.map(|(_, norm)| norm)
    })
}

fn read(r: &Reader<'_>) -> Result<LmConfig> {
    let model_type = r.text("model_type")?.unwrap_or_else(|| "moshi".into());
    if model_type == "tts" {
        return Err(r.error("model_type", "text to speech models are not supported yet"));
    }
    if r.map.contains_key("seanet") || model_type == "mimi" {
        return Err(r.error(
            "model_type",
            "this is the codec's file: pass the language model's",
        ));
    }
    let unsupported = "not supported";
    r.only("norm_emb", &[false.into()], unsupported)?;
    r.only("bias_proj", &[false.into()], unsupported)?;
    r.only("cross_attention", &[false.into()], unsupported)?;
    r.only("demux_second_text_stream", &[false.into()], unsupported)?;
    r.only("demux_second_stream", &[false.into()], unsupported)?;
    r.only("causal", &[true.into()], "only true can stream")?;
    r.only(
        "positional_scale",
        &[1.into(), 1.0.into()],
        "only 1 is supported",
    )?;
    let rope = match r.text("positional_embedding")?.as_deref() {
        Some("rope") => Rope::Interleaved,
        Some("rope_concat") => Rope::NeoX,
        _ => {
            let wanted = "only \"rope\" and \"rope_concat\" are supported";
            return Err(r.error("positional_embedding", wanted));
        }
    };
    let dim = r.size("dim")?.unwrap_or(128);
    let scale = r.number("hidden_scale")?.unwrap_or(4.0);
    let gate = gating(r, "gating")?.unwrap_or(FeedForward::Gelu);
    let card = r.size("card")?.unwrap_or(1024);
    let text_card = r.size("text_card")?.unwrap_or(32_000);
    let n_q = r.size("n_q")?.unwrap_or(8);
    let dep_q = r.size("dep_q")?.unwrap_or(8);
    let num_layers = r.needed("num_layers")?;
    let kv_repeat = r.size("kv_repeat")?.unwrap_or(1);
    let norm_kind = norm(r, "norm")?.unwrap_or(Norm::layer(1e-5));
    let layer_scale = r.number("layer_scale")?.is_some();
    let delays = r.sizes("delays")?.unwrap_or_else(|| vec![0]);
    let context = match r.size("context")? {
        Some(context) => context,
        None => {
            let wanted = "streaming needs a limited attention window: use a number";
            return Err(r.error("context", wanted));
        }
    };
    let depth_keys = Depth {
        scale,
        gate,
        layer_scale,
        kv_repeat,
        num_layers,
        dep_q,
    };
    let depth = match dep_q {
        0 => {
            ignore_depth(r);
            None
        }
        _ => Some(read_depth(r, &depth_keys)?),
    };
    // The later half of sixteen sub-steps predicts the codes of the user, who supplies them
    // (docs/spec/moshi.md 9.5).
    let spoken = match dep_q == n_q && dep_q == 16 && delays.len() == 17 {
        true => 8,
        false => dep_q,
    };
    Ok(LmConfig {
        dim,
        num_layers,
        num_heads: r.size("num_heads")?.unwrap_or(8),
        kv_repeat,
        hidden: hidden_of(gate, (scale * dim as f64) as usize, dim),
        feed_forward: gate,
        layer_scale,
        norm: norm_kind,
        context,
        max_period: r.number("max_period")?.unwrap_or(10_000.0),
        rope,
        n_q,
        dep_q,
        spoken,
        card,
        text_card,
        text_card_out: r.size("text_card_out")?.unwrap_or(text_card),
        delays,
        padding_id: r.size("existing_text_padding_id")?.unwrap_or(3),
        end_padding_id: r.size("existing_text_end_padding_id")?.unwrap_or(0),
        depth,
        conditions: conditions(r)?,
        extra_heads: (
            r.size("extra_heads_num_heads")?.unwrap_or(0),
            r.size("extra_heads_dim")?.unwrap_or(6),
        ),
        sampling: sampling(r)?,
        model_type,
    })
}

/// What the depth transformer inherits.
struct Depth {
    scale: f64,
    gate: FeedForward,
    layer_scale: bool,
    kv_repeat: usize,
    num_layers: usize,
    dep_q: usize,
}

const DEPTH_KEYS: [&str; 14] = [
    "depformer_dim",
    "depformer_num_heads",
    "depformer_num_layers",
    "depformer_dim_feedforward",
    "depformer_gating",
    "depformer_layer_scale",
    "depformer_kv_repeat",
    "depformer_multi_linear",
    "depformer_weights_per_step",
    "depformer_weights_per_step_schedule",
    "depformer_low_rank_embeddings",
    "depformer_norm",
    "depformer_pos_emb",
    "depformer_context",
];

fn ignore_depth(r: &Reader<'_>) {
    for key in DEPTH_KEYS {
        let _ = r.get(key);
    }
}

fn read_depth(r: &Reader<'_>, main: &Depth) -> Result<DepthConfig> {
    let dim = r.size("depformer_dim")?.unwrap_or(256);
    let gate = gating(r, "depformer_gating")?.unwrap_or(main.gate);
    if r.text("depformer_pos_emb")?.as_deref() != Some("none") {
        return Err(r.error("depformer_pos_emb", "only \"none\" is supported"));
    }
    for key in ["depformer_multi_linear", "depformer_weights_per_step"] {
        if r.flag(key)? != Some(true) {
            return Err(r.error(key, "only true is supported"));
        }
    }
    let schedule = r.sizes("depformer_weights_per_step_schedule")?;
    let schedule = schedule.unwrap_or_else(|| (0..main.dep_q).collect());
    let key = "depformer_weights_per_step_schedule";
    if schedule.len() != main.dep_q {
        let wanted = format!("it needs dep_q = {} entries", main.dep_q);
        return Err(r.error(key, wanted));
    }
    let sets = schedule.iter().max().map_or(0, |w| w + 1);
    if let Some(gap) = (0..sets.min(4096)).find(|w| !schedule.contains(w)) {
        return Err(r.error(
            key,
            format!("weight set {gap} is not used: number them from 0"),
        ));
    }
    let key = "depformer_dim_feedforward";
    let default = (main.scale * dim as f64) as usize;
    let feed_forward = match r.get(key) {
        Some(Value::Array(_)) => r.sizes(key)?.unwrap_or_default(),
        _ => vec![r.size(key)?.unwrap_or(default); sets],
    };
    if feed_forward.len() != sets {
        let wanted = format!("a list needs an entry for each of the {sets} weight sets");
        return Err(r.error(key, wanted));
    }
    let layer_scale = match r.map.get("depformer_layer_scale") {
        None => main.layer_scale,
        Some(_) => r.number("depformer_layer_scale")?.is_some(),
    };
    Ok(DepthConfig {
        dim,
        num_layers: r.size("depformer_num_layers")?.unwrap_or(main.num_layers),
        num_heads: r.needed("depformer_num_heads")?,
        kv_repeat: r.size("depformer_kv_repeat")?.unwrap_or(main.kv_repeat),
        hidden: feed_forward
            .iter()
            .map(|ff| hidden_of(gate, *ff, dim))
            .collect(),
        feed_forward: gate,
        layer_scale,
        schedule,
        low_rank: r.size("depformer_low_rank_embeddings")?,
        final_norm: norm(r, "depformer_norm")?,
    })
}

fn conditions(r: &Reader<'_>) -> Result<Vec<Condition>> {
    if let Some(fuser) = r.get("fuser") {
        let unsupported = |(key, value): (&String, &Value)| {
            let empty = value.as_array().is_some_and(Vec::is_empty) || value.is_null();
            let harmless = key.starts_with("cross_attention_pos_emb") || key == "sum";
            !harmless && !empty
        };
        let map = fuser.as_object();
        let map = map.ok_or_else(|| r.error("fuser", "use an object of lists"))?;
        if map.iter().any(unsupported) {
            return Err(r.error("fuser", "only \"sum\" is supported"));
        }
    }
    let Some(all) = r.get("conditioners") else {
        return Ok(Vec::new());
    };
    let wanted = "each needs \"type\": \"lut\" and \"lut\": {n_bins, dim, possible_values}";
    let wrong = || r.error("conditioners", wanted);
    let mut found = Vec::new();
    for (name, one) in all.as_object().ok_or_else(wrong)? {
        let lut = match one.get("type").and_then(Value::as_str) {
            Some("lut") => one
                .get("lut")
                .and_then(Value::as_object)
                .ok_or_else(wrong)?,
            Some(_) => return Err(r.error("conditioners", "only type \"lut\" is supported")),
            None => return Err(wrong()),
        };
        let size = |key: &str| lut.get(key).and_then(whole).filter(|n| *n > 0);
        let bins = size("n_bins").ok_or_else(wrong)?;
        let values = match lut.get("possible_values") {
            None | Some(Value::Null) => Vec::new(),
            Some(list) => list
                .as_array()
                .and_then(|l| l.iter().map(|v| v.as_str().map(str::to_owned)).collect())
                .ok_or_else(wrong)?,
        };
        if values.len() > bins {
            return Err(r.error("conditioners", "n_bins must cover possible_values"));
        }
        found.push(Condition {
            name: name.clone(),
            values,
            bins,
            dim: size("dim").ok_or_else(wrong)?,
        });
    }
    Ok(found)
}

fn sampling(r: &Reader<'_>) -> Result<Sampling> {
    let mut sampling = Sampling::default();
    let Some(value) = r.get("lm_gen_config") else {
        return Ok(sampling);
    };
    let wanted = "use an object of temp, temp_text, top_k, top_k_text, use_sampling";
    let map = value
        .as_object()
        .ok_or_else(|| r.error("lm_gen_config", wanted))?;
    for (key, value) in map {
        let number = || {
            let number = value.as_f64().filter(|v| v.is_finite() && *v >= 0.0);
            number.ok_or_else(|| r.error("lm_gen_config", wanted))
        };
        match key.as_str() {
            "temp" => sampling.temp = number()? as f32,
            "temp_text" | "text_temp" => sampling.temp_text = number()? as f32,
            "top_k" => sampling.top_k = number()? as usize,
            "top_k_text" => sampling.top_k_text = number()? as usize,
            "use_sampling" if value == &Value::Bool(false) => {
                (sampling.temp, sampling.temp_text) = (0.0, 0.0);
            }
            _ => {}
        }
    }
    Ok(sampling)
}

/// Rules between values (docs/spec/checkpoints.md 10).
fn check(c: &LmConfig) -> Result<()> {
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
