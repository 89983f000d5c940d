//! Brings what one replica changed onto a history that has nothing in common with its own, by content.
//!
//! When a server was set back, or a document made anew, client ids and clocks no longer match, and merging the two
//! histories would double everything. So what `mine` made of `base` is done again on the other document, three ways:
//!
//! - A key that only we changed is set or removed. One that both changed is set to ours, and reported; one that we
//!   removed and they changed stays, and is reported.
//! - In texts and arrays our changes are made where their surroundings are found; where both changed the same, both
//!   stay, and it is reported. What both have made comes once.
//! - A latest-wins map takes our writes with their stamps; a choice register our versions beside theirs; a counter the
//!   difference. Registers belong to the server: ours are left out.

mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;

use yrs::branch::BranchPtr;
use yrs::{Array, ArrayRef, Doc, Map, MapRef, OffsetKind, Transact, TransactionMut};

use super::apart::{Step, is_choice, is_lww_map};
use super::choice::ChoiceRegister;
use super::counter::{Counter, counter_name};
use super::lww_map::LwwMap;
use super::register::REGISTERS_ROOT;
use super::sequence::{Region, Who, both, hunks, regions};
use super::text_merge::{is_word, runs_together};
use super::tree::{Items, Kind, Node, Shared, Token, element_keys, nothing, read};
use super::value::Value;
use write::{insert_element, insert_tokens, put_key, root_branch, set_formats};

/// What a [`rebase`] did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RebaseReport {
    /// How many changes were made.
    pub changes: u32,
    /// Where both sides had changed the same, in the order of the paths.
    pub conflicts: Vec<RebaseConflict>,
    /// Where something of ours could not be brought: registers, and what this library does not know.
    pub skipped: Vec<Vec<Step>>,
}

/// Something that both sides changed. What stands now is said in the module's words.
#[derive(Debug, Clone, PartialEq)]
pub struct RebaseConflict {
    /// Where; indices count in the base.
    pub path: Vec<Step>,
    /// What we had made of it; `None` if we removed it.
    pub mine: Option<Value>,
    /// What they had made of it; `None` if they removed it.
    pub theirs: Option<Value>,
}

/// Does again on `onto` what `mine` changed relative to `base`. Without conflicts calling it again changes nothing more,
/// except counters; still, note that it was done in the same step that makes it durable.
///
/// Opens read transactions on `base` and `mine`: neither may have a write transaction open, nor be the document of
/// `onto`.
pub fn rebase(base: &Doc, mine: &Doc, onto: &mut TransactionMut<'_>) -> RebaseReport {
    let (base_txn, mine_txn) = (base.transact(), mine.transact());
    let (base_tree, mine_tree, onto_tree) = (read(&base_txn), read(&mine_txn), read(&*onto));
    let kind = onto.doc().offset_kind();
    let mut work = Work { txn: onto, kind, path: Vec::new(), report: RebaseReport::default() };
    for (name, root) in &mine_tree.keys {
        let Some(ours) = root.shared() else { continue };
        let empty = nothing(ours.kind.clone());
        let [before, theirs] =
            [&base_tree, &onto_tree].map(|tree| tree.keys.get(name).and_then(Node::shared).unwrap_or(&empty));
        if before.print() == ours.print() {
            continue;
        }
        work.path.push(Step::Key(name.clone()));
        if name == REGISTERS_ROOT {
            work.skip();
        } else if is_lww_map(ours) {
            let map = LwwMap::new(name);
            let known = map.winners(&base_txn);
            for (key, entry) in map.winners(&mine_txn) {
                if known.get(&key) != Some(&entry) {
                    let done = map.adopt(work.txn, &key, &entry).is_ok();
                    work.count(done);
                }
            }
        } else if is_choice(ours) {
            let register = ChoiceRegister::new(name);
            let known = register.versions(&base_txn);
            for version in register.versions(&mine_txn) {
                if !known.contains(&version) {
                    let done = register.adopt(work.txn, &version).is_ok();
                    work.count(done);
                }
            }
        } else {
            let live = root_branch(work.txn, name, ours);
            work.counters(name, [before, ours, theirs]);
            work.shared([before, ours, theirs], live);
        }
        work.path.pop();
    }
    work.report
}

struct Work<'a, 'doc> {
    txn: &'a mut TransactionMut<'doc>,
    kind: OffsetKind,
    path: Vec<Step>,
    report: RebaseReport,
}

impl Work<'_, '_> {
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

    /// Each counter gets the difference, under the client id of this document.
    fn counters(&mut self, root: &str, [before, ours, theirs]: [&Shared; 3]) {
        let mut differences: BTreeMap<&str, i128> = BTreeMap::new();
        for (key, node) in &ours.keys {
            if let (Some(counter), Some(total)) = (counter_name(key), integer(Some(node))) {
                // What the other history has of the same client it has already.
                let known = theirs.keys.get(key).or_else(|| before.keys.get(key));
                *differences.entry(counter).or_default() += i128::from(total - integer(known).unwrap_or(0));
            }
        }
        for (counter, difference) in differences.into_iter().filter(|(_, difference)| *difference != 0) {
            let by = i64::try_from(difference).unwrap_or(i64::MAX);
            let done = Counter::within(root, counter).increment(self.txn, by).is_ok();
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
            let [was_text, is_text, other_text] = [was, is, other].map(|node| node.map(Node::print));
            if was_text == is_text || is_text == other_text {
                continue;
            }
            self.path.push(Step::Key(name.clone()));
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

    /// Goes into a nested type that both sides have; false if they do not.
    fn descend(&mut self, was: Option<&Node>, is: &Node, other: &Node) -> bool {
        let (Some(is), Some(other)) = (is.shared(), other.shared()) else { return false };
        let Some(live) = other.branch.filter(|_| other.kind == is.kind) else { return false };
        let empty = nothing(is.kind.clone());
        let was = was.and_then(Node::shared).filter(|was| was.kind == is.kind).unwrap_or(&empty);
        self.shared([was, is, other], live);
        true
    }

    fn text(&mut self, [before, ours, theirs]: [&[Token]; 3], live: BranchPtr) {
        let [was, is, other] = [before, ours, theirs].map(token_keys);
        // Where we are in the live text, as its document counts.
        let mut at = 0;
        for region in regions(&was, &is, &other) {
            let Region { who, base, mine, theirs: stands } = region;
            let (mine, stands) = (&ours[mine], &theirs[stands]);
            match who {
                Who::Nobody => {
                    set_formats(self.txn, live, self.kind, at, [&before[base], mine, stands]);
                    at += self.len(stands);
                }
                Who::Theirs | Who::Alike => at += self.len(stands),
                Who::Mine => {
                    self.replace_text(live, at, stands, mine);
                    at += self.len(mine);
                }
                Who::Conflict => {
                    let (our_keys, their_keys) = (token_keys(mine), token_keys(stands));
                    let solid = |key: &&str| !key.starts_with("word ") || is_word(&key["word ".len()..]);
                    let kept = both(&our_keys, &their_keys, solid);
                    let (head, tail) = (&stands[..kept.old.start], &stands[kept.old.end..]);
                    let inserted = apart_from(head, &mine[kept.new], tail);
                    at += self.len(head);
                    self.replace_text(live, at, &stands[kept.old], &inserted);
                    at += self.len(&inserted) + self.len(tail);
                    self.conflict(Some(words_of(mine)), Some(words_of(stands)));
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
        if ours.iter().map(Node::print).eq(theirs.iter().map(Node::print)) {
            return;
        }
        let [was, is] = [before, ours].map(|side| element_keys(before, side));
        let other = their_keys([before, ours, theirs], &was, &is);
        self.nested([before, ours, theirs], [&was, &is, &other]);
        let array = ArrayRef::from(live);
        let mut at = 0;
        for region in regions(&was, &is, &other) {
            let Region { who, base, mine, theirs: stands } = region;
            let (mine_nodes, their_nodes) = (&ours[mine.clone()], &theirs[stands.clone()]);
            match who {
                Who::Nobody | Who::Theirs | Who::Alike => at += stands.len() as u32,
                Who::Mine => {
                    // What we removed and they changed inside stays.
                    for (node, index) in their_nodes.iter().zip(base) {
                        let kept = is[mine.clone()].contains(&was[index]);
                        if node.print() != before[index].print() && !kept {
                            self.conflict(None, Some(node.to_value()));
                            at += 1;
                        } else {
                            array.remove(self.txn, at);
                        }
                    }
                    at = self.insert(&array, at, mine_nodes);
                    self.report.changes += 1;
                }
                Who::Conflict => {
                    // By content: what they made the same has another identity.
                    let print = |nodes: &[Node]| nodes.iter().map(Node::print).collect::<Vec<_>>();
                    let kept = both(&print(mine_nodes), &print(their_nodes), |_| true);
                    at += kept.old.start as u32;
                    array.remove_range(self.txn, at, kept.old.len() as u32);
                    at = self.insert(&array, at, &mine_nodes[kept.new.clone()]);
                    at += (stands.len() - kept.old.end) as u32;
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

    /// Goes into the elements that all three have.
    fn nested(&mut self, [before, ours, theirs]: [&[Node]; 3], [was, is, other]: [&[String]; 3]) {
        let (is, other) = (places(is), places(other));
        for (index, node) in before.iter().enumerate().filter(|(_, node)| node.shared().is_some()) {
            let key = was[index].as_str();
            let Some(mine) = is.get(key).map(|at| &ours[*at]).filter(|mine| mine.print() != node.print()) else {
                continue;
            };
            self.path.push(Step::Index(index as u32));
            let stands = other.get(key).map(|at| &theirs[*at]);
            if !stands.is_some_and(|stands| self.descend(Some(node), mine, stands)) {
                self.conflict(Some(mine.to_value()), stands.map(Node::to_value));
                self.skip();
            }
            self.path.pop();
        }
    }

    fn len(&self, tokens: &[Token]) -> u32 {
        tokens.iter().map(|token| write::len(token, self.kind)).sum()
    }
}

/// The keys of their elements. A nested type that was changed has the content of none in the base: it is the one with
/// the content that we gave it, or its place among what both have tells which it is.
fn their_keys([before, ours, theirs]: [&[Node]; 3], was: &[String], is: &[String]) -> Vec<String> {
    let mut keys = element_keys(before, theirs);
    let (of_base, of_mine): (HashSet<&String>, HashSet<&String>) = (was.iter().collect(), is.iter().collect());
    let mut taken: HashSet<String> = keys.iter().cloned().collect();
    let kept = ours.iter().zip(is).filter(|(node, key)| node.shared().is_some() && of_base.contains(key));
    let given: HashMap<String, &String> = kept.map(|(node, key)| (node.print(), key)).collect();
    for (index, node) in theirs.iter().enumerate().filter(|(_, node)| node.shared().is_some()) {
        let key = given.get(&node.print()).filter(|key| !of_base.contains(&keys[index]) && !taken.contains(**key));
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
            let places = |nodes: &[Node], range: &Range<usize>| -> Vec<usize> {
                range.clone().filter(|index| kind(&nodes[*index]).as_ref() == Some(&of)).collect()
            };
            let olds = places(before, &hunk.old);
            // What we have made new, and they too, is none of the base.
            let mut news = places(theirs, &hunk.new);
            news.retain(|index| !of_mine.contains(&keys[*index]));
            if olds.len() == news.len() {
                for (old, new) in olds.into_iter().zip(news) {
                    keys[new] = was[old].clone();
                }
            }
        }
    }
    keys
}

fn places(keys: &[String]) -> HashMap<&str, usize> {
    keys.iter().enumerate().map(|(index, key)| (key.as_str(), index)).collect()
}

fn token_keys(tokens: &[Token]) -> Vec<&str> {
    tokens.iter().map(|token| token.key.as_str()).collect()
}

/// `inserted`, with spaces where its words would be read as one with those around it.
fn apart_from(head: &[Token], inserted: &[Token], tail: &[Token]) -> Vec<Token> {
    let word = |token: Option<&Token>| token.map(|token| token.word().to_owned());
    let glued = |one: Option<&Token>, other: Option<&Token>| {
        let (one, other) = (word(one), word(other));
        runs_together(one.as_deref().as_ref(), other.as_deref().as_ref())
    };
    let mut tokens = inserted.to_vec();
    if glued(inserted.last(), tail.first()) {
        tokens.push(Token::space());
    }
    if glued(head.last(), inserted.first()) {
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

/// What a shared type is made as, when nobody knows: a sequence of XML nodes can only be a fragment.
fn made_as(shared: &Shared) -> Kind {
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
