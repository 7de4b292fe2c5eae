//! What the verbs do, what follows when guests end, and what a death of kxl costs: nothing.

mod adopt;
mod crash;
mod images;
mod kvm;
mod last_words;
mod policy;
mod race;
mod snapshot;
mod supervision;
mod verbs;
