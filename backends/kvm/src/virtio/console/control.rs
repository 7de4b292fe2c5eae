//! Messages about ports (virtio 1.2, section 5.3.6.2).

/// The driver is there.
pub(super) const DEVICE_READY: u16 = 0;
/// There is a port.
pub(super) const PORT_ADD: u16 = 1;
/// The driver has set a port up.
pub(super) const PORT_READY: u16 = 3;
/// The port is a console.
pub(super) const CONSOLE_PORT: u16 = 4;
/// Somebody has opened the port, or closed it.
pub(super) const PORT_OPEN: u16 = 6;
/// The port is called so.
pub(super) const PORT_NAME: u16 = 7;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) id: u32,
    pub(super) event: u16,
    pub(super) value: u16,
    pub(super) text: String,
}

impl Message {
    pub(super) fn new(port: usize, event: u16, value: u16) -> Self {
        let id = u32::try_from(port).unwrap_or(u32::MAX);
        Self { id, event, value, text: String::new() }
    }

    pub(super) fn named(port: usize, event: u16, text: &str) -> Self {
        Self { text: text.to_owned(), ..Self::new(port, event, 1) }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.id.to_le_bytes().to_vec();
        bytes.extend(self.event.to_le_bytes());
        bytes.extend(self.value.to_le_bytes());
        bytes.extend(self.text.bytes());
        bytes
    }

    /// What the driver says carries no text.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk()?;
        let (event, rest) = rest.split_first_chunk()?;
        let (value, _) = rest.split_first_chunk()?;
        Some(Self {
            id: u32::from_le_bytes(*id),
            event: u16::from_le_bytes(*event),
            value: u16::from_le_bytes(*value),
            text: String::new(),
        })
    }
}
