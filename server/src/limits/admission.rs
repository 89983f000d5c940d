//! Who is connected from where, and how much of their rate they have used.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use syncline_protocol::close::Close;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::quota::Places;
use super::{Limits, MAX_PAUSE, Rate};
use crate::ids::UserId;
use crate::metrics::Metrics;
use crate::outbox::Outbox;

/// A connection that was quiet may send as much at once as its rate allows in this time.
const BURST: Duration = Duration::from_secs(30);
/// What a flood leaves behind for others of its address: they are slowed, not closed.
const MAX_DEBT: Duration = Duration::from_secs(5);
const _: () = assert!(MAX_DEBT.as_secs() < MAX_PAUSE.as_secs());

/// One thing that may come at a rate: a bucket that fills with time and that each takes from.
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

    /// Takes `count` out, and tells how long to wait until it is no longer below zero.
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

/// Messages and bytes of a connection, of an address, or of a user.
#[derive(Debug)]
pub struct Meter(Mutex<(Bucket, Bucket)>);

impl Meter {
    /// One that has been quiet.
    pub fn new(rate: Rate) -> Self {
        let now = Instant::now();
        Self(Mutex::new((Bucket::new(rate.messages, now), Bucket::new(rate.bytes, now))))
    }

    /// One that counts messages only.
    pub fn of_messages(per_second: u64) -> Self {
        Self::new(Rate { messages: per_second, bytes: 0 })
    }

    /// Counts what came, and tells for how long nothing more should be read.
    pub fn take(&self, messages: u64, bytes: u64, now: Instant) -> Duration {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.0.take(messages, now).max(buckets.1.take(bytes, now))
    }
}

/// Who is connected.
pub struct Gate {
    limits: Limits,
    metrics: Arc<Metrics>,
    inner: Mutex<Inner>,
    /// Reserved for messages that have not come to their end.
    partial_bytes: AtomicUsize,
    /// Documents that all sessions open.
    opens: Meter,
}

#[derive(Default)]
struct Inner {
    sessions: usize,
    addresses: Places<IpAddr>,
    users: Places<UserId>,
    /// In order of arrival.
    unfinished: BTreeMap<u64, Cut>,
    next: u64,
}

/// How an unfinished socket is cut.
#[derive(Clone)]
enum Cut {
    /// While it speaks HTTP.
    Http(CancellationToken),
    /// When it is a session.
    Session(Weak<Outbox>),
}

impl Gate {
    /// Nobody is connected yet.
    pub fn new(limits: Limits, metrics: Arc<Metrics>) -> Arc<Self> {
        let opens = Meter::of_messages(limits.opens_per_second_in_all);
        Arc::new(Self { limits, metrics, inner: Mutex::default(), partial_bytes: AtomicUsize::new(0), opens })
    }

    /// A session opens a document, and `own` counts those that it opens. Returns how long it has to wait. Each session waits for one
    /// document at a time, so they take turns when all of them open too many.
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

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// A socket came. If there are too many that have not said what they want, the one that has waited longest is cut:
    /// an honest client is through in a moment.
    pub fn arrive(self: &Arc<Self>) -> Unfinished {
        let mut inner = self.lock();
        let id = inner.next;
        inner.next += 1;
        let cut = CancellationToken::new();
        inner.unfinished.insert(id, Cut::Http(cut.clone()));
        let oldest = if inner.unfinished.len() > self.limits.unfinished { inner.unfinished.pop_first() } else { None };
        drop(inner);
        self.cut(oldest);
        Unfinished { gate: Arc::clone(self), id, cut }
    }

    /// There are few file descriptors left: make room. False when nobody is unfinished.
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

    /// A WebSocket session begins, unless there are too many.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Seat, Close> {
        let mut inner = self.lock();
        if inner.sessions >= self.limits.connections {
            self.metrics.connections_refused.inc();
            return Err(Close::TooMany("this server has as many connections as it takes; please try later".into()));
        }
        let Some(meter) = inner.addresses.enter(address, self.limits.of_address()) else {
            self.metrics.connections_refused.inc();
            return Err(Close::TooMany("too many connections from this address; please try later".into()));
        };
        inner.sessions += 1;
        Ok(Seat { gate: Arc::clone(self), address, meter })
    }

    /// A session acts in the name of `user`, unless too many do.
    pub fn enter_user(self: &Arc<Self>, user: &UserId) -> Result<UserSeat, Close> {
        let entered = self.lock().users.enter(user.clone(), self.limits.of_user());
        let Some(meter) = entered else {
            self.metrics.users_refused.inc();
            return Err(Close::TooMany("this user has as many connections as one may have; please close one".into()));
        };
        Ok(UserSeat { gate: Arc::clone(self), user: user.clone(), meter })
    }

    /// Sessions now.
    pub fn sessions(&self) -> usize {
        self.lock().sessions
    }

    /// Sockets now that have not said their first message.
    pub fn unfinished(&self) -> usize {
        self.lock().unfinished.len()
    }

    /// `bytes` more of an unfinished message are kept. False when that is too much, over all sessions.
    pub fn reserve(&self, bytes: usize) -> bool {
        self.partial_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.limits.partial_bytes
    }

    /// They are kept no more.
    pub fn release(&self, bytes: usize) {
        self.partial_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket that has not said its first message. Dropped when it has, or is gone.
pub struct Unfinished {
    gate: Arc<Gate>,
    id: u64,
    cut: CancellationToken,
}

impl Unfinished {
    /// Cancelled when it has to make room.
    pub fn cut(&self) -> CancellationToken {
        self.cut.clone()
    }

    /// It is a session now, which is cut by its outbox: waiting for more costs it nothing.
    pub fn cut_by(&mut self, outbox: &Arc<Outbox>) {
        match self.gate.lock().unfinished.get_mut(&self.id) {
            Some(cut) => *cut = Cut::Session(Arc::downgrade(outbox)),
            // It had to make room just now.
            None => outbox.cut(),
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.gate.lock().unfinished.remove(&self.id);
    }
}

/// A session's place. Dropped at its end.
pub struct Seat {
    gate: Arc<Gate>,
    address: IpAddr,
    meter: Arc<Meter>,
}

impl Seat {
    /// What all sessions of its address send together.
    pub fn address_meter(&self) -> &Arc<Meter> {
        &self.meter
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.gate.lock();
        inner.sessions -= 1;
        inner.addresses.leave(&self.address, self.gate.limits.of_address());
    }
}

/// A user's place for one session. Dropped when the session no longer acts in that name.
pub struct UserSeat {
    gate: Arc<Gate>,
    user: UserId,
    meter: Arc<Meter>,
}

impl UserSeat {
    /// Who it is.
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// What all sessions of the user send together.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }
}

impl Drop for UserSeat {
    fn drop(&mut self) {
        self.gate.lock().users.leave(&self.user, self.gate.limits.of_user());
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
    fn a_bucket_lets_a_burst_through_and_then_its_rate() {
        let meter = Meter::new(Rate { messages: 10, bytes: 0 });
        let start = Instant::now() + Duration::from_secs(1);
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(meter.take(300, 1 << 40, at(0)), Duration::ZERO);
        assert_eq!(meter.take(5, 0, at(0)), Duration::from_millis(500));
        assert_eq!(meter.take(0, 0, at(500)), Duration::ZERO);
        assert_eq!(meter.take(301, 0, at(3_600_000)), Duration::from_millis(100), "it fills to the burst, not beyond");
    }

    #[test]
    fn the_oldest_unfinished_socket_makes_room() {
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
    fn seats_are_counted_in_all_and_for_each_address() {
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
    fn seats_of_a_user_are_counted_and_given_back() {
        let gate = gate(RawLimits { max_connections_per_user: Some(2), ..RawLimits::default() });
        let (ada, ben) = (UserId::from("ada"), UserId::from("ben"));
        let seats = [gate.enter_user(&ada).ok().unwrap(), gate.enter_user(&ada).ok().unwrap()];
        assert!(gate.enter_user(&ada).is_err_and(|close| close.reason().contains("user")));
        let other = gate.enter_user(&ben).ok().unwrap();
        drop(seats);
        let again = gate.enter_user(&ada).ok().unwrap();
        assert_eq!(gate.metrics().users_refused.get(), 1);
        drop((other, again));
        assert!(gate.lock().users.is_empty());
    }
}
