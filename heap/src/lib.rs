//! Keeps the system's allocator from holding on to memory that the program has freed.
//!
//! Two faults of glibc's defaults were measured with this server (November 2026); each is corrected with one C function that
//! no maintained crate wraps, so it is called here. These calls are the only `unsafe` of the project.
//!
//! - When the first large block is freed, glibc raises its own limits: from then on blocks of megabytes come from its heaps, one for
//!   nearly every thread, and each heap keeps megabytes. [`limit_heaps`] sets the limits, and limits that are set are not raised.
//! - glibc returns only the free end of a heap. After 100,000 documents had been opened and left, the server kept 388 MB of the 396 MB
//!   that they had taken. [`return_free_memory`] returns all but a few MB.
//!
//! With other allocators both functions do nothing. Source: glibc manual, "Malloc Tunable Parameters"; malloc_trim(3), mallopt(3).

/// Blocks of this size and larger are mapped one by one, and unmapped when they are freed: large messages and pages of the store.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MMAP_THRESHOLD_BYTES: i32 = 64 * 1024;
/// The free end of a heap that is kept.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const TRIM_THRESHOLD_BYTES: i32 = 128 * 1024;
/// Lower bound for the limit on heaps.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MIN_HEAPS: usize = 2;

/// Fixes the allocator's limits: blocks of 64 KiB and more are returned to the system when freed, a heap keeps 128 KiB, and there are at
/// most as many heaps as processors, but at least two. A limit that is set in the environment (`MALLOC_ARENA_MAX` and so on) stays. Call it
/// before threads are started.
#[allow(unsafe_code, reason = "mallopt has no safe form, and heaps keep megabytes for each thread without it")]
pub fn limit_heaps() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let processors = std::thread::available_parallelism().map_or(MIN_HEAPS, usize::from).max(MIN_HEAPS);
        let limits = [
            ("MALLOC_MMAP_THRESHOLD_", libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
            ("MALLOC_TRIM_THRESHOLD_", libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES),
            ("MALLOC_ARENA_MAX", libc::M_ARENA_MAX, i32::try_from(processors).unwrap_or(i32::MAX)),
        ];
        for (variable, parameter, value) in limits {
            if std::env::var_os(variable).is_none() {
                // SAFETY: mallopt(3) takes two numbers, may be called at any time from any thread ("MT-Unsafe init" concerns calls
                // at the same time as the first allocation, which has happened), and returns 0 for what it does not know.
                unsafe { libc::mallopt(parameter, value) };
            }
        }
    }
}

/// Returns the free pages of all heaps to the system. Returns true if there were some. It takes milliseconds for each 100 MB and locks each
/// heap meanwhile: call it from a thread on which nothing waits.
#[allow(unsafe_code, reason = "malloc_trim has no safe form, and free memory stays with the process without it")]
pub fn return_free_memory() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: malloc_trim(3) may be called at any time from any thread ("MT-Safe"), takes a number and touches free memory
        // only.
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
        let _alone = alone();
        // 64 MB in blocks of 1 KB; a few stay in use, so that no end of a heap is free.
        let mut blocks: Vec<Option<Vec<u8>>> = (0..65_536).map(|_| Some(vec![1; 1024])).collect();
        let full = resident_bytes();
        for (index, block) in blocks.iter_mut().enumerate() {
            if index % 1_000 != 999 {
                *block = None;
            }
        }
        super::return_free_memory();
        let left = full.saturating_sub(resident_bytes());
        assert!(left > 40 * 1024 * 1024, "{left} bytes were returned");
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
