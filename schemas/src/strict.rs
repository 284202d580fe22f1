//! Strict JSON: no duplicate keys, no floats, no integers beyond 2^53, bounded depth and strings, valid UTF-8.
//!
//! Must never be lenient: two readers who disagree about a document are how a signature is made to cover something else.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::limits::Limits;

/// Why bytes are not acceptable JSON.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StrictError {
    /// More bytes than the document may have.
    #[error("{found} bytes are more than the {allowed} that this document may have")]
    TooLarge {
        /// Bytes found.
        found: usize,
        /// Bytes allowed.
        allowed: usize,
    },
    /// Not UTF-8.
    #[error("not UTF-8 after byte {valid_up_to}")]
    NotUtf8 {
        /// How many bytes are valid.
        valid_up_to: usize,
    },
    /// Malformed, or outside the strict subset.
    #[error("{message}")]
    Malformed {
        /// What is wrong, with line and column.
        message: String,
    },
}

/// Checks `bytes` against the strict subset, without building a value.
pub fn strict_check(bytes: &[u8], max_bytes: usize) -> Result<(), StrictError> {
    if bytes.len() > max_bytes {
        return Err(StrictError::TooLarge { found: bytes.len(), allowed: max_bytes });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| StrictError::NotUtf8 { valid_up_to: error.valid_up_to() })?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Seed { depth: 0 }.deserialize(&mut deserializer).and_then(|()| deserializer.end()).map_err(malformed)
}

/// Parses `bytes` into `T` after [`strict_check`].
pub fn parse_strict<T: DeserializeOwned>(bytes: &[u8], max_bytes: usize) -> Result<T, StrictError> {
    strict_check(bytes, max_bytes)?;
    serde_json::from_slice(bytes).map_err(malformed)
}

fn malformed(error: serde_json::Error) -> StrictError {
    StrictError::Malformed { message: error.to_string() }
}

#[derive(Clone, Copy)]
struct Seed {
    depth: usize,
}

impl Seed {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= Limits::DEPTH {
            return Err(E::custom(format!("nested deeper than {} levels", Limits::DEPTH)));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Seed {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("strict JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<(), E> {
        self.visit_u64(number.unsigned_abs())
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<(), E> {
        if number > Limits::INTEGER {
            return Err(E::custom(format!("integer {number} is beyond 2^53: write it as a string")));
        }
        Ok(())
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        Err(E::custom("a number with a fraction or an exponent is not allowed in a signed document"))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        if text.len() > Limits::STRING_BYTES {
            return Err(E::custom(format!("a string is longer than {} bytes", Limits::STRING_BYTES)));
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while items.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        let mut seen = Keys::default();
        while let Some(key) = entries.next_key::<std::borrow::Cow<'de, str>>()? {
            seen.insert(key).map_err(A::Error::custom)?;
            entries.next_value_seed(inner)?;
        }
        Ok(())
    }
}

/// The keys of one object: a list while it is short, a set when it grows, so that neither small nor hostile objects cost much.
#[derive(Default)]
struct Keys<'de> {
    few: Vec<std::borrow::Cow<'de, str>>,
    many: HashSet<std::borrow::Cow<'de, str>>,
}

impl<'de> Keys<'de> {
    const FEW: usize = 16;

    fn insert(&mut self, key: std::borrow::Cow<'de, str>) -> Result<(), String> {
        if self.few.contains(&key) || self.many.contains(&key) {
            let shown: String = key.chars().take(64).collect();
            return Err(format!("key {shown:?} stands twice in one object"));
        }
        if self.few.len() < Self::FEW {
            self.few.push(key);
        } else {
            self.many.insert(key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(), StrictError> {
        strict_check(text.as_bytes(), 1 << 20)
    }

    #[test]
    fn duplicate_keys_are_refused_also_when_escaped() {
        assert!(check(r#"{"a":1,"b":2}"#).is_ok());
        assert!(check(r#"{"a":1,"a":2}"#).is_err());
        assert!(check(r#"{"a":1,"\u0061":2}"#).is_err());
    }

    #[test]
    fn a_duplicate_among_many_keys_is_found() {
        let keys: Vec<String> = (0..100).map(|i| format!("\"k{}\":0", i % 99)).collect();
        assert!(check(&format!("{{{}}}", keys.join(","))).is_err());
    }

    #[test]
    fn floats_and_integers_beyond_two_to_the_53_are_refused() {
        for bad in ["1.5", "1e3", "9007199254740993", "-9007199254740993", "1e400"] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(check("9007199254740992").is_ok());
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_crash() {
        assert!(check(&"[".repeat(100_000)).is_err());
        assert!(check(&format!("{}{}", "[".repeat(32), "]".repeat(32))).is_ok());
        assert!(check(&format!("{}{}", "[".repeat(33), "]".repeat(33))).is_err());
    }

    #[test]
    fn invalid_utf8_and_trailing_bytes_are_refused() {
        assert_eq!(strict_check(b"\"a\xff\"", 100), Err(StrictError::NotUtf8 { valid_up_to: 2 }));
        assert!(check("{} {}").is_err());
        assert_eq!(strict_check(b"[]", 1), Err(StrictError::TooLarge { found: 2, allowed: 1 }));
    }
}
