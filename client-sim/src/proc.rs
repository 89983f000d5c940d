//! CPU and memory of a process, from `/proc` (Linux; elsewhere nothing is known and nothing is reported).

use std::fs;

// Linux gives times in /proc in units of 1/100 s to user space, whatever the kernel's own tick is.
/// Clock ticks in a second, so CPU times are good to 10 ms.
pub const TICKS_PER_SECOND: f64 = 100.0;

/// One look at a process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// User and system time of all its threads so far.
    pub cpu_s: f64,
    /// Resident memory now.
    pub rss_bytes: u64,
}

/// Looks at a process; None if there is none of this number or no `/proc`.
pub fn usage(pid: u32) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(Usage { cpu_s: cpu_ticks(&stat)? as f64 / TICKS_PER_SECOND, rss_bytes: rss_bytes(&status)? })
}

fn cpu_ticks(stat: &str) -> Option<u64> {
    // The second field, the name in parentheses, may hold anything: count from its end.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

fn rss_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(rss_bytes("Name:\tx\nVmRSS:\t   12 kB\n"), Some(12 * 1024));
    }
}
