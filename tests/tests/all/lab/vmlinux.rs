//! The kernel out of its bzImage, as the ELF that it unpacks at every boot. In the lab that
//! takes seconds, and a kernel as ELF is entered in another way (PVH), which is to work as well.

/// The ELF in a bzImage; none where it is packed in another way than Debian's.
pub(super) fn of(image: &[u8]) -> Option<Vec<u8>> {
    // Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length.
    let setup = (usize::from(*image.get(0x1f1)?) + 1) * 512;
    let start = setup + word(image, 0x248)?;
    let payload = image.get(start..start + word(image, 0x24c)?)?;
    // Behind the packed data stands the size of the unpacked.
    let size = word(payload, payload.len().checked_sub(4)?)?;
    let mut rest = payload.strip_prefix(&[0x02, 0x21, 0x4c, 0x18])?;
    let mut out = Vec::with_capacity(size);
    while out.len() < size {
        let length = word(rest, 0)?;
        block(rest.get(4..4 + length)?, &mut out)?;
        rest = &rest[4 + length..];
    }
    out.starts_with(b"\x7fELF").then_some(out)
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}

/// Unpacks one LZ4 block. Blocks of this format do not refer to earlier ones.
fn block(mut from: &[u8], out: &mut Vec<u8>) -> Option<()> {
    loop {
        let token = *take(&mut from, 1)?.first()?;
        let literals = length(&mut from, token >> 4)?;
        out.extend(take(&mut from, literals)?);
        if from.is_empty() {
            return Some(());
        }
        let offset = take(&mut from, 2)?;
        let offset = usize::from(offset[0]) | usize::from(offset[1]) << 8;
        let count = length(&mut from, token & 15)? + 4;
        let begin = out.len().checked_sub(offset)?;
        // What is copied may begin with what is being written.
        for at in begin..begin + count {
            out.push(*out.get(at)?);
        }
    }
}

fn take<'a>(from: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(count)?;
    *from = rest;
    Some(taken)
}

fn length(from: &mut &[u8], nibble: u8) -> Option<usize> {
    let mut sum = usize::from(nibble);
    let mut more = nibble == 15;
    while more {
        let byte = take(from, 1)?[0];
        sum += usize::from(byte);
        more = byte == 255;
    }
    Some(sum)
}

#[test]
fn literals_and_copies_that_overlap_are_unpacked() {
    let mut out = Vec::new();
    // Three literals and 16 more bytes from three back; then two literals at the end.
    block(&[0x3c, b'a', b'b', b'c', 3, 0, 0x20, b'!', b'?'], &mut out).unwrap();
    assert_eq!(out, b"abcabcabcabcabcabca!?");
    assert!(block(&[0x10, b'a', 9, 0], &mut Vec::new()).is_none());
}
