//! Writing a model in any published format, a few rows at a time.

mod config_out;
mod encode;
mod plan;
mod target;

use std::fs::File;
use std::io::Write;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

pub use config_out::config_json;
pub use target::Target;

use encode::encode;
use plan::{Item, Plan, plan};

use super::LmTensors;
use crate::checkpoint::RawRows;
use crate::cpu::for_each_chunk;
use crate::error::{Error, Result};

/// Values that a thread converts at a time.
const TASK_VALUES: usize = 1 << 18;

/// Writes `source` to `out` in another format, in bounded memory; gives the file's length.
///
/// The file appears under its name when it is complete; after an error or an interruption nothing
/// is left. `progress` is called with (bytes done, bytes in all).
///
/// # Errors
/// Those of reading `source`; [`Error::OptionValue`] if the format cannot hold the model;
/// [`Error::Write`]; [`Error::Interrupted`].
pub fn convert(
    source: &dyn LmTensors,
    target: Target,
    out: &Path,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<u64> {
    let plan = plan(source.config(), target)?;
    let failed = |source| Error::Write {
        path: out.to_owned(),
        source,
    };
    let temporary = Temporary::next_to(out);
    let mut file = File::create(&temporary.0).map_err(failed)?;
    let header = match target.gguf() {
        true => gguf_header(&plan),
        false => safetensors_header(&plan, target),
    };
    file.write_all(&header).map_err(failed)?;
    let length = header.len() as u64 + plan.data_bytes;
    file.set_len(length).map_err(failed)?;
    let writer = Writer {
        file: &file,
        path: out,
        start: header.len() as u64,
        done: AtomicU64::new(0),
    };
    for item in &plan.items {
        writer.item(source, item)?;
        let done = writer.done.load(Ordering::Relaxed);
        if progress(done.min(plan.data_bytes), plan.data_bytes).is_break() {
            return Err(Error::Interrupted);
        }
    }
    // Padding between tensors is nobody's.
    if progress(plan.data_bytes, plan.data_bytes).is_break() {
        return Err(Error::Interrupted);
    }
    file.sync_all().map_err(failed)?;
    drop(file);
    std::fs::rename(&temporary.0, out).map_err(failed)?;
    Ok(length)
}

/// A file that vanishes unless it has been renamed.
struct Temporary(PathBuf);

impl Temporary {
    fn next_to(out: &Path) -> Self {
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        Self(out.with_file_name(format!(".{name}.{}.part", std::process::id())))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

struct Writer<'a> {
    file: &'a File,
    path: &'a Path,
    /// Where the data section begins.
    start: u64,
    done: AtomicU64,
}

impl Writer<'_> {
    /// Writes one tensor of the model to all its places, on all threads.
    fn item(&self, source: &dyn LmTensors, item: &Item) -> Result<()> {
        let step = (TASK_VALUES / item.cols.max(1)).max(1);
        let mut pieces: Vec<Range<usize>> = (0..item.rows)
            .step_by(step)
            .map(|first| first..(first + step).min(item.rows))
            .collect();
        let info = source.info(&item.source)?;
        let same = info.encoding == item.form.encoding() && !info.merged;
        let each = item.form.row_bytes(item.cols);
        for_each_chunk(&mut pieces, 1, |_, piece| {
            let rows = piece[0].clone();
            let parts = if same {
                let mut raw = RawRows::default();
                source.read_raw(&item.source, rows.clone(), &mut raw)?;
                [raw.data, raw.scales, raw.biases]
            } else {
                let mut values = vec![0f32; rows.len() * item.cols];
                source.read_f32(&item.source, rows.clone(), &mut values)?;
                encode(item.form, item.cols, &values).parts
            };
            for place in &item.places {
                for (part, bytes) in parts.iter().enumerate() {
                    let at = self.start + place[part] + (rows.start * each[part]) as u64;
                    self.write_at(bytes, at)?;
                }
            }
            Ok(())
        })
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        #[cfg(unix)]
        let written = std::os::unix::fs::FileExt::write_all_at(self.file, bytes, at);
        #[cfg(not(unix))]
        let written = {
            use std::io::{Seek, SeekFrom};
            static CURSOR: std::sync::Mutex<()> = std::sync::Mutex::new(());
            let _guard = CURSOR.lock();
            let mut file = self.file;
            file.seek(SeekFrom::Start(at))
                .and_then(|_| file.write_all(bytes))
        };
        written.map_err(|source| Error::Write {
            path: self.path.to_owned(),
            source,
        })?;
        self.done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

fn safetensors_header(plan: &Plan, target: Target) -> Vec<u8> {
    let mut map = serde_json::Map::new();
    if !target.mlx() {
        map.insert("__metadata__".into(), serde_json::json!({"format": "pt"}));
    }
    for tensor in &plan.stored {
        let entry = serde_json::json!({
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [tensor.begin, tensor.begin + tensor.bytes],
        });
        map.insert(tensor.name.clone(), entry);
    }
    let mut text = serde_json::Value::Object(map).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend(text);
    header
}

/// Version 2, no metadata, dimensions innermost first, data aligned to 32 bytes.
fn gguf_header(plan: &Plan) -> Vec<u8> {
    let mut header = b"GGUF".to_vec();
    header.extend(2u32.to_le_bytes());
    header.extend((plan.stored.len() as u64).to_le_bytes());
    header.extend(0u64.to_le_bytes());
    for tensor in &plan.stored {
        header.extend((tensor.name.len() as u64).to_le_bytes());
        header.extend(tensor.name.as_bytes());
        header.extend((tensor.shape.len() as u32).to_le_bytes());
        for dim in tensor.shape.iter().rev() {
            header.extend((*dim as u64).to_le_bytes());
        }
        let kind: u32 = match tensor.dtype {
            "Q8_0" => 8,
            "Q4_0" => 2,
            "BF16" => 30,
            _ => 0,
        };
        header.extend(kind.to_le_bytes());
        header.extend(tensor.begin.to_le_bytes());
    }
    header.resize(header.len().next_multiple_of(32), 0);
    header
}
