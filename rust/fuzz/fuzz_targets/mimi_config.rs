//! Any text as a configuration: an error, or widths that the rest of the crate can rely on.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use kaiwa_core::Error;
use kaiwa_core::checkpoint::SafeTensorsFile;
use kaiwa_core::codec::{MimiConfig, MimiTensors};
use libfuzzer_sys::fuzz_target;

/// A file without tensors.
static EMPTY: LazyLock<Vec<u8>> = LazyLock::new(|| b"\x02\0\0\0\0\0\0\0{}".to_vec());

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(config) = MimiConfig::from_json(text) else {
        return;
    };
    assert_eq!(config.hop() * config.steps_per_frame(), config.frame_size());
    assert!(
        config.transformer.head_dim() * config.transformer.num_heads == config.transformer.d_model
    );
    // The list of tensors must be computable; an empty file lacks all of them.
    let file = SafeTensorsFile::from_bytes(Path::new("fuzz"), EMPTY.clone()).expect("a valid file");
    assert!(matches!(
        MimiTensors::from_file(file, &config),
        Err(Error::TensorNames { .. })
    ));
});
