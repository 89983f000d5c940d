//! PURE: exponential backoff after a connection ended. The caller passes a random number in and does the waiting.

use std::time::Duration;

use syncline_protocol::close::may_reconnect;

/// Bounds of the delays between attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffConfig {
    /// Upper bound of the first delay.
    pub first: Duration,
    /// Upper bound of every delay.
    pub max: Duration,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self { first: Duration::from_millis(200), max: Duration::from_secs(20) }
    }
}

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Try again after this delay.
    RetryAfter(Duration),
    /// Do not try again: the server closed with a code that rules out reconnecting.
    Stop,
}

/// Computes delays from the number of consecutive failures.
#[derive(Debug, Clone)]
pub struct Backoff {
    config: BackoffConfig,
    failures: u32,
}

impl Backoff {
    /// Creates a backoff with no failures.
    pub fn new(config: BackoffConfig) -> Self {
        Self { config, failures: 0 }
    }

    /// Records that a connection ended, with the WebSocket close code if the server sent one. `random` is uniform in
    /// 0..1.
    ///
    /// The delay is between half and all of `first` x 2^failures, capped at `max`. It is random so that the clients of
    /// a restarted server do not all reconnect at the same time.
    pub fn ended(&mut self, close_code: Option<u16>, random: f64) -> Advice {
        if close_code.is_some_and(|code| !may_reconnect(code)) {
            return Advice::Stop;
        }
        let bound = self.config.first.saturating_mul(1 << self.failures.min(20)).min(self.config.max);
        self.failures = self.failures.saturating_add(1);
        Advice::RetryAfter(bound.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0))
    }

    /// Records that the connection works (the document is synced): the next failure counts as the first.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: BackoffConfig = BackoffConfig { first: Duration::from_millis(100), max: Duration::from_secs(1) };

    fn delays(random: f64, count: usize) -> Vec<u128> {
        let mut backoff = Backoff::new(CONFIG);
        (0..count)
            .map(|_| match backoff.ended(None, random) {
                Advice::RetryAfter(wait) => wait.as_millis(),
                Advice::Stop => panic!("no close code was given"),
            })
            .collect()
    }

    #[test]
    fn delays_double_up_to_the_limit_and_are_randomized() {
        assert_eq!(delays(1.0, 6), [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(delays(0.0, 6), [50, 100, 200, 400, 500, 500]);
        assert_eq!(*delays(1.0, 200).last().unwrap(), 1000);
    }

    #[test]
    fn success_resets_the_delay() {
        let mut backoff = Backoff::new(CONFIG);
        backoff.ended(None, 1.0);
        backoff.ended(Some(1012), 1.0);
        backoff.succeeded();
        assert_eq!(backoff.ended(Some(4503), 1.0), Advice::RetryAfter(CONFIG.first));
    }

    #[test]
    fn final_close_code_stops_reconnecting() {
        assert_eq!(Backoff::new(CONFIG).ended(Some(4403), 0.5), Advice::Stop);
        assert_eq!(Backoff::new(CONFIG).ended(Some(4499), 0.5), Advice::Stop);
        assert_ne!(Backoff::new(CONFIG).ended(Some(4500), 0.5), Advice::Stop);
        assert_ne!(Backoff::new(CONFIG).ended(None, 0.5), Advice::Stop);
    }
}
