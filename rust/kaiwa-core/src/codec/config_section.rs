//! Reading the entries of a JSON object, with complaints that name the entry by its path.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A JSON object and where it is, so that every complaint can name its entry.
pub(super) struct Section<'a> {
    path: String,
    pub(super) map: &'a Map<String, Value>,
}

impl<'a> Section<'a> {
    /// The object of a whole file.
    pub(super) fn root(map: &'a Map<String, Value>) -> Self {
        Self {
            path: String::new(),
            map,
        }
    }

    /// A nested object; `None` if absent or null.
    pub(super) fn section(&self, key: &str) -> Result<Option<Section<'a>>> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Section {
                path: format!("{}{key}.", self.path),
                map,
            })),
            Some(_) => Err(self.error(key, "use an object")),
        }
    }

    /// The complaint about one entry.
    pub(super) fn error(&self, key: &str, wanted: &str) -> Error {
        // Shortened, since a hostile file may hold megabytes here.
        let mut got = self
            .map
            .get(key)
            .map_or_else(|| "missing".into(), Value::to_string);
        if let Some((cut, _)) = got.char_indices().nth(80) {
            got.truncate(cut);
            got.push_str("...");
        }
        Error::Config {
            field: format!("{}{key}", self.path),
            got,
            wanted: wanted.into(),
        }
    }

    /// Present and not null.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// A whole number that may be left out.
    pub(super) fn size(&self, key: &str, into: &mut usize) -> Result<()> {
        if let Some(value) = self.get(key) {
            *into = whole(value).ok_or_else(|| self.error(key, "use a whole number from 0"))?;
        }
        Ok(())
    }

    /// A whole number that may be left out but not be null, where null would mean "no limit".
    pub(super) fn required_size(&self, key: &str, into: &mut usize) -> Result<()> {
        if self.map.get(key).is_some_and(Value::is_null) {
            return Err(self.error(
                key,
                "streaming needs a limited attention window: use a number",
            ));
        }
        self.size(key, into)
    }

    /// A list of whole numbers that may be left out.
    pub(super) fn sizes(&self, key: &str, into: &mut Vec<usize>) -> Result<()> {
        if let Some(value) = self.get(key) {
            let list = value
                .as_array()
                .and_then(|list| list.iter().map(whole).collect());
            *into = list.ok_or_else(|| self.error(key, "use a list of whole numbers"))?;
        }
        Ok(())
    }

    /// A number that may be left out.
    pub(super) fn number(&self, key: &str, into: &mut f64) -> Result<()> {
        if let Some(value) = self.get(key) {
            *into = value
                .as_f64()
                .ok_or_else(|| self.error(key, "use a number"))?;
        }
        Ok(())
    }

    /// A truth value that may be left out.
    pub(super) fn flag(&self, key: &str, into: &mut bool) -> Result<()> {
        if let Some(value) = self.get(key) {
            *into = value
                .as_bool()
                .ok_or_else(|| self.error(key, "use true or false"))?;
        }
        Ok(())
    }

    /// `pad_mode`, which may be left out.
    pub(super) fn pad_mode(&self, replicate: &mut bool) -> Result<()> {
        match self.get("pad_mode").map(Value::as_str) {
            None => {}
            Some(Some("constant")) => *replicate = false,
            Some(Some("replicate")) => *replicate = true,
            Some(_) => {
                return Err(self.error("pad_mode", "use \"constant\" or \"replicate\""));
            }
        }
        Ok(())
    }

    /// An error if the entry is present, not null, and anything but `value`.
    pub(super) fn only(&self, key: &str, value: Value, wanted: &str) -> Result<()> {
        match self.get(key) {
            None => Ok(()),
            Some(got) if *got == value => Ok(()),
            // 1 and 1.0 are the same entry written by two programs.
            Some(got) if got.as_f64().is_some() && got.as_f64() == value.as_f64() => Ok(()),
            Some(_) => Err(self.error(key, wanted)),
        }
    }
}

/// A non-negative whole number, also if written as `8.0`.
fn whole(value: &Value) -> Option<usize> {
    if let Some(n) = value.as_u64() {
        return usize::try_from(n).ok();
    }
    let n = value.as_f64()?;
    (n >= 0.0 && n.fract() == 0.0 && n <= f64::from(u32::MAX)).then_some(n as usize)
}
