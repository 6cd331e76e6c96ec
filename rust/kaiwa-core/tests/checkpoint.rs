//! Broken, hostile and mistaken files: each is refused with its own error and a remedy.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;

use kaiwa_core::checkpoint::SafeTensorsFile;
use kaiwa_core::codec::{MimiConfig, MimiTensors};
use kaiwa_core::{Error, ErrorKind};
use support::{Part, file_bytes, golden, golden_config, golden_parts, raw_file};

/// Opens a file and reads everything, as loading a codec would.
fn load(bytes: Vec<u8>, config: &MimiConfig) -> Result<(), Error> {
    let file = SafeTensorsFile::from_bytes(Path::new("case.safetensors"), bytes)?;
    let wanted: Vec<_> = golden_parts()
        .into_iter()
        .map(|p| (p.name, p.shape))
        .collect();
    let mut tensors = MimiTensors::from_file(file, config)?;
    for (name, shape) in wanted {
        if !name.ends_with("_initialized") {
            tensors.take(&name, &shape)?;
        }
    }
    tensors.finish()
}

/// Loading must fail with this variant and a message holding all of `says`.
fn refused(case: &str, bytes: Vec<u8>, variant: &str, says: &[&str]) {
    refused_with(case, bytes, &golden_config(), variant, says);
}

fn refused_with(case: &str, bytes: Vec<u8>, config: &MimiConfig, variant: &str, says: &[&str]) {
    let error = load(bytes, config).expect_err(case);
    let debug = format!("{error:?}");
    assert!(debug.starts_with(variant), "{case}: got {debug}");
    assert_eq!(error.kind(), ErrorKind::Checkpoint, "{case}");
    let text = error.to_string();
    assert!(
        text.starts_with("case.safetensors") || text.contains("case.safetensors"),
        "{text}"
    );
    for part in says {
        assert!(
            text.contains(part),
            "{case}: {text:?} does not say {part:?}"
        );
    }
}

/// A header with entries of the form (name, dtype, shape, begin, end).
fn header(entries: &[(&str, &str, &str, u64, u64)]) -> String {
    let entries: Vec<_> = entries
        .iter()
        .map(|(n, d, s, b, e)| {
            format!(r#""{n}":{{"dtype":"{d}","shape":{s},"data_offsets":[{b},{e}]}}"#)
        })
        .collect();
    format!("{{{}}}", entries.join(","))
}

#[test]
fn files_of_another_kind() {
    let html = b"\n<!DOCTYPE html><html><body>Sign in</body></html>".to_vec();
    let cases: [(&str, Vec<u8>, &[&str]); 11] = [
        ("empty", Vec::new(), &["an empty file", "download it again"]),
        (
            "pointer",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:09b7\nsize 38\n".to_vec(),
            &["git-lfs pointer", "git lfs pull"],
        ),
        ("page", html, &["a web page", "download the file itself"]),
        (
            "answer",
            br#"{"error":"Repository not found"}"#.to_vec(),
            &["JSON text", "download"],
        ),
        (
            "config",
            br#"{"sample_rate": 24000, "channels": 1}"#.to_vec(),
            &["JSON text"],
        ),
        (
            "zip",
            b"PK\x03\x04\0\0\x08\x08\0\0\0\0\0\0archive/data.pkl".to_vec(),
            &["PyTorch", "can run code", "safetensors.torch.save_file"],
        ),
        (
            "pickle",
            b"\x80\x02}q\x00(X\x05\x00\x00\x00".to_vec(),
            &["pickle", "can run code"],
        ),
        (
            "gguf",
            b"GGUF\x02\0\0\0\x63\x01\0\0\0\0\0\0".to_vec(),
            &["GGUF", "safetensors"],
        ),
        ("wav", b"RIFF\x24\0\0\0WAVEfmt ".to_vec(), &["WAV"]),
        (
            "numpy",
            b"\x93NUMPY\x01\0v\0{'descr'".to_vec(),
            &["numpy", "download"],
        ),
        (
            "gzip",
            b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec(),
            &["gzip", "unpack"],
        ),
    ];
    for (case, bytes, says) in cases {
        refused(case, bytes, "NotSafetensors", says);
    }
}

#[test]
fn broken_header_lengths() {
    let short = vec![5, 0, 0];
    refused(
        "short",
        short,
        "Header",
        &["3 bytes, too few", "download it again"],
    );
    let length = |n: u64| [n.to_le_bytes().as_slice(), b"{}      "].concat();
    refused("zero", length(0), "Header", &["0 bytes, too few"]);
    refused("huge", length(u64::MAX), "Header", &["more than the limit"]);
    refused(
        "limit",
        length(100 * 1024 * 1024 + 1),
        "Header",
        &["more than the limit"],
    );
    refused(
        "past the end",
        length(9),
        "FileLength",
        &["promises 17 bytes", "has 16"],
    );
    let no_brace = raw_file(r#"["not an object"]"#, b"");
    refused("no brace", no_brace, "Header", &["does not begin with `{`"]);
}

#[test]
fn broken_header_text() {
    let entry = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let cases: [(&str, String, &str); 19] = [
        ("cut", r#"{"a":{"dtype""#.into(), "EOF while parsing"),
        ("trailing", format!("{{{entry}}} x"), "trailing characters"),
        ("not utf-8 safe", "{\"\\ud800\":0}".into(), "hex escape"),
        (
            "twice",
            format!("{{{entry},{entry}}}"),
            "the name a appears twice",
        ),
        (
            "metadata twice",
            r#"{"__metadata__":{},"__metadata__":{}}"#.into(),
            "appears twice",
        ),
        (
            "metadata key twice",
            r#"{"__metadata__":{"x":"1","x":"2"}}"#.into(),
            "metadata key x appears twice",
        ),
        (
            "metadata number",
            r#"{"__metadata__":{"format":1}}"#.into(),
            "expected a string",
        ),
        (
            "metadata list",
            r#"{"__metadata__":["pt"]}"#.into(),
            "object of strings",
        ),
        (
            "field missing",
            r#"{"a":{"dtype":"F32","shape":[1]}}"#.into(),
            "data_offsets",
        ),
        (
            "field unknown",
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"strides":[1]}}"#.into(),
            "strides",
        ),
        ("negative", header(&[("a", "F32", "[-1]", 0, 4)]), "-1"),
        ("fraction", header(&[("a", "F32", "[1.5]", 0, 4)]), "1.5"),
        (
            "backwards",
            header(&[("a", "F32", "[1]", 4, 0)]),
            "before its start",
        ),
        (
            "hole at start",
            header(&[("a", "F32", "[1]", 4, 8)]),
            "leaves a hole",
        ),
        (
            "hole",
            header(&[("a", "F32", "[1]", 0, 4), ("b", "F32", "[1]", 8, 12)]),
            "tensor b starts at byte 8 and leaves a hole",
        ),
        (
            "overlap",
            header(&[("b", "F32", "[2]", 0, 8), ("a", "F32", "[2]", 4, 12)]),
            "tensor a starts at byte 4 and overlaps",
        ),
        (
            "same bytes",
            header(&[("a", "U8", "[4]", 0, 4), ("b", "U8", "[4]", 0, 4)]),
            "overlaps",
        ),
        (
            "length",
            header(&[("a", "BF16", "[4]", 0, 4)]),
            "needs 8 bytes",
        ),
        (
            "overflow",
            header(&[("a", "F32", "[4294967296,4294967296,4]", 0, 4)]),
            "too large for any file",
        ),
    ];
    for (case, text, says) in cases {
        refused(
            case,
            raw_file(&text, &[0; 12]),
            "Header",
            &[says, "download it again"],
        );
    }
    let odd = header(&[("a", "F4", "[3]", 0, 2)]);
    refused(
        "half a byte",
        raw_file(&odd, &[0; 2]),
        "Header",
        &["needs 2 bytes"],
    );
    let bits = header(&[("a", "F64", "[2305843009213693952]", 0, 2)]);
    refused(
        "bits overflow",
        raw_file(&bits, &[0; 2]),
        "Header",
        &["too large"],
    );
}

#[test]
fn truncated_and_padded_files() {
    let whole = file_bytes(&golden_parts());
    let cut = |n: usize| whole[..n].to_vec();
    let promise = format!("promises {} bytes", whole.len());
    for n in [whole.len() - 1, whole.len() / 2, whole.len() - 700_000] {
        let found = format!("the file has {n}");
        let says = [promise.as_str(), &found, "download it again"];
        refused("cut in the data", cut(n), "FileLength", &says);
    }
    refused(
        "cut in the header",
        cut(5000),
        "FileLength",
        &["truncated", "download it again"],
    );
    let padded = [&whole[..], b"\0"].concat();
    refused("padded", padded, "FileLength", &[&promise]);
}

#[test]
fn sane_oddities_are_accepted() {
    // A header of 0x7b bytes starts with `{` itself; unaligned; padded with spaces; scalars,
    // empty tensors and unknown types are there but not read.
    let text = r#"{"__metadata__":{"format":"pt"},"s":{"dtype":"F32","shape":[],"data_offsets":[1,5]},"e":{"dtype":"F32","shape":[0,7],"data_offsets":[5,5]},"u":{"dtype":"Q9","shape":[3],"data_offsets":[0,1]}}"#;
    let padded = format!("{text}{}", " ".repeat(0x17b - text.len()));
    let bytes = raw_file(&padded, &[9, 0, 0, 128, 63]);
    assert_eq!(bytes[0], b'{');
    let file = SafeTensorsFile::from_bytes(Path::new("odd"), bytes).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["u", "s", "e"]);
    assert_eq!(file.read_f32("s").unwrap(), [1.0]);
    assert!(file.read_f32("e").unwrap().is_empty());
    assert_eq!(file.read_bytes("u").unwrap(), [9]);
    assert_eq!(file.metadata()["format"], "pt");
    assert!(matches!(file.read_f32("u"), Err(Error::TensorDtype { dtype, .. }) if dtype == "Q9"));
    assert!(matches!(file.read_f32("x"), Err(Error::TensorNames { .. })));
    let none = SafeTensorsFile::from_bytes(Path::new("none"), raw_file("{}", b"")).unwrap();
    assert_eq!(none.tensors().len(), 0);
}

#[test]
fn wrong_tensors() {
    let config = golden_config();
    let change = |change: &dyn Fn(&mut Vec<Part>)| {
        let mut parts = golden_parts();
        change(&mut parts);
        file_bytes(&parts)
    };
    refused(
        "missing",
        change(&|p| p.retain(|p| p.name != "encoder.model.3.conv.conv.bias")),
        "TensorNames",
        &[
            "missing 1 (encoder.model.3.conv.conv.bias)",
            "unexpected none",
            "download",
        ],
    );
    refused(
        "surplus",
        change(&|p| p.push(Part::f32("quantizer.extra", &[1], &[0.0]))),
        "TensorNames",
        &["missing none", "unexpected 1 (quantizer.extra)"],
    );
    let both = change(&|p| {
        let old = p
            .iter()
            .find(|p| p.name.ends_with("layers.0.self_attn.in_proj_weight"));
        let mut copy = old.unwrap().clone();
        copy.name = copy.name.replace("in_proj_weight", "in_projs.0.weight");
        p.push(copy);
    });
    refused(
        "two spellings of one",
        both,
        "TensorNames",
        &["unexpected 1 (", "in_projs.0.weight"],
    );
    let shape = change(&|p| {
        let part = p
            .iter_mut()
            .find(|p| p.name == "encoder.model.0.conv.conv.weight")
            .unwrap();
        part.shape = vec![1, 4, 7];
    });
    refused(
        "shape",
        shape,
        "TensorShape",
        &[
            "encoder.model.0.conv.conv.weight",
            "[1, 4, 7]",
            "[4, 1, 7]",
            "config.json",
        ],
    );
    for (dtype, size, says) in [
        ("F64", 8, "convert"),
        ("I8", 1, "quantised"),
        ("U32", 4, "float"),
    ] {
        let typed = change(&|p| {
            let part = &mut p[0];
            part.dtype = dtype.into();
            part.bytes = vec![0; size * part.shape.iter().product::<usize>()];
        });
        refused(
            dtype,
            typed,
            "TensorDtype",
            &[dtype, "F32, F16 or BF16", says],
        );
    }
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let poisoned = change(&|p| p[7].bytes[8..12].copy_from_slice(&value.to_le_bytes()));
        refused(
            "poison",
            poisoned,
            "TensorNotFinite",
            &["element 2", "download it again"],
        );
    }
    let zero_direction = change(&|p| {
        let part = p
            .iter_mut()
            .find(|p| p.name == "encoder.model.0.conv.conv.weight")
            .unwrap();
        let (name, shape) = (part.name.clone(), part.shape.clone());
        *part = Part::f32(&name.replace("weight", "weight_v"), &shape, &[0.0; 28]);
        p.push(Part::f32(
            &name.replace("weight", "weight_g"),
            &[4, 1, 1],
            &[1.0; 4],
        ));
    });
    refused(
        "zero direction",
        zero_direction,
        "TensorNotFinite",
        &["weight_v"],
    );
    assert!(load(file_bytes(&golden_parts()), &config).is_ok());
}

#[test]
fn wrong_models_and_configurations() {
    let released = MimiConfig::default();
    let golden = file_bytes(&golden_parts());
    let says = [
        "the configuration says 32 codebooks, the file has 12",
        "config.json",
    ];
    refused_with(
        "default config",
        golden.clone(),
        &released,
        "TensorNames",
        &says,
    );
    let mut config = golden_config();
    config.transformer.num_layers = 3;
    let says = [
        "says 3 transformer layers, the file has 2",
        "missing 20 (",
        ", ...)",
    ];
    refused_with("layers", golden.clone(), &config, "TensorNames", &says);
    let mut config = golden_config();
    config.quantizer.bins = 32;
    refused_with(
        "bins",
        golden.clone(),
        &config,
        "TensorShape",
        &["[64]", "[32]", "config.json"],
    );
    let mut config = golden_config();
    config.transformer.layer_scale = false;
    refused_with(
        "scale",
        golden,
        &config,
        "TensorNames",
        &["unexpected 8 (", "config.json"],
    );

    let one = |name: &str| file_bytes(&[Part::f32(name, &[1], &[0.0])]);
    for (name, says) in [
        ("text_emb.weight", "a Moshi language model file"),
        ("depformer_in.0.weight", "a Moshi language model file"),
        ("depth_decoder.x", "in the layout of transformers"),
        ("transformer.layers.0.lora_A.weight", "a LoRA adapter"),
        ("speaker_wavs", "a voice file"),
        ("mimi.quantizer.x", "begins with \"mimi.\""),
        ("conv1.weight", "does not look like a Mimi codec"),
    ] {
        refused(name, one(name), "TensorNames", &[says]);
    }
}

#[test]
fn taking_what_is_not_there() {
    let open = || MimiTensors::open(&golden("mimi.safetensors"), &golden_config()).unwrap();
    let error = open()
        .take("encoder.model.99.conv.conv.weight", &[1])
        .unwrap_err();
    assert!(matches!(error, Error::TensorNames { .. }), "{error}");
    let error = open()
        .take("encoder.model.0.conv.conv.weight", &[7])
        .unwrap_err();
    assert!(matches!(error, Error::TensorShape { .. }), "{error}");
    // Nothing was taken, so everything is surplus.
    let error = open().finish().unwrap_err();
    assert!(matches!(error, Error::TensorNames { .. }), "{error}");
}

#[test]
fn paths_that_are_no_files() {
    let error = SafeTensorsFile::open(Path::new("no/such/file.safetensors"))
        .err()
        .unwrap();
    assert!(matches!(error, Error::FileNotFound { .. }), "{error}");
    assert!(error.to_string().contains("check the path"));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let error = SafeTensorsFile::open(folder).err().unwrap();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert!(error.to_string().contains("a directory"), "{error}");
    #[cfg(unix)]
    {
        let error = SafeTensorsFile::open(Path::new("/dev/zero")).err().unwrap();
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }
}

#[test]
fn a_file_cut_short_while_open() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cut.safetensors");
    std::fs::write(&path, file_bytes(&golden_parts())).unwrap();
    let file = SafeTensorsFile::open(&path).unwrap();
    let last = file.names().last().unwrap().to_owned();
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(100_000)
        .unwrap();
    let error = file.read_f32(&last).unwrap_err();
    assert!(
        matches!(error, Error::FileLength { found: 100_000, .. }),
        "{error:?}"
    );
    std::fs::remove_file(&path).unwrap();
}

/// Seeded damage to the header and everywhere else: an error or a success, never a panic, and
/// never more memory than the file is long.
#[test]
fn mutations_never_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    // One codebook's worth of tensors keeps a round short; the header is what matters.
    let parts: Vec<_> = golden_parts().into_iter().take(40).collect();
    let whole = file_bytes(&parts);
    let header_end = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let (mut opened, mut refused) = (0, 0);
    for round in 0..4000 {
        let mut bytes = whole.clone();
        let area = if round % 4 == 3 {
            bytes.len()
        } else {
            header_end
        };
        for _ in 0..=random(6) {
            let at = random(area.min(bytes.len()));
            match random(5) {
                0 => bytes[at] ^= 1 << random(8),
                1 => bytes[at] = random(256) as u8,
                2 => bytes[at] = b"0123456789{}[],:\"-e."[random(20)],
                3 => drop(bytes.drain(at..(at + 1 + random(9)).min(bytes.len()))),
                _ => {
                    let from = random(bytes.len() - 16);
                    let piece = bytes[from..from + 1 + random(15)].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
            // Most damage should get past the length check, into the header's own text.
            if round % 2 == 0 && bytes.len() > 16 {
                let shift = bytes.len() as i64 - whole.len() as i64;
                let length = (header_end as i64 - 8 + shift) as u64;
                bytes[..8].copy_from_slice(&length.to_le_bytes());
            }
        }
        match SafeTensorsFile::from_bytes(Path::new("mutant"), bytes) {
            Err(error) => {
                refused += 1;
                assert_eq!(error.kind(), ErrorKind::Checkpoint);
            }
            Ok(file) => {
                opened += 1;
                let names: Vec<_> = file.names().map(str::to_owned).collect();
                for name in &names {
                    let _ = file.read_f32(name);
                    file.read_bytes(name).unwrap();
                }
                let _ = file.summary();
                let _ = MimiTensors::from_file(file, &golden_config()).is_ok();
            }
        }
    }
    assert!(
        opened > 100 && refused > 1000,
        "{opened} opened, {refused} refused"
    );
}
