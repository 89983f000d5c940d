//! In whose name a session acts: one user for nearly all, but tokens may name another for each document.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use syncline_protocol::close::Close;
use tokio::time::{Instant, sleep};

use crate::ids::UserId;
use crate::limits::{Gate, Meter, UserSeat};

/// The users of one session. As many as it has documents, at most.
pub(super) struct Users {
    gate: Arc<Gate>,
    /// Where the connection comes from.
    address: IpAddr,
    /// Held by what acts in their name: the connection, the documents.
    seats: Mutex<Vec<Weak<UserSeat>>>,
    /// Documents that the session opens.
    opens: Meter,
}

impl Users {
    pub(super) fn new(gate: &Arc<Gate>, address: IpAddr) -> Arc<Self> {
        let opens = Meter::of_messages(gate.limits().opens_per_second);
        Arc::new(Self { gate: Arc::clone(gate), address, seats: Mutex::default(), opens })
    }

    /// Waits until the session may open a document more. It is not read meanwhile: TCP pushes back.
    pub(super) async fn pause_before_open(&self) {
        let pause = self.gate.open_pause(&self.opens);
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }

    /// A place in the name of `user`; a session that has one shares it.
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

    /// Where the connection comes from.
    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    /// The user, or one of them.
    pub(super) fn name(&self) -> Option<String> {
        let seats = self.seats();
        seats.iter().find_map(Weak::upgrade).map(|seat| seat.user().as_str().to_owned())
    }

    /// Charges what came to all of them; tells for how long nothing more should be read.
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
