//! Any bytes as a GGUF file: an error, or a table whose tensors lie inside the file.
#![no_main]

use std::path::Path;

use kaiwa_core::checkpoint::GgufFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(file) = GgufFile::from_bytes(Path::new("fuzz"), data.to_vec()) else {
        return;
    };
    for tensor in file.tensors() {
        assert!(tensor.begin <= tensor.end && tensor.end <= file.file_len());
        assert!(file.tensor(&tensor.name).is_some());
    }
});
