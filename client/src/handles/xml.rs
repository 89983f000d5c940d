//! Elements, as rich text editors keep them.

use std::collections::BTreeMap;

use yrs::{
    GetString, ReadTxn, TransactionMut, WriteTxn, Xml as _, XmlElementPrelim, XmlElementRef, XmlFragment,
    XmlFragmentRef, XmlOut, XmlTextPrelim,
};

use super::{Root, check_range, rejected};
use crate::document::EditError;
use crate::types::Value;

/// Elements and texts in each other. A place is a path of positions: `[2, 0]` is the first child of the third node.
/// Others move what lies behind their changes: find a place anew before each use.
#[derive(Clone)]
pub struct Xml(pub(super) Root);

/// What has children.
enum Parent {
    Root(XmlFragmentRef),
    Element(XmlElementRef),
}

impl Xml {
    /// Inserts an element at a place.
    ///
    /// # Errors
    /// Also when the place cannot be.
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

    /// Inserts a text at a place.
    ///
    /// # Errors
    /// Also when the place cannot be.
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

    /// Removes what is at a place, and all in it.
    ///
    /// # Errors
    /// Also when there is nothing.
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

    /// Sets an attribute of the element at a place.
    ///
    /// # Errors
    /// Also when there is no element.
    pub async fn set_attribute(&self, at: &[u32], name: &str, value: &str) -> Result<(), EditError> {
        let (at, key, value) = (at.to_owned(), name.to_owned(), value.to_owned());
        let set = move |name: &str, txn: &mut TransactionMut<'_>| {
            let root = txn.get_or_insert_xml_fragment(name);
            element(root, &at, txn)?.insert_attribute(txn, key, value);
            Ok(())
        };
        self.0.edit(set).await
    }

    /// The attributes of the element at a place.
    ///
    /// # Errors
    /// Also when there is no element.
    pub async fn attributes(&self, at: &[u32]) -> Result<BTreeMap<String, Value>, EditError> {
        let at = at.to_owned();
        let look = move |name: &str, txn: &yrs::Transaction<'_>| {
            let root = txn.get_xml_fragment(name).ok_or_else(|| nothing_at(&at))?;
            let element = element(root, &at, txn)?;
            Ok(element.attributes(txn).map(|(key, out)| (key.to_owned(), Value::from_out(&out, txn))).collect())
        };
        self.0.read(look).await?
    }

    /// Everything, as it reads in a file.
    ///
    /// # Errors
    /// See [`super`].
    pub async fn to_string(&self) -> Result<String, EditError> {
        self.0.read(|name, txn| txn.get_xml_fragment(name).map_or(String::new(), |root| root.get_string(txn))).await
    }
}

/// The parent of a place and the position in it, from which on there are `len` children at least.
fn parent_of(name: &str, at: &[u32], len: u32, txn: &mut TransactionMut<'_>) -> Result<(Parent, u32), EditError> {
    let root = txn.get_or_insert_xml_fragment(name);
    let Some((&index, path)) = at.split_last() else { return Err(rejected("an empty path is no place")) };
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
    let (first, rest) = path.split_first().ok_or_else(|| nothing_at(path))?;
    let mut found = root.get(txn, *first);
    for index in rest {
        found = match found {
            Some(XmlOut::Element(element)) => element.get(txn, *index),
            _ => None,
        };
    }
    match found {
        Some(XmlOut::Element(element)) => Ok(element),
        _ => Err(nothing_at(path)),
    }
}

fn nothing_at(path: &[u32]) -> EditError {
    rejected(format!("there is no element at {path:?}"))
}
