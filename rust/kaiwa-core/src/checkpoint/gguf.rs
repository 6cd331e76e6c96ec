//! Opening a GGUF file and reading its tensors' bytes (docs/spec/checkpoints.md 4).
//!
//! Versions 1 to 3, little-endian. Metadata is skipped, but for the alignment. Counts in a header
//! are promises that a hostile file can break: nothing is allocated by them, and the header is
//! read in pieces that grow only as far as the file goes.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;

use super::source::Source;
use crate::error::{Error, Result};

/// Longest accepted name or metadata text, in bytes.
const MAX_TEXT: u64 = 1 << 20;
/// Most axes of a tensor.
const MAX_AXES: u32 = 8;

/// One tensor of a file.
#[derive(Debug, Clone)]
pub struct GgufEntry {
    /// Name in the file.
    pub name: String,
    /// Element or block type.
    pub dtype: GgmlDType,
    /// Shape, outermost axis first.
    pub shape: Vec<usize>,
    /// First byte in the file.
    pub begin: u64,
    /// One past the last byte.
    pub end: u64,
}

/// An open GGUF file whose table of tensors has been checked.
///
/// Reading takes `&self` and no shared cursor; the file may be used from several threads.
pub struct GgufFile {
    path: PathBuf,
    source: Source,
    file_len: u64,
    tensors: Vec<GgufEntry>,
    index: HashMap<String, usize>,
}

impl GgufFile {
    /// Opens `path` and checks its header against its length; reads no tensor.
    ///
    /// # Errors
    /// [`Error::FileNotFound`], [`Error::Io`], [`Error::Gguf`] and [`Error::FileLength`].
    pub fn open(path: &Path) -> Result<Self> {
        let fail = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::NotFound => Error::FileNotFound {
                path: path.to_owned(),
            },
            _ => Error::Io {
                path: path.to_owned(),
                source,
            },
        };
        let file = File::open(path).map_err(fail)?;
        Self::from_source(path, Source::file(file))
    }

    /// The same over a whole file held in memory; `label` stands for its path in messages.
    pub fn from_bytes(label: &Path, bytes: Vec<u8>) -> Result<Self> {
        Self::from_source(label, Source::Memory(bytes))
    }

    fn from_source(path: &Path, source: Source) -> Result<Self> {
        let io = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        let file_len = source.len().map_err(io)?;
        let mut cursor = Cursor {
            path,
            source: &source,
            len: file_len,
            at: 0,
            buffer: Vec::new(),
            start: 0,
        };
        let tensors = read_header(&mut cursor)?;
        let mut index = HashMap::with_capacity(tensors.len());
        for (i, tensor) in tensors.iter().enumerate() {
            if index.insert(tensor.name.clone(), i).is_some() {
                return Err(cursor.error(format!("tensor {} is there twice", tensor.name)));
            }
        }
        let promised = tensors.iter().map(|t| t.end).max().unwrap_or(0);
        if promised > file_len {
            return Err(Error::FileLength {
                path: path.to_owned(),
                promised,
                found: file_len,
            });
        }
        Ok(Self {
            path: path.to_owned(),
            source,
            file_len,
            tensors,
            index,
        })
    }

    /// The path as given, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file in bytes.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// All tensors, in the order of the header.
    pub fn tensors(&self) -> &[GgufEntry] {
        &self.tensors
    }

    /// One tensor's type, shape and place, if the file has it.
    pub fn tensor(&self, name: &str) -> Option<&GgufEntry> {
        self.index.get(name).and_then(|i| self.tensors.get(*i))
    }

    /// Fills `out` with bytes of the file from `at` on.
    ///
    /// # Errors
    /// [`Error::FileLength`] if the file has become shorter, [`Error::Io`].
    pub(crate) fn read_at(&self, at: u64, out: &mut [u8]) -> Result<()> {
        let failed = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => Error::FileLength {
                path: self.path.clone(),
                promised: self.file_len,
                found: self.source.len().unwrap_or(0),
            },
            _ => Error::Io {
                path: self.path.clone(),
                source,
            },
        };
        self.source.read_exact_at(out, at).map_err(failed)
    }
}

/// Reads a header front to back.
struct Cursor<'a> {
    path: &'a Path,
    source: &'a Source,
    len: u64,
    at: u64,
    buffer: Vec<u8>,
    /// Place of the buffer in the file.
    start: u64,
}

impl Cursor<'_> {
    fn error(&self, reason: String) -> Error {
        Error::Gguf {
            path: self.path.to_owned(),
            reason,
        }
    }

    fn truncated(&self) -> Error {
        Error::FileLength {
            path: self.path.to_owned(),
            promised: self.at,
            found: self.len,
        }
    }

    /// Moves on without looking.
    fn skip(&mut self, bytes: u64) -> Result<()> {
        self.at = self.at.saturating_add(bytes);
        match self.at <= self.len {
            true => Ok(()),
            false => Err(self.truncated()),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let begin = self.at;
        self.skip(N as u64)?;
        let held = self.start..self.start + self.buffer.len() as u64;
        if !(held.contains(&begin) && self.at <= held.end) {
            let size = (self.len - begin).min(1 << 16) as usize;
            self.buffer.resize(size, 0);
            self.start = begin;
            let read = self.source.read_exact_at(&mut self.buffer, begin);
            read.map_err(|source| Error::Io {
                path: self.path.to_owned(),
                source,
            })?;
        }
        let from = (begin - self.start) as usize;
        let bytes = self.buffer.get(from..).and_then(|b| b.first_chunk::<N>());
        bytes.copied().ok_or_else(|| self.truncated())
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    /// A count or length: 32 bits in version 1.
    fn length(&mut self, version: u32) -> Result<u64> {
        match version {
            1 => Ok(self.u32()?.into()),
            _ => self.u64(),
        }
    }

    fn text(&mut self, version: u32) -> Result<String> {
        let length = self.length(version)?;
        if length > MAX_TEXT {
            return Err(self.error(format!("a name is {length} bytes long")));
        }
        let begin = self.at;
        self.skip(length)?;
        let mut bytes = vec![0; length as usize];
        let read = self.source.read_exact_at(&mut bytes, begin);
        read.map_err(|source| Error::Io {
            path: self.path.to_owned(),
            source,
        })?;
        String::from_utf8(bytes).map_err(|_| self.error("a name is not UTF-8".into()))
    }

    /// Skips a metadata value; gives it if it is a number.
    fn value(&mut self, version: u32, kind: u32, depth: usize) -> Result<Option<u64>> {
        Ok(match kind {
            0 | 1 | 7 => Some(u8::from_le_bytes(self.take()?).into()),
            2 | 3 => Some(u16::from_le_bytes(self.take()?).into()),
            4 | 5 => Some(self.u32()?.into()),
            6 => self.skip(4).map(|()| None)?,
            8 => {
                let length = self.length(version)?;
                self.skip(length).map(|()| None)?
            }
            9 if depth < 4 => {
                let (inner, count) = (self.u32()?, self.length(version)?);
                let fixed = match inner {
                    0 | 1 | 7 => Some(1),
                    2 | 3 => Some(2),
                    4..=6 => Some(4),
                    10..=12 => Some(8),
                    _ => None,
                };
                match fixed {
                    Some(size) => self.skip(count.saturating_mul(size))?,
                    // Each takes at least four bytes of the file, so a false count ends early.
                    None => {
                        for _ in 0..count {
                            self.value(version, inner, depth + 1)?;
                        }
                    }
                }
                None
            }
            10 | 11 => Some(self.u64()?),
            12 => self.skip(8).map(|()| None)?,
            _ => return Err(self.error(format!("a metadata value has the unknown type {kind}"))),
        })
    }
}

fn read_header(cursor: &mut Cursor<'_>) -> Result<Vec<GgufEntry>> {
    if &cursor.take::<4>()? != b"GGUF" {
        return Err(cursor.error("it does not begin with GGUF".into()));
    }
    let version = cursor.u32()?;
    if !(1..=3).contains(&version) {
        return Err(cursor.error(format!("its version is {version}, but 1 to 3 are known")));
    }
    let tensor_count = cursor.length(version)?;
    let value_count = cursor.length(version)?;
    let mut alignment = 32;
    for _ in 0..value_count {
        let key = cursor.text(version)?;
        let kind = cursor.u32()?;
        let value = cursor.value(version, kind, 0)?;
        if key == "general.alignment" {
            alignment = value.unwrap_or(0);
        }
    }
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        return Err(cursor.error(format!("its alignment is {alignment}")));
    }
    let mut tensors = Vec::new();
    for _ in 0..tensor_count {
        let name = cursor.text(version)?;
        let axes = cursor.u32()?;
        if axes > MAX_AXES {
            return Err(cursor.error(format!("tensor {name} has {axes} axes")));
        }
        let mut shape = Vec::with_capacity(axes as usize);
        for _ in 0..axes {
            shape.push(cursor.length(version)?);
        }
        shape.reverse();
        let kind = cursor.u32()?;
        let offset = cursor.u64()?;
        let dtype = dtype_of(kind).ok_or_else(|| {
            cursor.error(format!("tensor {name} has the unknown block type {kind}"))
        })?;
        let elements = shape.iter().try_fold(1u64, |n, dim| n.checked_mul(*dim));
        let block = dtype.block_size() as u64;
        let size = elements
            .filter(|n| n.is_multiple_of(block))
            .and_then(|n| (n / block).checked_mul(dtype.type_size() as u64));
        let bounds = size.and_then(|size| Some((offset, offset.checked_add(size)?)));
        let dims: Option<Vec<usize>> = shape.iter().map(|d| usize::try_from(*d).ok()).collect();
        let (Some((begin, end)), Some(shape)) = (bounds, dims) else {
            return Err(cursor.error(format!(
                "tensor {name} has shape {shape:?}, which whole blocks of {block} cannot fill"
            )));
        };
        tensors.push(GgufEntry {
            name,
            dtype,
            shape,
            begin,
            end,
        });
    }
    let data = cursor.at.next_multiple_of(alignment);
    for tensor in &mut tensors {
        if tensor.begin % alignment != 0 {
            let text = format!("tensor {} is not aligned to {alignment} bytes", tensor.name);
            return Err(cursor.error(text));
        }
        let placed = |at: u64| at.checked_add(data);
        let (Some(begin), Some(end)) = (placed(tensor.begin), placed(tensor.end)) else {
            return Err(cursor.error(format!("tensor {} lies beyond any file", tensor.name)));
        };
        (tensor.begin, tensor.end) = (begin, end);
    }
    let mut order: Vec<&GgufEntry> = tensors.iter().collect();
    order.sort_by_key(|t| (t.begin, t.end));
    if let Some(pair) = order.windows(2).find(|pair| pair[0].end > pair[1].begin) {
        let text = format!("tensors {} and {} overlap", pair[0].name, pair[1].name);
        return Err(cursor.error(text));
    }
    Ok(tensors)
}

/// The block type of a number in a file.
fn dtype_of(kind: u32) -> Option<GgmlDType> {
    Some(match kind {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        9 => GgmlDType::Q8_1,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        15 => GgmlDType::Q8K,
        30 => GgmlDType::BF16,
        _ => return None,
    })
}
