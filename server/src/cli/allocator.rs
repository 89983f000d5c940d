//! glibc's allocator, told to give back what is freed.
//!
//! It takes a large block from the system and gives it back, but after the first such block it raises its own limits: sled's
//! buffers of megabytes then come from its heaps, one for nearly every thread, which keep megabytes each. A limit that is set is
//! not raised. It is set in the environment before a program begins, or by a C function that no safe crate wraps; so the
//! server begins a second time, as the same process.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;

/// Says that this has been done, whatever became of the settings.
const DONE: &str = "SYNCLINE_ALLOCATOR_SETTLED";
/// From this size on a block is the system's own: what large messages and pages of sled are made in goes back when it is freed.
const OWN_BLOCK_BYTES: usize = 64 * 1024;
/// What a heap keeps at its end.
const KEPT_BYTES: usize = 128 * 1024;
/// Heaps, at least.
const MIN_HEAPS: usize = 2;

/// Begins the program again with the settings, the first time; what the operator has set stays. Call it before there are threads and
/// open files. Where it cannot be done nothing is lost but memory.
pub fn settle() {
    if !cfg!(all(target_os = "linux", target_env = "gnu")) || env::var_os(DONE).is_some() {
        return;
    }
    let mut arguments = env::args_os();
    let (Ok(program), Some(name)) = (env::current_exe(), arguments.next()) else { return };
    let heaps = thread::available_parallelism().map_or(MIN_HEAPS, usize::from).max(MIN_HEAPS);
    let settings = [
        ("MALLOC_MMAP_THRESHOLD_", OWN_BLOCK_BYTES),
        ("MALLOC_TRIM_THRESHOLD_", KEPT_BYTES),
        ("MALLOC_ARENA_MAX", heaps),
    ];
    let unset = settings.into_iter().filter(|(name, _)| env::var_os(name).is_none());
    let unset = unset.map(|(name, value)| (name, value.to_string()));
    // It returns when it failed.
    let _not_begun = Command::new(program).arg0(name).args(arguments).envs(unset).env(DONE, "1").exec();
}
