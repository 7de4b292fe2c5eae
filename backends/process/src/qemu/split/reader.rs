//! Values out of a migration stream.

use kxl_domain::image::PAGE;

/// Kinds of section.
pub(super) const SUBSECTION: u8 = 5;
pub(super) const CONFIGURATION: u8 = 7;

/// The part of the configuration that is known.
pub(super) const PAGE_BITS: &str = "configuration/target-page-bits";

/// Big-endian values off the front of a piece; `None` where it is cut.
pub(super) struct Reader<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) used: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let bytes = self.bytes.get(self.used..self.used.checked_add(length)?)?;
        self.used += length;
        Some(bytes)
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.used).copied()
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_be_bytes)
    }

    fn text(&mut self, length: usize) -> Option<String> {
        self.take(length).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// A length byte and so many bytes.
    pub(super) fn name(&mut self) -> Option<String> {
        let length = self.byte()?;
        self.text(length.into())
    }

    /// A stream's configuration; returns the machine's name. Only what is known can be skipped,
    /// since nothing tells how long it is.
    pub(super) fn configuration(&mut self) -> Option<Result<String, String>> {
        let kind = self.byte()?;
        if kind != CONFIGURATION {
            return Some(Err(format!("a section of kind {kind} instead of the configuration")));
        }
        let length = self.u32()? as usize;
        if length > 255 {
            return Some(Err(format!("a machine's name of {length} bytes")));
        }
        let machine = self.text(length)?;
        // The byte behind a part tells whether there is another.
        while self.peek()? == SUBSECTION {
            self.byte()?;
            let name = self.name()?;
            if name != PAGE_BITS {
                return Some(Err(format!("an unknown part {name:?}")));
            }
            let (_version, bits) = (self.u32()?, self.u32()?);
            if 1 << bits.min(63) != PAGE {
                return Some(Err(format!("pages of 2^{bits} bytes")));
            }
        }
        Some(Ok(machine))
    }
}
