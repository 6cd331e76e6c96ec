//! Writing a model in every format: the bytes are those of the genuine tools.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use kaiwa_core::Error;
use kaiwa_core::checkpoint::{Encoding, RawRows};
use kaiwa_core::checkpoint::{GgufFile, SafeTensorsFile};
use kaiwa_core::lm::convert::{Target, config_json, convert};
use kaiwa_core::lm::synth::{RandomLm, Size};
use kaiwa_core::lm::{LmCheckpoint, LmConfig, LmTensors};

fn data(case: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/data")
        .join(case)
}

fn open(case: &str) -> LmCheckpoint {
    let config = std::fs::read_to_string(data(case).join("config.json")).unwrap();
    LmCheckpoint::open(&[data(case).join("model.safetensors")], Some(&config)).unwrap()
}

/// A folder that vanishes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kaiwa-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn write(source: &dyn LmTensors, target: Target, out: &Path) -> u64 {
    let mut last = (0, 0);
    let size = convert(source, target, out, &mut |done, total| {
        assert!(done >= last.0 && done <= total);
        last = (done, total);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(last.0, last.1);
    assert_eq!(size, std::fs::metadata(out).unwrap().len());
    size
}

/// Type, shape and bytes of every tensor.
type Contents = BTreeMap<String, (String, Vec<usize>, Vec<u8>)>;

fn contents(path: &Path) -> Contents {
    if path.extension().unwrap() == "gguf" {
        let file = GgufFile::open(path).unwrap();
        let bytes = std::fs::read(path).unwrap();
        file.tensors()
            .iter()
            .map(|t| {
                let data = bytes[t.begin as usize..t.end as usize].to_vec();
                (
                    t.name.clone(),
                    (format!("{:?}", t.dtype), t.shape.clone(), data),
                )
            })
            .collect()
    } else {
        let file = SafeTensorsFile::open(path).unwrap();
        file.tensors()
            .iter()
            .map(|t| {
                let data = file.read_bytes(&t.name).unwrap();
                (t.name.clone(), (t.dtype.0.clone(), t.shape.clone(), data))
            })
            .collect()
    }
}

fn equal(made: &Path, genuine: &Path) {
    let (made, genuine) = (contents(made), contents(genuine));
    let names = |c: &Contents| c.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&made), names(&genuine));
    assert!(made.len() > 50);
    for (name, tensor) in &genuine {
        assert_eq!(
            (&made[name].0, &made[name].1),
            (&tensor.0, &tensor.1),
            "{name}"
        );
        assert!(made[name].2 == tensor.2, "{name}: bytes differ");
    }
}

#[test]
fn every_format_is_byte_for_byte_the_genuine_one() {
    let folder = Folder::new("genuine");
    let source = open("formats/pytorch_bf16");
    for (name, case, file) in [
        ("pytorch-bf16", "pytorch_bf16", "model.safetensors"),
        ("pytorch-int8", "pytorch_int8", "model.q8.safetensors"),
        ("candle-bf16", "candle_bf16", "model.safetensors"),
        ("gguf-q8", "candle_q8", "model.q8.gguf"),
        ("mlx-bf16", "mlx_bf16", "model.safetensors"),
        ("mlx-q8", "mlx_q8", "model.q8.safetensors"),
        ("mlx-q4", "mlx_q4", "model.q4.safetensors"),
    ] {
        let target = Target::parse(name).unwrap();
        assert_eq!(target.file_name(), file);
        let out = folder.0.join(format!("{name}-{file}"));
        write(&source, target, &out);
        equal(&out, &data("formats").join(case).join(file));
    }
}

#[test]
fn the_tensor_library_reads_our_gguf() {
    let folder = Folder::new("library");
    let source = open("formats/pytorch_bf16");
    for name in ["gguf-q8", "gguf-q4"] {
        let out = folder.0.join(format!("{name}.gguf"));
        write(&source, Target::parse(name).unwrap(), &out);
        let mut file = std::fs::File::open(&out).unwrap();
        let content = candle_core::quantized::gguf_file::Content::read(&mut file).unwrap();
        assert!(content.metadata.is_empty());
        let written = GgufFile::open(&out).unwrap();
        assert_eq!(content.tensor_infos.len(), written.tensors().len());
        for entry in written.tensors() {
            let tensor = content
                .tensor(&mut file, &entry.name, &candle_core::Device::Cpu)
                .unwrap();
            assert_eq!(tensor.shape().dims(), entry.shape);
            assert_eq!(tensor.dtype(), entry.dtype);
        }
    }
}

fn values(source: &dyn LmTensors, name: &str) -> Vec<f32> {
    let info = source.info(name).unwrap();
    let mut values = vec![0f32; info.rows * info.cols];
    source.read_f32(name, 0..info.rows, &mut values).unwrap();
    values
}

fn same(a: &dyn LmTensors, b: &dyn LmTensors) {
    assert_eq!(a.names(), b.names());
    for name in a.names() {
        assert!(values(a, &name) == values(b, &name), "{name}");
    }
}

#[test]
fn schedules_and_low_rank_tables_survive_the_way_there_and_back() {
    let folder = Folder::new("hibiki");
    let source = open("hibiki_small");
    let there = folder.0.join("c.safetensors");
    write(&source, Target::CandleBf16, &there);
    let config = std::fs::read_to_string(data("hibiki_small/config.json")).unwrap();
    let candle = LmCheckpoint::open(&[there], Some(&config)).unwrap();
    assert_eq!(candle.layout().name(), "Candle");
    let back = folder.0.join("a.safetensors");
    write(&candle, Target::PyTorchBf16, &back);
    let again = LmCheckpoint::open(&[back], Some(&config)).unwrap();
    same(&candle, &again);
    // The source is f32: bf16 rounds it.
    for name in source.names() {
        for (a, b) in values(&source, &name).iter().zip(values(&candle, &name)) {
            assert!((a - b).abs() <= a.abs() / 256.0, "{name}");
        }
    }
    let exact = folder.0.join("f.safetensors");
    write(&source, Target::PyTorchF32, &exact);
    same(
        &source,
        &LmCheckpoint::open(&[exact], Some(&config)).unwrap(),
    );
}

#[test]
fn every_format_reads_back() {
    let folder = Folder::new("back");
    let source = RandomLm::new(Size::Tiny.config(), 4);
    for name in Target::names() {
        let target = Target::parse(name).unwrap();
        let out = folder.0.join(format!("{name}-{}", target.file_name()));
        write(&source, target, &out);
        let config = config_json(source.config(), target, target.file_name());
        assert_eq!(&LmConfig::from_json(&config).unwrap(), source.config());
        let read = LmCheckpoint::open(&[out], Some(&config)).unwrap();
        assert_eq!(read.names(), source.names());
        let mut worst = 0f64;
        for name in source.names() {
            let (a, b) = (values(&source, &name), values(&read, &name));
            let error: f64 = a
                .iter()
                .zip(&b)
                .map(|(a, b)| f64::from(a - b).powi(2))
                .sum();
            let size: f64 = a.iter().map(|a| f64::from(*a).powi(2)).sum();
            worst = worst.max((error / size).sqrt());
        }
        let allowed = match name {
            n if n.contains("q4") => 0.12,
            n if n.contains("q8") || n.contains("int8") => 0.012,
            _ => 0.0,
        };
        assert!(worst <= allowed, "{name}: {worst}");
        assert!(allowed == 0.0 || worst > allowed / 10.0, "{name}: {worst}");
    }
}

#[test]
fn other_models_have_other_configurations_that_read_back() {
    let mut config = Size::Tiny.config();
    config.hidden = 21 * config.dim / 8;
    config.kv_repeat = 2;
    let depth = config.depth.as_mut().unwrap();
    depth.schedule = vec![0, 1, 2, 3, 4, 4, 5, 5];
    depth.hidden = vec![96, 96, 128, 96, 96, 160];
    depth.low_rank = Some(32);
    let text = config_json(&config, Target::PyTorchBf16, "x.safetensors");
    assert_eq!(LmConfig::from_json(&text).unwrap(), config);
    assert_eq!(
        LmConfig::from_json(&config_json(&LmConfig::moshi_7b(), Target::GgufQ8, "y")).unwrap(),
        LmConfig::moshi_7b()
    );
}

#[test]
fn nothing_is_left_after_an_interruption_or_a_refusal() {
    let folder = Folder::new("refused");
    let out = folder.0.join("model.safetensors");
    let source = RandomLm::new(Size::Tiny.config(), 1);
    let stop = convert(&source, Target::PyTorchBf16, &out, &mut |_, _| {
        ControlFlow::Break(())
    });
    assert!(matches!(stop, Err(Error::Interrupted)));
    let mut narrow = Size::Tiny.config();
    narrow.dim = 72;
    narrow.num_heads = 2;
    let narrow = RandomLm::new(narrow, 1);
    let mut go_on = |_, _| ControlFlow::Continue(());
    let refused = convert(&narrow, Target::MlxQ4, &out, &mut go_on);
    assert!(matches!(refused, Err(Error::OptionValue { .. })));
    let nowhere = convert(
        &source,
        Target::GgufQ8,
        &folder.0.join("no/x.gguf"),
        &mut go_on,
    );
    assert!(matches!(nowhere, Err(Error::Write { .. })));
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 0);
}

#[test]
fn random_models_are_functions_of_their_seed() {
    let model = |seed| RandomLm::new(Size::Tiny.config(), seed);
    let (a, b, c) = (model(1), model(1), model(2));
    let name = "transformer.layers.1.gating.linear_in.weight";
    assert_eq!(values(&a, name), values(&b, name));
    assert_ne!(values(&a, name), values(&c, name));
    let cols = a.info(name).unwrap().cols;
    let mut part = vec![0f32; 3 * cols];
    a.read_f32(name, 5..8, &mut part).unwrap();
    assert_eq!(part, values(&a, name)[5 * cols..8 * cols]);
    let mut raw = RawRows::default();
    a.read_raw(name, 5..8, &mut raw).unwrap();
    assert_eq!(a.info(name).unwrap().encoding, Encoding::Bf16);
    let bits = raw.data.as_chunks::<2>().0.iter();
    let widened: Vec<f32> = bits
        .map(|b| half::bf16::from_le_bytes(*b).to_f32())
        .collect();
    assert_eq!(widened, part);
    let all = values(&a, name);
    let mean = all.iter().sum::<f32>() / all.len() as f32;
    let spread = (all.iter().map(|v| v * v).sum::<f32>() / all.len() as f32).sqrt();
    assert!(mean.abs() < 0.002 && (spread * (cols as f32).sqrt() - 1.0).abs() < 0.02);
}
