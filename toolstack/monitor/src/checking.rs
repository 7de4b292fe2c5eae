//! `--check-image`: whether this host could restore an image. Here, because only this program
//! links the backends; `kxl image verify --host` asks it.

use std::path::Path;

use kxl_domain::{Failure, Kind};
use kxl_engine::Host;
use kxl_store::image::Image;

use crate::backends;

/// An image in the store.
pub(crate) fn stored(id: &str) -> Result<(), Failure> {
    let id = id.parse().map_err(|e| Failure::because(Kind::Usage, "cannot check an image", &e))?;
    let host = Host::open()?;
    told(host.image(id).and_then(|image| fits(&host, &image)))
}

/// An image in a file.
pub(crate) fn file(path: &Path) -> Result<(), Failure> {
    let host = Host::open()?;
    let image = Image::open_file(path).map_err(|error| {
        Failure::because(error.kind(), format!("cannot read {}", path.display()), &error)
    });
    told(image.and_then(|image| fits(&host, &image)))
}

fn fits(host: &Host, image: &Image) -> Result<(), Failure> {
    let backend = backends::choose(&host.paths, &image.facts().config);
    host.fits(image, backend.as_ref())
}

/// Prints the failure whole, as JSON, for the command that asked.
fn told(outcome: Result<(), Failure>) -> Result<(), Failure> {
    if let Err(failure) = &outcome
        && let Ok(text) = serde_json::to_string(failure)
    {
        crate::say(&text);
    }
    outcome
}
