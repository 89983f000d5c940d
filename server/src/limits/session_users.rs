//! The users that a session acts for: usually one, but tokens may name another for each document.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use syncline_protocol::close::Close;
use tokio::time::{Instant, sleep};

use super::{Gate, Meter, UserSeat};
use crate::ids::UserId;

/// The users of one session; at most one per document.
pub(crate) struct SessionUsers {
    gate: Arc<Gate>,
    /// Address of the client.
    address: IpAddr,
    /// Held by the connection and the documents that act for these users.
    seats: Mutex<Vec<Weak<UserSeat>>>,
    /// Rate of documents opened by the session.
    opens: Meter,
}

impl SessionUsers {
    pub(crate) fn new(gate: &Arc<Gate>, address: IpAddr) -> Arc<Self> {
        let opens = Meter::of_messages(gate.limits().opens_per_second);
        Arc::new(Self { gate: Arc::clone(gate), address, seats: Mutex::default(), opens })
    }

    /// Waits until the session may open another document. Meanwhile it is not read, which becomes TCP
    /// backpressure.
    pub(crate) async fn pause_before_open(&self) {
        let pause = self.gate.open_pause(&self.opens);
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }

    /// A seat for `user`; shared if the session has one already.
    pub(crate) fn admit(&self, user: Option<&UserId>) -> Result<Option<Arc<UserSeat>>, Close> {
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

    /// Address of the client.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// The name of one of the users.
    pub(crate) fn name(&self) -> Option<String> {
        let seats = self.seats();
        seats.iter().find_map(Weak::upgrade).map(|seat| seat.user().as_str().to_owned())
    }

    /// Charges received data to all users; returns for how long nothing should be read.
    pub(crate) fn charge(&self, messages: u64, bytes: u64, now: Instant) -> Duration {
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
