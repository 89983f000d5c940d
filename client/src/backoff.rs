//! PURE: when to come back after a connection ended. The caller brings the random number and sleeps.

use std::time::Duration;

use syncline_protocol::close::may_reconnect;

/// The waiting times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffConfig {
    /// Upper bound of the first wait.
    pub first: Duration,
    /// Upper bound of any wait.
    pub max: Duration,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self { first: Duration::from_millis(200), max: Duration::from_secs(20) }
    }
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Try again after this time.
    RetryAfter(Duration),
    /// Trying again cannot help: the server closed with a code that says so.
    Stop,
}

/// Counts failures in a row.
#[derive(Debug, Clone)]
pub struct Backoff {
    config: BackoffConfig,
    failures: u32,
}

impl Backoff {
    /// Starts without failures.
    pub fn new(config: BackoffConfig) -> Self {
        Self { config, failures: 0 }
    }

    /// A connection ended, with this WebSocket close code if the server gave one. `random` is uniform in 0..1.
    ///
    /// The wait is between half and all of `first` x 2^failures (never above `max`): spread out, so that a restarted
    /// server does not meet all its clients at once.
    pub fn ended(&mut self, close_code: Option<u16>, random: f64) -> Advice {
        if close_code.is_some_and(|code| !may_reconnect(code)) {
            return Advice::Stop;
        }
        let bound = self.config.first.saturating_mul(1 << self.failures.min(20)).min(self.config.max);
        self.failures = self.failures.saturating_add(1);
        Advice::RetryAfter(bound.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0))
    }

    /// The connection works (the document is in sync): the next failure is a first one again.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: BackoffConfig = BackoffConfig { first: Duration::from_millis(100), max: Duration::from_secs(1) };

    fn waits(random: f64, count: usize) -> Vec<u128> {
        let mut backoff = Backoff::new(CONFIG);
        (0..count)
            .map(|_| match backoff.ended(None, random) {
                Advice::RetryAfter(wait) => wait.as_millis(),
                Advice::Stop => panic!("nothing said stop"),
            })
            .collect()
    }

    #[test]
    fn waits_double_up_to_the_limit_and_are_spread() {
        assert_eq!(waits(1.0, 6), [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(waits(0.0, 6), [50, 100, 200, 400, 500, 500]);
        assert_eq!(*waits(1.0, 200).last().unwrap(), 1000);
    }

    #[test]
    fn success_starts_over() {
        let mut backoff = Backoff::new(CONFIG);
        backoff.ended(None, 1.0);
        backoff.ended(Some(1012), 1.0);
        backoff.succeeded();
        assert_eq!(backoff.ended(Some(4503), 1.0), Advice::RetryAfter(CONFIG.first));
    }

    #[test]
    fn a_final_close_code_stops() {
        assert_eq!(Backoff::new(CONFIG).ended(Some(4403), 0.5), Advice::Stop);
        assert_eq!(Backoff::new(CONFIG).ended(Some(4499), 0.5), Advice::Stop);
        assert_ne!(Backoff::new(CONFIG).ended(Some(4500), 0.5), Advice::Stop);
        assert_ne!(Backoff::new(CONFIG).ended(None, 0.5), Advice::Stop);
    }
}
