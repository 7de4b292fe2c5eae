//! `kxl image`: the states in the store, and those in files.

mod clone;
mod list;
mod show;
mod verify;

use std::path::{Path, PathBuf};

use kxl_domain::{Failure, ImageId, State};
use kxl_engine::Host;
use kxl_store::image::{self, Image};
use serde_json::json;

use super::{Exit, save};
use crate::args;
use crate::view::size;
use crate::{moving, out, report};

/// Carries out a verb of `kxl image`.
pub(crate) fn image(args: args::Image) -> Exit {
    match args {
        args::Image::List { json } => list::list(json),
        args::Image::Show { image, json } => show::show(&image, json),
        args::Image::Verify { images, host, quiet, json } => {
            verify::verify(&images, host, quiet, json)
        }
        args::Image::Rm { images } => rm(&images),
        args::Image::Export { image, file, force, quiet } => export(&image, &file, force, quiet),
        args::Image::Import { file, quiet, json } => import(&file, quiet, json),
        args::Image::Clone(args) => clone::clone(&args),
        args::Image::Checkpoint { names, quiet, json } => save::checkpoint(&names, quiet, json),
    }
}

/// What a word on the command line names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// An image in the store.
    Store(ImageId),
    /// A file.
    File(PathBuf),
}

/// The image that a word names; a file where the word is a path to one.
///
/// # Errors
/// As [`Host::image_id`].
pub(crate) fn named(host: &mut Host, word: &str) -> Result<Named, Failure> {
    let path = Path::new(word);
    if word.contains('/') || (path.is_file() && host.find(word).is_err()) {
        return Ok(Named::File(moving::absolute(path)?));
    }
    host.image_id(word).map(Named::Store)
}

/// Opens an image; its manifest is verified.
///
/// # Errors
/// [`Kind::Failed`] with what is wrong with it.
pub(crate) fn open(host: &Host, named: &Named) -> Result<Image, Failure> {
    let opened = match named {
        Named::Store(id) => Image::open_store(&host.paths, *id),
        Named::File(path) => Image::open_file(path),
    };
    opened.map_err(|error| {
        let attempt = match named {
            Named::Store(id) => format!("cannot read image {id}"),
            Named::File(path) => format!("cannot read {}", path.display()),
        };
        Failure::because(error.kind(), attempt, &error)
    })
}

/// Bytes that an image takes on the disk.
///
/// # Errors
/// When that cannot be told.
pub(crate) fn bytes(image: &Image) -> Result<u64, Failure> {
    image.bytes().map_err(|error| {
        let attempt = format!("cannot tell the size of image {}", image.facts().id);
        Failure::because(error.kind(), attempt, &error)
    })
}

/// Removes images from the store.
fn rm(words: &[String]) -> Exit {
    let mut host = Host::open()?;
    let mut status = 0;
    for word in words {
        if let Err(failure) = remove(&mut host, word) {
            report::failure(&failure);
            status = status.max(failure.kind.exit_code());
        }
    }
    Ok(status)
}

/// Removes the image that a word names. That of a suspended domain is its state: it is halted then.
fn remove(host: &mut Host, word: &str) -> Result<(), Failure> {
    let id = host.image_id(word)?;
    match host.find(word) {
        Ok(row) if row.state == State::Suspended => host.discard(&row),
        _ => host.remove_image(id),
    }
}

/// Copies an image into a file.
fn export(word: &str, file: &Path, force: bool, quiet: bool) -> Exit {
    let mut host = Host::open()?;
    let id = host.image_id(word)?;
    let path = moving::new_file(file, force)?;
    let image = open(&host, &Named::Store(id))?;
    let header = moving::header_of(&image.facts().config).into_bytes();
    let what = format!("export {}", short(id));
    moving::here(&what, bytes(&image)?, quiet, |moved| {
        image::export(&image, &path, &header, moved).map_err(|error| {
            let attempt = format!("cannot export image {id} to {}", file.display());
            Failure::because(error.kind(), attempt, &error)
        })
    })?;
    if !quiet {
        out::print(&format!("{id}: exported to {}\n", file.display()))?;
    }
    Ok(0)
}

/// Copies an image from a file into the store.
fn import(file: &Path, quiet: bool, json: bool) -> Exit {
    let host = Host::open()?;
    let path = moving::absolute(file)?;
    let image = open(&host, &Named::File(path.clone()))?;
    let attempt = || format!("cannot import {}", file.display());
    host.paths.prepare().map_err(|e| Failure::because(e.kind(), attempt(), &e))?;
    let what = format!("import {}", file.display());
    let id = moving::here(&what, bytes(&image)?, quiet || json, |moved| {
        image::import(&path, &host.paths, moved)
            .map_err(|error| Failure::because(error.kind(), attempt(), &error))
    })?;
    let facts = image.facts();
    if json {
        out::print_json(&json!({
            "image": id.to_string(),
            "name": facts.name.as_str(),
            "uuid": facts.uuid.to_string(),
            "bytes": bytes(&image)?,
        }))?;
    } else if quiet {
        out::print(&format!("{id}\n"))?;
    } else {
        let size = size::bytes(bytes(&image)?);
        out::print(&format!("{id}: a state of domain \"{}\", {size}\n", facts.name))?;
    }
    Ok(0)
}

/// The first letters of an id, as tables show it.
pub(crate) fn short(id: ImageId) -> String {
    id.to_string()[..8].to_owned()
}
