//! Handles to the shared types of a document, without generics or lifetimes, so that bindings of any language can hold
//! them.
//!
//! ```text
//! text.rs     collaborative text
//! plain.rs    maps and lists of values
//! xml.rs      XML trees, as used by rich text editors
//! offline.rs  latest-wins maps, counters, choice registers, versioned registers
//! ```
//!
//! A handle consists of a document and the name of a root type. It is cheap to clone and to share; two handles with the
//! same name refer to the same content. A name that was never written is empty. Use each name with one type only.
//! Positions count UTF-16 code units in texts and elements in lists.
//!
//! A write returns when the change is on the device's disk; it never waits for the network. Reads return the local
//! state, which includes unsent edits.
//!
//! # Errors
//! Every method returns an [`EditError`] on failure, and the document is unchanged then:
//! [`EditError::Storage`] if the device cannot write, [`EditError::Rejected`] if the change itself is invalid, and
//! [`EditError::Closed`] after the device was closed.

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
    /// Returns the collaborative text named `root`, to edit and read it; [`Document::text`] only reads it.
    pub fn text_at(&self, root: &str) -> Text {
        Text(Root::new(self, root))
    }

    /// Returns the map named `root`. Of two concurrent writes to one key, an arbitrary one wins, the same on all devices;
    /// use [`Document::lww_map`] if the newer one must win.
    pub fn map(&self, root: &str) -> Map {
        Map(Root::new(self, root))
    }

    /// Returns the list named `root`.
    pub fn list(&self, root: &str) -> List {
        List(Root::new(self, root))
    }

    /// Returns the XML tree named `root`, as used by rich text editors.
    pub fn xml(&self, root: &str) -> Xml {
        Xml(Root::new(self, root))
    }

    /// Returns the latest-wins map named `root`: the newest write of each key wins, by time.
    pub fn lww_map(&self, root: &str) -> LwwMap {
        LwwMap { document: self.clone(), map: types::LwwMapRoot::new(root) }
    }

    /// Returns the counter named `root`: concurrent increments add up.
    pub fn counter(&self, root: &str) -> Counter {
        Counter { document: self.clone(), counter: types::CounterRoot::new(root) }
    }

    /// Returns the choice register named `root`: concurrent writes are all kept until a user chooses one.
    pub fn choice(&self, root: &str) -> Choice {
        Choice { document: self.clone(), choice: types::ChoiceRegister::new(root) }
    }

    /// Returns the versioned register `name`: the server accepts one of two concurrent writes and rejects the other.
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
        self.document.read(move |txn| look(&name, txn)).await.map_err(read_error)
    }

    /// `change` must validate before it writes: what it wrote is kept even if it returns an error.
    async fn edit<R: Send + 'static>(
        &self,
        change: impl FnOnce(&str, &mut TransactionMut<'_>) -> Result<R, EditError> + Send + 'static,
    ) -> Result<R, EditError> {
        let name = self.name.clone();
        self.document.edit(move |txn| change(&name, txn)).await?
    }
}

fn read_error(error: DeviceError) -> EditError {
    match error {
        DeviceError::Closed => EditError::Closed,
        other => EditError::Storage(other.to_string()),
    }
}

fn rejected(why: impl std::fmt::Display) -> EditError {
    EditError::Rejected(why.to_string())
}

/// Rejects ranges past the end, on which yrs would panic.
fn check_range(index: u32, len: u32, of: u32) -> Result<(), EditError> {
    match index.checked_add(len) {
        Some(end) if end <= of => Ok(()),
        _ => Err(rejected(format!("position {index} plus {len} is past the end at {of}"))),
    }
}
