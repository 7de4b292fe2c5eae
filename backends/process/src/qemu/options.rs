//! QEMU's `key=value,key=value` texts.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// One option text. Commas in values are doubled, as QEMU wants them: a value can never become
/// another key.
#[derive(Clone, Debug)]
pub(crate) struct Options(Vec<u8>);

impl Options {
    /// Starts with a word that has no key: a device's name, a backend's kind. `word` is ours, never
    /// the configuration's.
    pub(crate) fn new(word: &str) -> Self {
        Self(word.as_bytes().to_vec())
    }

    /// Adds `key=value`.
    pub(crate) fn with(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        if !self.0.is_empty() {
            self.0.push(b',');
        }
        self.0.extend_from_slice(key.as_bytes());
        self.0.push(b'=');
        for &byte in value.as_ref().as_bytes() {
            self.0.push(byte);
            if byte == b',' {
                self.0.push(b',');
            }
        }
        self
    }

    /// Adds `key=value` where there is a value.
    pub(crate) fn maybe(self, key: &str, value: Option<impl AsRef<OsStr>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// Adds a number.
    pub(crate) fn number(self, key: &str, value: impl std::fmt::Display) -> Self {
        self.with(key, value.to_string())
    }

    /// Adds `key=on` or `key=off`.
    pub(crate) fn switch(self, key: &str, on: bool) -> Self {
        self.with(key, if on { "on" } else { "off" })
    }
}

impl std::fmt::Display for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl From<Options> for OsString {
    fn from(options: Options) -> Self {
        Self::from_vec(options.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_value_does_not_begin_another_key() {
        let options = Options::new("file").with("path", "/d/a,readonly=off").switch("x", true);
        assert_eq!(OsString::from(options), "file,path=/d/a,,readonly=off,x=on");
        let options = Options::new("").number("n", 3).maybe("m", None::<&str>);
        assert_eq!(OsString::from(options), "n=3");
    }
}
