//! Machine code of the 80386, put together instruction by instruction.

use std::collections::HashMap;

/// Code that grows, with places that have names.
pub(crate) struct Code {
    base: u32,
    bytes: Vec<u8>,
    labels: HashMap<String, u32>,
    /// Four bytes to be filled in: where, with which label, and from where it is counted.
    gaps: Vec<(usize, String, Counted)>,
}

#[derive(Clone, Copy)]
enum Counted {
    FromZero,
    FromHere,
}

/// Conditions of jumps.
#[derive(Clone, Copy)]
pub(crate) enum If {
    Zero = 0x84,
    NotZero = 0x85,
    BelowOrEqual = 0x86,
}

impl Code {
    /// Code that will be at `base`.
    pub(crate) fn at(base: u32) -> Self {
        Self { base, bytes: Vec::new(), labels: HashMap::new(), gaps: Vec::new() }
    }

    /// Instructions as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend(bytes);
        self
    }

    /// The address of what comes next gets a name.
    pub(crate) fn label(&mut self, name: &str) -> &mut Self {
        let here = self.base + u32::try_from(self.bytes.len()).unwrap();
        assert!(self.labels.insert(name.to_owned(), here).is_none(), "{name} is there already");
        self
    }

    fn gap(&mut self, name: &str, counted: Counted) -> &mut Self {
        self.gaps.push((self.bytes.len(), name.to_owned(), counted));
        self.raw(&[0; 4])
    }

    /// The address of a label.
    pub(crate) fn address(&mut self, name: &str) -> &mut Self {
        self.gap(name, Counted::FromZero)
    }

    /// Goes on at a label.
    pub(crate) fn jump(&mut self, name: &str) -> &mut Self {
        self.raw(&[0xe9]).gap(name, Counted::FromHere)
    }

    /// Goes on at a label under a condition.
    pub(crate) fn jump_if(&mut self, condition: If, name: &str) -> &mut Self {
        self.raw(&[0x0f, condition as u8]).gap(name, Counted::FromHere)
    }

    /// Calls what is at a label.
    pub(crate) fn call(&mut self, name: &str) -> &mut Self {
        self.raw(&[0xe8]).gap(name, Counted::FromHere)
    }

    /// `mov ecx, value`
    pub(crate) fn ecx(&mut self, value: u32) -> &mut Self {
        self.raw(&[0xb9]).raw(&value.to_le_bytes())
    }

    /// `mov edi, value`
    pub(crate) fn edi(&mut self, value: u32) -> &mut Self {
        self.raw(&[0xbf]).raw(&value.to_le_bytes())
    }

    /// `add edi, value`
    pub(crate) fn add_edi(&mut self, value: u32) -> &mut Self {
        self.raw(&[0x81, 0xc7]).raw(&value.to_le_bytes())
    }

    /// `mov eax, [address]`
    pub(crate) fn load_eax(&mut self, address: u32) -> &mut Self {
        self.raw(&[0xa1]).raw(&address.to_le_bytes())
    }

    /// `inc dword [address]`
    pub(crate) fn increment(&mut self, address: u32) -> &mut Self {
        self.raw(&[0xff, 0x05]).raw(&address.to_le_bytes())
    }

    /// Decrements ECX and goes on at a label until it is zero.
    pub(crate) fn repeat(&mut self, name: &str) -> &mut Self {
        self.raw(&[0x49]).jump_if(If::NotZero, name)
    }

    /// `out port, al` with this value.
    pub(crate) fn out8(&mut self, port: u16, value: u8) -> &mut Self {
        self.dx(port).raw(&[0xb0, value, 0xee])
    }

    /// `out port, ax` with this value.
    pub(crate) fn out16(&mut self, port: u16, value: u16) -> &mut Self {
        self.dx(port).raw(&[0x66, 0xb8]).raw(&value.to_le_bytes()).raw(&[0x66, 0xef])
    }

    /// `in al, port`
    pub(crate) fn in8(&mut self, port: u16) -> &mut Self {
        self.dx(port).raw(&[0xec])
    }

    fn dx(&mut self, port: u16) -> &mut Self {
        self.raw(&[0x66, 0xba]).raw(&port.to_le_bytes())
    }

    /// The code with every gap filled.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        for (at, name, counted) in std::mem::take(&mut self.gaps) {
            let target = *self.labels.get(&name).unwrap_or_else(|| panic!("no label {name}"));
            let value = match counted {
                Counted::FromZero => target,
                Counted::FromHere => {
                    let next = self.base + u32::try_from(at + 4).unwrap();
                    target.wrapping_sub(next)
                }
            };
            self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        self.bytes
    }
}
