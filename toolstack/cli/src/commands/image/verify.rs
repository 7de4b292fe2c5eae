//! `kxl image verify`.

use std::process::Command;

use kxl_domain::{Failure, Kind};
use kxl_engine::{Host, monitor_program};
use serde_json::json;

use super::{Named, bytes, named, open};
use crate::commands::Exit;
use crate::view::size;
use crate::{moving, out, report};

/// Checks every byte of images, and with `on_host` whether this host could restore them.
pub(super) fn verify(words: &[String], on_host: bool, quiet: bool, as_json: bool) -> Exit {
    let mut host = Host::open()?;
    let mut status = 0;
    let mut values = Vec::new();
    for word in words {
        let outcome = one(&mut host, word, on_host, quiet || as_json);
        match &outcome {
            Ok(whole) if !quiet && !as_json => out::print(&format!("{word}: {whole}\n"))?,
            Ok(_) => {}
            Err(failure) => {
                report::failure(failure);
                status = status.max(failure.kind.exit_code());
            }
        }
        let error = outcome.err().map(|failure| failure.to_string());
        values.push(json!({ "image": word, "whole": error.is_none(), "error": error }));
    }
    if as_json {
        out::print_json(&values)?;
    }
    Ok(status)
}

fn one(host: &mut Host, word: &str, on_host: bool, quiet: bool) -> Result<String, Failure> {
    let which = named(host, word)?;
    let image = open(host, &which)?;
    let (what, bytes) = (format!("verify {word}"), bytes(&image)?);
    moving::here(&what, bytes, quiet, |moved| {
        image.verify(moved).map_err(|error| {
            Failure::because(error.kind(), format!("image {word} is not what was saved"), &error)
        })
    })?;
    let mut text = format!("whole, {}", size::bytes(bytes));
    if on_host {
        restorable(word, &which)?;
        text.push_str("; this host can restore it");
    }
    Ok(text)
}

/// Asks the monitor program, which links the backends; this one does not.
fn restorable(word: &str, which: &Named) -> Result<(), Failure> {
    let program = monitor_program()?;
    let attempt = || format!("cannot check image {word} with {}", program.display());
    let mut command = Command::new(&program);
    match which {
        Named::Store(id) => command.arg("--check-image").arg(id.to_string()),
        Named::File(path) => command.arg("--check-image-file").arg(path),
    };
    let output =
        command.output().map_err(|error| Failure::because(Kind::Failed, attempt(), &error))?;
    if output.status.success() {
        return Ok(());
    }
    let mut failure: Failure = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
        let mut failure = Failure::new(Kind::Internal, attempt());
        failure.causes.push(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        failure
    });
    failure.causes.insert(0, std::mem::take(&mut failure.text));
    failure.text = format!("image {word} is whole, and this host cannot restore it");
    Err(failure)
}
