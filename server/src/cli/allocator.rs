//! Configures glibc's allocator to return freed memory to the system.
//!
//! By default, glibc raises its mmap and trim thresholds after the first large block is freed. sled's buffers
//! of megabytes then come from its arenas, nearly one per thread, and each arena keeps megabytes. A threshold
//! that is set explicitly is not raised. It can be set in the environment before the program starts, or by a C
//! function that no safe crate wraps; so the server executes itself again, as the same process.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;

/// Set in the second execution, whether or not the settings took effect.
const DONE: &str = "SYNCLINE_ALLOCATOR_SETTLED";
/// Blocks of at least this size are mapped separately and returned when freed: large messages and sled's pages.
const MMAP_THRESHOLD_BYTES: usize = 64 * 1024;
/// Free memory that an arena keeps at its end.
const TRIM_THRESHOLD_BYTES: usize = 128 * 1024;
/// Minimum number of arenas.
const MIN_ARENAS: usize = 2;

/// On the first call, executes the program again with the settings; variables that the operator has set are
/// kept. Must be called before threads are started and files are opened. If it fails, the server only uses more
/// memory.
pub fn configure() {
    if !cfg!(all(target_os = "linux", target_env = "gnu")) || env::var_os(DONE).is_some() {
        return;
    }
    let mut arguments = env::args_os();
    let (Ok(program), Some(name)) = (env::current_exe(), arguments.next()) else { return };
    let arenas = thread::available_parallelism().map_or(MIN_ARENAS, usize::from).max(MIN_ARENAS);
    let settings = [
        ("MALLOC_MMAP_THRESHOLD_", MMAP_THRESHOLD_BYTES),
        ("MALLOC_TRIM_THRESHOLD_", TRIM_THRESHOLD_BYTES),
        ("MALLOC_ARENA_MAX", arenas),
    ];
    let unset = settings.into_iter().filter(|(name, _)| env::var_os(name).is_none());
    let unset = unset.map(|(name, value)| (name, value.to_string()));
    // `exec` returns only if it failed.
    let _error = Command::new(program).arg0(name).args(arguments).envs(unset).env(DONE, "1").exec();
}
