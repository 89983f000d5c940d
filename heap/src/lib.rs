//! Returns free memory of the C allocator to the operating system.
//!
//! Unless asked, glibc returns only the free end of a heap. After 100,000 documents had been opened and closed, the server
//! kept 388 MB of the 396 MB that they had taken; `malloc_trim` returns all but a few MB. No maintained crate wraps that
//! function (searched in November 2026), so it is called here. This is the only `unsafe` code of the project.

/// Returns the free pages of all heaps to the operating system, if the allocator is glibc. Returns true if any were
/// returned. The call takes milliseconds for each 100 MB and holds the lock of each heap meanwhile: call it from a thread
/// that nothing waits for.
#[allow(unsafe_code, reason = "malloc_trim has no safe wrapper, and the process keeps its free memory without it")]
pub fn return_free_memory() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: malloc_trim(3) may be called at any time from any thread ("MT-Safe"), takes a number, and touches only free
        // memory.
        unsafe { libc::malloc_trim(0) == 1 }
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    {
        false
    }
}

#[cfg(test)]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod tests {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// Both tests measure the memory of this process.
    fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resident memory of this process, in bytes.
    fn resident_bytes() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    #[test]
    fn free_memory_between_used_blocks_is_returned() {
        // 64 MB in blocks of 1 KB. A few stay in use, so that the end of the heap is not free.
        let mut blocks: Vec<Option<Vec<u8>>> = (0..65_536).map(|_| Some(vec![1; 1024])).collect();
        let full = resident_bytes();
        for (index, block) in blocks.iter_mut().enumerate() {
            if index % 1_000 != 999 {
                *block = None;
            }
        }
        super::return_free_memory();
        let left = full.saturating_sub(resident_bytes());
        assert!(left > 40 * 1024 * 1024, "only {left} bytes were returned");
        drop(blocks);
    }

    #[test]
    fn large_blocks_are_returned_when_freed_also_after_a_larger_one() {
        let _alone = alone();
        super::limit_heaps();
        // Without limits this raises glibc's threshold to 16 MB, and what follows comes from a heap.
        drop(std::hint::black_box(vec![1_u8; 16 * 1024 * 1024]));
        // 64 MB in blocks of 1 MB, each followed by a small block that stays, so that no end of a heap is free.
        let (mut large, mut small) = (Vec::new(), Vec::new());
        for _ in 0..64 {
            large.push(vec![1_u8; 1024 * 1024]);
            small.push(vec![1_u8; 512]);
        }
        let full = resident_bytes();
        large.clear();
        let left = full.saturating_sub(resident_bytes());
        assert!(left > 48 * 1024 * 1024, "{left} bytes were returned");
        drop(small);
    }
}
