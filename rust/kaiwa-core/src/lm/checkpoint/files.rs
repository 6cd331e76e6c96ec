//! The files of a model, safetensors or GGUF, read through one interface.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;

use crate::checkpoint::Encoding;
use crate::checkpoint::{GgufFile, SafeTensorsFile};
use crate::error::{Error, Result};

/// One file.
pub(super) enum Backing {
    Safe(SafeTensorsFile),
    Gguf(GgufFile),
}

/// What a file says of a tensor.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Index of its file.
    pub file: usize,
    /// Shape as stored; of MLX's integers in words.
    pub shape: Vec<usize>,
    /// Type as spelt in the file.
    pub dtype: String,
}

/// All files of a model.
pub(super) struct Files {
    files: Vec<Backing>,
    pub entries: BTreeMap<String, Entry>,
    /// What stands before the names of each file's tensors.
    prefixes: Vec<&'static str>,
}

impl Backing {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut magic = [0u8; 4];
        let start = std::fs::File::open(path).and_then(|mut f| f.read_exact(&mut magic));
        match start {
            Ok(()) if &magic == b"GGUF" => Ok(Self::Gguf(GgufFile::open(path)?)),
            _ => Ok(Self::Safe(SafeTensorsFile::open(path)?)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Safe(file) => file.path(),
            Self::Gguf(file) => file.path(),
        }
    }
}

impl Files {
    /// Opens every shard; names must differ.
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut all = Self::empty();
        for path in paths {
            all.add(Backing::open(path)?)?;
        }
        if all.files.is_empty() {
            return Err(Error::Empty {
                what: "files",
                at_least: "one weight file",
            });
        }
        Ok(all)
    }

    /// Adds a file; gives its index.
    pub(super) fn add(&mut self, backing: Backing) -> Result<usize> {
        let file = self.files.len();
        let mut named: Vec<(String, Entry)> = Vec::new();
        match &backing {
            Backing::Safe(safe) => named.extend(safe.tensors().iter().map(|t| {
                let entry = Entry {
                    file,
                    shape: t.shape.clone(),
                    dtype: t.dtype.0.clone(),
                };
                (t.name.clone(), entry)
            })),
            Backing::Gguf(gguf) => named.extend(gguf.tensors().iter().map(|t| {
                let entry = Entry {
                    file,
                    shape: t.shape.clone(),
                    dtype: format!("{:?}", t.dtype),
                };
                (t.name.clone(), entry)
            })),
        }
        for (name, entry) in named {
            if let Some(other) = self.entries.insert(name.clone(), entry) {
                return Err(Error::WrongFile {
                    path: backing.path().to_owned(),
                    found: format!("a file that also has the tensor {name}"),
                    wanted: "a part of a model with tensors of its own",
                    remedy: format!(
                        "leave out one of it and {}",
                        self.files[other.file].path().display()
                    ),
                });
            }
        }
        self.files.push(backing);
        Ok(file)
    }

    /// No files yet.
    pub(super) fn empty() -> Self {
        Self {
            files: Vec::new(),
            entries: BTreeMap::new(),
            prefixes: Vec::new(),
        }
    }

    /// Takes over the only file of `other`, its names with a prefix; gives its index.
    pub(super) fn take_over(&mut self, other: Self, prefix: &'static str) -> usize {
        let file = self.files.len();
        self.files.extend(other.files);
        self.prefixes.resize(file, "");
        self.prefixes.push(prefix);
        for (name, entry) in other.entries {
            let entry = Entry { file, ..entry };
            self.entries.insert(format!("{prefix}{name}"), entry);
        }
        file
    }

    /// Names of all tensors of a file, with its prefix.
    pub(super) fn names_of(&self, file: usize) -> Vec<String> {
        let of = self.entries.iter().filter(|(_, e)| e.file == file);
        of.map(|(name, _)| name.clone()).collect()
    }

    /// A tensor's name without the prefix of its file.
    fn own_name<'n>(&self, name: &'n str, file: usize) -> &'n str {
        let prefix = self.prefixes.get(file).copied().unwrap_or("");
        name.strip_prefix(prefix).unwrap_or(name)
    }

    pub(super) fn path(&self, file: usize) -> PathBuf {
        let file = self.files.get(file).or(self.files.first());
        file.map_or_else(PathBuf::new, |f| f.path().to_owned())
    }

    pub(super) fn is_gguf(&self) -> bool {
        matches!(self.files.first(), Some(Backing::Gguf(_)))
    }

    /// The encoding of a plain tensor's rows, `None` for types that are no weights.
    pub(super) fn encoding(&self, name: &str) -> Option<Encoding> {
        let entry = self.entries.get(name)?;
        match self.files.get(entry.file)? {
            Backing::Safe(_) => match entry.dtype.as_str() {
                "F32" => Some(Encoding::F32),
                "F16" => Some(Encoding::F16),
                "BF16" => Some(Encoding::Bf16),
                "I8" => Some(Encoding::Int8Rows),
                _ => None,
            },
            Backing::Gguf(gguf) => {
                Some(match gguf.tensor(self.own_name(name, entry.file))?.dtype {
                    GgmlDType::F32 => Encoding::F32,
                    GgmlDType::F16 => Encoding::F16,
                    GgmlDType::BF16 => Encoding::Bf16,
                    GgmlDType::Q8_0 => Encoding::Q8_0,
                    GgmlDType::Q4_0 => Encoding::Q4_0,
                    GgmlDType::Q4_1 => Encoding::Q4_1,
                    other => Encoding::Ggml(other),
                })
            }
        }
    }

    /// Bytes `from..from + len` of a tensor.
    pub(super) fn read(&self, name: &str, from: u64, len: usize, out: &mut Vec<u8>) -> Result<()> {
        out.resize(len, 0);
        let missing = || Error::TensorNames {
            path: self.path(0),
            missing: format!("1 ({name})"),
            unexpected: "none".into(),
            hint: "use a name that the file holds".into(),
        };
        let entry = self.entries.get(name).ok_or_else(missing)?;
        match self.files.get(entry.file).ok_or_else(missing)? {
            Backing::Safe(safe) => safe.read_range(self.own_name(name, entry.file), from, out),
            Backing::Gguf(gguf) => {
                let tensor = gguf
                    .tensor(self.own_name(name, entry.file))
                    .ok_or_else(missing)?;
                gguf.read_at(tensor.begin + from, out)
            }
        }
    }
}
