//! What the process and its threads are kept from doing.

use crate::thread::Kind;

/// Confines the calling thread to what its kind needs.
pub(crate) fn confine_thread(kind: Kind) {
    let _not_yet = kind;
}
