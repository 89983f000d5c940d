//! Handles to what lies in a document: by name, without generics or lifetimes, so that any language can hold them.
//!
//! ```text
//! text.rs     a text that many write
//! plain.rs    maps and lists of values
//! xml.rs      elements, as rich text editors keep them
//! offline.rs  latest-wins maps, counters, choices, registers
//! ```
//!
//! A handle is a document and a name. It is cheap to clone and to share; two handles of one name are the same thing.
//! Writing returns when the change is on the device's disk; the network is never waited for. A name that was never
//! written is empty. Positions count UTF-16 code units in texts, entries in lists.
//!
//! Every method fails with an [`EditError`]: the device cannot write, the change cannot be, or the device was closed.
//! The document is then as it was.

mod offline;
mod plain;
mod text;
mod xml;

use yrs::{Transaction, TransactionMut};

pub use self::offline::{Choice, Counter, LwwMap, Register, RegisterVersion};
pub use self::plain::{List, Map};
pub use self::text::Text;
pub use self::xml::Xml;
use crate::device::DeviceError;
use crate::document::{Document, EditError};
use crate::types;

impl Document {
    /// A text that many write at once.
    pub fn text_at(&self, root: &str) -> Text {
        Text(Root::new(self, root))
    }

    /// Values by key. Of two values written to one key apart, one is kept; [`Document::lww_map`] keeps the newer.
    pub fn map(&self, root: &str) -> Map {
        Map(Root::new(self, root))
    }

    /// Values in order.
    pub fn list(&self, root: &str) -> List {
        List(Root::new(self, root))
    }

    /// Elements and texts, as rich text editors keep them.
    pub fn xml(&self, root: &str) -> Xml {
        Xml(Root::new(self, root))
    }

    /// Values by key; the newest write of a key wins, by time.
    pub fn lww_map(&self, root: &str) -> LwwMap {
        LwwMap { document: self.clone(), map: types::LwwMap::new(root) }
    }

    /// A number that many devices add to.
    pub fn counter(&self, root: &str) -> Counter {
        Counter { document: self.clone(), counter: types::Counter::new(root) }
    }

    /// A value that nobody overwrites unseen: what was written apart is kept, side by side, until someone chooses.
    pub fn choice(&self, root: &str) -> Choice {
        Choice { document: self.clone(), choice: types::ChoiceRegister::new(root) }
    }

    /// A value that one writes at a time: the server takes one of two writes made apart, and refuses the other.
    pub fn register_at(&self, name: &str) -> Register {
        Register { document: self.clone(), name: name.to_owned() }
    }
}

/// A document and the name of a root type.
#[derive(Clone)]
struct Root {
    document: Document,
    name: String,
}

impl Root {
    fn new(document: &Document, name: &str) -> Self {
        Self { document: document.clone(), name: name.to_owned() }
    }

    async fn read<R: Send + 'static>(
        &self,
        look: impl FnOnce(&str, &Transaction<'_>) -> R + Send + 'static,
    ) -> Result<R, EditError> {
        let name = self.name.clone();
        self.document.read(move |txn| look(&name, txn)).await.map_err(unreadable)
    }

    /// `change` must look before it writes: what it has written stays, also when it fails.
    async fn edit<R: Send + 'static>(
        &self,
        change: impl FnOnce(&str, &mut TransactionMut<'_>) -> Result<R, EditError> + Send + 'static,
    ) -> Result<R, EditError> {
        let name = self.name.clone();
        self.document.edit(move |txn| change(&name, txn)).await?
    }
}

fn unreadable(error: DeviceError) -> EditError {
    match error {
        DeviceError::Closed => EditError::Closed,
        other => EditError::Storage(other.to_string()),
    }
}

fn rejected(why: impl std::fmt::Display) -> EditError {
    EditError::Rejected(why.to_string())
}

/// What yrs would panic on.
fn check_range(index: u32, len: u32, of: u32) -> Result<(), EditError> {
    match index.checked_add(len) {
        Some(end) if end <= of => Ok(()),
        _ => Err(rejected(format!("{len} from {index} on is beyond the end, which is at {of}"))),
    }
}
