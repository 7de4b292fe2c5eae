//! A domain that counts, the file that it may be saved to, and how the two can stand.

use std::path::{Path, PathBuf};

use kxl_domain::{State, Verb};

use crate::lifecycle::crash::Kind;
use crate::support::guest::Counter;
use crate::support::{Console, Host, Output, guest, wait};

/// How a domain and its image stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stands {
    /// It runs, and there is no image of it.
    Runs,
    /// It runs beside a complete image: a checkpoint, or the file that it came from.
    RunsBeside,
    /// It is down, and a complete image is what it is.
    Image,
    /// Its emulator's death was a crash, and there is no image.
    Crashed,
    /// Its emulator's death was a crash, beside a complete image.
    CrashedBeside,
}

/// A host with the domain `web`, whose guest counts.
pub(super) struct World {
    pub(super) host: Host,
    pub(super) kind: Kind,
    config: PathBuf,
    counter: Counter,
}

impl World {
    /// On the mock, whose memory is kept apart from its device state and compared when it comes
    /// back; `words` go to its script and `lines` to its configuration.
    pub(super) fn mock(kind: Kind, words: &str, lines: &str) -> Self {
        let words = format!("memory=2M dirty=8 {words}");
        Self::new(Host::new(), kind, &guest::mock_with("web", &words, lines))
    }

    /// With another configuration.
    pub(super) fn new(host: Host, kind: Kind, config: &str) -> Self {
        let config = host.file("web.cfg", config);
        let world = Self { host, kind, config, counter: Counter::Linux };
        if kind == Kind::Managed {
            world.host.ok(["new", world.config()]);
        }
        world
    }

    pub(super) fn config(&self) -> &str {
        self.config.to_str().unwrap()
    }

    /// The file of saves.
    pub(super) fn file(&self) -> String {
        self.host.scratch().join("web.img").display().to_string()
    }

    /// Brings the domain up; what it has counted to.
    pub(super) fn up(&self) -> u64 {
        match self.kind {
            Kind::Managed => self.host.ok(["start", "web"]),
            Kind::Transient => self.host.ok(["create", self.config()]),
        };
        self.counter.begins(&Console::attach(&self.host, "web"))
    }

    /// Takes the monitor away, so that the next command starts one with its own environment.
    pub(super) fn lose_monitor(&self) {
        self.host.monitor_of(&self.host.domain("web")).kill();
    }

    /// The words of the command for a verb.
    pub(super) fn words(&self, verb: Verb) -> Vec<String> {
        let words: &[&str] = match verb {
            Verb::Save => &["save", "web", &self.file()],
            Verb::Suspend => &["suspend", "web"],
            Verb::Checkpoint => &["image", "checkpoint", "web"],
            Verb::Restore => &["restore", &self.file()],
            Verb::Resume => &["resume", "web"],
            _ => panic!("{verb} has nothing to do with images"),
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// Carries a verb out.
    pub(super) fn act(&self, verb: Verb) -> Output {
        self.host.kxl(self.words(verb))
    }

    /// What the domain has counted to when it is down as an image, or was told to go on.
    pub(super) fn count(&self) -> u64 {
        self.counter.begins(&Console::attach(&self.host, "web"))
    }

    /// The guest of the living domain goes on from `count` and never booted anew; its new count.
    pub(super) fn goes_on_from(&self, count: u64, case: &str) -> u64 {
        let console = Console::attach(&self.host, "web");
        let now = self.counter.beyond(&console, count);
        let text = console.text();
        // A monitor that has adopted the domain shows what was said before.
        let (_, since) = text.rsplit_once("READY").unwrap_or(("", &text));
        let first = since.lines().find_map(|line| self.counter.last(&format!("{line}\n")));
        assert!(
            first.is_some_and(|first| first > 1) || text.contains("READY\r\nC 1 "),
            "{case}: it began anew: {text}"
        );
        now
    }

    /// How the domain and its image stand; `None` where they contradict each other, or something
    /// is still under way.
    pub(super) fn stands(&self, verb: Verb) -> Option<Stands> {
        let image = self.has_image(verb);
        let domain = self.host.find("web");
        let state = domain.as_ref().map(|domain| domain.rests());
        let live = domain.as_ref().is_some_and(|domain| domain.domid().is_some());
        let crashed = match &domain {
            Some(domain) => domain.reason() == Some("crash"),
            // Of a transient domain only its events are left.
            None => self.last_words() == "crash",
        };
        match (state, live, image) {
            (Some(Some(State::Running)), true, true) => Some(Stands::RunsBeside),
            (Some(Some(State::Running)), true, false) => Some(Stands::Runs),
            (Some(Some(State::Suspended)), false, true) if verb != Verb::Checkpoint => {
                Some(Stands::Image)
            }
            (Some(Some(State::Halted | State::Failed)) | None, false, _) if crashed => {
                Some(if image { Stands::CrashedBeside } else { Stands::Crashed })
            }
            (Some(Some(State::Halted | State::Failed)) | None, false, true)
                if matches!(verb, Verb::Save | Verb::Restore) =>
            {
                Some(Stands::Image)
            }
            _ => None,
        }
    }

    /// Whether there is a complete image, by the commands for people.
    fn has_image(&self, verb: Verb) -> bool {
        let image = match verb {
            Verb::Save | Verb::Restore => {
                let file = self.file();
                Path::new(&file).exists().then_some(file)
            }
            _ => {
                let images = self.host.images();
                assert!(images.len() < 2, "more images than were made: {images:?}");
                images.first().map(|image| {
                    image["image"].as_str().unwrap_or_else(|| panic!("{image}")).to_owned()
                })
            }
        };
        let Some(image) = image else { return false };
        let verified = self.host.kxl(["image", "verify", &image]);
        // The one that a guest came from may be removed at this moment.
        let removed = !Path::new(&image).exists() && !self.host.image_store().join(&image).exists();
        if verified.code() != Some(0) && removed {
            return false;
        }
        verified.expect(0);
        true
    }

    /// The last end that the events tell of.
    fn last_words(&self) -> String {
        let ends = ["crash", "poweroff", "destroyed", "saved", "suspended", "start-failed"];
        let events = self.host.events("web");
        let what = events.iter().rev().filter_map(|event| event["what"].as_str());
        what.filter(|what| ends.contains(what)).map(str::to_owned).next().unwrap_or_default()
    }

    /// Waits until domain and image stand as one of `allowed`.
    pub(super) fn comes_to(&self, verb: Verb, allowed: &[Stands], case: &str) -> Stands {
        let mut last = None;
        let what = format!("{case}: domain and image stand as one of {allowed:?}");
        let end = std::time::Instant::now() + wait::SOON;
        loop {
            let now = self.stands(verb);
            if let Some(found) = now.filter(|now| allowed.contains(now)) {
                return found;
            }
            if now != last {
                eprintln!("{case}: {now:?}");
                last = now;
            }
            assert!(
                std::time::Instant::now() < end,
                "{what} in vain: {:?} {:?}",
                self.host.find("web"),
                self.host.images()
            );
            std::thread::sleep(std::time::Duration::from_millis(15));
        }
    }

    /// Removes domain and images; nothing else may be left of them.
    pub(super) fn clear(&self, case: &str) {
        let host = &self.host;
        match host.find("web") {
            Some(domain) if domain.domid().is_some() => drop(host.ok(["destroy", "web"])),
            Some(domain) if domain.state() == State::Suspended => {
                drop(host.ok(["image", "rm", "web"]));
            }
            _ => {}
        }
        if self.kind == Kind::Managed {
            host.ok(["delete", "web"]);
        }
        host.quiet();
        host.kxl(["recover"]).expect(0);
        for image in host.images() {
            host.ok(["image", "rm", image["image"].as_str().unwrap()]);
        }
        assert_eq!(host.temporaries(), [""; 0], "{case}");
        assert_eq!(host.journal(), [], "{case}");
        assert_eq!(host.leftovers(), [""; 0], "{case}");
        let left = std::fs::read_dir(host.image_store()).into_iter().flatten().count();
        assert_eq!(left, 0, "{case}");
    }
}
