//! Opening a safetensors file and reading its tensors one by one.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use serde::Serialize;

use super::header::{Header, MAX_HEADER, TensorEntry};
use super::sniff::{SNIFF_LEN, looks_like};
use super::source::Source;
use crate::error::{Error, Result};

/// Bytes converted at a time, so that a tensor is never held twice. A multiple of every element
/// size.
const CHUNK: usize = 1 << 20;

/// An open safetensors file whose header has been checked (docs/spec/checkpoints.md 9 and 10).
///
/// Reading takes `&self` and no shared cursor; the file may be used from several threads.
pub struct SafeTensorsFile {
    path: PathBuf,
    source: Source,
    file_len: u64,
    /// First byte of the data section: 8 plus the header's length.
    data_start: u64,
    tensors: Vec<TensorEntry>,
    /// Name to index in `tensors`.
    index: HashMap<String, usize>,
    metadata: BTreeMap<String, String>,
}

impl SafeTensorsFile {
    /// Opens `path` and checks its header against its length; reads no tensor.
    ///
    /// # Errors
    /// [`Error::FileNotFound`], [`Error::Io`], [`Error::NotSafetensors`] for files of another
    /// kind, [`Error::Header`] and [`Error::FileLength`] for damaged ones.
    pub fn open(path: &Path) -> Result<Self> {
        let fail = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => Error::FileNotFound {
                path: path.to_owned(),
            },
            _ => Error::Io {
                path: path.to_owned(),
                source,
            },
        };
        // Looked at before opening: opening a named pipe would wait for a writer.
        let kind = fs::metadata(path).map_err(fail)?;
        if kind.is_dir() {
            return Err(fail(io::Error::new(
                io::ErrorKind::IsADirectory,
                "it is a directory; pass the .safetensors file inside",
            )));
        }
        if !kind.is_file() {
            let text = "it is not a regular file; pass a .safetensors file";
            return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, text)));
        }
        let file = File::open(path).map_err(fail)?;
        Self::from_source(path.to_owned(), Source::file(file))
    }

    /// The same over a whole file held in memory; `label` stands for its path in messages.
    pub fn from_bytes(label: &Path, bytes: Vec<u8>) -> Result<Self> {
        Self::from_source(label.to_owned(), Source::Memory(bytes))
    }

    fn from_source(path: PathBuf, source: Source) -> Result<Self> {
        let io_error = |source| Error::Io {
            path: path.clone(),
            source,
        };
        let file_len = source.len().map_err(io_error)?;
        let mut head = vec![0; SNIFF_LEN.min(usize::try_from(file_len).unwrap_or(SNIFF_LEN))];
        source.read_exact_at(&mut head, 0).map_err(io_error)?;
        let header_len = header_length(&path, &head, file_len)?;
        let header_size = usize::try_from(header_len).map_err(|_| Error::Header {
            path: path.clone(),
            reason: format!("it is {header_len} bytes long, more than this machine can address"),
        })?;
        let mut json = vec![0; header_size];
        source.read_exact_at(&mut json, 8).map_err(io_error)?;
        let header = Header::parse(&json).map_err(|reason| Error::Header {
            path: path.clone(),
            reason,
        })?;
        drop(json);
        let data_start = 8 + header_len;
        let promised = data_start.saturating_add(header.data_len);
        if promised != file_len {
            return Err(Error::FileLength {
                path,
                promised,
                found: file_len,
            });
        }
        let index = header
            .tensors
            .iter()
            .enumerate()
            .map(|(i, t)| (t.name.clone(), i))
            .collect();
        Ok(Self {
            path,
            source,
            file_len,
            data_start,
            tensors: header.tensors,
            index,
            metadata: header.metadata,
        })
    }

    /// The path as given, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors, in the order of their bytes.
    pub fn tensors(&self) -> &[TensorEntry] {
        &self.tensors
    }

    /// Names of all tensors, in the order of their bytes.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|t| t.name.as_str())
    }

    /// One tensor's type, shape and place, if the file has it.
    pub fn tensor(&self, name: &str) -> Option<&TensorEntry> {
        self.index.get(name).and_then(|i| self.tensors.get(*i))
    }

    /// The free-form `__metadata__` strings.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Reads an F32, F16 or BF16 tensor as f32, row-major; holds that one tensor and a chunk.
    ///
    /// # Errors
    /// [`Error::TensorNames`] if there is no such tensor, [`Error::TensorDtype`] for other types,
    /// [`Error::TensorNotFinite`] if a value is NaN or infinite.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let entry = self.entry(name)?;
        let convert: fn(&[u8], &mut Vec<f32>) = match entry.dtype.0.as_str() {
            "F32" => |bytes, out| {
                let words = bytes.as_chunks::<4>().0;
                out.extend(words.iter().map(|w| f32::from_le_bytes(*w)));
            },
            "F16" => |bytes, out| {
                let words = bytes.as_chunks::<2>().0;
                out.extend(words.iter().map(|w| f16::from_le_bytes(*w).to_f32()));
            },
            "BF16" => |bytes, out| {
                let words = bytes.as_chunks::<2>().0;
                out.extend(words.iter().map(|w| bf16::from_le_bytes(*w).to_f32()));
            },
            other => {
                return Err(Error::TensorDtype {
                    path: self.path.clone(),
                    name: name.to_owned(),
                    dtype: other.to_owned(),
                    remedy: dtype_remedy(other),
                });
            }
        };
        let elements = entry.shape.iter().product();
        let mut out = Vec::with_capacity(elements);
        let mut chunk = vec![0; self.size(entry)?.min(CHUNK)];
        let mut at = entry.begin;
        while at < entry.end {
            let len = chunk
                .len()
                .min(usize::try_from(entry.end - at).unwrap_or(CHUNK));
            let part = chunk.get_mut(..len).unwrap_or_default();
            self.read_at(part, at)?;
            convert(part, &mut out);
            at += len as u64;
        }
        match out.iter().position(|v| !v.is_finite()) {
            None => Ok(out),
            Some(index) => Err(Error::TensorNotFinite {
                path: self.path.clone(),
                name: name.to_owned(),
                index,
                value: out.get(index).copied().unwrap_or(f32::NAN),
            }),
        }
    }

    /// Reads a tensor's raw little-endian bytes, whatever its type.
    pub fn read_bytes(&self, name: &str) -> Result<Vec<u8>> {
        let entry = self.entry(name)?;
        let mut bytes = vec![0; self.size(entry)?];
        self.read_at(&mut bytes, entry.begin)?;
        Ok(bytes)
    }

    /// Fills `out` with a tensor's raw bytes from its byte `from` on.
    ///
    /// # Errors
    /// [`Error::Header`] if the tensor ends before, otherwise as for [`Self::read_bytes`].
    pub fn read_range(&self, name: &str, from: u64, out: &mut [u8]) -> Result<()> {
        let entry = self.entry(name)?;
        let begin = entry.begin.saturating_add(from);
        if begin.saturating_add(out.len() as u64) > entry.end {
            return Err(Error::Header {
                path: self.path.clone(),
                reason: format!("tensor {name} is shorter than its shape"),
            });
        }
        self.read_at(out, begin)
    }

    /// What the file holds, without reading a tensor.
    pub fn summary(&self) -> Summary {
        let tensors: Vec<_> = self
            .tensors
            .iter()
            .map(|t| TensorSummary {
                name: t.name.clone(),
                dtype: t.dtype.0.clone(),
                shape: t.shape.clone(),
                bytes: t.end - t.begin,
            })
            .collect();
        Summary {
            file_bytes: self.file_len,
            tensor_bytes: tensors.iter().map(|t| t.bytes).sum(),
            // Saturating, because the size of a tensor of unknown type is not bounded by the file.
            parameters: tensors
                .iter()
                .map(|t| {
                    t.shape
                        .iter()
                        .fold(1u64, |n, dim| n.saturating_mul(*dim as u64))
                })
                .fold(0, u64::saturating_add),
            metadata: self.metadata.clone(),
            tensors,
        }
    }

    fn entry(&self, name: &str) -> Result<&TensorEntry> {
        self.tensor(name).ok_or_else(|| Error::TensorNames {
            path: self.path.clone(),
            missing: format!("1 ({name})"),
            unexpected: "none".into(),
            hint: "use a name that the file holds".into(),
        })
    }

    /// Bytes of a tensor; fits in memory because the file's length was checked.
    fn size(&self, entry: &TensorEntry) -> Result<usize> {
        usize::try_from(entry.end - entry.begin).map_err(|_| Error::Header {
            path: self.path.clone(),
            reason: format!(
                "tensor {} is larger than this machine can address",
                entry.name
            ),
        })
    }

    /// Reads from the data section. A file cut short since it was opened is reported as such.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.source
            .read_exact_at(buf, self.data_start + offset)
            .map_err(|source| match source.kind() {
                io::ErrorKind::UnexpectedEof => Error::FileLength {
                    path: self.path.clone(),
                    promised: self.file_len,
                    found: self.source.len().unwrap_or(0),
                },
                _ => Error::Io {
                    path: self.path.clone(),
                    source,
                },
            })
    }
}

/// What a file holds, for printing or as JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Length of the file in bytes.
    pub file_bytes: u64,
    /// Bytes of all tensors together.
    pub tensor_bytes: u64,
    /// Elements of all tensors together.
    pub parameters: u64,
    /// The free-form strings of the header.
    pub metadata: BTreeMap<String, String>,
    /// Tensors in the order of their bytes.
    pub tensors: Vec<TensorSummary>,
}

impl Summary {
    /// The same as a JSON object with this type's field names.
    pub fn to_json(&self) -> String {
        // Strings, numbers and lists only: nothing that JSON cannot hold.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// One line of a [`Summary`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorSummary {
    /// Name in the file.
    pub name: String,
    /// Element type as spelt in the file.
    pub dtype: String,
    /// Shape, outermost axis first.
    pub shape: Vec<usize>,
    /// Size in bytes.
    pub bytes: u64,
}

/// The header's length if the file starts like safetensors, else the best explanation.
fn header_length(path: &Path, head: &[u8], file_len: u64) -> Result<u64> {
    let length = head
        .first_chunk::<8>()
        .map(|bytes| u64::from_le_bytes(*bytes));
    // A byte of `{` after a sane length settles it, before any guess about other formats: a
    // header may well be 0x7b bytes long and so itself begin with `{`.
    let sane = length.filter(|n| (2..=MAX_HEADER).contains(n) && head.get(8) == Some(&b'{'));
    if let Some(length) = sane {
        if length > file_len - 8 {
            let promised = 8 + length;
            return Err(Error::FileLength {
                path: path.to_owned(),
                promised,
                found: file_len,
            });
        }
        return Ok(length);
    }
    if let Some((looks_like, remedy)) = looks_like(head) {
        return Err(Error::NotSafetensors {
            path: path.to_owned(),
            looks_like,
            remedy,
        });
    }
    let reason = match length {
        None => format!("the file has {file_len} bytes, too few for a header"),
        Some(n) if n > MAX_HEADER => {
            format!("its length is given as {n} bytes, more than the limit of {MAX_HEADER}")
        }
        Some(n) if n < 2 => format!("its length is given as {n} bytes, too few for a header"),
        Some(_) => "it does not begin with `{`".into(),
    };
    Err(Error::Header {
        path: path.to_owned(),
        reason,
    })
}

fn dtype_remedy(dtype: &str) -> &'static str {
    match dtype {
        "I8" | "U8" | "U32" | "I32" | "F4" => {
            "it must be F32, F16 or BF16, and this looks like a quantised file: use the float \
             file of the same model"
        }
        "F64" => "it must be F32, F16 or BF16: convert the file to F32",
        _ => "it must be F32, F16 or BF16: use the float file of the same model",
    }
}
