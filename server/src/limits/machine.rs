//! Detects the memory available to this process: the machine's, or the container's limit.

use std::fs;

/// Assumed if the system reports nothing.
const UNKNOWN_BYTES: usize = 8 * 1024 * 1024 * 1024;
/// Memory limits of cgroups v2 and v1, at the paths a container sees for its own group.
const CONTAINER_LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// The most memory this process can use, in bytes.
pub(super) fn memory_bytes() -> usize {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_bytes(&text));
    let container = CONTAINER_LIMITS.iter().filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    machine.into_iter().chain(container).min().unwrap_or(UNKNOWN_BYTES)
}

/// `MemTotal` of `/proc/meminfo` (in KiB there) in bytes.
fn total_bytes(meminfo: &str) -> Option<usize> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn total_memory_is_parsed_in_bytes() {
        assert_eq!(total_bytes("MemTotal:        4013824 kB\nMemFree: 1 kB\n"), Some(4_013_824 * 1024));
        assert_eq!(total_bytes("MemFree: 1 kB\n"), None);
        assert!(memory_bytes() > 1024 * 1024);
    }
}
