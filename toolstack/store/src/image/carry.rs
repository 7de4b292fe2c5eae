//! Images from one layout into the other. The manifest is the same in both, and is carried over as
//! it is: optional records that this build does not know stay.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use kxl_domain::ImageId;

use super::buffer::PAGE_LEN;
use super::open::{Image, read_exact};
use super::reserve::Reserve;
use super::target::{Place, Target};
use super::{CHUNK, Need, index};
use crate::Result;
use crate::paths::Paths;

/// Writes an image into a file of the user's, verifying every byte on the way. A file that is there
/// is replaced at the end and at once. `header` is the text of its configuration block.
///
/// `moved` is told the bytes that were carried since the last time, and ends it with `false`.
///
/// # Errors
/// `Image` when it is not what was written, `NoRoom`, `NoSpace`, `GivenUp`, `Io`: then there is no
/// new file.
pub fn export(
    image: &Image,
    to: &Path,
    header: &[u8],
    moved: &mut dyn FnMut(u64) -> bool,
) -> Result<()> {
    let target = Target::File { path: to.to_path_buf(), replace: true, header: header.to_vec() };
    carry(image, &target, moved)
}

/// Takes an image from a user's file into the store, verifying every byte on the way. The file
/// stays.
///
/// `moved` is told the bytes that were carried since the last time, and ends it with `false`.
///
/// # Errors
/// `ImageTaken` when the store has it already; `Image`, `NoRoom`, `NoSpace`, `GivenUp`, `Io`: then
/// nothing of it is in the store.
pub fn import(file: &Path, paths: &Paths, moved: &mut dyn FnMut(u64) -> bool) -> Result<ImageId> {
    let image = Image::open_file(file)?;
    carry(&image, &Target::Store(paths.clone()), moved)?;
    Ok(image.id())
}

fn carry(image: &Image, target: &Target, moved: &mut dyn FnMut(u64) -> bool) -> Result<()> {
    let layout = image.memory();
    let size = layout.as_ref().map(|layout| layout.size);
    let device_length = image.manifest.device.length;
    let need = Need { memory: size, touched: image.bytes()?, device: device_length };
    let mut place = Place::make(target, image.id(), size.unwrap_or(0))?;
    let reserve = Reserve::take(place.dir(), &need)?;

    let (into, base) = place.device().map_err(|error| place.failed("open", error))?;
    copy_device(image, &into, base, &reserve)?;
    if !moved(device_length) {
        return Err(image.given_up());
    }
    if let Some(size) = size {
        let (into, base) = place.memory(size).map_err(|error| place.failed("open", error))?;
        image.each_chunk(moved, &|chunk, buffer, data| {
            for run in data.runs() {
                let at = chunk * CHUNK + (run.start * PAGE_LEN) as u64;
                let end = (chunk * CHUNK + (run.end * PAGE_LEN) as u64).min(size);
                reserve.write(&into, &buffer.pages(run)[..index(end - at)], base + at)?;
            }
            Ok(())
        })?;
    }
    place.sync().map_err(|error| place.failed("write the image", error))?;
    let manifest = image.manifest_bytes()?;
    place.commit(&manifest, device_length, &reserve).map(drop)
}

fn copy_device(image: &Image, into: &File, base: u64, reserve: &Reserve) -> Result<()> {
    let from = File::from(image.device()?);
    let copy = || -> io::Result<()> {
        let mut piece = vec![0; 256 << 10];
        let (mut at, end) = (0, image.manifest.device.length);
        while at < end {
            let bytes = piece.len().min(index(end - at));
            from.read_exact_at(&mut piece[..bytes], at)?;
            reserve.write(into, &piece[..bytes], base + at)?;
            at += bytes as u64;
        }
        Ok(())
    };
    copy().map_err(|error| image.failed("copy the device stream of", error))
}

impl Image {
    /// The manifest as it is on the disk; it was right when the image was opened, and is still.
    fn manifest_bytes(&self) -> Result<Vec<u8>> {
        let part = &self.source;
        let mut bytes = vec![0; index(self.manifest_length)];
        read_exact(&part.file, &mut bytes, part.start, "the manifest")
            .and_then(|()| Ok(super::codec::decode(&bytes).map(drop)?))
            .map_err(|problem| problem.of(self.path.clone()))?;
        Ok(bytes)
    }
}
