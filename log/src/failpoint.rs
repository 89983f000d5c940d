//! Named points in the code at which tests abort the process, or stop a thread forever so that the power can be cut there.
//!
//! `SYNCLINE_FAILPOINT=compact-head-written:3` aborts the process the third time that point is passed, without running
//! destructors or flushing anything. `SYNCLINE_FAILPOINT=compact-head-written:3:halt` prints `halted at ...` on standard
//! error and stops the thread. Compiled into debug builds and with the feature `failpoints`; in other builds
//! [`Point::pass`] is empty.

use std::fmt;

/// The environment variable that selects a failpoint: `POINT:PASSAGE`, or `POINT:PASSAGE:halt`.
pub const VARIABLE: &str = "SYNCLINE_FAILPOINT";

/// Whether failpoints are compiled into this program.
pub const COMPILED_IN: bool = cfg!(any(debug_assertions, feature = "failpoints"));

macro_rules! points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)*) => {
        /// A failpoint.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point { $($(#[$doc])* $point,)* }

        impl Point {
            /// Every failpoint, in the order in which an update passes them.
            pub const ALL: &[Point] = &[$(Point::$point,)*];

            /// The name of the failpoint in [`VARIABLE`].
            pub fn name(self) -> &'static str {
                match self { $(Point::$point => $name,)* }
            }
        }
    };
}

points! {
    /// The store is open; leftovers of an interrupted run are not yet swept.
    Opened = "opened",
    /// A document was read from the log; it is not yet built in memory.
    Load = "load",
    /// The log's thread has a batch; the store has not received any of it.
    BeforeAppend = "before-append",
    /// A batch was applied to the engine; nothing is synced.
    AfterAppend = "after-append",
    /// The engine has written everything to the operating system; nothing is synced.
    BeforeSync = "before-sync",
    /// The batch is on disk; nothing is reported.
    AfterSync = "after-sync",
    /// The document has received the durable position; its sessions have not.
    BeforeAck = "before-ack",
    /// A compaction's snapshot is written; the head that references it is not.
    CompactSnapshotWritten = "compact-snapshot-written",
    /// The head references the new snapshot; the records it replaces are not yet removed.
    CompactHeadWritten = "compact-head-written",
    /// Some of the replaced records are removed.
    CompactRemoving = "compact-removing",
    /// The head of a deleted document is replaced or removed; its parts are not.
    HeadReplaced = "head-replaced",
    /// Some parts of a deleted document are removed.
    PartsRemoved = "parts-removed",
    /// An unused document starts to leave memory.
    UnloadBegun = "unload-begun",
    /// Everything of the document is on disk; the registry still contains it.
    UnloadSettled = "unload-settled",
    /// The new info file is written next to the old one, not yet renamed.
    InfoWritten = "info-written",
    /// All documents of a backup are written; the manifest that references them is not.
    BackupPacksWritten = "backup-packs-written",
    /// A backup's new manifest is written next to the old one, not yet renamed.
    BackupManifestWritten = "backup-manifest-written",
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Point {
    /// False: only `syncline delete` and `syncline purge` pass it.
    pub fn is_passed_by_servers(self) -> bool {
        !matches!(self, Self::HeadReplaced | Self::PartsRemoved)
    }

    /// Does nothing.
    #[cfg(not(any(debug_assertions, feature = "failpoints")))]
    #[inline(always)]
    pub fn pass(self) {}

    /// Counts the passage, and aborts or halts if it is the selected one.
    #[cfg(any(debug_assertions, feature = "failpoints"))]
    pub fn pass(self) {
        use std::sync::atomic::{AtomicU64, Ordering};
        static PASSAGES: AtomicU64 = AtomicU64::new(0);
        let Some(selected) = selected() else { return };
        if selected.point != self || PASSAGES.fetch_add(1, Ordering::Relaxed) + 1 != selected.passage {
            return;
        }
        if !selected.halts {
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
struct Selected {
    point: Point,
    passage: u64,
    halts: bool,
}

/// The failpoint in the environment. An invalid value is a mistake in a test and aborts the process.
#[cfg(any(debug_assertions, feature = "failpoints"))]
fn selected() -> Option<Selected> {
    static SELECTED: std::sync::OnceLock<Option<Selected>> = std::sync::OnceLock::new();
    *SELECTED.get_or_init(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let selected = parse(&text);
        if selected.is_none() {
            eprintln!("{VARIABLE}={text:?} is invalid; expected POINT:PASSAGE or POINT:PASSAGE:halt");
            std::process::abort();
        }
        selected
    })
}

#[cfg(any(debug_assertions, feature = "failpoints"))]
fn parse(text: &str) -> Option<Selected> {
    let (text, halts) = text.strip_suffix(":halt").map_or((text, false), |text| (text, true));
    let (name, passage) = text.split_once(':')?;
    let point = *Point::ALL.iter().find(|point| point.name() == name)?;
    Some(Selected { point, passage: passage.parse().ok().filter(|passage| *passage > 0)?, halts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_reads_point_passage_and_halt() {
        let selected = Selected { point: Point::AfterSync, passage: 7, halts: false };
        assert_eq!(parse("after-sync:7"), Some(selected));
        assert_eq!(parse("after-sync:7:halt"), Some(Selected { halts: true, ..selected }));
        for wrong in ["after-sync", "after-sync:0", "after-sync:x", "nowhere:1", ""] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
