//! Recognising a layout, and finding every tensor of the configuration.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use super::affine;
use super::files::Files;
use super::hint::{self, listed};
use super::layout::{Candidate, Layout, candidates, repeats, written};
use super::{LmCheckpoint, Place};
use crate::checkpoint::Encoding;
use crate::error::{Error, Result};
use crate::lm::LmConfig;
use crate::lm::config_json::Envelope;
use crate::lm::schema::{self, Kind, Spec};

/// A warning that an adapter given beside the files takes back.
pub(super) const NO_ADAPTER: &str =
    "the configuration says lora, but names no adapter: the weights are taken as they are";

/// See [`LmCheckpoint::open`].
pub(super) fn open(paths: &[PathBuf], config_json: Option<&str>) -> Result<LmCheckpoint> {
    let files = Files::open(paths)?;
    let layout = detect(&files)?;
    let mut warnings = Vec::new();
    let mut envelope = Envelope::default();
    let mut config = match config_json {
        Some(text) => {
            envelope = Envelope::from_json(text)?;
            if envelope.lora && envelope.lora_name.is_none() {
                warnings.push(NO_ADAPTER.into());
            }
            LmConfig::from_json(text)?
        }
        None => LmConfig::moshi_7b(),
    };
    // The only one of them that no tensor's shape tells.
    if envelope.left_out.contains(&"num_heads") {
        warnings.push(format!(
            "config.json leaves out num_heads, which is then {}: with another number the model \
             says nonsense",
            config.num_heads
        ));
    }
    correct_steps(&mut config, &files);
    count_extra_heads(&mut config, &files);
    let layout = match layout {
        Layout::MlxQuantized { .. } => affine::detect(&files, &config)?,
        other => other,
    };
    let found = find(&files, layout, &config, &envelope.left_out);
    let (names, places) = match (found, config_json) {
        (Ok(found), _) => found,
        (Err(error), Some(_)) => return Err(error),
        (Err(error), None) => {
            return Err(Error::Config {
                field: "config.json".into(),
                got: format!("missing, and this is not the released 7B ({error})"),
                wanted: "put the model's config.json beside the weights, or pass it as config"
                    .into(),
            });
        }
    };
    Ok(LmCheckpoint {
        config,
        layout,
        files,
        names,
        places,
        adapter: None,
        lora_scaling: envelope.lora_scaling,
        warnings,
    })
}

/// The layout by names and types alone (docs/spec/checkpoints.md 9).
fn detect(files: &Files) -> Result<Layout> {
    if let Some(error) = hint::foreign(files) {
        return Err(error);
    }
    if files.is_gguf() {
        return Ok(Layout::Gguf);
    }
    let has = |name: &str| files.entries.contains_key(name);
    let any = |test: &dyn Fn(&str) -> bool| files.entries.keys().any(|name| test(name));
    let words = |name: &str| {
        let base = name.strip_suffix(".scales");
        let weight = base.and_then(|b| files.entries.get(&format!("{b}.weight")));
        weight.is_some_and(|e| e.dtype == "U32")
    };
    Ok(if any(&words) {
        Layout::MlxQuantized { bits: 0, group: 0 }
    } else if has("audio_embs.0.weight") || any(&|n| n.starts_with("depformer.slices.0.")) {
        Layout::Mlx
    } else if any(&|n| n.ends_with("_scb")) || files.entries.values().any(|e| e.dtype == "I8") {
        Layout::PyTorchInt8
    } else if has("depformer.0.linear_in.weight") {
        Layout::Candle
    } else {
        Layout::PyTorch
    })
}

/// Sixteen heads with eight streams of the user's: the configuration's number of sub-steps is not
/// to be trusted there (docs/spec/checkpoints.md 8).
fn correct_steps(config: &mut LmConfig, files: &Files) {
    let sixteen = [
        "linears.15.weight",
        "depformer.15.linear_out.weight",
        "depformer.slices.15.linear_out.weight",
    ];
    let more = sixteen.iter().any(|name| files.entries.contains_key(*name));
    if let Some(depth) = &mut config.depth
        && more
        && config.n_q == 16
        && config.dep_q == 8
        && depth.sets() == 8
    {
        depth.schedule = (0..16).collect();
        depth.hidden = vec![depth.hidden.first().copied().unwrap_or(0); 16];
        (config.dep_q, config.spoken) = (16, 8);
    }
}

/// Configurations may leave the extra heads out that the file has (docs/spec/moshi.md 12): their
/// number and width are the file's.
fn count_extra_heads(config: &mut LmConfig, files: &Files) {
    let head = |i: usize| files.entries.get(&format!("extra_heads.{i}.weight"));
    let found = (0..).take_while(|i| head(*i).is_some()).count();
    if config.extra_heads.0 == 0
        && let Some(classes) = head(0).and_then(|entry| entry.shape.first())
    {
        config.extra_heads = (found, *classes);
    }
}

/// Every tensor of the configuration, or a complaint about all that do not fit.
fn find(
    files: &Files,
    layout: Layout,
    config: &LmConfig,
    left_out: &[&str],
) -> Result<(Vec<String>, HashMap<String, Place>)> {
    let mut places = HashMap::new();
    let (mut missing, mut names) = (Vec::new(), Vec::new());
    let mut used: BTreeSet<String> = BTreeSet::new();
    for spec in schema::tensors(config) {
        let spellings = candidates(layout, &spec.name, config);
        let known = |c: &&Candidate| files.entries.contains_key(&c.name);
        let Some(candidate) = spellings.iter().find(known) else {
            // In the spelling of released files, where weight sets may share a tensor.
            let released = written(layout, &spec.name, config).into_iter().next();
            let name = released.map_or(spec.name, |c| c.name);
            if missing.last() != Some(&name) && !missing.contains(&name) {
                missing.push(name);
            }
            continue;
        };
        let place = locate(files, layout, candidate, &spec, config, left_out)?;
        used.extend(place.scales.iter().chain(&place.biases).cloned());
        used.insert(place.name.clone());
        used.extend(repeats(layout, &spec.name, config));
        names.push(spec.name.clone());
        places.insert(spec.name, place);
    }
    for name in used.clone() {
        // Scales and biases of what is repeated.
        let base = name.strip_suffix(".weight").unwrap_or(&name);
        used.insert(format!("{base}.scales"));
        used.insert(format!("{base}.biases"));
        used.insert(format!("{name}_scb"));
    }
    let extra = |name: &&String| !used.contains(*name);
    let unexpected: Vec<String> = files.entries.keys().filter(extra).cloned().collect();
    if missing.is_empty() && unexpected.is_empty() {
        hint::check_repeats(files, layout, config)?;
        return Ok((names, places));
    }
    Err(Error::TensorNames {
        path: files.path(0),
        hint: hint::likely(layout, config, &missing, &unexpected, left_out),
        missing: listed(&missing),
        unexpected: listed(&unexpected),
    })
}

/// Checks shape and type of one tensor.
fn locate(
    files: &Files,
    layout: Layout,
    candidate: &Candidate,
    spec: &Spec,
    config: &LmConfig,
    left_out: &[&str],
) -> Result<Place> {
    let name = candidate.name.clone();
    let entry = &files.entries[&name];
    let path = || files.path(entry.file);
    if let Layout::MlxQuantized { bits, group } = layout
        && entry.dtype == "U32"
    {
        return affine::locate(files, &name, spec, bits, group);
    }
    let Some(encoding) = files.encoding(&name) else {
        return Err(Error::TensorDtype {
            path: path(),
            name,
            dtype: entry.dtype.clone(),
            remedy: "use a file of one of the published formats",
        });
    };
    let shape = &entry.shape;
    let total: usize = shape.iter().product();
    let fits = match spec.kind {
        Kind::Vector => total == spec.cols && shape.iter().filter(|d| **d != 1).count() <= 1,
        _ => shape[..] == [spec.rows * candidate.runs, spec.cols],
    };
    if !fits {
        let expected = match spec.kind {
            Kind::Vector => vec![spec.cols],
            _ => vec![spec.rows * candidate.runs, spec.cols],
        };
        let error = hint::misshapen(path(), name, shape, expected, spec, config, left_out);
        return Err(error);
    }
    let scales = match encoding {
        Encoding::Int8Rows => Some(row_scales(files, &name, spec.rows * candidate.runs)?),
        _ => None,
    };
    if spec.kind != Kind::Matrix && scales.is_some() {
        return Err(Error::TensorDtype {
            path: path(),
            name,
            dtype: entry.dtype.clone(),
            remedy: "only matrices are 8-bit rows in this format",
        });
    }
    Ok(Place {
        name,
        first: candidate.run * spec.rows,
        rows: spec.rows,
        cols: spec.cols,
        encoding,
        scales,
        biases: None,
    })
}

/// Name of the scales of an 8-bit matrix, which must be f32, one a row.
fn row_scales(files: &Files, name: &str, rows: usize) -> Result<String> {
    let scales = format!("{name}_scb");
    let Some(entry) = files.entries.get(&scales) else {
        return Err(Error::TensorNames {
            path: files.path(0),
            missing: format!("1 ({scales})"),
            unexpected: "none".into(),
            hint: "8-bit rows need their scales: download the file again".into(),
        });
    };
    if entry.dtype != "F32" {
        return Err(Error::TensorDtype {
            path: files.path(entry.file),
            name: scales,
            dtype: entry.dtype.clone(),
            remedy: "scales of 8-bit rows are F32",
        });
    }
    if entry.shape != [rows] {
        return Err(Error::TensorShape {
            path: files.path(entry.file),
            name: scales,
            found: entry.shape.clone(),
            expected: vec![rows],
        });
    }
    Ok(scales)
}
