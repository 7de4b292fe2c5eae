//! A file, or a directory of files, as one stream of bytes: what an emulator has written of its
//! state, on its way into an image and back.
//!
//! The stream is a head, and then for each file its name, its size and the runs of its pages that
//! are not all zero; a file without a name is the whole of a state that is no directory. Numbers
//! are little-endian.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

/// What the stream begins with.
const HEAD: &[u8; 8] = b"kxlstat1";

/// Zeros are told apart in pieces of this size.
const PAGE: usize = 4096;

/// The longest run that is written at once.
const RUN: usize = 64 * PAGE;

/// Kinds of records.
const FILE: u8 = 1;
const DATA: u8 = 2;
const END: u8 = 3;

/// The longest name of a file.
const NAME_MAX: usize = 255;

fn odd(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the saved state is not whole: {what}"))
}

/// The files of a state: one, or those of a directory, by name. Nothing else may be in it.
fn files(path: &Path) -> io::Result<Vec<(String, File)>> {
    if !path.is_dir() {
        return Ok(vec![(String::new(), File::open(path)?)]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().into_string().map_err(|_| odd("a file has no proper name"))?;
        if !entry.file_type()?.is_file() {
            return Err(odd(&format!("{name} is no file")));
        }
        found.push((name, File::open(entry.path())?));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    if found.is_empty() {
        return Err(odd("its directory is empty"));
    }
    Ok(found)
}

/// How many bytes the files have.
pub(super) fn size(path: &Path) -> io::Result<u64> {
    files(path)?.iter().map(|(_, file)| Ok(file.metadata()?.len())).sum()
}

/// Puts the files of a state into `out`, which is told how far it has come in them, too.
///
/// # Errors
/// Those of the disk and of `out`.
pub(super) fn pack(
    path: &Path,
    out: &mut dyn FnMut(&[u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    out(HEAD, 0)?;
    for (name, file) in files(path)? {
        let size = file.metadata()?.len();
        let mut head = vec![FILE, u8::try_from(name.len()).map_err(io::Error::other)?];
        head.extend(name.as_bytes());
        head.extend(size.to_le_bytes());
        out(&head, 0)?;
        data(&file, out)?;
    }
    out(&[END], 0)
}

/// The runs of a file.
fn data(file: &File, out: &mut dyn FnMut(&[u8], u64) -> io::Result<()>) -> io::Result<()> {
    let (mut buffer, mut at) = (vec![0; RUN], 0);
    loop {
        let count = fill(file, &mut buffer, at)?;
        if count == 0 {
            return Ok(());
        }
        let mut pages = buffer[..count].chunks(PAGE).enumerate().peekable();
        while let Some((first, page)) = pages.next() {
            if is_zero(page) {
                continue;
            }
            let mut end = first * PAGE + page.len();
            while let Some((_, page)) = pages.next_if(|(_, page)| !is_zero(page)) {
                end += page.len();
            }
            let run = &buffer[first * PAGE..end];
            let mut head = vec![DATA];
            head.extend((at + (first * PAGE) as u64).to_le_bytes());
            head.extend(u32::try_from(run.len()).map_err(io::Error::other)?.to_le_bytes());
            out(&head, 0)?;
            out(run, 0)?;
        }
        at += count as u64;
        out(&[], count as u64)?;
    }
}

fn is_zero(page: &[u8]) -> bool {
    page.iter().all(|byte| *byte == 0)
}

/// Reads as much as there is room for, or is left.
fn fill(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match file.read_at(&mut buffer[count..], at + count as u64) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Makes the files of a stream again at `path`, where nothing may be.
///
/// # Errors
/// Those of the disk, and what is wrong with the stream.
pub(super) fn unpack(stream: impl Read, path: &Path) -> io::Result<()> {
    let mut stream = BufReader::with_capacity(RUN, stream);
    let mut head = [0; HEAD.len()];
    stream.read_exact(&mut head)?;
    if head != *HEAD {
        return Err(odd("it begins in another way"));
    }
    let mut open: Option<(File, u64)> = None;
    let mut buffer = vec![0; RUN];
    loop {
        match number(&mut stream)? {
            [FILE] => {
                let name = name(&mut stream)?;
                let size = u64::from_le_bytes(number(&mut stream)?);
                let file = create(path, &name)?;
                file.set_len(size)?;
                open = Some((file, size));
            }
            [DATA] => {
                let at = u64::from_le_bytes(number(&mut stream)?);
                let length = u32::from_le_bytes(number(&mut stream)?) as usize;
                let (file, size) = open.as_mut().ok_or_else(|| odd("bytes of no file"))?;
                let fits = at.checked_add(length as u64).is_some_and(|end| end <= *size);
                if length > RUN || !fits {
                    return Err(odd("bytes beyond the end of a file"));
                }
                stream.read_exact(&mut buffer[..length])?;
                file.write_all_at(&buffer[..length], at)?;
            }
            [END] if open.is_some() => return Ok(()),
            _ => return Err(odd("it goes on in another way")),
        }
    }
}

fn number<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A name that leads nowhere else.
fn name(stream: &mut impl Read) -> io::Result<String> {
    let [length] = number(stream)?;
    let mut bytes = vec![0; usize::from(length).min(NAME_MAX)];
    stream.read_exact(&mut bytes)?;
    let name = String::from_utf8(bytes).map_err(|_| odd("a file has no proper name"))?;
    if name.contains(['/', '\0']) || name == "." || name == ".." {
        return Err(odd("a file has no proper name"));
    }
    Ok(name)
}

fn create(path: &Path, name: &str) -> io::Result<File> {
    let mut how = OpenOptions::new();
    how.write(true).create_new(true).mode(0o600);
    if name.is_empty() {
        return how.open(path);
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => how.open(path.join(name)),
    }
}

/// Removes what may be there, a file or a directory.
pub(super) fn remove(path: &Path) {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "cannot remove");
        }
        Ok(()) | Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    fn packed(path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        pack(path, &mut |more, _| {
            bytes.extend_from_slice(more);
            Ok(())
        })?;
        Ok(bytes)
    }

    fn memory() -> Vec<u8> {
        let mut memory = vec![0; 3 * RUN + 100];
        memory[5] = 1;
        memory[2 * PAGE..4 * PAGE].fill(7);
        memory[RUN - 1..RUN + PAGE + 3].fill(9);
        memory[3 * RUN + 99] = 2;
        memory
    }

    #[test]
    fn a_directory_of_files_comes_back_and_its_zeros_take_no_room() {
        let scratch = Scratch::new("bundle");
        let (from, to) = (scratch.0.join("from"), scratch.0.join("to"));
        fs::create_dir(&from).unwrap();
        for (name, bytes) in
            [("memory", memory()), ("state", b"devices".to_vec()), ("none", vec![])]
        {
            fs::write(from.join(name), bytes).unwrap();
        }
        assert_eq!(size(&from).unwrap(), memory().len() as u64 + 7);
        let stream = packed(&from).unwrap();
        assert!(stream.len() < 8 * PAGE, "{}", stream.len());
        unpack(stream.as_slice(), &to).unwrap();
        assert_eq!(fs::read(to.join("memory")).unwrap(), memory());
        assert_eq!(fs::read(to.join("state")).unwrap(), b"devices");
        assert_eq!(fs::read(to.join("none")).unwrap(), b"");
        assert_eq!(fs::read_dir(&to).unwrap().count(), 3);
        // What is there already is nobody's state.
        unpack(stream.as_slice(), &to).unwrap_err();
        remove(&to);
        assert!(!to.exists());
    }

    #[test]
    fn a_single_file_comes_back() {
        let scratch = Scratch::new("bundle");
        let (from, to) = (scratch.0.join("from"), scratch.0.join("to"));
        fs::write(&from, memory()).unwrap();
        unpack(packed(&from).unwrap().as_slice(), &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), memory());
        remove(&to);
        remove(&to);
    }

    #[test]
    fn what_is_no_state_is_not_packed() {
        let scratch = Scratch::new("bundle");
        let dir = scratch.0.join("dir");
        packed(&dir).unwrap_err();
        fs::create_dir_all(dir.join("deeper")).unwrap();
        let error = packed(&dir).unwrap_err().to_string();
        assert!(error.contains("deeper is no file"), "{error}");
        fs::remove_dir(dir.join("deeper")).unwrap();
        assert!(packed(&dir).unwrap_err().to_string().contains("empty"));
    }

    #[test]
    fn streams_that_would_write_elsewhere_or_beyond_are_refused() {
        let scratch = Scratch::new("bundle");
        let file = |name: &str, size: u64| {
            let length = u8::try_from(name.len()).unwrap();
            [&[FILE, length][..], name.as_bytes(), &size.to_le_bytes()].concat()
        };
        let data = |at: u64, length: u32| {
            [&[DATA][..], &at.to_le_bytes(), &length.to_le_bytes(), &[1; 4]].concat()
        };
        for (number, records) in [
            vec![file("../x", 4)],
            vec![file("..", 4)],
            vec![data(0, 4)],
            vec![file("a", 4), data(1, 4)],
            vec![file("a", 4), data(u64::MAX, 4)],
            vec![file("a", 1 << 40), data(0, u32::MAX)],
            vec![vec![END]],
            vec![vec![9]],
            vec![file("a", 4), data(0, 4)],
        ]
        .into_iter()
        .enumerate()
        {
            let stream = [HEAD.to_vec(), records.concat()].concat();
            let to = scratch.0.join(number.to_string());
            unpack(stream.as_slice(), &to).unwrap_err();
        }
        unpack(&b"another"[..], &scratch.0.join("other")).unwrap_err();
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(bytes: Vec<u8>, cut in 0usize..200) {
            let scratch = Scratch::new("bundle");
            let from = scratch.0.join("from");
            fs::write(&from, b"some bytes").unwrap();
            let mut stream = packed(&from).unwrap();
            stream.truncate(cut);
            stream.extend(bytes);
            let _read_or_refused = unpack(stream.as_slice(), &scratch.0.join("to"));
        }
    }
}
