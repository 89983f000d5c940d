//! Handle to an XML tree, as used by rich text editors.

use std::collections::BTreeMap;

use yrs::{
    GetString, ReadTxn, TransactionMut, WriteTxn, Xml as _, XmlElementPrelim, XmlElementRef, XmlFragment,
    XmlFragmentRef, XmlOut, XmlTextPrelim,
};

use super::{Root, check_range, rejected};
use crate::document::EditError;
use crate::types::Value;

/// A tree of elements and texts. A node is addressed by the path of its child indices: `[2, 0]` is the first child of
/// the third root node. Remote changes shift the indices of later nodes: determine a path again before each use.
///
/// ```
/// # use syncline_client::{Device, DeviceConfig};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let home = tempfile::tempdir()?;
/// # let config = DeviceConfig { offline: true, ..DeviceConfig::new(home.path(), "ws://127.0.0.1:1234") };
/// # let document = Device::open(config).await?.document("page").await?;
/// let page = document.xml("page");
/// page.insert_element(&[0], "p").await?;
/// page.insert_text(&[0, 0], "hello").await?;
/// assert_eq!(page.to_string().await?, "<p>hello</p>");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Xml(pub(super) Root);

/// A node that can have children.
enum Parent {
    Root(XmlFragmentRef),
    Element(XmlElementRef),
}

impl Xml {
    /// Inserts an empty element `tag` at path `at`.
    ///
    /// # Errors
    /// See [`super`]; [`EditError::Rejected`] also if the parent does not exist or the index is past its children.
    pub async fn insert_element(&self, at: &[u32], tag: &str) -> Result<(), EditError> {
        let (at, tag) = (at.to_owned(), tag.to_owned());
        let insert = move |name: &str, txn: &mut TransactionMut<'_>| {
            let (parent, index) = parent_of(name, &at, 0, txn)?;
            match parent {
                Parent::Root(root) => drop(root.insert(txn, index, XmlElementPrelim::empty(tag))),
                Parent::Element(element) => drop(element.insert(txn, index, XmlElementPrelim::empty(tag))),
            }
            Ok(())
        };
        self.0.edit(insert).await
    }

    /// Inserts a text node at path `at`.
    ///
    /// # Errors
    /// See [`super`]; [`EditError::Rejected`] also if the parent does not exist or the index is past its children.
    pub async fn insert_text(&self, at: &[u32], text: &str) -> Result<(), EditError> {
        let (at, text) = (at.to_owned(), text.to_owned());
        let insert = move |name: &str, txn: &mut TransactionMut<'_>| {
            let (parent, index) = parent_of(name, &at, 0, txn)?;
            match parent {
                Parent::Root(root) => drop(root.insert(txn, index, XmlTextPrelim::new(text))),
                Parent::Element(element) => drop(element.insert(txn, index, XmlTextPrelim::new(text))),
            }
            Ok(())
        };
        self.0.edit(insert).await
    }

    /// Removes the node at path `at` with all its children.
    ///
    /// # Errors
    /// See [`super`]; [`EditError::Rejected`] also if the node does not exist.
    pub async fn remove(&self, at: &[u32]) -> Result<(), EditError> {
        let at = at.to_owned();
        let remove = move |name: &str, txn: &mut TransactionMut<'_>| {
            match parent_of(name, &at, 1, txn)? {
                (Parent::Root(root), index) => root.remove_range(txn, index, 1),
                (Parent::Element(element), index) => element.remove_range(txn, index, 1),
            }
            Ok(())
        };
        self.0.edit(remove).await
    }

    /// Sets an attribute of the element at path `at`.
    ///
    /// # Errors
    /// See [`super`]; [`EditError::Rejected`] also if there is no element at that path.
    pub async fn set_attribute(&self, at: &[u32], name: &str, value: &str) -> Result<(), EditError> {
        let (at, key, value) = (at.to_owned(), name.to_owned(), value.to_owned());
        let set = move |name: &str, txn: &mut TransactionMut<'_>| {
            let root = txn.get_or_insert_xml_fragment(name);
            element(root, &at, txn)?.insert_attribute(txn, key, value);
            Ok(())
        };
        self.0.edit(set).await
    }

    /// Returns the attributes of the element at path `at`.
    ///
    /// # Errors
    /// See [`super`]; [`EditError::Rejected`] also if there is no element at that path.
    pub async fn attributes(&self, at: &[u32]) -> Result<BTreeMap<String, Value>, EditError> {
        let at = at.to_owned();
        let look = move |name: &str, txn: &yrs::Transaction<'_>| {
            let root = txn.get_xml_fragment(name).ok_or_else(|| no_element_at(&at))?;
            let element = element(root, &at, txn)?;
            Ok(element.attributes(txn).map(|(key, out)| (key.to_owned(), Value::from_out(&out, txn))).collect())
        };
        self.0.read(look).await?
    }

    /// Returns the tree as XML text.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn to_string(&self) -> Result<String, EditError> {
        self.0.read(|name, txn| txn.get_xml_fragment(name).map_or(String::new(), |root| root.get_string(txn))).await
    }
}

/// Returns the parent of the node at a path and the node's index in it. Fails unless the parent has at least `len`
/// children from that index on.
fn parent_of(name: &str, at: &[u32], len: u32, txn: &mut TransactionMut<'_>) -> Result<(Parent, u32), EditError> {
    let root = txn.get_or_insert_xml_fragment(name);
    let Some((&index, path)) = at.split_last() else {
        return Err(rejected("the path is empty; give at least one child index"));
    };
    let (parent, children) = if path.is_empty() {
        let children = root.len(txn);
        (Parent::Root(root), children)
    } else {
        let element = element(root, path, txn)?;
        let children = element.len(txn);
        (Parent::Element(element), children)
    };
    check_range(index, len, children)?;
    Ok((parent, index))
}

fn element(root: XmlFragmentRef, path: &[u32], txn: &impl ReadTxn) -> Result<XmlElementRef, EditError> {
    let (first, rest) = path.split_first().ok_or_else(|| no_element_at(path))?;
    let mut found = root.get(txn, *first);
    for index in rest {
        found = match found {
            Some(XmlOut::Element(element)) => element.get(txn, *index),
            _ => None,
        };
    }
    match found {
        Some(XmlOut::Element(element)) => Ok(element),
        _ => Err(no_element_at(path)),
    }
}

fn no_element_at(path: &[u32]) -> EditError {
    rejected(format!("there is no element at path {path:?}"))
}
