//! Tensors for the tests: in memory, from golden files or random.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use candle_core::Device;
use candle_core::quantized::gguf_file::Content;
use serde_json::Value;

use super::data;
use crate::checkpoint::{Encoding, RawRows, SafeTensorsFile, ggml};
use crate::error::{Error, Result};
use crate::lm::{DepthConfig, FeedForward, LmConfig, LmTensors, Norm, Rope, Sampling, TensorInfo};

/// One tensor: what a file would hold of it, and the values this stands for.
#[derive(Clone)]
pub(super) struct Held {
    pub info: TensorInfo,
    pub raw: RawRows,
    pub values: Vec<f32>,
}

impl Held {
    pub(super) fn f32(rows: usize, values: Vec<f32>) -> Self {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::new(rows, values, Encoding::F32, data)
    }

    pub(super) fn new(rows: usize, values: Vec<f32>, encoding: Encoding, data: Vec<u8>) -> Self {
        let info = TensorInfo {
            rows,
            cols: values.len() / rows,
            encoding,
            merged: false,
        };
        let raw = RawRows {
            data,
            ..RawRows::default()
        };
        Self { info, raw, values }
    }
}

/// See the module.
#[derive(Clone)]
pub(super) struct Tensors {
    pub config: LmConfig,
    pub held: BTreeMap<String, Held>,
}

impl Tensors {
    fn get(&self, name: &str) -> Result<&Held> {
        self.held.get(name).ok_or_else(|| Error::TensorNames {
            path: "test".into(),
            missing: name.into(),
            unexpected: "none".into(),
            hint: "none".into(),
        })
    }

    /// Values of a tensor that must be there.
    pub(super) fn values(&self, name: &str) -> &[f32] {
        &self
            .held
            .get(name)
            .unwrap_or_else(|| panic!("{name}"))
            .values
    }
}

impl LmTensors for Tensors {
    fn config(&self) -> &LmConfig {
        &self.config
    }

    fn names(&self) -> Vec<String> {
        self.held.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Result<TensorInfo> {
        Ok(self.get(name)?.info.clone())
    }

    fn read_raw(&self, name: &str, rows: Range<usize>, into: &mut RawRows) -> Result<()> {
        let held = self.get(name)?;
        let part = |bytes: &[u8]| {
            let row = bytes.len() / held.info.rows;
            bytes[rows.start * row..rows.end * row].to_vec()
        };
        into.data = part(&held.raw.data);
        into.scales = part(&held.raw.scales);
        into.biases = part(&held.raw.biases);
        Ok(())
    }

    fn read_f32(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let held = self.get(name)?;
        let cols = held.info.cols;
        let from = &held.values[rows.start * cols..rows.end * cols];
        if let Some(index) = from.iter().position(|v| !v.is_finite()) {
            return Err(Error::TensorNotFinite {
                path: "test".into(),
                name: name.into(),
                index,
                value: from[index],
            });
        }
        out.copy_from_slice(from);
        Ok(())
    }
}

/// The sizes of a golden case from its `config.json`, which gives every one that is not a default
/// here.
fn config(folder: &Path) -> LmConfig {
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let int = |key: &str| json[key].as_u64().unwrap() as usize;
    let ints = |key: &str| -> Option<Vec<usize>> {
        let list = json[key].as_array()?;
        Some(list.iter().map(|v| v.as_u64().unwrap() as usize).collect())
    };
    assert_eq!(json["norm"], "rms_norm_f32");
    assert_eq!(json["gating"], "silu");
    let dim = int("dim");
    let dep_q = int("dep_q");
    let ff = (json["hidden_scale"].as_f64().unwrap() * dim as f64) as usize;
    let gated = |ff: usize, dim: usize| {
        if ff == 4 * dim {
            21 * dim / 8
        } else {
            2 * ff / 3
        }
    };
    let depth_dim = int("depformer_dim");
    let schedule = ints("depformer_weights_per_step_schedule");
    let schedule = schedule.unwrap_or_else(|| (0..dep_q).collect());
    let sets = schedule.iter().max().unwrap() + 1;
    LmConfig {
        model_type: "moshi".into(),
        dim,
        num_layers: int("num_layers"),
        num_heads: int("num_heads"),
        kv_repeat: 1,
        hidden: gated(ff, dim),
        feed_forward: FeedForward::SwiGlu,
        layer_scale: false,
        norm: Norm::rms(1e-8),
        context: int("context"),
        max_period: int("max_period") as f64,
        rope: Rope::Interleaved,
        n_q: int("n_q"),
        dep_q,
        spoken: dep_q,
        card: int("card"),
        text_card: int("text_card"),
        text_card_out: int("text_card"),
        delays: ints("delays").unwrap(),
        padding_id: 3,
        end_padding_id: 0,
        depth: Some(DepthConfig {
            dim: depth_dim,
            num_layers: int("depformer_num_layers"),
            num_heads: int("depformer_num_heads"),
            kv_repeat: 1,
            hidden: vec![gated(int("depformer_dim_feedforward"), depth_dim); sets],
            feed_forward: FeedForward::SwiGlu,
            layer_scale: false,
            schedule,
            low_rank: json["depformer_low_rank_embeddings"]
                .as_u64()
                .map(|r| r as usize),
            final_norm: None,
        }),
        conditions: Vec::new(),
        extra_heads: (0, 0),
        speech_to_text: None,
        sampling: Sampling::default(),
    }
}

/// A golden case in layout A (docs/spec/checkpoints.md 1): f32 or bf16.
pub(super) fn layout_a(case: &str) -> Tensors {
    let folder = data(case);
    let config = config(&folder);
    let sets = config.depth.as_ref().unwrap().sets();
    let file = SafeTensorsFile::open(&folder.join("model.safetensors")).unwrap();
    let mut held = BTreeMap::new();
    for tensor in file.tensors() {
        let name = &tensor.name;
        let values = file.read_f32(name).unwrap();
        let bytes = file.read_bytes(name).unwrap();
        let encoding = match tensor.dtype.0.as_str() {
            "F32" => Encoding::F32,
            "BF16" => Encoding::Bf16,
            other => panic!("{other}"),
        };
        let matrix = tensor.shape.len() == 2;
        let rows = if matrix { tensor.shape[0] } else { 1 };
        // Stacked attention matrices become one per weight set.
        let stacked = ["in_proj", "out_proj"].into_iter().find_map(|part| {
            let (head, tail) = name.split_once(&format!(".self_attn.{part}"))?;
            assert!(tail == "_weight" || tail == ".weight", "{name}");
            Some((head, part))
        });
        let Some((head, part)) = stacked else {
            held.insert(name.clone(), Held::new(rows, values, encoding, bytes));
            continue;
        };
        let count = if head.starts_with("depformer") {
            sets
        } else {
            1
        };
        let (value_size, byte_size) = (values.len() / count, bytes.len() / count);
        for set in 0..count {
            let values = values[set * value_size..][..value_size].to_vec();
            let bytes = bytes[set * byte_size..][..byte_size].to_vec();
            let name = format!("{head}.self_attn.{part}s.{set}.weight");
            held.insert(name, Held::new(rows / count, values, encoding, bytes));
        }
    }
    Tensors { config, held }
}

/// A golden case in layout D (docs/spec/checkpoints.md 3, 4), read with Candle's own reader. Every
/// sub-step has its own weight set there.
pub(super) fn gguf(case: &str, file: &str) -> Tensors {
    let folder = data(case);
    let config = config(&folder);
    let mut reader = std::fs::File::open(folder.join(file)).unwrap();
    let content = Content::read(&mut reader).unwrap();
    let mut held = BTreeMap::new();
    for stored in content.tensor_infos.keys() {
        let tensor = content.tensor(&mut reader, stored, &Device::Cpu).unwrap();
        let values = tensor.dequantize(&Device::Cpu).unwrap();
        let values: Vec<f32> = values.flatten_all().unwrap().to_vec1().unwrap();
        let dims = tensor.shape().dims();
        let rows = if dims.len() == 2 { dims[0] } else { 1 };
        let Some(name) = from_candle(stored) else {
            continue;
        };
        let encoding = Encoding::Ggml(tensor.dtype());
        let bytes = tensor.data().unwrap().into_owned();
        held.insert(name, Held::new(rows, values, encoding, bytes));
    }
    Tensors { config, held }
}

/// Layout C's name in layout A; none for the copies of norms.
fn from_candle(name: &str) -> Option<String> {
    let name = name
        .replace("in_proj_weight", "in_projs.0.weight")
        .replace("out_proj.weight", "out_projs.0.weight");
    let Some(rest) = name.strip_prefix("depformer.") else {
        return Some(name);
    };
    let (k, rest) = rest.split_once('.').unwrap();
    let k: usize = k.parse().unwrap();
    let Some(layer) = rest.strip_prefix("transformer.layers.") else {
        return Some(match rest {
            "linear_in.weight" => format!("depformer_in.{k}.weight"),
            "linear_out.weight" => format!("linears.{k}.weight"),
            "emb.weight" if k == 0 => "depformer_text_emb.weight".into(),
            "emb.weight" => format!("depformer_emb.{}.weight", k - 1),
            other => panic!("{other}"),
        });
    };
    if layer.contains("norm") && k > 0 {
        return None;
    }
    let layer = layer
        .replace("projs.0", &format!("projs.{k}"))
        .replace("gating.", &format!("gating.{k}."));
    Some(format!("depformer.layers.{layer}"))
}

/// The same model with every matrix of fitting width in other blocks, and its values those of
/// the blocks; tables and vectors as they were.
pub(super) fn requantised(
    from: &Tensors,
    kind: candle_core::quantized::GgmlDType,
    encoding: Encoding,
) -> Tensors {
    let mut made = from.clone();
    for (name, held) in &mut made.held {
        let TensorInfo { rows, cols, .. } = held.info;
        if rows == 1 || name.contains("emb") || cols % kind.block_size() != 0 {
            continue;
        }
        let mut bytes = vec![0; ggml::block_bytes(kind, rows * cols)];
        ggml::quantise(&held.values, kind, &mut bytes).unwrap();
        let blocks = ggml::blocks(&bytes, kind, (rows, cols), &Device::Cpu).unwrap();
        let values = blocks.dequantize(&Device::Cpu).unwrap();
        let values = values.flatten_all().unwrap().to_vec1().unwrap();
        *held = Held::new(rows, values, encoding, bytes);
    }
    made
}
