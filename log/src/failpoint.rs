//! Named places at which tests let the process die, or stop for ever so that the power can be cut just there.
//!
//! `SYNCLINE_FAILPOINT=compact-head-written:3` aborts the process, with no destructor run and nothing flushed, at the
//! third passage of that point; `SYNCLINE_FAILPOINT=compact-head-written:3:halt` says `halted at ...` on standard
//! error and stops the passing thread. Compiled into debug builds and with the feature `failpoints`; elsewhere
//! [`Point::pass`] is empty.

use std::fmt;

/// What a test sets: `POINT:PASSAGE`, or `POINT:PASSAGE:halt`.
pub const VARIABLE: &str = "SYNCLINE_FAILPOINT";

/// Whether this program has them.
pub const COMPILED_IN: bool = cfg!(any(debug_assertions, feature = "failpoints"));

macro_rules! points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)*) => {
        /// One place.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point { $($(#[$doc])* $point,)* }

        impl Point {
            /// Every place, in the order of an update's life.
            pub const ALL: &[Point] = &[$(Point::$point,)*];

            /// Its name in [`VARIABLE`].
            pub fn name(self) -> &'static str {
                match self { $(Point::$point => $name,)* }
            }
        }
    };
}

points! {
    /// The store is open, what an earlier end left half done is not yet swept.
    Opened = "opened",
    /// A document was read from the log, its memory is not yet built.
    Load = "load",
    /// The log's thread has a batch, the store has nothing of it.
    BeforeAppend = "before-append",
    /// A batch was given to the engine, nothing was synced.
    AfterAppend = "after-append",
    /// The engine has handed everything to the operating system, nothing was synced.
    BeforeSync = "before-sync",
    /// On disk, and nobody was told.
    AfterSync = "after-sync",
    /// The document knows, its sessions do not.
    BeforeAck = "before-ack",
    /// A compaction's snapshot is there, the head that names it is not.
    CompactSnapshotWritten = "compact-snapshot-written",
    /// The head names the new snapshot, the records it replaces are still there.
    CompactHeadWritten = "compact-head-written",
    /// A part of these records is gone.
    CompactRemoving = "compact-removing",
    /// A document that nobody uses any more begins to leave memory.
    UnloadBegun = "unload-begun",
    /// Everything of it is on disk, and the registry still knows it.
    UnloadSettled = "unload-settled",
    /// The new card lies beside the old one.
    CardWritten = "card-written",
    /// All of a backup's documents are written, the manifest that names them is not.
    BackupPacksWritten = "backup-packs-written",
    /// A backup's new manifest lies beside the old one.
    BackupManifestWritten = "backup-manifest-written",
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Point {
    /// Does nothing.
    #[cfg(not(any(debug_assertions, feature = "failpoints")))]
    #[inline(always)]
    pub fn pass(self) {}

    /// Counts a passage, and ends or stops here when it is the one that was named.
    #[cfg(any(debug_assertions, feature = "failpoints"))]
    pub fn pass(self) {
        use std::sync::atomic::{AtomicU64, Ordering};
        static PASSAGES: AtomicU64 = AtomicU64::new(0);
        let Some(wanted) = wanted() else { return };
        if wanted.point != self || PASSAGES.fetch_add(1, Ordering::Relaxed) + 1 != wanted.passage {
            return;
        }
        if !wanted.halts {
            std::process::abort();
        }
        eprintln!("halted at {self}");
        loop {
            std::thread::park();
        }
    }
}

#[cfg(any(debug_assertions, feature = "failpoints"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    point: Point,
    passage: u64,
    halts: bool,
}

/// What the environment says. Something else than a place is a mistake in a test: the process ends.
#[cfg(any(debug_assertions, feature = "failpoints"))]
fn wanted() -> Option<Wanted> {
    static WANTED: std::sync::OnceLock<Option<Wanted>> = std::sync::OnceLock::new();
    *WANTED.get_or_init(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let wanted = parse(&text);
        if wanted.is_none() {
            eprintln!("{VARIABLE}={text:?} names no failpoint and passage");
            std::process::abort();
        }
        wanted
    })
}

#[cfg(any(debug_assertions, feature = "failpoints"))]
fn parse(text: &str) -> Option<Wanted> {
    let (text, halts) = text.strip_suffix(":halt").map_or((text, false), |text| (text, true));
    let (name, passage) = text.split_once(':')?;
    let point = *Point::ALL.iter().find(|point| point.name() == name)?;
    Some(Wanted { point, passage: passage.parse().ok().filter(|passage| *passage > 0)?, halts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_and_its_passage_are_read() {
        let wanted = Wanted { point: Point::AfterSync, passage: 7, halts: false };
        assert_eq!(parse("after-sync:7"), Some(wanted));
        assert_eq!(parse("after-sync:7:halt"), Some(Wanted { halts: true, ..wanted }));
        for wrong in ["after-sync", "after-sync:0", "after-sync:x", "nowhere:1", ""] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
