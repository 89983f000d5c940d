//! Admission of connections: counts them in total, per address and per user, and meters their rates.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use syncline_protocol::close::Close;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::partial_memory::PartialMemory;
use super::quota::Quotas;
use super::{Limits, MAX_PAUSE, Rate};
use crate::ids::UserId;
use crate::metrics::Metrics;
use crate::outbox::Outbox;

/// Capacity of a bucket: an idle connection may send in one burst what its rate allows in this time.
const BURST: Duration = Duration::from_secs(30);
/// The most that a bucket goes below zero: after a flood, other connections of the same address are slowed, not
/// closed.
const MAX_DEBT: Duration = Duration::from_secs(5);
const _: () = assert!(MAX_DEBT.as_secs() < MAX_PAUSE.as_secs());

/// A token bucket: fills at `per_second`, and each message takes from it.
#[derive(Debug)]
struct Bucket {
    per_second: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    fn new(per_second: u64, now: Instant) -> Self {
        let per_second = per_second as f64;
        Self { per_second, level: per_second * BURST.as_secs_f64(), at: now }
    }

    /// Takes `count` tokens and returns how long to wait until the level is at zero again.
    fn take(&mut self, count: u64, now: Instant) -> Duration {
        if self.per_second == 0.0 {
            return Duration::ZERO;
        }
        let filled = self.level + self.per_second * now.duration_since(self.at).as_secs_f64();
        self.level = filled.min(self.per_second * BURST.as_secs_f64()) - count as f64;
        self.at = now;
        let wait = (-self.level / self.per_second).max(0.0);
        self.level = self.level.max(-self.per_second * MAX_DEBT.as_secs_f64());
        Duration::from_secs_f64(wait)
    }
}

/// Rate limit on messages and bytes, of a connection, an address or a user.
#[derive(Debug)]
pub struct Meter(Mutex<(Bucket, Bucket)>);

impl Meter {
    /// A meter with full buckets.
    pub fn new(rate: Rate) -> Self {
        let now = Instant::now();
        Self(Mutex::new((Bucket::new(rate.messages, now), Bucket::new(rate.bytes, now))))
    }

    /// A meter that counts only messages.
    pub fn of_messages(per_second: u64) -> Self {
        Self::new(Rate { messages: per_second, bytes: 0 })
    }

    /// Counts received messages and bytes and returns for how long reading must pause.
    pub fn take(&self, messages: u64, bytes: u64, now: Instant) -> Duration {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.0.take(messages, now).max(buckets.1.take(bytes, now))
    }
}

/// Connection counts and rate meters of a server.
pub struct Gate {
    limits: Limits,
    metrics: Arc<Metrics>,
    state: Mutex<GateState>,
    partial_memory: PartialMemory,
    /// Counts documents opened by all sessions.
    opens: Meter,
}

#[derive(Default)]
struct GateState {
    sessions: usize,
    addresses: Quotas<IpAddr>,
    users: Quotas<UserId>,
    /// Sockets that have not sent a first message, in order of arrival.
    unfinished: BTreeMap<u64, Cut>,
    next: u64,
}

/// How to cut a socket that has not sent a first message.
#[derive(Clone)]
enum Cut {
    /// Before the WebSocket handshake is complete.
    Http(CancellationToken),
    /// After it has become a session.
    Session(Weak<Outbox>),
}

impl Gate {
    /// A gate without connections.
    pub fn new(limits: Limits, metrics: Arc<Metrics>) -> Arc<Self> {
        let opens = Meter::of_messages(limits.opens_per_second_in_all);
        let partial_memory = PartialMemory::new(limits.partial_bytes);
        Arc::new(Self { limits, metrics, state: Mutex::default(), partial_memory, opens })
    }

    /// Counts an opened document, also in `own`, the session's meter. Returns how long the session must wait. A
    /// session waits for one document at a time, so under the shared limit sessions take turns.
    pub fn open_pause(&self, own: &Meter) -> Duration {
        let now = Instant::now();
        let pause = own.take(1, 0, now).max(self.opens.take(1, 0, now));
        if !pause.is_zero() {
            self.metrics.open_pauses.inc();
        }
        pause
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The server's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Registers a new socket. If too many have not sent a first message, cuts the oldest of them: an honest client
    /// sends its first message within moments.
    pub fn arrive(self: &Arc<Self>) -> Unfinished {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        let cut = CancellationToken::new();
        state.unfinished.insert(id, Cut::Http(cut.clone()));
        let oldest = if state.unfinished.len() > self.limits.unfinished { state.unfinished.pop_first() } else { None };
        drop(state);
        self.cut(oldest);
        Unfinished { gate: Arc::clone(self), id, cut }
    }

    /// Cuts the oldest socket without a first message, to free a file descriptor. False if there is none.
    pub fn cut_oldest(&self) -> bool {
        let oldest = self.lock().unfinished.pop_first();
        let is_cut = oldest.is_some();
        self.cut(oldest);
        is_cut
    }

    fn cut(&self, oldest: Option<(u64, Cut)>) {
        let Some((_, cut)) = oldest else { return };
        self.metrics.unfinished_cut.inc();
        match cut {
            Cut::Http(token) => token.cancel(),
            Cut::Session(outbox) => _ = outbox.upgrade().map(|outbox| outbox.cut()),
        }
    }

    /// Admits a new WebSocket session, or refuses it when a connection limit is reached.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Seat, Close> {
        let mut state = self.lock();
        if state.sessions >= self.limits.connections {
            self.metrics.connections_refused.inc();
            return Err(Close::TooMany("connection limit of this server reached; please try again later".into()));
        }
        let Some(meter) = state.addresses.enter(address, self.limits.per_address()) else {
            self.metrics.connections_refused.inc();
            return Err(Close::TooMany("too many connections from this address; please try again later".into()));
        };
        state.sessions += 1;
        Ok(Seat { gate: Arc::clone(self), address, meter })
    }

    /// Counts a session of `user`, or refuses it when the user has too many.
    pub fn enter_user(self: &Arc<Self>, user: &UserId) -> Result<UserSeat, Close> {
        let entered = self.lock().users.enter(user.clone(), self.limits.per_user());
        let Some(meter) = entered else {
            self.metrics.users_refused.inc();
            return Err(Close::TooMany(
                "connection limit of this user reached; please close another connection".into(),
            ));
        };
        Ok(UserSeat { gate: Arc::clone(self), user: user.clone(), meter })
    }

    /// Number of open sessions.
    pub fn sessions(&self) -> usize {
        self.lock().sessions
    }

    /// Number of open sockets that have not sent a first message.
    pub fn unfinished(&self) -> usize {
        self.lock().unfinished.len()
    }

    /// Memory of the incomplete messages of all sessions.
    pub(crate) fn partial_memory(&self) -> &PartialMemory {
        &self.partial_memory
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket that has not sent a first message. Dropped on that message, or when the socket is closed.
pub struct Unfinished {
    gate: Arc<Gate>,
    id: u64,
    cut: CancellationToken,
}

impl Unfinished {
    /// Cancelled when the socket is cut to make room.
    pub fn cut(&self) -> CancellationToken {
        self.cut.clone()
    }

    /// Switches to cutting by `outbox`: the socket is a session now, and the session need not watch a token.
    pub fn cut_by(&mut self, outbox: &Arc<Outbox>) {
        match self.gate.lock().unfinished.get_mut(&self.id) {
            Some(cut) => *cut = Cut::Session(Arc::downgrade(outbox)),
            // It was cut in the meantime.
            None => outbox.cut(),
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.gate.lock().unfinished.remove(&self.id);
    }
}

/// A session's entry in the counts; leaves them when dropped.
pub struct Seat {
    gate: Arc<Gate>,
    address: IpAddr,
    meter: Arc<Meter>,
}

impl Seat {
    /// The meter shared by all sessions of the address.
    pub fn address_meter(&self) -> &Arc<Meter> {
        &self.meter
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.sessions -= 1;
        state.addresses.leave(&self.address, self.gate.limits.per_address());
    }
}

/// A session's entry in the user's count; leaves it when dropped.
pub struct UserSeat {
    gate: Arc<Gate>,
    user: UserId,
    meter: Arc<Meter>,
}

impl UserSeat {
    /// The user that is counted.
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// The meter shared by all sessions of the user.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }
}

impl Drop for UserSeat {
    fn drop(&mut self) {
        self.gate.lock().users.leave(&self.user, self.gate.limits.per_user());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::RawLimits;

    fn gate(raw: RawLimits) -> Arc<Gate> {
        Gate::new(raw.into(), Arc::default())
    }

    #[test]
    fn meter_admits_a_burst_and_then_limits_to_its_rate() {
        let meter = Meter::new(Rate { messages: 10, bytes: 0 });
        let start = Instant::now() + Duration::from_secs(1);
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(meter.take(300, 1 << 40, at(0)), Duration::ZERO);
        assert_eq!(meter.take(5, 0, at(0)), Duration::from_millis(500));
        assert_eq!(meter.take(0, 0, at(500)), Duration::ZERO);
        assert_eq!(
            meter.take(301, 0, at(3_600_000)),
            Duration::from_millis(100),
            "the bucket fills no further than the burst"
        );
    }

    #[test]
    fn oldest_socket_without_message_is_cut_when_there_are_too_many() {
        let gate = gate(RawLimits { max_unfinished: Some(2), ..RawLimits::default() });
        let (first, second) = (gate.arrive(), gate.arrive());
        drop(second);
        let third = gate.arrive();
        assert!(!first.cut().is_cancelled());
        let fourth = gate.arrive();
        assert!(first.cut().is_cancelled() && !third.cut().is_cancelled() && !fourth.cut().is_cancelled());
        drop((first, third, fourth));
        assert_eq!((gate.unfinished(), gate.metrics().unfinished_cut.get()), (0, 1));
    }

    #[test]
    fn sessions_are_counted_in_total_and_per_address() {
        let limits =
            RawLimits { max_connections: Some(3), max_connections_per_address: Some(2), ..RawLimits::default() };
        let gate = gate(limits);
        let (here, there) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let (first, second) = (gate.enter(here).ok().unwrap(), gate.enter(here).ok().unwrap());
        assert!(gate.enter(here).is_err_and(|close| close.reason().contains("address")));
        let third = gate.enter(there).ok().unwrap();
        drop(first);
        let fourth = gate.enter(there).ok().unwrap();
        assert!(gate.enter(here).is_err_and(|close| close.reason().contains("server")));
        drop((second, third, fourth));
        assert_eq!(gate.sessions(), 0);
        assert!(gate.lock().addresses.is_empty());
    }

    #[test]
    fn sessions_of_a_user_are_counted_until_dropped() {
        let gate = gate(RawLimits { max_connections_per_user: Some(2), ..RawLimits::default() });
        let (ada, ben) = (UserId::from("ada"), UserId::from("ben"));
        let sessions = [gate.enter_user(&ada).ok().unwrap(), gate.enter_user(&ada).ok().unwrap()];
        assert!(gate.enter_user(&ada).is_err_and(|close| close.reason().contains("user")));
        let other = gate.enter_user(&ben).ok().unwrap();
        drop(sessions);
        let third = gate.enter_user(&ada).ok().unwrap();
        assert_eq!(gate.metrics().users_refused.get(), 1);
        drop((other, third));
        assert!(gate.lock().users.is_empty());
    }
}
