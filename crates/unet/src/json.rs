//! Reading the configuration of a network from JSON, with errors that name the key.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::Error;

/// Keys with a single supported value, and the accepted spellings of that value.
pub(crate) type FixedKeys<'a> = &'a [(&'static str, &'static [&'static str])];

/// The keys of a class of networks besides the fields of its configuration.
pub(crate) struct ClassKeys<'a> {
    /// The name of the class, for errors.
    pub class: &'a str,
    /// Keys with one supported value.
    pub fixed: FixedKeys<'a>,
    /// Keys without effect.
    pub ignored: &'a [&'a str],
}

/// Parses a configuration. Keys that begin with `_`, those without effect and unknown ones that are null are left out. Keys
/// that are missing have their value in `defaults`.
pub(crate) fn read<T>(text: &str, keys_of: &ClassKeys, defaults: &T) -> Result<T, Error>
where
    T: Serialize + DeserializeOwned,
{
    let ClassKeys { class, fixed, ignored } = *keys_of;
    let invalid = |message: String| Error::Config(message);
    let value: Value = serde_json::from_str(text).map_err(|e| invalid(format!("invalid JSON: {e}")))?;
    let Value::Object(mut keys) = value else {
        return Err(invalid("expected a JSON object".into()));
    };
    for (key, accepted) in fixed {
        if let Some(value) = keys.remove(*key) {
            let value = value.to_string();
            if !accepted.contains(&value.as_str()) {
                let accepted = accepted.join(" or ");
                return Err(invalid(format!("`{key}` is {value}; expected {accepted}")));
            }
        }
    }
    keys.retain(|key, _| !key.starts_with('_') && !ignored.contains(&&**key));
    let known = serde_json::to_value(defaults).map_err(|e| invalid(e.to_string()))?;
    for (key, value) in &keys {
        if known.get(key).is_none() && !value.is_null() {
            return Err(invalid(format!("`{key}` (with value {value}) is not a supported key of {class}")));
        }
    }
    // Fields are deserialized one by one, so that the error for a bad value names its key.
    let mut config = known.clone();
    for (key, value) in keys {
        if known.get(&key).is_none() {
            continue;
        }
        let mut one = config.clone();
        one[&key] = value.clone();
        serde_json::from_value::<T>(one.clone()).map_err(|error| match value.as_f64() {
            // serde would speak of a `usize`.
            Some(number) if number < 0.0 || number.fract() != 0.0 => {
                invalid(format!("`{key}` is {value}; expected a whole number, 1 or more"))
            }
            _ => invalid(format!("`{key}` = {value}: {error}")),
        })?;
        config = one;
    }
    serde_json::from_value(config).map_err(|e| invalid(e.to_string()))
}
