//! Grants that an authorizer changes while sessions use them.

use tokio::sync::watch;

use super::{Admission, Grant};

/// Changes a grant while sessions use it. The authorizer keeps it, or a clone of it, and gives sessions an [`Admission`]
/// made from it; one control may serve any number of documents and sessions. Dropping it leaves the grant as it is.
///
/// - Lowered to [`Grant::Read`]: the next edit is refused as a reader's is. Hocuspocus clients are also sent their new
///   scope.
/// - Raised to [`Grant::ReadWrite`]: edits are accepted from then on.
/// - Revoked: the document is closed for the session with 4403; a y-websocket session, which has no other document, ends.
///   A silent client is closed as well.
///
/// A change is in force when the session's task has run, after it has handled the message that it is working on.
#[derive(Debug, Clone)]
pub struct GrantControl(watch::Sender<Result<Grant, String>>);

impl GrantControl {
    /// A control for a grant that is now `grant`.
    pub fn new(grant: Grant) -> Self {
        Self(watch::Sender::new(Ok(grant)))
    }

    /// Changes the grant. A revoked grant stays revoked, so that no session misses it: admit with a new control instead.
    pub fn set(&self, grant: Grant) {
        self.0.send_if_modified(|current| match current {
            Ok(current) => std::mem::replace(current, grant) != grant,
            Err(_) => false,
        });
    }

    /// Withdraws the grant for good. Clients get the reason; at most 123 bytes of it in a close frame.
    pub fn revoke(&self, reason: impl Into<String>) {
        self.0.send_modify(|current| *current = Err(reason.into()));
    }

    /// True while a session uses an admission made from this control.
    pub fn is_used(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// The changes from now on, for [`Admission::changes`].
    pub fn changes(&self) -> GrantChanges {
        GrantChanges(self.0.subscribe())
    }
}

/// Without a user and without an end. If the grant is revoked, the session is refused with the reason.
impl From<&GrantControl> for Admission {
    fn from(control: &GrantControl) -> Self {
        let changes = control.changes();
        Self { changes: Some(changes.clone()), ..changes.current().unwrap_or(Grant::Read).into() }
    }
}

/// What a [`GrantControl`] does to a grant, as a session sees it.
#[derive(Debug, Clone)]
pub struct GrantChanges(watch::Receiver<Result<Grant, String>>);

impl GrantChanges {
    /// The grant now. `Err` holds the reason for which it was revoked.
    pub fn current(&self) -> Result<Grant, String> {
        self.0.borrow().clone()
    }

    /// Makes [`GrantChanges::next`] return only later changes.
    pub(crate) fn skip_past(&mut self) {
        self.0.mark_unchanged();
    }

    /// Waits for a change after the last one that was returned. Never ready if there will be none, because the control
    /// was dropped.
    pub(crate) async fn next(&mut self) -> Result<Grant, String> {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.0.borrow_and_update().clone()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn change_is_seen_once_and_a_revoked_grant_stays_revoked() {
        let control = GrantControl::new(Grant::Read);
        let admission = Admission::from(&control);
        let mut changes = admission.changes.clone().unwrap();
        control.set(Grant::Read);
        assert_eq!((admission.grant, changes.next().now_or_never()), (Grant::Read, None), "nothing has changed");
        control.set(Grant::ReadWrite);
        assert_eq!(admission.current(), Ok(Grant::ReadWrite));
        assert_eq!(changes.next().now_or_never(), Some(Ok(Grant::ReadWrite)));
        assert_eq!(changes.next().now_or_never(), None);
        control.revoke("moved to another team");
        control.set(Grant::ReadWrite);
        assert_eq!(changes.next().now_or_never(), Some(Err("moved to another team".into())));
        assert_eq!(Admission::from(&control).current(), Err("moved to another team".into()));
    }

    #[test]
    fn dropped_control_leaves_its_last_grant() {
        let control = GrantControl::new(Grant::ReadWrite);
        let mut changes = control.changes();
        assert!(control.is_used());
        control.set(Grant::Read);
        drop(control);
        assert_eq!(changes.next().now_or_never(), Some(Ok(Grant::Read)));
        assert_eq!((changes.next().now_or_never(), changes.current()), (None, Ok(Grant::Read)));
    }
}
