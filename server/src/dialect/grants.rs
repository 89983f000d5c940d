//! Grants of a session that may change or end: one list for all its documents, polled beside the reader. A session without
//! such grants has no list, no timer and no further task.

use std::pin::Pin;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::auth::{Admission, ENDED, Grant, GrantChanges};

/// Identifies a watched grant in its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GrantId(u64);

/// A grant was changed, revoked or has ended.
pub(crate) struct GrantChange {
    pub(super) id: GrantId,
    /// The grant from now on; `Err` holds the reason why there is none.
    pub(super) grant: Result<Grant, String>,
}

/// A grant that may change or end. It is watched until this is dropped.
pub(super) struct WatchedGrant {
    pub(super) id: GrantId,
    pub(super) ends: Option<Instant>,
    pub(super) changes: Option<GrantChanges>,
    /// Closed by the drop, which ends the future in the list.
    _watching: oneshot::Sender<()>,
}

type NextChange = Pin<Box<dyn Future<Output = Option<(Watch, GrantChange)>> + Send>>;

/// The watched grants of a session.
#[derive(Default)]
pub(crate) struct SessionGrants(OnceLock<Box<Mutex<List>>>);

#[derive(Default)]
struct List {
    next: u64,
    /// One future for each watched grant; `None` if the grant is not watched any longer.
    watches: FuturesUnordered<NextChange>,
}

struct Watch {
    id: GrantId,
    ends: Option<Instant>,
    changes: Option<GrantChanges>,
    dropped: oneshot::Receiver<()>,
}

impl SessionGrants {
    /// Watches a grant; `None` if it can neither change nor end.
    pub(super) fn watch(&self, admission: &Admission) -> Option<Box<WatchedGrant>> {
        let Admission { ends, mut changes, .. } = admission.clone();
        if changes.is_none() && ends.is_none() {
            return None;
        }
        changes.iter_mut().for_each(GrantChanges::skip_past);
        let mut list = self.0.get_or_init(Box::default).lock().unwrap_or_else(PoisonError::into_inner);
        list.next += 1;
        let id = GrantId(list.next);
        let (watching, dropped) = oneshot::channel();
        let watch = Watch { id, ends, changes: changes.clone(), dropped };
        list.watches.push(Box::pin(watch.next()));
        Some(Box::new(WatchedGrant { id, ends, changes, _watching: watching }))
    }

    /// The next change. Polled by the session's task only.
    pub(crate) fn poll_change(&self, cx: &mut Context<'_>) -> Poll<GrantChange> {
        let Some(list) = self.0.get() else { return Poll::Pending };
        let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
        while let Poll::Ready(Some(ready)) = list.watches.poll_next_unpin(cx) {
            let Some((watch, change)) = ready else { continue };
            if change.grant.is_ok() {
                list.watches.push(Box::pin(watch.next()));
            }
            return Poll::Ready(change);
        }
        Poll::Pending
    }
}

impl Watch {
    async fn next(mut self) -> Option<(Self, GrantChange)> {
        let changed = async {
            match &mut self.changes {
                Some(changes) => changes.next().await,
                None => std::future::pending().await,
            }
        };
        let ended = async {
            match self.ends {
                Some(ends) => sleep_until(ends).await,
                None => std::future::pending().await,
            }
        };
        let grant = tokio::select! {
            _ = &mut self.dropped => return None,
            grant = changed => grant,
            () = ended => Err(ENDED.into()),
        };
        let change = GrantChange { id: self.id, grant };
        Some((self, change))
    }
}
