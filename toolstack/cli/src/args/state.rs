//! The verbs that save a domain's state and bring it back.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// `save`.
#[derive(Debug, Args)]
pub(crate) struct Save {
    /// Name, domid or uuid
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The file to write
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Configuration file to be kept in FILE instead of the one the domain runs with
    #[arg(value_name = "CFG")]
    pub(crate) config: Option<PathBuf>,
    /// Let the domain go on afterwards; its disks get a snapshot where their format has them
    #[arg(short = 'c', long, conflicts_with_all = ["leave_paused", "keep_domid"])]
    pub(crate) leave_running: bool,
    /// Leave the domain paused afterwards
    #[arg(short = 'p', long)]
    pub(crate) leave_paused: bool,
    /// Let the restored domain have the same domid, if it is free then
    #[arg(short = 'D', long, conflicts_with = "config")]
    pub(crate) keep_domid: bool,
    /// Let the guest run while most of its memory is written (as -c does)
    #[arg(long, conflicts_with = "still")]
    pub(crate) live: bool,
    /// Stop the guest before the first byte is written
    #[arg(long)]
    pub(crate) still: bool,
    /// Replace FILE if it exists
    #[arg(long)]
    pub(crate) force: bool,
    /// Print nothing on success, and no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// How a state comes back; the same for `restore`, `resume` and `image clone`.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Return {
    /// Leave it paused
    #[arg(short, long)]
    pub(crate) paused: bool,
    /// Check the whole image before the guest runs, not in the background
    #[arg(long)]
    pub(crate) eager: bool,
    /// Go on although disks are not what they were; the guest may ruin them
    #[arg(long)]
    pub(crate) force_disks: bool,
    /// Print nothing on success, and no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `restore`.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// Configuration file to be used instead of the saved one, and the file (or the id of an image in the store) to restore
    #[arg(value_names = ["CFG", "FILE"], num_args = 1..=2, required = true)]
    pub(crate) words: Vec<PathBuf>,
    /// How it comes back.
    #[command(flatten)]
    pub(crate) how: Return,
    /// Keep the domain however it ends (every on_* is preserve)
    #[arg(short = 'e', long)]
    pub(crate) preserve: bool,
    /// Show the configuration first, on standard error
    #[arg(short, long)]
    pub(crate) debug: bool,
    /// Attach to the console
    #[arg(short, long)]
    pub(crate) console: bool,
    /// Return when the domain is gone
    #[arg(short = 'F', long)]
    pub(crate) foreground: bool,
}

/// `suspend`.
#[derive(Debug, Args)]
pub(crate) struct Suspend {
    /// Name, domid or uuid of a managed domain
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Stop the guest before the first byte is written
    #[arg(long)]
    pub(crate) still: bool,
    /// Print nothing on success, and no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `resume`.
#[derive(Debug, Args)]
pub(crate) struct Resume {
    /// Name or uuid of a suspended domain
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// How they come back.
    #[command(flatten)]
    pub(crate) how: Return,
}

/// `image`.
#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// List the images in the store
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what an image holds
    Show {
        /// Id or beginning of it, name of a suspended domain, or a file
        #[arg(value_name = "IMAGE")]
        image: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check every byte of images
    Verify {
        /// Id or beginning of it, name of a suspended domain, or a file
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// Tell also whether this host could restore them
        #[arg(long)]
        host: bool,
        /// Print nothing on success, and no progress
        #[arg(short, long)]
        quiet: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove images from the store
    Rm {
        /// Id or beginning of it, or name of a suspended domain
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Copy an image from the store into a file
    Export {
        /// Id or beginning of it, or name of a suspended domain
        #[arg(value_name = "IMAGE")]
        image: String,
        /// The file to write
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Replace FILE if it exists
        #[arg(long)]
        force: bool,
        /// Print nothing on success, and no progress
        #[arg(short, long)]
        quiet: bool,
    },
    /// Copy an image from a file into the store
    Import {
        /// The file to read
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Print nothing but the id, and no progress
        #[arg(short, long)]
        quiet: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Start a new domain from an image in the store; the image stays
    Clone(Clone),
    /// Keep the state of domains in the store and let them go on
    Checkpoint {
        /// Name, domid or uuid
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Print nothing on success, and no progress
        #[arg(short, long)]
        quiet: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `image clone`.
#[derive(Debug, Args)]
pub(crate) struct Clone {
    /// Id or beginning of it, or name of a suspended domain
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// Name of the new domain
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Register it; otherwise it is gone when it ends
    #[arg(long)]
    pub(crate) managed: bool,
    /// How its disks are made from those of the image
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Disks::Auto)]
    pub(crate) disks: Disks,
    /// Directory for its disks; beside the old ones unless given
    #[arg(long, value_name = "DIR")]
    pub(crate) into: Option<PathBuf>,
    /// How it comes back.
    #[command(flatten)]
    pub(crate) how: Return,
}

/// How the disks of a clone are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Disks {
    /// By reflink where the file system can, else as an overlay where the format can, else as a copy
    Auto,
    /// As qcow2 files that hold only what differs; the old disks must never be written again
    Overlay,
    /// As copies that share their blocks (btrfs, XFS)
    Reflink,
    /// As full copies
    Copy,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Cli, Command};

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.command)
    }

    #[test]
    fn a_saved_domain_goes_on_or_is_left_paused_or_ends() {
        let Command::Save(save) = parse("kxl save -c web f.img web.cfg").unwrap() else {
            panic!("another verb");
        };
        assert!(save.leave_running && !save.leave_paused);
        assert_eq!(save.config, Some("web.cfg".into()));
        for wrong in ["save web", "save -cp web f", "save -cD web f", "save --live --still web f"] {
            assert!(parse(&format!("kxl {wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn restore_takes_a_file_and_before_it_a_configuration() {
        let words = |line| match parse(line) {
            Ok(Command::Restore(restore)) => restore.words.len(),
            _ => 0,
        };
        assert_eq!(words("kxl restore f.img"), 1);
        assert_eq!(words("kxl restore -pe web.cfg f.img"), 2);
        assert_eq!(words("kxl restore"), 0);
        assert_eq!(words("kxl restore a b c"), 0);
    }
}
