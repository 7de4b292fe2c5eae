#!/usr/bin/env python3
"""Reads an image of a domain by toolstack/store/IMAGE-FORMAT.md alone, and verifies its digests.

    read_image.py PATH      a directory of the store, or a file

Nothing but the standard library is used, BLAKE3 included, so that it is slow and shares no code with
what it checks. Exit status 0: all digests are right.
"""

import os
import struct
import sys

CHUNK = 2 << 20
ZERO = bytes(32)


class Bad(Exception):
    pass


# --- BLAKE3 (the hash mode of the specification) ---

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
ORDER = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
MIXES = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
         (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
START, END, PARENT, ROOT = 1, 2, 4, 8


def compress(value, block, counter, length, flags):
    v = list(value) + list(IV[:4]) + [counter & 0xFFFFFFFF, counter >> 32, length, flags]
    m = struct.unpack("<16I", block)
    for turn in range(7):
        for number, (a, b, c, d) in enumerate(MIXES):
            x, y = m[2 * number], m[2 * number + 1]
            va, vb, vc, vd = v[a], v[b], v[c], v[d]
            va = (va + vb + x) & 0xFFFFFFFF
            vd ^= va
            vd = (vd >> 16 | vd << 16) & 0xFFFFFFFF
            vc = (vc + vd) & 0xFFFFFFFF
            vb ^= vc
            vb = (vb >> 12 | vb << 20) & 0xFFFFFFFF
            va = (va + vb + y) & 0xFFFFFFFF
            vd ^= va
            vd = (vd >> 8 | vd << 24) & 0xFFFFFFFF
            vc = (vc + vd) & 0xFFFFFFFF
            vb ^= vc
            vb = (vb >> 7 | vb << 25) & 0xFFFFFFFF
            v[a], v[b], v[c], v[d] = va, vb, vc, vd
        if turn < 6:
            m = tuple(m[at] for at in ORDER)
    return tuple(v[at] ^ v[at + 8] for at in range(8))


def leaf(bytes_, counter, flags):
    value = IV
    blocks = [bytes_[at:at + 64] for at in range(0, len(bytes_), 64)] or [b""]
    for number, block in enumerate(blocks):
        now = START if number == 0 else 0
        if number == len(blocks) - 1:
            now |= END | flags
        value = compress(value, block.ljust(64, b"\0"), counter, len(block), now)
    return value


def parent(left, right, flags):
    return compress(IV, struct.pack("<16I", *left, *right), 0, 64, PARENT | flags)


def subtree(bytes_, counter, flags):
    leaves = -(-len(bytes_) // 1024)
    if leaves <= 1:
        return leaf(bytes_, counter, flags)
    left = 1 << ((leaves - 1).bit_length() - 1)
    cut = left * 1024
    return parent(subtree(bytes_[:cut], counter, 0), subtree(bytes_[cut:], counter + left, 0), flags)


def blake3(bytes_):
    return struct.pack("<8I", *subtree(bytes_, 0, ROOT))


assert blake3(b"").hex() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"

# --- records ---


class Record:
    """The fields of a payload, one after the other."""

    def __init__(self, payload):
        self.payload, self.at = payload, 0

    def take(self, count):
        if self.at + count > len(self.payload):
            raise Bad("a record is too short")
        self.at += count
        return self.payload[self.at - count:self.at]

    def number(self, form):
        return struct.unpack("<" + form, self.take(struct.calcsize(form)))[0]

    def text(self):
        return self.take(self.number("Q")).decode()

    def some(self, read):
        return read() if self.number("B") else None

    def many(self, read):
        return [read() for _ in range(self.number("Q"))]

    def rest(self):
        return self.take(len(self.payload) - self.at)

    def end(self):
        if self.at != len(self.payload):
            raise Bad("a record is too long")


def records(manifest):
    if manifest[:8] != b"kxl-img\n":
        raise Bad("this is no manifest")
    version, count, length = struct.unpack("<IIQ", manifest[8:24])
    if version != 1:
        raise Bad(f"format {version} is not known")
    if length != len(manifest) or blake3(manifest[:-32]) != manifest[-32:]:
        raise Bad("the manifest is not what was written")
    found, at = {}, 24
    for _ in range(count):
        tag, mandatory, length = struct.unpack("<HBI", manifest[at:at + 7])
        if tag > 8 and mandatory:
            raise Bad(f"record {tag} is not known")
        found[tag] = Record(manifest[at + 7:at + 7 + length])
        at += 7 + length
    if at != len(manifest) - 32:
        raise Bad("the records do not fill the manifest")
    return found


def uuid(bytes_):
    h = bytes_.hex()
    return "-".join((h[:8], h[8:12], h[12:16], h[16:20], h[20:]))


def show(found):
    r = found[1]
    print("image:", uuid(r.take(16)))
    print("purpose:", r.text())
    print("created_ms:", r.number("q"))
    print("uuid:", uuid(r.take(16)))
    print("name:", r.text())
    print("domid:", r.some(lambda: r.number("I")))
    print("managed:", bool(r.number("B")))
    print("wanted:", r.text())
    r.end()
    r = found[2]
    print("config:", r.text())
    r.end()
    r = found[3]
    for field in ("backend", "emulator", "version", "machine", "cpu"):
        print(f"{field}:", r.text())
    print("features:", " ".join(r.many(r.text)))
    print("accel:", r.text())
    print("devices:", " ".join(r.many(r.text)))
    print("notes:", r.many(lambda: (r.text(), r.text())))
    r.end()
    r = found[4]
    print("stopped_ms:", r.number("q"))
    print("was running:", bool(r.number("B")))
    r.end()
    r = found[5]
    for _ in range(r.number("Q")):
        vdev, path = r.text(), r.take(r.number("Q"))
        form, writable, size = r.text(), bool(r.number("B")), r.number("Q")
        mtime, header, snapshot = r.some(lambda: r.number("q")), r.take(32), r.some(r.text)
        print("disk:", vdev, os.fsdecode(path), form, writable, size, mtime, header.hex(), snapshot)
    r.end()
    if 8 in found:
        print("written by:", found[8].text())


def verify(found, device, memory):
    r = found[6]
    length, digest = r.number("Q"), r.take(32)
    r.end()
    if len(device) != length or blake3(device) != digest:
        raise Bad("the device stream is not what was written")
    if 7 not in found:
        return
    r = found[7]
    name, size, chunk = r.text(), r.number("Q"), r.number("Q")
    print("memory:", name, size)
    table = r.rest()
    if chunk != CHUNK or len(table) != 32 * -(-size // chunk):
        raise Bad("the table of the memory has the wrong length")
    for number in range(-(-size // chunk)):
        start = number * chunk
        length = min(chunk, size - start)
        bytes_ = memory(start, length)
        found_ = ZERO if bytes_ == bytes(length) else blake3(bytes_)
        if len(bytes_) != length or found_ != table[32 * number:32 * number + 32]:
            raise Bad(f"memory at {start:#x} is not what was written")


# --- the two layouts ---


def part(file, start, length):
    file.seek(start)
    return file.read(length)


def read_store(path):
    with open(os.path.join(path, "manifest"), "rb") as file:
        found = records(file.read())
    with open(os.path.join(path, "device"), "rb") as file:
        device = file.read()
    show(found)
    if 7 not in found:
        verify(found, device, None)
        return
    with open(os.path.join(path, "memory"), "rb") as file:
        verify(found, device, lambda start, length: part(file, start, length))


def read_file(path):
    with open(path, "rb") as file:
        header = part(file, 0, 48)
        if header[:32] != b"Xen saved domain, xl format\n \0 \r":
            raise Bad("this is no saved domain")
        mark, flags, _optional, length = struct.unpack("<4I", header[32:])
        if mark != 0x01020304 or flags != 0x10003:
            raise Bad(f"this is no image of kxl (flags {flags:#x})")
        head = header + part(file, 48, length)
        locator = part(file, 48 + length, 128)
        if locator == bytes(128):
            raise Bad("this was never finished")
        if blake3(head + locator[:96]) != locator[96:]:
            raise Bad("the beginning is not what was written")
        magic, version, _zero, *places = struct.unpack("<8sII6Q", locator[:64])
        if magic != b"kxl-loc\n" or version != 1:
            raise Bad("the locator is not known")
        memory_at, _, device_at, device_length, manifest_at, manifest_length = places
        file.seek(0, os.SEEK_END)
        if file.tell() != manifest_at + manifest_length:
            raise Bad("the file is truncated or too long")
        print("configuration block:", head[52:].rstrip(b"\0").decode(errors="replace"))
        found = records(part(file, manifest_at, manifest_length))
        show(found)
        device = part(file, device_at, device_length)
        verify(found, device, lambda start, length: part(file, memory_at + start, length))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.strip())
    try:
        (read_store if os.path.isdir(sys.argv[1]) else read_file)(sys.argv[1])
    except (Bad, OSError, struct.error, UnicodeDecodeError) as error:
        sys.exit(f"{sys.argv[1]}: {error}")
    print("all digests are right")


main()
