//! Applies the changes of one replica to an unrelated history, by content.
//!
//! After a server was restored from a backup, or a document was created again, client ids and clocks no longer match,
//! and merging the two histories would duplicate everything. Instead the difference between `base` and `mine` is
//! applied to the other document as a three-way merge:
//!
//! - A key that only we changed is set or removed. A key that both changed is set to our value and reported; a key
//!   that we removed and they changed keeps their value and is reported.
//! - In texts and arrays our changes are applied where their surroundings are found. Where both changed the same
//!   place, both versions are kept and the conflict is reported. A change made by both is applied once.
//! - A latest-wins map receives our writes with their stamps, a choice register our versions next to theirs, and a
//!   counter the difference. Registers are written by the server only: ours are skipped.

mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;

use yrs::branch::BranchPtr;
use yrs::{Array, ArrayRef, Doc, Map, MapRef, OffsetKind, Transact, TransactionMut};

use super::apart::{PathStep, is_choice, is_lww_map};
use super::choice::ChoiceRegister;
use super::counter::{CounterRoot, counter_name};
use super::lww_map::LwwMapRoot;
use super::register::REGISTERS_ROOT;
use super::sequence::{ChangedBy, Region, hunks, merge_conflict, regions};
use super::text_merge::{is_word, would_join};
use super::tree::{Items, Kind, Node, Shared, Token, element_keys, empty_shared, read};
use super::value::Value;
use write::{insert_element, insert_tokens, put_key, root_branch, set_formats};

/// What a [`rebase`] did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RebaseReport {
    /// Number of changes applied.
    pub changes: u32,
    /// The places that both sides had changed, in the order of their paths.
    pub conflicts: Vec<RebaseConflict>,
    /// Paths of our changes that could not be applied: registers, and types that this library does not know.
    pub skipped: Vec<Vec<PathStep>>,
}

/// A place that both sides changed. See the module documentation for which version the document has now.
#[derive(Debug, Clone, PartialEq)]
pub struct RebaseConflict {
    /// The path; indices refer to the base.
    pub path: Vec<PathStep>,
    /// Our value; `None` if we removed it.
    pub mine: Option<Value>,
    /// Their value; `None` if they removed it.
    pub theirs: Option<Value>,
}

/// Applies to `onto` what `mine` changed relative to `base`. Without conflicts a second call changes nothing, except
/// counters; still, record that the rebase was done in the same step that makes its result durable.
///
/// Opens read transactions on `base` and `mine`: neither may have an open write transaction, and neither may be the
/// document of `onto`.
pub fn rebase(base: &Doc, mine: &Doc, onto: &mut TransactionMut<'_>) -> RebaseReport {
    let (base_txn, mine_txn) = (base.transact(), mine.transact());
    let (base_tree, mine_tree, onto_tree) = (read(&base_txn), read(&mine_txn), read(&*onto));
    let kind = onto.doc().offset_kind();
    let mut rebaser = Rebaser { txn: onto, kind, path: Vec::new(), report: RebaseReport::default() };
    for (name, root) in &mine_tree.keys {
        let Some(ours) = root.shared() else { continue };
        let empty = empty_shared(ours.kind.clone());
        let [before, theirs] =
            [&base_tree, &onto_tree].map(|tree| tree.keys.get(name).and_then(Node::shared).unwrap_or(&empty));
        if before.fingerprint() == ours.fingerprint() {
            continue;
        }
        rebaser.path.push(PathStep::Key(name.clone()));
        if name == REGISTERS_ROOT {
            rebaser.skip();
        } else if is_lww_map(ours) {
            let map = LwwMapRoot::new(name);
            let known = map.winners(&base_txn);
            for (key, entry) in map.winners(&mine_txn) {
                if known.get(&key) != Some(&entry) {
                    let done = map.adopt(rebaser.txn, &key, &entry).is_ok();
                    rebaser.count(done);
                }
            }
        } else if is_choice(ours) {
            let register = ChoiceRegister::new(name);
            let known = register.versions(&base_txn);
            for version in register.versions(&mine_txn) {
                if !known.contains(&version) {
                    let done = register.adopt(rebaser.txn, &version).is_ok();
                    rebaser.count(done);
                }
            }
        } else {
            let live = root_branch(rebaser.txn, name, ours);
            rebaser.counters(name, [before, ours, theirs]);
            rebaser.shared([before, ours, theirs], live);
        }
        rebaser.path.pop();
    }
    rebaser.report
}

struct Rebaser<'a, 'doc> {
    txn: &'a mut TransactionMut<'doc>,
    kind: OffsetKind,
    path: Vec<PathStep>,
    report: RebaseReport,
}

impl Rebaser<'_, '_> {
    fn count(&mut self, done: bool) {
        if done {
            self.report.changes += 1;
        } else {
            self.skip();
        }
    }

    fn skip(&mut self) {
        self.report.skipped.push(self.path.clone());
    }

    fn conflict(&mut self, mine: Option<Value>, theirs: Option<Value>) {
        self.report.conflicts.push(RebaseConflict { path: self.path.clone(), mine, theirs });
    }

    /// Adds the difference to each counter, under the client id of the target document.
    fn counters(&mut self, root: &str, [before, ours, theirs]: [&Shared; 3]) {
        let mut differences: BTreeMap<&str, i128> = BTreeMap::new();
        for (key, node) in &ours.keys {
            if let (Some(counter), Some(total)) = (counter_name(key), integer(Some(node))) {
                // Increments of the same client in the other history are already counted there.
                let known = theirs.keys.get(key).or_else(|| before.keys.get(key));
                *differences.entry(counter).or_default() += i128::from(total - integer(known).unwrap_or(0));
            }
        }
        for (counter, difference) in differences.into_iter().filter(|(_, difference)| *difference != 0) {
            let by = i64::try_from(difference).unwrap_or(i64::MAX);
            let done = CounterRoot::within(root, counter).increment(self.txn, by).is_ok();
            self.count(done);
        }
    }

    fn shared(&mut self, trio: [&Shared; 3], live: BranchPtr) {
        self.entries(trio, live);
        let [before, ours, theirs] = trio;
        let text = [before, ours, theirs].iter().any(|shared| matches!(shared.items, Items::Text(_)));
        if text {
            self.text([before.tokens(), ours.tokens(), theirs.tokens()], live);
        } else {
            self.elements([before.elements(), ours.elements(), theirs.elements()], live);
        }
    }

    fn entries(&mut self, [before, ours, theirs]: [&Shared; 3], live: BranchPtr) {
        let names: BTreeSet<&String> = before.keys.keys().chain(ours.keys.keys()).collect();
        let at_root = self.path.len() == 1;
        for name in names {
            if at_root && counter_name(name).is_some() {
                continue;
            }
            let [was, is, other] = [before, ours, theirs].map(|shared| shared.keys.get(name));
            let [was_text, is_text, other_text] = [was, is, other].map(|node| node.map(Node::fingerprint));
            if was_text == is_text || is_text == other_text {
                continue;
            }
            self.path.push(PathStep::Key(name.clone()));
            let theirs_changed = was_text != other_text;
            match (is, other) {
                (Some(is), Some(other)) if self.descend(was, is, other) => {}
                (Some(is), other) => {
                    if theirs_changed {
                        self.conflict(Some(is.to_value()), other.map(Node::to_value));
                    }
                    let done = put_key(self.txn, &MapRef::from(live), name, is);
                    self.count(done);
                }
                (None, Some(other)) if theirs_changed => self.conflict(None, Some(other.to_value())),
                (None, _) => {
                    MapRef::from(live).remove(self.txn, name);
                    self.count(true);
                }
            }
            self.path.pop();
        }
    }

    /// Descends into a nested type that both sides have; returns false if they do not.
    fn descend(&mut self, was: Option<&Node>, is: &Node, other: &Node) -> bool {
        let (Some(is), Some(other)) = (is.shared(), other.shared()) else { return false };
        let Some(live) = other.branch.filter(|_| other.kind == is.kind) else { return false };
        let empty = empty_shared(is.kind.clone());
        let was = was.and_then(Node::shared).filter(|was| was.kind == is.kind).unwrap_or(&empty);
        self.shared([was, is, other], live);
        true
    }

    fn text(&mut self, [before, ours, theirs]: [&[Token]; 3], live: BranchPtr) {
        let [was, is, other] = [before, ours, theirs].map(token_keys);
        // Position in the live text, in the offset units of its document.
        let mut at = 0;
        for region in regions(&was, &is, &other) {
            let Region { changed_by, base, mine, theirs: current } = region;
            let (mine, current) = (&ours[mine], &theirs[current]);
            match changed_by {
                ChangedBy::Neither => {
                    set_formats(self.txn, live, self.kind, at, [&before[base], mine, current]);
                    at += self.len(current);
                }
                ChangedBy::Theirs | ChangedBy::Alike => at += self.len(current),
                ChangedBy::Mine => {
                    self.replace_text(live, at, current, mine);
                    at += self.len(mine);
                }
                ChangedBy::Conflict => {
                    let (our_keys, their_keys) = (token_keys(mine), token_keys(current));
                    let solid = |key: &&str| !key.starts_with("word ") || is_word(&key["word ".len()..]);
                    let kept = merge_conflict(&our_keys, &their_keys, solid);
                    let (head, tail) = (&current[..kept.old.start], &current[kept.old.end..]);
                    let inserted = with_separating_spaces(head, &mine[kept.new], tail);
                    at += self.len(head);
                    self.replace_text(live, at, &current[kept.old], &inserted);
                    at += self.len(&inserted) + self.len(tail);
                    self.conflict(Some(words_of(mine)), Some(words_of(current)));
                }
            }
        }
    }

    fn replace_text(&mut self, live: BranchPtr, at: u32, old: &[Token], new: &[Token]) {
        if !(old.is_empty() && new.is_empty()) {
            let done = insert_tokens(self.txn, live, self.kind, at, old, new);
            self.count(done);
        }
    }

    fn elements(&mut self, [before, ours, theirs]: [&[Node]; 3], live: BranchPtr) {
        if ours.iter().map(Node::fingerprint).eq(theirs.iter().map(Node::fingerprint)) {
            return;
        }
        let [was, is] = [before, ours].map(|side| element_keys(before, side));
        let other = their_keys([before, ours, theirs], &was, &is);
        self.nested([before, ours, theirs], [&was, &is, &other]);
        let array = ArrayRef::from(live);
        let mut at = 0;
        for region in regions(&was, &is, &other) {
            let Region { changed_by, base, mine, theirs: current } = region;
            let (mine_nodes, their_nodes) = (&ours[mine.clone()], &theirs[current.clone()]);
            match changed_by {
                ChangedBy::Neither | ChangedBy::Theirs | ChangedBy::Alike => at += current.len() as u32,
                ChangedBy::Mine => {
                    // An element that we removed and they changed inside is kept.
                    for (node, index) in their_nodes.iter().zip(base) {
                        let kept = is[mine.clone()].contains(&was[index]);
                        if node.fingerprint() != before[index].fingerprint() && !kept {
                            self.conflict(None, Some(node.to_value()));
                            at += 1;
                        } else {
                            array.remove(self.txn, at);
                        }
                    }
                    at = self.insert(&array, at, mine_nodes);
                    self.report.changes += 1;
                }
                ChangedBy::Conflict => {
                    // Compared by content: equal elements that they created have another identity.
                    let fingerprint = |nodes: &[Node]| nodes.iter().map(Node::fingerprint).collect::<Vec<_>>();
                    let kept = merge_conflict(&fingerprint(mine_nodes), &fingerprint(their_nodes), |_| true);
                    at += kept.old.start as u32;
                    array.remove_range(self.txn, at, kept.old.len() as u32);
                    at = self.insert(&array, at, &mine_nodes[kept.new.clone()]);
                    at += (current.len() - kept.old.end) as u32;
                    self.report.changes += 1;
                    self.conflict(Some(list_of(mine_nodes)), Some(list_of(their_nodes)));
                }
            }
        }
    }

    fn insert(&mut self, array: &ArrayRef, mut at: u32, nodes: &[Node]) -> u32 {
        for node in nodes {
            if insert_element(self.txn, array, at, node) {
                at += 1;
            } else {
                self.skip();
            }
        }
        at
    }

    /// Descends into the elements that exist in all three.
    fn nested(&mut self, [before, ours, theirs]: [&[Node]; 3], [was, is, other]: [&[String]; 3]) {
        let (is, other) = (positions(is), positions(other));
        for (index, node) in before.iter().enumerate().filter(|(_, node)| node.shared().is_some()) {
            let key = was[index].as_str();
            let Some(mine) = is.get(key).map(|at| &ours[*at]).filter(|mine| mine.fingerprint() != node.fingerprint())
            else {
                continue;
            };
            self.path.push(PathStep::Index(index as u32));
            let current = other.get(key).map(|at| &theirs[*at]);
            if !current.is_some_and(|current| self.descend(Some(node), mine, current)) {
                self.conflict(Some(mine.to_value()), current.map(Node::to_value));
                self.skip();
            }
            self.path.pop();
        }
    }

    fn len(&self, tokens: &[Token]) -> u32 {
        tokens.iter().map(|token| write::len(token, self.kind)).sum()
    }
}

/// Returns the keys of their elements. A nested type that they changed matches no element of the base by content: it is
/// identified by having the content that we gave it, or by its position among the elements that both have.
fn their_keys([before, ours, theirs]: [&[Node]; 3], was: &[String], is: &[String]) -> Vec<String> {
    let mut keys = element_keys(before, theirs);
    let (of_base, of_mine): (HashSet<&String>, HashSet<&String>) = (was.iter().collect(), is.iter().collect());
    let mut taken: HashSet<String> = keys.iter().cloned().collect();
    let kept = ours.iter().zip(is).filter(|(node, key)| node.shared().is_some() && of_base.contains(key));
    let given: HashMap<String, &String> = kept.map(|(node, key)| (node.fingerprint(), key)).collect();
    for (index, node) in theirs.iter().enumerate().filter(|(_, node)| node.shared().is_some()) {
        let key =
            given.get(&node.fingerprint()).filter(|key| !of_base.contains(&keys[index]) && !taken.contains(**key));
        if let Some(key) = key {
            keys[index] = (*key).clone();
            taken.insert((*key).clone());
        }
    }
    for hunk in hunks(was, &keys) {
        let kind = |node: &Node| node.shared().map(|shared| shared.kind.clone());
        let mut kinds: Vec<Kind> = Vec::new();
        for of in before[hunk.old.clone()].iter().filter_map(kind) {
            if !kinds.contains(&of) {
                kinds.push(of);
            }
        }
        for of in kinds {
            let positions = |nodes: &[Node], range: &Range<usize>| -> Vec<usize> {
                range.clone().filter(|index| kind(&nodes[*index]).as_ref() == Some(&of)).collect()
            };
            let old_indices = positions(before, &hunk.old);
            // An element that both sides created is not one of the base.
            let mut new_indices = positions(theirs, &hunk.new);
            new_indices.retain(|index| !of_mine.contains(&keys[*index]));
            if old_indices.len() == new_indices.len() {
                for (old, new) in old_indices.into_iter().zip(new_indices) {
                    keys[new] = was[old].clone();
                }
            }
        }
    }
    keys
}

fn positions(keys: &[String]) -> HashMap<&str, usize> {
    keys.iter().enumerate().map(|(index, key)| (key.as_str(), index)).collect()
}

fn token_keys(tokens: &[Token]) -> Vec<&str> {
    tokens.iter().map(|token| token.key.as_str()).collect()
}

/// Returns `inserted`, with spaces added where its words would join with the words next to it.
fn with_separating_spaces(head: &[Token], inserted: &[Token], tail: &[Token]) -> Vec<Token> {
    let word = |token: Option<&Token>| token.map(|token| token.word().to_owned());
    let joins = |one: Option<&Token>, other: Option<&Token>| {
        let (one, other) = (word(one), word(other));
        would_join(one.as_deref().as_ref(), other.as_deref().as_ref())
    };
    let mut tokens = inserted.to_vec();
    if joins(inserted.last(), tail.first()) {
        tokens.push(Token::space());
    }
    if joins(head.last(), inserted.first()) {
        tokens.insert(0, Token::space());
    }
    tokens
}

fn words_of(tokens: &[Token]) -> Value {
    Value::Text(tokens.iter().map(Token::word).collect())
}

fn list_of(nodes: &[Node]) -> Value {
    Value::List(nodes.iter().map(Node::to_value).collect())
}

fn integer(node: Option<&Node>) -> Option<i64> {
    match node {
        Some(Node::Value(Value::Integer(number))) => Some(*number),
        _ => None,
    }
}

/// Returns the type to create for a shared type whose own type may be unknown. A sequence of XML nodes is a fragment.
fn kind_to_create(shared: &Shared) -> Kind {
    let xml = |node: &Node| node.shared().is_some_and(|inner| matches!(inner.kind, Kind::Element(_) | Kind::XmlText));
    match (&shared.kind, &shared.items) {
        (Kind::Unknown, Items::Text(_)) => Kind::Text,
        (Kind::Unknown, Items::Array(nodes)) if nodes.is_empty() => Kind::Map,
        (Kind::Unknown, Items::Array(nodes)) if nodes.iter().all(xml) => Kind::Fragment,
        (Kind::Unknown, Items::Array(_)) => Kind::Array,
        (known, _) => known.clone(),
    }
}

#[cfg(test)]
mod tests;
