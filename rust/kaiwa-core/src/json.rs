//! JSON configuration read into structs, with errors that name the entry by its path.
//!
//! A struct for an object derives `Deserialize`, with `deny_unknown_fields` where unknown entries are
//! refused. Its fields are of the types below where a value has a range, and [`Object`] where an
//! object stands inside another. `Option` takes null for absence.

use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use crate::error::{Error, Result};

/// A file's object.
///
/// # Errors
/// [`Error::Config`] for anything else; `wanted` says which file to pass.
pub(crate) fn object(text: &str, wanted: &str) -> Result<Map<String, Value>> {
    let whole = |got: String| Error::Config {
        field: "(whole file)".into(),
        got,
        wanted: wanted.into(),
    };
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(whole("JSON, but not an object".into())),
        Err(e) => Err(whole(format!("not valid JSON ({e})"))),
    }
}

/// Reads an object into a struct.
///
/// # Errors
/// [`Error::Config`] with the path of the entry that is unknown, missing or of a wrong type.
pub(crate) fn read<T: DeserializeOwned>(map: &Map<String, Value>) -> Result<T> {
    serde_path_to_error::deserialize(map).map_err(|e| {
        let mut path: Vec<String> = (e.path().iter())
            .filter_map(|segment| match segment {
                Segment::Seq { index } => Some(index.to_string()),
                Segment::Map { key } => Some(key.clone()),
                Segment::Enum { .. } | Segment::Unknown => None,
            })
            .collect();
        // The derived readers say what is wrong in words only. An unknown entry is already the
        // end of the path, a missing one is not.
        let said = e.inner().to_string();
        let wanted = if said.starts_with("unknown field `") {
            "this entry is not known: remove it, or use the config.json of a supported model".into()
        } else if let Some(name) = said.strip_prefix("missing field `") {
            path.push(name.trim_end_matches('`').to_owned());
            "it is needed".into()
        } else if let Some((_, expected)) = said.rsplit_once(", expected ") {
            match expected {
                "a string" => "use a text".into(),
                "a boolean" => "use true or false".into(),
                "a map" => "use an object".into(),
                "a sequence" => "use a list".into(),
                other => format!("use {other}"),
            }
        } else {
            said
        };
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        error(map, &path, wanted)
    })
}

/// The complaint about the entry at `path`: a key for each object on the way, an index for each list.
pub(crate) fn error(map: &Map<String, Value>, path: &[&str], wanted: impl Into<String>) -> Error {
    let (first, rest) = match path {
        [first, rest @ ..] => (map.get(*first), rest),
        [] => (None, path),
    };
    let value = rest.iter().fold(first, |at, key| match at? {
        Value::Object(map) => map.get(*key),
        Value::Array(list) => list.get(key.parse::<usize>().ok()?),
        _ => None,
    });
    // Shortened, since a hostile file may hold megabytes here.
    let short = |text: String| text.chars().take(80).collect();
    Error::Config {
        field: short(path.join(".")),
        got: short(value.map_or("missing".into(), Value::to_string)),
        wanted: wanted.into(),
    }
}

/// What `convert` makes of a value; `wanted` is the error where it makes nothing of it.
pub(crate) fn checked<'de, D: Deserializer<'de>, T>(
    from: D,
    wanted: &str,
    convert: impl Fn(&Value) -> Option<T>,
) -> std::result::Result<T, D::Error> {
    let value = Value::deserialize(from)?;
    convert(&value).ok_or_else(|| D::Error::custom(wanted))
}

/// Reads an `Option` whose absence and null differ: absence is `None` (by `#[serde(default)]`), and
/// null is what `T` makes of it.
pub(crate) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> std::result::Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// An object inside another. A derived reader alone would also take a list of the fields' values.
#[derive(Debug, Clone, Default)]
pub(crate) struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Entries<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(
                self,
                map: A,
            ) -> std::result::Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        from.deserialize_map(Entries(std::marker::PhantomData))
    }
}

/// A whole number from 0 to 10 000 000, also where it is written as a float.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Size(pub usize);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        checked(from, "use a whole number from 0 to 10 000 000", whole).map(Self)
    }
}

impl From<Size> for usize {
    fn from(size: Size) -> Self {
        size.0
    }
}

/// A list of [`Size`]s.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sizes(pub Vec<usize>);

impl<'de> Deserialize<'de> for Sizes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        checked(from, "use a list of whole numbers from 0", sizes).map(Self)
    }
}

impl From<Sizes> for Vec<usize> {
    fn from(sizes: Sizes) -> Self {
        sizes.0
    }
}

/// A number above 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Positive(pub f64);

impl From<Positive> for f64 {
    fn from(number: Positive) -> Self {
        number.0
    }
}

impl<'de> Deserialize<'de> for Positive {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let positive = |v: &Value| v.as_f64().filter(|v| v.is_finite() && *v > 0.0);
        checked(from, "use a number above 0", positive).map(Self)
    }
}

/// The number of a [`Size`].
pub(crate) fn whole(value: &Value) -> Option<usize> {
    let number = value.as_u64().or_else(|| {
        let float = value.as_f64().filter(|f| *f >= 0.0 && f.fract() == 0.0)?;
        Some(float as u64)
    })?;
    usize::try_from(number).ok().filter(|n| *n <= 10_000_000)
}

/// The numbers of a [`Sizes`]: at most 4096.
pub(crate) fn sizes(value: &Value) -> Option<Vec<usize>> {
    let list = value.as_array().filter(|list| list.len() <= 4096)?;
    list.iter().map(whole).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    #[derive(Default)]
    struct Outer {
        size: Option<Size>,
        sizes: Option<Sizes>,
        scale: Option<Positive>,
        #[serde(deserialize_with = "present")]
        nullable: Option<Option<Positive>>,
        flag: Option<bool>,
        texts: Option<Vec<String>>,
        inner: Option<Object<Inner>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        name: String,
    }

    fn outer(text: &str) -> Result<Outer> {
        read(&object(text, "pass an object")?)
    }

    /// Field, value and rule of the error.
    fn refusal(text: &str) -> (String, String, String) {
        match outer(text) {
            Err(Error::Config { field, got, wanted }) => (field, got, wanted),
            other => panic!("{text} gave {other:?}"),
        }
    }

    #[test]
    fn null_is_absent_and_whole_floats_are_sizes() {
        let text = r#"{"size": 3.0, "sizes": [1, 2], "scale": null, "nullable": null,
                       "flag": true, "texts": ["a"], "inner": {"name": "n"}}"#;
        let read = outer(text).unwrap();
        assert_eq!(read.size, Some(Size(3)));
        assert_eq!(read.sizes, Some(Sizes(vec![1, 2])));
        assert_eq!(read.scale, None);
        assert_eq!(read.nullable, Some(None));
        assert_eq!(read.flag, Some(true));
        assert_eq!(read.texts, Some(vec!["a".to_owned()]));
        assert_eq!(read.inner.unwrap().0.name, "n");
        assert_eq!(outer("{}").unwrap().nullable, None);
    }

    #[test]
    fn an_error_names_the_entry_by_its_path() {
        let not_known = "this entry is not known";
        let size = "use a whole number from 0 to 10 000 000";
        for (text, field, got, wanted) in [
            (r#"{"size": -1}"#, "size", "-1", size),
            (r#"{"size": 10000001}"#, "size", "10000001", size),
            (r#"{"size": 1.5}"#, "size", "1.5", size),
            (
                r#"{"sizes": [1, "2"]}"#,
                "sizes",
                r#"[1,"2"]"#,
                "use a list of whole",
            ),
            (r#"{"scale": 0}"#, "scale", "0", "use a number above 0"),
            (
                r#"{"nullable": "x"}"#,
                "nullable",
                r#""x""#,
                "use a number above 0",
            ),
            (r#"{"flag": 1}"#, "flag", "1", "use true or false"),
            (r#"{"texts": ["a", 7]}"#, "texts.1", "7", "use a text"),
            (r#"{"texts": {}}"#, "texts", "{}", "use a list"),
            (r#"{"inner": {"name": 5}}"#, "inner.name", "5", "use a text"),
            (r#"{"inner": {}}"#, "inner.name", "missing", "it is needed"),
            (r#"{"inner": ["n"]}"#, "inner", r#"["n"]"#, "use an object"),
            (
                r#"{"inner": {"name": "n", "nmae": 1}}"#,
                "inner.nmae",
                "1",
                not_known,
            ),
            (r#"{"sise": null}"#, "sise", "null", not_known),
            (r#"{"a`, expected b": 2}"#, "a`, expected b", "2", not_known),
        ] {
            let refused = refusal(text);
            assert_eq!(
                (refused.0.as_str(), refused.1.as_str()),
                (field, got),
                "{text}"
            );
            assert!(refused.2.starts_with(wanted), "{text}: {}", refused.2);
        }
        for text in ["[]", "{", ""] {
            let refused = refusal(text);
            assert_eq!(
                (refused.0.as_str(), refused.2.as_str()),
                ("(whole file)", "pass an object")
            );
        }
    }

    #[test]
    fn an_error_is_short_however_long_the_entry() {
        let long = "x".repeat(10_000);
        let (field, got, _) = refusal(&format!(r#"{{"{long}": "{long}"}}"#));
        assert!(field.len() <= 80 && got.len() <= 80);
    }
}
