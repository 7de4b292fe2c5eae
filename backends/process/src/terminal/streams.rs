//! Standard streams that do not go to the console.
//!
//! An output file is fed through a pipe that the monitor empties, and is not given to the program
//! itself: only so can it be turned over without losing a line, and a full disk be no error of the
//! program's. What the program gets as its output is open for reading as well, so that it is a
//! reader itself: when the monitor dies, writing is no error (no SIGPIPE), whatever else the
//! program has closed, and the pipe holds up to [`PIPE_SIZE`] bytes. It inherits the reading end
//! under a number of its own, too, for one that puts another file in the place of its output; the
//! next monitor takes either back.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;
use std::rc::Rc;

use kxl_backend::{Attachments, BackendError, Event, LaunchSpec, Process, Result};
use kxl_domain::DomainConfig;
use kxl_domain::config::model::{Input, Output, OutputTo};
use kxl_domain::guest::Marked;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::inherited;
use super::output::OutputFile;
use super::regular;
use super::rights::Rights;
use super::said::Said;
use crate::profile::{Console, Standard};

/// Key, descriptor, and the number of the reading end among the program's own descriptors.
const OUTPUTS: [(&str, RawFd, RawFd); 2] = [("stdout", 1, 101), ("stderr", 2, 102)];

/// What a pipe holds while no monitor empties it; the kernel may grant less.
const PIPE_SIZE: i32 = 1 << 20;

/// Read at once.
const CHUNK: usize = 64 << 10;

/// One pipe and the file behind it.
#[derive(Debug)]
pub(super) struct Stream {
    key: &'static str,
    pipe: OwnedFd,
    file: RefCell<OutputFile>,
    /// Where the guest's marked lines go, and how far the stream has come in one.
    said: Option<Rc<Said>>,
    marked: RefCell<Marked>,
}

/// What became of one look into a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Some(usize),
    Nothing,
    End,
}

/// The streams of a program that go into files.
#[derive(Debug, Default)]
pub(super) struct Streams {
    all: Vec<Rc<Stream>>,
    said: Option<Rc<Said>>,
}

/// The standard descriptors of a program to be made.
pub(super) struct Opened {
    /// Descriptors and their numbers in the program.
    pub(super) fds: Vec<(OwnedFd, RawFd)>,
    /// The standard descriptor that is the terminal, if one is.
    pub(super) terminal: Option<RawFd>,
    /// What we keep.
    pub(super) streams: Streams,
}

/// Checks what a configuration says about them, making nothing.
///
/// # Errors
/// [`BackendError::Config`] naming the key.
pub(super) fn check(config: &DomainConfig, console: &Console) -> Result<()> {
    let rules = &config.process;
    if !console.streams.contains(&Standard::Stdin) && terminal(config, console).is_none() {
        let why = "its profile has the program get its terminal by this stream: leave it out";
        return Err(BackendError::config(key_of(console), why));
    }
    if let Some(Input::File(path)) = &rules.stdin {
        input(path, &Rights::of(config)?)?;
    }
    for (key, output) in [("stdout", &rules.stdout), ("stderr", &rules.stderr)] {
        let Some(OutputTo::File(path)) = &output.to else { continue };
        let wrong = |why: &str| Err(BackendError::file(key, path, why));
        if !path.is_absolute() {
            return wrong("expected an absolute path");
        }
        if path.is_dir() || path.file_name().is_none() {
            return wrong("is a directory, expected a file");
        }
        if !path.parent().is_some_and(Path::is_dir) {
            return wrong("its directory does not exist");
        }
    }
    let file = |output: &Output| match &output.to {
        Some(OutputTo::File(path)) => Some(path.clone()),
        _ => None,
    };
    if file(&rules.stdout).is_some_and(|path| file(&rules.stderr) == Some(path)) {
        let why = "two streams cannot keep one file to its size: say stderr = \"stdout\"";
        return Err(BackendError::config("stderr", why));
    }
    Ok(())
}

/// The key of the last stream by which a program has its terminal.
fn key_of(console: &Console) -> &'static str {
    match console.streams.last() {
        Some(Standard::Stdin) => "stdin",
        Some(Standard::Stdout) => "stdout",
        Some(Standard::Stderr) | None => "stderr",
    }
}

/// Opens the file of an input, as the user that is to read it.
fn input(path: &Path, rights: &Rights) -> Result<File> {
    if !path.is_absolute() {
        return Err(BackendError::file("stdin", path, "expected an absolute path"));
    }
    let opened = rights.with({
        let path = path.to_owned();
        move || regular::input(&path)
    });
    opened.map_err(|error| BackendError::file("stdin", path, error))
}

/// Opens them for a program whose terminal this is.
///
/// # Errors
/// [`BackendError::Config`] for a file that cannot be used.
pub(super) fn open(spec: &LaunchSpec, console: &Console, slave: &OwnedFd) -> Result<Opened> {
    let rules = &spec.config.process;
    let failed = |error: io::Error| BackendError::io("cannot set up the standard streams", error);
    let rights = || Rights::of(&spec.config);
    // What the profile does not put there leads nowhere.
    let slave = |number: RawFd| match console.streams.iter().any(|one| one.number() == number) {
        true => slave.try_clone(),
        false => null(),
    };
    let terminal = terminal(&spec.config, console);
    let streams = Streams::of(&spec.config).map_err(failed)?;
    let mut made = Opened { fds: Vec::new(), terminal, streams };
    let stdin = match &rules.stdin {
        None => slave(0).map_err(failed)?,
        Some(Input::Nothing) => null().map_err(failed)?,
        Some(Input::File(path)) => input(path, &rights()?)?.into(),
    };
    made.fds.push((stdin, 0));
    for ((key, number, ours), output) in OUTPUTS.into_iter().zip([&rules.stdout, &rules.stderr]) {
        let fd = match &output.to {
            None => slave(number).map_err(failed)?,
            Some(OutputTo::Nothing) => null().map_err(failed)?,
            Some(OutputTo::Stdout) => {
                made.fds.last().map_or_else(null, |(fd, _)| fd.try_clone()).map_err(failed)?
            }
            Some(OutputTo::File(path)) => {
                let rights = rights()?;
                let user = rights.user().map(|user| user.uid);
                let mut file = OutputFile::new(path, output, rights);
                file.open().map_err(|error| BackendError::file(key, path, error))?;
                let (read, write) = large_pipe(user).map_err(failed)?;
                made.fds.push((read.try_clone().map_err(failed)?, ours));
                made.streams.add(key, read, file);
                write
            }
        };
        made.fds.push((fd, number));
    }
    Ok(made)
}

/// The standard descriptor by which a program of this configuration has its terminal.
fn terminal(config: &DomainConfig, console: &Console) -> Option<RawFd> {
    let rules = &config.process;
    let own = |stream: Standard| match stream {
        Standard::Stdin => rules.stdin.is_none(),
        Standard::Stdout => rules.stdout.to.is_none(),
        Standard::Stderr => rules.stderr.to.is_none(),
    };
    let mut there = console.streams.iter().copied();
    if console.streams.contains(&Standard::Stdin) {
        // Where nothing can be typed it controls nothing, and its end is no SIGHUP.
        return own(Standard::Stdin).then_some(0);
    }
    there.find(|stream| own(*stream)).map(Standard::number)
}

fn null() -> io::Result<OwnedFd> {
    File::options().read(true).write(true).open("/dev/null").map(Into::into)
}

/// A pipe as large as we are given it: an end to read from that does not block, and one that is
/// open for both. It is the user's, whose program may open its own `/dev/stdout`.
fn large_pipe(user: Option<u32>) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    if let Err(error) = fcntl(&read, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE)) {
        tracing::debug!(%error, "a pipe of the usual size");
    }
    fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let both = inherited::again(&write, File::options().read(true).write(true))?;
    if let Some(user) = user {
        nix::unistd::fchown(&read, Some(nix::unistd::Uid::from_raw(user)), None)?;
    }
    Ok((read, both))
}

impl Streams {
    /// None so far, of a program whose guest may speak in those to come.
    fn of(config: &DomainConfig) -> io::Result<Self> {
        let outputs = [&config.process.stdout, &config.process.stderr];
        let some = outputs.iter().any(|output| matches!(output.to, Some(OutputTo::File(_))));
        let said = if some { Said::of(config)? } else { None };
        Ok(Self { all: Vec::new(), said })
    }

    fn add(&mut self, key: &'static str, pipe: OwnedFd, file: OutputFile) {
        let (file, said) = (RefCell::new(file), self.said.clone());
        self.all.push(Rc::new(Stream { key, pipe, file, said, marked: RefCell::default() }));
    }

    /// Takes the monitor's end of the way by which it hears marked lines; `None` the second time,
    /// and where none are listened to.
    pub(super) fn channel(&self) -> Option<OwnedFd> {
        self.said.as_ref().and_then(|said| said.channel())
    }

    /// Writes down which pipes they are, so that a later monitor takes no other.
    pub(super) fn note(&self, attachments: &mut Attachments) -> io::Result<()> {
        for stream in &self.all {
            inherited::note_pipe(attachments, stream.key, &stream.pipe)?;
        }
        Ok(())
    }

    /// Whether there is one.
    pub(super) fn any(&self) -> bool {
        !self.all.is_empty()
    }

    /// The reading ends, with the numbers under which they are kept for the next monitor.
    pub(super) fn kept(&self) -> io::Result<Vec<(OwnedFd, RawFd)>> {
        let number = |key| OUTPUTS.iter().find(|(of, ..)| *of == key).map(|(_, _, ours)| *ours);
        let copies = self.all.iter().filter_map(|stream| Some((stream, number(stream.key)?)));
        copies.map(|(stream, number)| Ok((stream.pipe.try_clone()?, number))).collect()
    }

    /// Takes the reading ends back from who holds them for us; also gives the keys of those that
    /// nobody has.
    ///
    /// # Errors
    /// When one cannot be had for another reason.
    pub(super) fn take_back(
        config: &DomainConfig,
        holders: &[&Process],
        attachments: &Attachments,
    ) -> Result<(Self, Vec<&'static str>)> {
        let rules = &config.process;
        let failed = |error| BackendError::io("cannot listen to the guest", error);
        let (mut streams, mut closed) = (Self::of(config).map_err(failed)?, Vec::new());
        for ((key, number, ours), output) in OUTPUTS.into_iter().zip([&rules.stdout, &rules.stderr])
        {
            let Some(OutputTo::File(path)) = &output.to else { continue };
            let taken = inherited::pipe(holders, attachments, key, &[ours, number]);
            let taken = taken
                .map_err(|error| BackendError::io(format!("cannot take {key} back"), error))?;
            let Some(pipe) = taken else {
                closed.push(key);
                continue;
            };
            let mut file = OutputFile::new(path, output, Rights::of_running(config));
            if let Err(error) = file.open() {
                // Told when there is something to write.
                tracing::warn!(key, %error, "no file of output");
            }
            streams.add(key, pipe, file);
        }
        Ok((streams, closed))
    }

    /// Starts to empty them; the tasks end with the streams.
    ///
    /// # Errors
    /// When a pipe cannot be waited on.
    pub(super) fn serve(
        &self,
        events: &mpsc::UnboundedSender<Event>,
    ) -> io::Result<Vec<JoinHandle<()>>> {
        let serve = |stream: &Rc<Stream>| {
            let waiting = pipe::Receiver::from_owned_fd(stream.pipe.try_clone()?)?;
            let task = Rc::clone(stream).run(waiting, events.clone());
            Ok(tokio::task::spawn_local(task))
        };
        self.all.iter().map(serve).collect()
    }

    /// Writes what a program has left that has ended. What a child of it still prints is not
    /// waited for: no more is taken than the pipes can hold.
    pub(super) async fn finish(&self, events: &mpsc::UnboundedSender<Event>) {
        for stream in &self.all {
            let mut left = usize::try_from(PIPE_SIZE).unwrap_or(CHUNK);
            while let Found::Some(count) = stream.pump(events) {
                match left.checked_sub(count) {
                    Some(less) => left = less,
                    None => break,
                }
            }
        }
        if let Some(said) = &self.said {
            said.end().await;
        }
    }
}

impl Stream {
    async fn run(self: Rc<Self>, waiting: pipe::Receiver, events: mpsc::UnboundedSender<Event>) {
        while waiting.readable().await.is_ok() {
            let mut found = Found::Nothing;
            // Through the waiting end, so that it learns when there is nothing left.
            let _empty = waiting.try_io(|| {
                found = self.pump(&events);
                match found {
                    Found::Nothing => Err(io::ErrorKind::WouldBlock.into()),
                    Found::Some(_) | Found::End => Ok(()),
                }
            });
            if found == Found::End {
                return;
            }
            if let Some(said) = &self.said {
                said.passed_on().await;
            }
            // Others have their turn between two pieces, however much is printed.
            tokio::task::yield_now().await;
        }
    }

    /// Takes a piece out of the pipe and into the file.
    fn pump(&self, events: &mpsc::UnboundedSender<Event>) -> Found {
        // Not kept: most streams are silent most of the time.
        let mut buffer = vec![0; CHUNK];
        let count = match nix::unistd::read(&self.pipe, &mut buffer) {
            Ok(0) => return Found::End,
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => return Found::Some(0),
            Err(nix::errno::Errno::EAGAIN) => return Found::Nothing,
            Err(error) => {
                tracing::warn!(key = self.key, %error, "a stream of output cannot be read");
                return Found::End;
            }
        };
        if let Some(trouble) = self.file.borrow_mut().write(&buffer[..count]) {
            let text = format!("{}: {trouble}", self.key);
            let warning = Event::Warning { what: "output-trouble", text };
            let _nobody_listens = events.send(warning);
        }
        if let Some(said) = &self.said {
            self.marked.borrow_mut().push(&buffer[..count], |piece| said.hear(piece));
        }
        Found::Some(count)
    }
}
