//! Who a session acts for: the handshake that began it, its users (usually one, but tokens may name another for each
//! document), and their grants that may change.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use syncline_protocol::close::Close;
use syncline_protocol::ids::DocumentName;
use tokio::time::{Instant, sleep};

use super::grants::SessionGrants;
use crate::auth::{AccessRequest, Dialect, Handshake};
use crate::ids::UserId;
use crate::limits::{Gate, Meter, UserSeat};

/// The users of one session; at most one per document.
pub(super) struct SessionUsers {
    gate: Arc<Gate>,
    /// The handshake that began the session, as far as a later decision on access may need it.
    handshake: Mutex<Arc<Handshake>>,
    /// Held by the connection and the documents that act for these users.
    seats: Mutex<Vec<Weak<UserSeat>>>,
    /// Rate of documents opened by the session.
    opens: Meter,
    /// Grants of open documents that may change.
    pub(super) grants: SessionGrants,
}

impl SessionUsers {
    pub(super) fn new(gate: &Arc<Gate>, handshake: Handshake) -> Arc<Self> {
        let opens = Meter::of_messages(gate.limits().opens_per_second);
        let (gate, handshake) = (Arc::clone(gate), Mutex::new(Arc::new(handshake)));
        Arc::new(Self { gate, handshake, seats: Mutex::default(), opens, grants: SessionGrants::default() })
    }

    /// Waits until the session may open another document. Meanwhile it is not read, which becomes TCP
    /// backpressure.
    pub(super) async fn pause_before_open(&self) {
        let pause = self.gate.open_pause(&self.opens);
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }

    /// A seat for `user`; shared if the session has one already.
    pub(super) fn admit(&self, user: Option<&UserId>) -> Result<Option<Arc<UserSeat>>, Close> {
        let Some(user) = user else { return Ok(None) };
        let mut seats = self.seats();
        seats.retain(|seat| seat.strong_count() > 0);
        if let Some(seat) = seats.iter().filter_map(Weak::upgrade).find(|seat| seat.user() == user) {
            return Ok(Some(seat));
        }
        let seat = Arc::new(self.gate.enter_user(user)?);
        seats.push(Arc::downgrade(&seat));
        Ok(Some(seat))
    }

    /// A request of this session to the authorizer.
    pub(super) fn request(&self, document: &DocumentName, token: Option<String>, dialect: Dialect) -> AccessRequest {
        AccessRequest { document: document.clone(), token, dialect, handshake: self.handshake() }
    }

    /// The handshake that began the session.
    pub(super) fn handshake(&self) -> Arc<Handshake> {
        Arc::clone(&self.handshake.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Releases the query and the headers: the session will not open another document.
    pub(super) fn forget_secrets(&self) {
        let mut handshake = self.handshake.lock().unwrap_or_else(PoisonError::into_inner);
        *handshake = Arc::new(handshake.without_secrets());
    }

    /// Address of the client.
    pub(super) fn address(&self) -> IpAddr {
        self.handshake().address().ip()
    }

    /// The name of one of the users.
    pub(super) fn name(&self) -> Option<String> {
        let seats = self.seats();
        seats.iter().find_map(Weak::upgrade).map(|seat| seat.user().as_str().to_owned())
    }

    /// Charges received data to all users; returns for how long nothing should be read.
    pub(super) fn charge(&self, messages: u64, bytes: u64, now: Instant) -> Duration {
        if self.gate.limits().rate_per_user.is_unlimited() {
            return Duration::ZERO;
        }
        let seats = self.seats();
        let pauses = seats.iter().filter_map(Weak::upgrade).map(|seat| seat.meter().take(messages, bytes, now));
        pauses.max().unwrap_or_default()
    }

    fn seats(&self) -> MutexGuard<'_, Vec<Weak<UserSeat>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
