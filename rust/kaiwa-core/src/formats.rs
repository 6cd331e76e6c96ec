//! How weights, and keys and values, are held in memory.

use crate::error::{Error, Result};

/// How matrices are held, or wanted. Where one is optional, `None` keeps the file's own form,
/// quantised forms included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightFormat {
    /// Exact; quantised files are dequantised.
    F32,
    /// Half the memory; quantised files are dequantised, and arithmetic stays f32.
    Bf16,
    /// 8-bit integers, 32 to a scale (8.5 bits a weight); files that are as coarse stay as they
    /// are.
    Int8,
    /// 4-bit integers, 32 to a scale (4.5 bits a weight); files of four bits stay as they are.
    Int4,
}

/// How keys and values are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvFormat {
    /// Exact.
    F32,
    /// Half of that.
    Bf16,
    /// A quarter, with a scale per position and head.
    Int8,
}

impl WeightFormat {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::F32, Self::Bf16, Self::Int8, Self::Int4];

    /// Its name in options.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// The format that two options ask for: `dtype` names one of floats, `quantize` one of
    /// integers.
    ///
    /// # Errors
    /// [`Error::OptionValue`] for another name, or if both are given.
    pub fn of_options(dtype: Option<&str>, quantize: Option<&str>) -> Result<Option<Self>> {
        let dtype = dtype.map(|name| find("dtype", &Self::ALL[..2], Self::name, name));
        let quantize = quantize.map(|name| find("quantize", &Self::ALL[2..], Self::name, name));
        match (dtype.transpose()?, quantize.transpose()?) {
            (Some(dtype), Some(quantize)) => Err(Error::OptionValue {
                name: "dtype",
                got: format!(
                    "{:?} together with quantize={:?}",
                    dtype.name(),
                    quantize.name()
                ),
                allowed: "one of the two: dtype is for matrices that are not quantised".into(),
            }),
            (dtype, quantize) => Ok(dtype.or(quantize)),
        }
    }
}

impl KvFormat {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Int8];

    /// Its name in options.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::Int8 => "int8",
        }
    }

    /// The format of a name.
    ///
    /// # Errors
    /// [`Error::OptionValue`] with the names there are.
    pub fn parse(name: &str) -> Result<Self> {
        find("kv_dtype", &Self::ALL, Self::name, name)
    }

    /// Bytes of a number, without scales.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
            Self::Int8 => 1,
        }
    }
}

/// The one of `all` that has this name.
fn find<T: Copy>(
    option: &'static str,
    all: &[T],
    name_of: impl Fn(T) -> &'static str,
    name: &str,
) -> Result<T> {
    let found = all.iter().copied().find(|one| name_of(*one) == name);
    found.ok_or_else(|| {
        let names: Vec<String> = all
            .iter()
            .map(|one| format!("{:?}", name_of(*one)))
            .collect();
        Error::OptionValue {
            name: option,
            got: format!("{name:?}"),
            allowed: names.join(" or "),
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for (name, dtype, quantize) in [
            ("float32", Some("float32"), None),
            ("bfloat16", Some("bfloat16"), None),
            ("int8", None, Some("int8")),
            ("int4", None, Some("int4")),
        ] {
            let format = WeightFormat::of_options(dtype, quantize).unwrap().unwrap();
            assert_eq!(format.name(), name);
        }
        assert_eq!(WeightFormat::of_options(None, None).unwrap(), None);
        for format in KvFormat::ALL {
            assert_eq!(KvFormat::parse(format.name()).unwrap(), format);
        }
    }

    #[test]
    fn errors_name_the_option_and_what_it_takes() {
        for (dtype, quantize, words) in [
            (Some("int8"), None, "\"float32\" or \"bfloat16\""),
            (None, Some("float32"), "\"int8\" or \"int4\""),
            (Some("float32"), Some("int8"), "one of the two"),
        ] {
            let error = WeightFormat::of_options(dtype, quantize).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
        let error = KvFormat::parse("int4").unwrap_err().to_string();
        assert!(
            error.contains("kv_dtype") && error.contains("\"int8\""),
            "{error}"
        );
    }
}
