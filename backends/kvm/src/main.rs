//! kxl-vmm: see kxl-vmm(8).

fn main() {}
