//! JSON as the sources write it: arrays too large to hold, bare `NaN` and `Infinity`.

use std::borrow::Cow;
use std::ops::Deref;

use memchr::memchr2;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, Visitor};

use crate::Error;
use crate::reader::{Input, LONGEST, Line, decode};

/// The elements of a top-level array, one at a time, without ever holding the array.
pub(crate) struct Elements<'a> {
    input: Input<'a>,
    number: u64,
    offset: u64,
    begun: bool,
}

impl<'a> Elements<'a> {
    /// Elements of an opened file.
    pub(crate) fn new(input: Input<'a>) -> Self {
        Self { input, number: 0, offset: 0, begun: false }
    }

    fn fault(&self, detail: &str, hint: &str) -> Error {
        Error::Format {
            path: self.input.path().into(),
            place: format!("byte {} (record {})", self.offset, self.number + 1),
            detail: detail.into(),
            hint: hint.into(),
        }
    }

    fn peek(&mut self) -> Result<Option<u8>, Error> {
        Ok(self.input.fill()?.first().copied())
    }

    fn step(&mut self) {
        self.input.consume(1);
        self.offset += 1;
    }

    /// The text of the next element with its 1-based number, `None` after the closing bracket.
    ///
    /// # Errors
    /// [`Error::Format`] when the file is no array or ends inside it.
    pub(crate) fn next(&mut self) -> Result<Option<Line>, Error> {
        loop {
            match self.peek()? {
                None if self.begun => {
                    return Err(self.fault("the file ends inside the array", "it was cut; fetch it again"));
                }
                Some(b) if b.is_ascii_whitespace() => self.step(),
                Some(b'[') if !self.begun => {
                    self.begun = true;
                    self.step();
                }
                Some(b',') if self.begun => self.step(),
                Some(b']') if self.begun => return self.end().map(|()| None),
                Some(_) if self.begun => break,
                _ => return Err(self.fault("a JSON array (`[`) was expected", "check `kind` of the source")),
            }
        }
        let (bytes, length) = self.element()?;
        self.number += 1;
        let (text, fault) = decode(bytes, length);
        Ok(Some(Line { number: self.number, text, fault }))
    }

    /// Reads on behind the closing bracket, where only white space may be, so that a checksum at the end of the file is read.
    fn end(&mut self) -> Result<(), Error> {
        self.step();
        while let Some(b) = self.peek()? {
            if !b.is_ascii_whitespace() {
                return Err(
                    self.fault("text behind the array", "a file holds one array; cut it into several")
                );
            }
            self.step();
        }
        Ok(())
    }

    /// Bytes up to the comma or bracket that ends the element: quotes and nesting are followed, nothing else.
    fn element(&mut self) -> Result<(Vec<u8>, usize), Error> {
        let (mut bytes, mut length, mut depth, mut in_string, mut escaped) =
            (Vec::new(), 0, 0_usize, false, false);
        loop {
            let chunk = self.input.fill()?;
            if chunk.is_empty() {
                return Err(self.fault("the file ends inside a record", "it was cut; fetch it again"));
            }
            let mut used = 0;
            let mut ended = false;
            while let Some(&b) = chunk.get(used) {
                if escaped {
                    escaped = false;
                } else if in_string {
                    // Most of a record is inside strings, where two letters matter.
                    let Some(n) = memchr2(b'"', b'\\', &chunk[used..]) else {
                        used = chunk.len();
                        break;
                    };
                    used += n;
                    escaped = chunk[used] == b'\\';
                    in_string = escaped;
                } else {
                    match b {
                        b'"' => in_string = true,
                        b'{' | b'[' => depth += 1,
                        b',' | b']' if depth == 0 => ended = true,
                        b'}' | b']' => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                }
                if ended {
                    break;
                }
                used += 1;
            }
            let room = LONGEST.saturating_sub(bytes.len());
            bytes.extend_from_slice(&chunk[..used.min(room)]);
            length += used;
            self.offset += used as u64;
            self.input.consume(used);
            if ended {
                return Ok((bytes, length));
            }
        }
    }
}

/// Makes JSON of Python's spelling: outside strings `NaN` becomes `null` and `±Infinity` the string `"inf"`, which
/// [`Number`] reads back.
pub(crate) fn standard(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut in_string) = (text, false);
    while let Some(at) = rest.find(['"', '\\', 'N', 'I', '-']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let replaced = if in_string {
            None
        } else if let Some(tail) = rest.strip_prefix("NaN") {
            Some(("null", tail))
        } else {
            rest.strip_prefix('-').unwrap_or(rest).strip_prefix("Infinity").map(|tail| ("\"inf\"", tail))
        };
        if let Some((word, tail)) = replaced {
            out.push_str(word);
            rest = tail;
            continue;
        }
        let n = if in_string && rest.starts_with('\\') {
            rest.chars().take(2).map(char::len_utf8).sum()
        } else {
            1
        };
        in_string ^= rest.starts_with('"');
        out.push_str(&rest[..n]);
        rest = &rest[n..];
    }
    out.push_str(rest);
    out
}

/// A string of a record, copied only where letters of it are escaped.
#[derive(Debug, Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// A value that counts as not there where it is of another kind.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Perhaps<T> {
    Is(T),
    Other(IgnoredAny),
}

impl<T> Perhaps<T> {
    pub(crate) fn get(self) -> Option<T> {
        match self {
            Self::Is(value) => Some(value),
            Self::Other(_) => None,
        }
    }
}

/// A number of text made by [`standard`]: `null` is NaN, `"inf"` infinite, numbers written as strings are read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Number(pub(crate) f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Number;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number, NaN or null")
            }
            fn visit_f64<E>(self, v: f64) -> Result<Number, E> {
                Ok(Number(v))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Number, E> {
                Ok(Number(v as f64))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Number, E> {
                Ok(Number(v as f64))
            }
            fn visit_unit<E>(self) -> Result<Number, E> {
                Ok(Number(f64::NAN))
            }
            fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Number, E> {
                let v = v.trim();
                if v.is_empty() {
                    return Ok(Number(f64::NAN));
                }
                v.parse().map(Number).map_err(|_| E::custom(format!("{v:?} is no number")))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_copied_where_letters_are_escaped() {
        let text = r#"["MKT", "M\nK", null]"#;
        let texts: Vec<Option<Text<'_>>> = serde_json::from_str(text).unwrap();
        assert!(matches!(&texts[0], Some(Text(Cow::Borrowed("MKT")))));
        assert_eq!(texts[1].as_deref(), Some("M\nK"));
        assert!(texts[2].is_none());
    }

    #[test]
    fn bare_nan_outside_strings_only() {
        let text = r#"{"NaN \" Infinity": [NaN, -Infinity, -1.5, Infinity], "a": "x-\\"}"#;
        let want = r#"{"NaN \" Infinity": [null, "inf", -1.5, "inf"], "a": "x-\\"}"#;
        assert_eq!(standard(text), want);
        let numbers: Vec<Number> = serde_json::from_str("[null, \"inf\", -1.5, 3, \"7.5\", \"\"]").unwrap();
        assert!(numbers[0].0.is_nan() && numbers[1].0.is_infinite() && numbers[5].0.is_nan());
        assert_eq!(numbers[2..5], [Number(-1.5), Number(3.0), Number(7.5)]);
        assert!(serde_json::from_str::<Number>("\"x\"").is_err());
    }
}
