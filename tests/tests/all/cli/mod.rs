//! The commands as people and scripts meet them: statuses, texts, descriptors, formats.

mod clients;
mod exits;
mod foreground;
pub(crate) mod full_disk;
mod gate;
mod handover;
mod hung;
mod images;
mod import;
mod profile;
mod saved;
mod shell;
mod spoilt_conf;
mod stratovirt;
mod vm;
mod vm_wrong;
mod xl;
mod xl_saved;
