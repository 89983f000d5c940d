//! PURE: the own updates that the server has not answered, in the order in which they were sent.

use std::collections::VecDeque;

use bytes::Bytes;

/// Unanswered updates. The caller identifies each by a number; an update without a number is sent only for its answer.
#[derive(Debug, Default)]
pub(crate) struct Unanswered(VecDeque<(Option<usize>, Bytes)>);

impl Unanswered {
    /// Adds an update that is sent now. `echo` are the bytes of its echo, if the server answers with one.
    pub(crate) fn push(&mut self, number: Option<usize>, echo: Bytes) {
        self.0.push_back((number, echo));
    }

    /// The server saved the oldest `count`; returns their numbers.
    pub(crate) fn take(&mut self, count: u64) -> Vec<usize> {
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.0.len());
        self.0.drain(..count).filter_map(|(number, _)| number).collect()
    }

    /// The server sent this update: if it is the echo of one of these, all up to it are saved. Returns their numbers.
    pub(crate) fn take_echo(&mut self, update: &[u8]) -> Option<Vec<usize>> {
        let at = self.0.iter().position(|(_, echo)| echo == update)?;
        Some(self.take(at as u64 + 1))
    }

    /// Number of unanswered updates.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echo_answers_everything_sent_before_it_and_another_update_answers_nothing() {
        let mut unanswered = Unanswered::default();
        for (number, echo) in [(Some(3), "a"), (None, "b"), (Some(4), "c"), (Some(5), "d")] {
            unanswered.push(number, Bytes::from_static(echo.as_bytes()));
        }
        assert_eq!(unanswered.take_echo(b"x"), None);
        assert_eq!(unanswered.take_echo(b"c"), Some(vec![3, 4]));
        assert_eq!(unanswered.take_echo(b"a"), None);
        assert_eq!((unanswered.len(), unanswered.take(9)), (1, vec![5]));
    }
}
