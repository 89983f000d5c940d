//! CPU time and memory of a process, from `/proc` (Linux; on other systems nothing is reported).

use std::fs;
use std::path::Path;

// Linux reports times in /proc in units of 1/100 s, whatever the kernel's own tick is.
/// Clock ticks per second; these CPU times have a resolution of 10 ms.
pub(crate) const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time and memory of a process at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Usage {
    /// User and system time of all threads so far.
    pub cpu_s: f64,
    /// Time that threads were ready to run and waited for a core; 0 where it is not known.
    pub waited_s: f64,
    /// Resident memory now.
    pub rss_bytes: u64,
    /// Largest resident memory so far.
    pub peak_bytes: u64,
}

/// Samples a process; `None` if it does not exist or there is no `/proc`.
pub(crate) fn usage(pid: u32) -> Option<Usage> {
    let process = format!("/proc/{pid}");
    let stat = fs::read_to_string(format!("{process}/stat")).ok()?;
    let status = fs::read_to_string(format!("{process}/status")).ok()?;
    let ticks_s = cpu_ticks(&stat)? as f64 / TICKS_PER_SECOND;
    // Precise to the nanosecond, but without threads that have ended: used only when it agrees with the ticks.
    let (fine_s, waited_s) = threads_s(Path::new(&process)).unwrap_or_default();
    let cpu_s = if (fine_s - ticks_s).abs() <= 2.0 / TICKS_PER_SECOND { fine_s } else { ticks_s };
    let (rss_bytes, peak_bytes) = (memory(&status, "VmRSS:")?, memory(&status, "VmHWM:")?);
    Some(Usage { cpu_s, waited_s, rss_bytes, peak_bytes })
}

/// CPU seconds that the whole machine has used so far, including the time taken by its host (steal).
pub(crate) fn machine_cpu_s() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    Some(machine_ticks(&stat)? as f64 / TICKS_PER_SECOND)
}

fn machine_ticks(stat: &str) -> Option<u64> {
    // user nice system idle iowait irq softirq steal
    let fields: Vec<u64> = stat.lines().next()?.split_ascii_whitespace().skip(1).flat_map(str::parse).collect();
    let [user, nice, system, _, _, irq, softirq, steal, ..] = fields[..] else { return None };
    Some(user + nice + system + irq + softirq + steal)
}

/// Seconds that the threads ran, and seconds that they waited for a core.
fn threads_s(process: &Path) -> Option<(f64, f64)> {
    let (mut ran_ns, mut waited_ns) = (0, 0);
    for thread in fs::read_dir(process.join("task")).ok()? {
        let schedule = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        let mut fields = schedule.split_ascii_whitespace().map(str::parse::<u64>);
        ran_ns += fields.next()?.ok()?;
        waited_ns += fields.next()?.ok()?;
    }
    Some((ran_ns as f64 / 1e9, waited_ns as f64 / 1e9))
}

fn cpu_ticks(stat: &str) -> Option<u64> {
    // The second field, the name in parentheses, may contain spaces and parentheses: count the fields from its end.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

fn memory(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with(name))?;
    let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_with_spaces_and_parentheses_does_not_shift_fields() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(memory("Name:\tx\nVmRSS:\t   12 kB\n", "VmRSS:"), Some(12 * 1024));
    }

    #[test]
    fn idle_time_does_not_count_as_used() {
        assert_eq!(machine_ticks("cpu  1 2 4 8 16 32 64 128 0 0\ncpu0 1"), Some(1 + 2 + 4 + 32 + 64 + 128));
    }

    #[test]
    fn busy_loop_raises_cpu_time_of_this_process() {
        let Some(before) = usage(std::process::id()) else { return };
        let begin = std::time::Instant::now();
        while begin.elapsed() < std::time::Duration::from_millis(60) {}
        let after = usage(std::process::id()).unwrap();
        assert!(after.cpu_s > before.cpu_s && after.peak_bytes >= after.rss_bytes, "{before:?} {after:?}");
    }
}
