//! The copy of a PC's firmware in memory, which a reset of QEMU leaves switched on.
//!
//! A real reset makes the chipset read the ROM again. QEMU's keeps the registers that map memory
//! over it, so SeaBIOS starts in its used copy, takes that for a wake-up without a reason and
//! resets the machine itself. How often is not certain: its last two ways to do so, port 0xcf9 and
//! a triple fault, follow each other at once, and the second may hit the firmware while that has
//! just begun to run again, so that it finds a used copy once more. Nothing tells such a reset from
//! one by the guest. Therefore the registers are cleared before a reset, as power-on leaves them.

/// The PCI address register with bus 0, device 0, function 0: the host bridge.
const HOST_BRIDGE: u32 = 0x8000_0000;

/// Ports of PCI configuration: address and data.
const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;

/// PAM0 to PAM6.
const REGISTERS: u8 = 7;

/// Where a machine has the registers that map memory over its ROM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shadow {
    first: u8,
}

impl Shadow {
    /// By the name of a machine type, as QEMU's versioned names begin.
    pub(crate) fn of(machine: &str) -> Option<Self> {
        if machine.starts_with("pc-q35") {
            Some(Self { first: 0x90 })
        } else if machine.starts_with("pc-") {
            Some(Self { first: 0x59 })
        } else {
            None
        }
    }

    /// Lines for QEMU's own monitor that switch it off. QMP has no command that writes a register.
    pub(crate) fn commands(&self) -> impl Iterator<Item = String> + use<> {
        (self.first..self.first + REGISTERS).flat_map(|register| {
            let address = HOST_BRIDGE | u32::from(register & !3);
            let data = DATA + u16::from(register & 3);
            [format!("o/w {ADDRESS:#x} {address:#x}"), format!("o/b {data:#x} 0")]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_chipset_has_its_registers() {
        let first = |machine| Shadow::of(machine).map(|shadow| shadow.first);
        assert_eq!(first("pc-i440fx-7.2"), Some(0x59));
        assert_eq!(first("pc-q35-7.2"), Some(0x90));
        assert_eq!(first("virt-7.2"), None);
        assert_eq!(first("microvm"), None);
    }

    #[test]
    fn every_register_is_addressed_and_cleared() {
        let lines: Vec<_> = Shadow { first: 0x59 }.commands().collect();
        assert_eq!(lines.len(), 14);
        assert_eq!(lines[..2], ["o/w 0xcf8 0x80000058", "o/b 0xcfd 0"]);
        assert_eq!(lines[12..], ["o/w 0xcf8 0x8000005c", "o/b 0xcff 0"]);
    }
}
