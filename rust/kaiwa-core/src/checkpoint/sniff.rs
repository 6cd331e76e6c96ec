//! Recognises files that are often found where a safetensors file was expected.
//!
//! Only asked once a file has failed to look like safetensors, so a short match is enough; the
//! point is to tell the user what they have and what to do (docs/spec/checkpoints.md 9).

/// How many leading bytes [`looks_like`] wants to see.
pub(super) const SNIFF_LEN: usize = 512;

const DOWNLOAD: &str = "download the .safetensors file itself";

/// What the first bytes of a file resemble, and what to do about it; `None` if unknown.
pub(super) fn looks_like(head: &[u8]) -> Option<(&'static str, &'static str)> {
    if head.is_empty() {
        return Some(("an empty file", "download it again"));
    }
    let magic: [(&[u8], &str, &str); 11] = [
        (
            b"version https://git-lfs",
            "a git-lfs pointer (a few lines naming the real file)",
            "run `git lfs pull`, or download the file with `hf download`",
        ),
        (
            b"GGUF",
            "a GGUF file",
            "Mimi is published as safetensors: use tokenizer-e351c8d8-checkpoint125.safetensors",
        ),
        (
            b"PK",
            "a PyTorch checkpoint (zip with pickles), which can run code when opened",
            "use the .safetensors file, or convert this one with safetensors.torch.save_file",
        ),
        (
            b"\x80",
            "a Python pickle (old PyTorch checkpoint), which can run code when opened",
            "use the .safetensors file, or convert this one with safetensors.torch.save_file",
        ),
        (
            b"RIFF",
            "a WAV file",
            "pass the codec's .safetensors file as weights",
        ),
        (
            b"lmgg",
            "a GGML file, as whisper.cpp uses it",
            "use the .safetensors or .gguf file of a Moshi model",
        ),
        (
            b"tjgg",
            "an old GGML file",
            "use the .safetensors or .gguf file of a Moshi model",
        ),
        (b"\x93NUMPY", "a numpy array", DOWNLOAD),
        (b"\x89HDF", "an HDF5 file", "use the .safetensors file"),
        (
            b"\x1f\x8b",
            "a gzip archive",
            "unpack it and pass the .safetensors file inside",
        ),
        (
            b"\x28\xb5\x2f\xfd",
            "a zstd archive",
            "unpack it and pass the .safetensors file inside",
        ),
    ];
    for (start, what, remedy) in magic {
        if head.starts_with(start) {
            return Some((what, remedy));
        }
    }
    // Protobuf: the version of the format, then the name of the program that wrote it.
    if let [0x08, 1..=30, 0x12, ..] = head {
        return Some(("an ONNX model", "use the .safetensors file"));
    }
    let text = head
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(head)
        .trim_ascii_start();
    match text.first() {
        Some(b'<') => Some((
            "a web page",
            "the address answered with HTML (an error or a login page): download the file itself",
        )),
        Some(b'{' | b'[') => Some((
            "JSON text (a configuration, an index, or an error answered by a server)",
            DOWNLOAD,
        )),
        _ => None,
    }
}
