//! Reading from the store beside the runtime: few threads, each of which goes on while there is something to read.
//!
//! A thread for each document that is opened would be hundreds when all clients come back at once, and two switches of
//! thread for each.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;
use tokio::task;

use super::lock;

/// Threads that read at once. What waits for them is one entry for each document that is being opened.
const MAX_THREADS: usize = 8;

type Job = Box<dyn FnOnce() + Send>;

/// What is to be read.
#[derive(Default)]
pub(super) struct Reading(Mutex<State>);

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
}

impl Reading {
    /// Reads, in the order in which it is asked. `None`: the reading panicked, or the program stops.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, read_through) = oneshot::channel();
        // Who asked may have gone.
        let job = Box::new(move || _ = reply.send(read()));
        self.begin(job);
        read_through.await.ok()
    }

    fn begin(self: &Arc<Self>, job: Job) {
        let mut state = lock(&self.0);
        state.jobs.push_back(job);
        if state.threads < MAX_THREADS {
            state.threads += 1;
            drop(state);
            let reading = Arc::clone(self);
            task::spawn_blocking(move || reading.work());
        }
    }

    fn work(&self) {
        while let Some(job) = self.next() {
            // Its answer is dropped, which says that there is none; the others are read.
            catch_unwind(AssertUnwindSafe(job)).ok();
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = lock(&self.0);
        let job = state.jobs.pop_front();
        if job.is_none() {
            // Under the lock under which a job comes: one of the two sees the other.
            state.threads -= 1;
        }
        job
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn many_are_read_by_few_threads_and_a_panic_stops_no_other() {
        let reading = Arc::<Reading>::default();
        let (at_once, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut all = Vec::new();
        for number in 0..200 {
            let (reading, at_once, most) = (Arc::clone(&reading), Arc::clone(&at_once), Arc::clone(&most));
            all.push(tokio::spawn(async move {
                let read = move || {
                    most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    at_once.fetch_sub(1, Ordering::SeqCst);
                    assert!(number % 50 != 7, "this one panics");
                    number
                };
                reading.run(read).await
            }));
        }
        for (number, read) in all.into_iter().enumerate() {
            assert_eq!(read.await.unwrap(), (number % 50 != 7).then_some(number));
        }
        assert!((1..=MAX_THREADS).contains(&most.load(Ordering::SeqCst)));
        // They go when there is nothing left, and come again.
        while lock(&reading.0).threads > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(reading.run(|| 1).await, Some(1));
    }

    #[tokio::test]
    async fn one_that_takes_long_holds_up_no_other() {
        let reading = Arc::<Reading>::default();
        let (go_on, wait) = mpsc::channel::<()>();
        let slow = tokio::spawn({
            let reading = Arc::clone(&reading);
            async move { reading.run(move || wait.recv().is_ok()).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(reading.run(|| 2).await, Some(2));
        go_on.send(()).unwrap();
        assert_eq!(slow.await.unwrap(), Some(true));
    }
}
