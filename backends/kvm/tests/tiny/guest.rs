//! A guest of a few hundred bytes that does what is typed on its serial line.
//!
//! It sleeps between a hundred ticks a second, which it counts. A byte is a command:
//!
//! | byte | does | says |
//! |---|---|---|
//! | `n` | | the ticks |
//! | `t` | writes to the beginning and the end of all its pages | `T` |
//! | `d` | writes to the middle of the first of them | `D` |
//! | `c` | reads all of them | `GOOD`, or `BAD` and an address |
//! | `v` | reads the windows of the first four virtio devices | a line each |
//! | `b` | never sleeps again | `B` |
//! | `p` `r` `k` `f` `x` | ends: off, reset, keyboard controller, triple fault, panic | |
//!
//! One that counts also says its ticks by itself, each sixteenth of them.
//!
//! It is an ELF of 64 bits whose note names a 32-bit entry (PVH): protected mode, flat, no paging.

use super::code::{Code, If};

/// Where the code is.
const BASE: u32 = 0x10_0000;
const STACK: u32 = 0x8_0000;
const IDT: u32 = 0x7_0000;
const VECTORS: u32 = 48;
/// Variables: ticks, how often all pages were written, how often the first ones.
const TICKS: u32 = 0x9_0000;
const EPOCH: u32 = 0x9_0010;
const EPOCH_OF_SOME: u32 = 0x9_0020;
/// Where the pages begin.
const PAGES: u32 = 0x100_0000;
const PAGE: u32 = 4096;

const COM1: u16 = 0x3f8;
const VIRTIO: u32 = 0xd000_0000;

/// The guest as an ELF image: `pages` pages from 16 MiB on, of which `some` are written by `d`.
pub(crate) fn image(pages: u32, some: u32) -> Vec<u8> {
    whole(pages, some, false)
}

/// The same that counts.
pub(crate) fn counting(pages: u32, some: u32) -> Vec<u8> {
    whole(pages, some, true)
}

fn whole(pages: u32, some: u32, counts: bool) -> Vec<u8> {
    let mut code = Code::at(BASE);
    start(&mut code);
    commands(&mut code);
    pages_commands(&mut code, pages, some);
    ends(&mut code);
    printing(&mut code);
    tables(&mut code, counts);
    elf(&code.finish())
}

/// A guest that writes one byte to its serial line as soon as it can, and switches itself off.
pub(crate) fn shortest() -> Vec<u8> {
    let mut code = Code::at(BASE);
    code.out8(COM1, b'!').out8(COM1, b'\n');
    off(&mut code);
    elf(&code.finish())
}

/// A guest that says what it hears, and never looks away.
pub(crate) fn echo() -> Vec<u8> {
    let mut code = Code::at(BASE);
    // test al, 1; and back with the byte: out dx, al
    code.label("again").in8(COM1 + 5).raw(&[0xa8, 1]).jump_if(If::Zero, "again");
    code.in8(COM1).raw(&[0xee]).jump("again");
    elf(&code.finish())
}

fn off(code: &mut Code) {
    // PM1a_CNT: sleep type 5, sleep enable.
    code.out16(0x604, 5 << 10 | 1 << 13);
    // cli; hlt
    code.raw(&[0xfa, 0xf4]);
}

fn start(code: &mut Code) {
    // cli; mov esp, STACK
    code.raw(&[0xfa, 0xbc]).raw(&STACK.to_le_bytes());
    // lgdt [gdtr]; jmp 8:flat
    code.raw(&[0x0f, 0x01, 0x15]).address("gdtr");
    code.raw(&[0xea]).address("flat").raw(&[8, 0]).label("flat");
    // mov ax, 16; mov ds, ax; mov es, ax; mov ss, ax
    code.raw(&[0x66, 0xb8, 16, 0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0]);
    // Every vector leads to `other`, the timer's to `tick`.
    code.edi(IDT).ecx(VECTORS).label("gates").raw(&[0xb8]).address("other").call("gate");
    code.repeat("gates");
    code.edi(IDT + 8 * 0x20).raw(&[0xb8]).address("tick").call("gate");
    // lidt [idtr]
    code.raw(&[0x0f, 0x01, 0x1d]).address("idtr");
    // Both 8259: vectors from 0x20 on, and only timer and COM1 are let through.
    for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xee)] {
        code.out8(port, value);
    }
    for (port, value) in [(0xa0, 0x11), (0xa1, 0x28), (0xa1, 2), (0xa1, 1), (0xa1, 0xff)] {
        code.out8(port, value);
    }
    // 8254: a hundred a second.
    code.out8(0x43, 0x34).out8(0x40, 0x9c).out8(0x40, 0x2e);
    // 16550: an interrupt for each byte that arrives.
    code.out8(COM1 + 1, 1).out8(COM1 + 4, 0x0b);
    code.call("ready").jump("poll");
}

/// Waits for bytes and does what they say.
fn commands(code: &mut Code) {
    // sti; hlt. Interrupts are let through here only, and whatever comes leads to `poll`.
    code.label("sleep").raw(&[0xfb, 0xf4]).jump("sleep").label("poll");
    // test al, 1
    code.in8(COM1 + 5).raw(&[0xa8, 1]).jump_if(If::Zero, "sleep").in8(COM1);
    for byte in "ntdcvbprkfx".chars() {
        // cmp al, byte
        code.raw(&[0x3c, byte as u8]).jump_if(If::Zero, &format!("do {byte}"));
    }
    code.jump("poll");
    code.label("do n").load_eax(TICKS).call("hex").call("line").jump("poll");
    code.label("do b").call("say b").label("busy").jump("busy");
    code.label("do v");
    for window in 0..4 {
        let at = VIRTIO + window * 0x1000;
        for register in [0_u32, 4, 8] {
            code.load_eax(at + register).call("hex").raw(&[0xb0, b' ']).call("put");
        }
        code.call("line");
    }
    code.jump("poll");
}

fn pages_commands(code: &mut Code, pages: u32, some: u32) {
    // What is written: the page's address, changed by how often it was written.
    // mov edx, edi; xor edx, eax
    let mix = [0x89, 0xfa, 0x31, 0xc2];
    let last = (PAGE - 4).to_le_bytes();
    code.label("do t").increment(EPOCH).edi(PAGES).ecx(pages).label("touch").load_eax(EPOCH);
    // mov [edi], edx; mov [edi + 4092], edx
    code.raw(&mix).raw(&[0x89, 0x17, 0x89, 0x97]).raw(&last).add_edi(PAGE).repeat("touch");
    code.call("say t").jump("poll");
    code.label("do d").increment(EPOCH_OF_SOME).edi(PAGES).ecx(some).label("some");
    // mov [edi + 8], edx
    code.load_eax(EPOCH_OF_SOME).raw(&mix).raw(&[0x89, 0x57, 8]).add_edi(PAGE).repeat("some");
    code.call("say d").jump("poll");
    code.label("do c").edi(PAGES).ecx(pages).label("check").load_eax(EPOCH);
    // cmp [edi], edx; cmp [edi + 4092], edx
    code.raw(&mix).raw(&[0x39, 0x17]).jump_if(If::NotZero, "bad");
    code.raw(&[0x39, 0x97]).raw(&last).jump_if(If::NotZero, "bad");
    code.add_edi(PAGE).repeat("check");
    code.edi(PAGES).ecx(some).label("check some").load_eax(EPOCH_OF_SOME);
    // test eax, eax; cmp [edi + 8], edx
    code.raw(&[0x85, 0xc0]).jump_if(If::Zero, "good").raw(&mix).raw(&[0x39, 0x57, 8]);
    code.jump_if(If::NotZero, "bad").add_edi(PAGE).repeat("check some");
    code.label("good").call("say good").jump("poll");
    // mov eax, edi
    code.label("bad").call("say bad").raw(&[0x89, 0xf8]).call("hex").call("line").jump("poll");
}

fn ends(code: &mut Code) {
    code.label("do p");
    off(code);
    code.label("do r").out8(0x606, 1).raw(&[0xfa, 0xf4]);
    code.label("do k").out8(0x64, 0xfe).raw(&[0xfa, 0xf4]);
    code.label("do x").out8(0x505, 1).raw(&[0xfa, 0xf4]);
    // A table without entries; ud2
    code.label("do f").raw(&[0x0f, 0x01, 0x1d]).address("nothing").raw(&[0x0f, 0x0b]);
}

fn printing(code: &mut Code) {
    // push edx; mov dx, COM1; out dx, al; pop edx; ret
    code.label("put").raw(&[0x52, 0x66, 0xba, 0xf8, 0x03, 0xee, 0x5a, 0xc3]);
    code.label("line").raw(&[0xb0, b'\n']).jump("put");
    // push ecx; and for each half byte of EAX: rol eax, 4; push eax; and al, 15; add al, '0';
    // cmp al, '9'; if above: add al, 39; put; pop eax
    code.label("hex").raw(&[0x51]).ecx(8).label("digit");
    code.raw(&[0xc1, 0xc0, 4, 0x50, 0x24, 15, 0x04, b'0', 0x3c, b'9']);
    code.jump_if(If::BelowOrEqual, "decimal").raw(&[0x04, 39]).label("decimal").call("put");
    code.raw(&[0x58]).repeat("digit").raw(&[0x59, 0xc3]);
    for (name, text) in [
        ("ready", "READY\n"),
        ("say t", "T\n"),
        ("say d", "D\n"),
        ("say b", "B\n"),
        ("say good", "GOOD\n"),
        ("say bad", "BAD "),
    ] {
        code.label(name);
        for byte in text.bytes() {
            code.raw(&[0xb0, byte]).call("put");
        }
        code.raw(&[0xc3]);
    }
}

fn tables(code: &mut Code, counts: bool) {
    // A gate to EAX at EDI: mov [edi], ax; mov word [edi+2], 8; mov word [edi+4], 0x8e00;
    // shr eax, 16; mov [edi+6], ax; add edi, 8; ret
    code.label("gate").raw(&[0x66, 0x89, 0x07, 0x66, 0xc7, 0x47, 2, 8, 0]);
    code.raw(&[0x66, 0xc7, 0x47, 4, 0x00, 0x8e, 0xc1, 0xe8, 16, 0x66, 0x89, 0x47, 6]);
    code.add_edi(8).raw(&[0xc3]);
    // End of interrupt, and the way back is forgotten: add esp, 12. An iret in this mode is one of
    // the instructions that an emulating KVM does not know.
    code.label("tick").increment(TICKS);
    if counts {
        // test al, 15
        code.load_eax(TICKS).raw(&[0xa8, 15]).jump_if(If::NotZero, "other");
        code.call("hex").call("line");
    }
    code.label("other").out8(0x20, 0x20).raw(&[0x83, 0xc4, 12]).jump("poll");
    code.label("gdt").raw(&[0; 8]);
    code.raw(&0x00cf_9b00_0000_ffff_u64.to_le_bytes());
    code.raw(&0x00cf_9300_0000_ffff_u64.to_le_bytes());
    code.label("gdtr").raw(&23_u16.to_le_bytes()).address("gdt");
    let limit = u16::try_from(VECTORS * 8 - 1).unwrap();
    code.label("idtr").raw(&limit.to_le_bytes()).raw(&IDT.to_le_bytes());
    code.label("nothing").raw(&[0; 6]);
}

/// An ELF of 64 bits with the code at `BASE` and a PVH note that names it as entry.
fn elf(code: &[u8]) -> Vec<u8> {
    const HEADER: u64 = 64;
    const PROGRAM: u64 = 56;
    // Name size, descriptor size, type 18 (XEN_ELFNOTE_PHYS32_ENTRY), "Xen", the address.
    let mut note = Vec::new();
    for word in [4, 8, 18] {
        note.extend(u32::to_le_bytes(word));
    }
    note.extend(b"Xen\0");
    note.extend(u64::from(BASE).to_le_bytes());
    let note_at = HEADER + 2 * PROGRAM;
    let code_at = note_at + note.len() as u64;
    let mut image = Vec::from(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // An executable for x86-64, version 1.
    image.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [u64::from(BASE), HEADER, 0] {
        image.extend(word.to_le_bytes());
    }
    image.extend([0; 4]);
    for half in [64_u16, 56, 2, 64, 0, 0] {
        image.extend(half.to_le_bytes());
    }
    let mut part = |kind: u32, flags: u32, at: u64, address: u64, size: usize| {
        image.extend(kind.to_le_bytes());
        image.extend(flags.to_le_bytes());
        for word in [at, address, address, size as u64, size as u64, 4] {
            image.extend(word.to_le_bytes());
        }
    };
    part(1, 7, code_at, u64::from(BASE), code.len());
    part(4, 4, note_at, 0, note.len());
    image.extend(note);
    image.extend(code);
    image
}
