//! stub until merged
use yrs::{Doc, TransactionMut};
/// Puts changes onto another history.
pub fn rebase(_base: &Doc, _mine: &Doc, _onto: &Doc, _txn: &mut TransactionMut<'_>) {}
