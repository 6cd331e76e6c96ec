//! Any bytes as a weight file: an error or tensors within the file, never a panic.
#![no_main]

use std::path::Path;

use kaiwa_core::checkpoint::SafeTensorsFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(file) = SafeTensorsFile::from_bytes(Path::new("fuzz"), data.to_vec()) else {
        return;
    };
    let mut read = 0;
    for tensor in file.tensors() {
        let bytes = file
            .read_bytes(&tensor.name)
            .expect("a checked header promises the bytes");
        read += bytes.len();
        if let Ok(values) = file.read_f32(&tensor.name) {
            assert_eq!(values.len(), tensor.shape.iter().product::<usize>());
            assert!(values.iter().all(|v| v.is_finite()));
        }
    }
    assert!(read < data.len(), "tensors overlap");
    assert_eq!(file.summary().tensor_bytes, read as u64);
});
