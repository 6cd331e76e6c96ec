//! The header of a safetensors file: JSON naming each tensor's type, shape and place.
//!
//! Everything a hostile header can lie about is checked here, before any tensor is read:
//! afterwards the tensors tile the data section exactly, without overlap or hole.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Longest accepted header in bytes, the limit of the reference implementation.
pub(super) const MAX_HEADER: u64 = 100 * 1024 * 1024;

/// Type of a tensor's elements as spelt in the file, e.g. `F32`.
///
/// Types that this crate does not know are carried along; only reading such a tensor fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dtype(pub String);

impl Dtype {
    /// Size of one element in bits, `None` for an unknown type.
    pub fn bits(&self) -> Option<u64> {
        Some(match self.0.as_str() {
            "F4" => 4,
            "F6_E2M3" | "F6_E3M2" => 6,
            "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" | "F8_E4M3FNUZ"
            | "F8_E5M2FNUZ" => 8,
            "U16" | "I16" | "F16" | "BF16" => 16,
            "U32" | "I32" | "F32" => 32,
            "U64" | "I64" | "F64" | "C64" => 64,
            _ => return None,
        })
    }
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape, outermost axis first; empty for a scalar.
    pub shape: Vec<usize>,
    /// First byte, counted from the start of the data section.
    pub begin: u64,
    /// One past the last byte.
    pub end: u64,
}

/// A checked header.
#[derive(Debug)]
pub(super) struct Header {
    /// Tensors in the order of their bytes.
    pub tensors: Vec<TensorEntry>,
    /// The free-form `__metadata__` strings.
    pub metadata: BTreeMap<String, String>,
    /// Length of the data section.
    pub data_len: u64,
}

impl Header {
    /// Parses and checks the JSON text of a header; the error is the rule that was broken.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        let raw: RawHeader = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        let mut tensors = Vec::with_capacity(raw.tensors.len());
        for (name, entry) in raw.tensors {
            tensors.push(check_entry(name, entry)?);
        }
        tensors.sort_by_key(|t| (t.begin, t.end));
        let mut data_len = 0;
        for tensor in &tensors {
            if tensor.begin != data_len {
                let fault = if tensor.begin < data_len {
                    "overlaps"
                } else {
                    "leaves a hole after"
                };
                return Err(format!(
                    "tensor {} starts at byte {} and {fault} the tensor ending at {data_len}",
                    tensor.name, tensor.begin
                ));
            }
            data_len = tensor.end;
        }
        Ok(Self {
            tensors,
            metadata: raw.metadata,
            data_len,
        })
    }
}

/// Checks what one entry says about itself.
fn check_entry(name: String, entry: RawEntry) -> Result<TensorEntry, String> {
    let RawEntry {
        dtype,
        shape,
        data_offsets: [begin, end],
    } = entry;
    if begin > end {
        return Err(format!(
            "tensor {name} ends at byte {end}, before its start at {begin}"
        ));
    }
    let mut elements = 1u64;
    let mut dims = Vec::with_capacity(shape.len());
    for dim in &shape {
        let size = usize::try_from(*dim).ok();
        let product = elements.checked_mul(*dim);
        let (Some(size), Some(product)) = (size, product) else {
            return Err(format!(
                "tensor {name} has shape {shape:?}, too large for any file"
            ));
        };
        dims.push(size);
        elements = product;
    }
    let dtype = Dtype(dtype);
    if let Some(bits) = dtype.bits() {
        let wanted = elements
            .checked_mul(bits)
            .ok_or_else(|| format!("tensor {name} has shape {shape:?}, too large for any file"))?;
        if wanted % 8 != 0 || wanted / 8 != end - begin {
            return Err(format!(
                "tensor {name} of type {} and shape {shape:?} needs {} bytes but its offsets \
                 {begin}..{end} give it {}",
                dtype.0,
                wanted.div_ceil(8),
                end - begin
            ));
        }
    }
    Ok(TensorEntry {
        name,
        dtype,
        shape: dims,
        begin,
        end,
    })
}

/// An entry as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// A header as written, in file order. Not a map: serde's maps let a duplicate key win silently.
struct RawHeader {
    tensors: Vec<(String, RawEntry)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut seen = HashSet::new();
        let mut raw = RawHeader {
            tensors: Vec::new(),
            metadata: BTreeMap::new(),
        };
        while let Some(key) = map.next_key::<String>()? {
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format!("the name {key} appears twice")));
            }
            if key == "__metadata__" {
                // MLX writes null where it has none.
                raw.metadata = map
                    .next_value::<Option<Strings>>()?
                    .map_or_else(BTreeMap::new, |strings| strings.0);
            } else {
                let entry = map.next_value()?;
                raw.tensors.push((key, entry));
            }
        }
        Ok(raw)
    }
}

/// String-to-string metadata without duplicates.
struct Strings(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StringsVisitor;
        impl<'de> Visitor<'de> for StringsVisitor {
            type Value = Strings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("__metadata__ to be an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strings, A::Error> {
                let mut out = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if out.insert(key.clone(), value).is_some() {
                        let text = format!("the metadata key {key} appears twice");
                        return Err(A::Error::custom(text));
                    }
                }
                Ok(Strings(out))
            }
        }
        deserializer.deserialize_map(StringsVisitor)
    }
}
