//! A small pool of threads that read from the store. A thread keeps running while jobs are queued.
//!
//! A blocking task for each document would use hundreds of threads when all clients reconnect at the same time, and two
//! context switches for each document.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;
use tokio::task;

use super::lock;

/// Threads that read at the same time. The queue holds one job for each document that is being opened.
const MAX_THREADS: usize = 8;

type Job = Box<dyn FnOnce() + Send>;

/// The queued reads and the number of running threads.
#[derive(Default)]
pub(super) struct ReadPool(Mutex<ReadQueue>);

#[derive(Default)]
struct ReadQueue {
    jobs: VecDeque<Job>,
    threads: usize,
}

impl ReadPool {
    /// Runs `read` on the pool; jobs start in the order of the calls. `None`: `read` panicked, or the runtime is shutting
    /// down.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, outcome) = oneshot::channel();
        // The caller may have been cancelled.
        let job = Box::new(move || _ = reply.send(read()));
        self.submit(job);
        outcome.await.ok()
    }

    fn submit(self: &Arc<Self>, job: Job) {
        let mut state = lock(&self.0);
        state.jobs.push_back(job);
        if state.threads < MAX_THREADS {
            state.threads += 1;
            drop(state);
            let pool = Arc::clone(self);
            task::spawn_blocking(move || pool.run_jobs());
        }
    }

    fn run_jobs(&self) {
        while let Some(job) = self.next() {
            // A panic drops the reply channel, so the caller gets `None`. The other jobs still run.
            catch_unwind(AssertUnwindSafe(job)).ok();
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = lock(&self.0);
        let job = state.jobs.pop_front();
        if job.is_none() {
            // Under the lock of `submit`: either this thread finds the new job, or `submit` starts a new thread.
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
    async fn many_reads_share_few_threads_and_a_panic_affects_only_its_read() {
        let pool = Arc::<ReadPool>::default();
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut all = Vec::new();
        for number in 0..200 {
            let (pool, running, most) = (Arc::clone(&pool), Arc::clone(&running), Arc::clone(&most));
            all.push(tokio::spawn(async move {
                let read = move || {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    running.fetch_sub(1, Ordering::SeqCst);
                    assert!(number % 50 != 7, "this read panics");
                    number
                };
                pool.run(read).await
            }));
        }
        for (number, read) in all.into_iter().enumerate() {
            assert_eq!(read.await.unwrap(), (number % 50 != 7).then_some(number));
        }
        assert!((1..=MAX_THREADS).contains(&most.load(Ordering::SeqCst)));
        // Idle threads end, and later reads start new ones.
        while lock(&pool.0).threads > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.run(|| 1).await, Some(1));
    }

    #[tokio::test]
    async fn slow_read_does_not_block_other_reads() {
        let pool = Arc::<ReadPool>::default();
        let (release, wait) = mpsc::channel::<()>();
        let slow = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.run(move || wait.recv().is_ok()).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(pool.run(|| 2).await, Some(2));
        release.send(()).unwrap();
        assert_eq!(slow.await.unwrap(), Some(true));
    }
}
