//! How much memory this machine can still give.

/// Bytes that can be used without swapping: the system's estimate, or the container's limit where
/// that is tighter. `None` where the system does not say.
pub(crate) fn available_memory() -> Option<u64> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let number = |path: &str| read(path)?.trim().parse::<u64>().ok();
    let system = available_in(&read("/proc/meminfo")?)?;
    let limit = number("/sys/fs/cgroup/memory.max");
    // File pages that the container has read count as used, but are given up when needed.
    let used = number("/sys/fs/cgroup/memory.current").zip(read("/sys/fs/cgroup/memory.stat"));
    let used = used.map(|(used, stat)| used.saturating_sub(file_pages(&stat)));
    let contained = limit
        .zip(used)
        .map(|(limit, used)| limit.saturating_sub(used));
    Some(contained.map_or(system, |c| c.min(system)))
}

fn available_in(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|l| l.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

fn file_pages(stat: &str) -> u64 {
    let value = |name: &str| {
        let mut lines = stat.lines();
        let rest = lines.find_map(|l| l.strip_prefix(name)?.strip_prefix(' '))?;
        rest.parse::<u64>().ok()
    };
    value("active_file").unwrap_or(0) + value("inactive_file").unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_read() {
        let text = "MemTotal:  100 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(available_in(text), Some(2048 * 1024));
        assert_eq!(available_in("MemTotal: 1 kB"), None);
        let stat = "anon 5\nactive_file 7\ninactive_file 11\nfile 99\n";
        assert_eq!(file_pages(stat), 18);
        if cfg!(target_os = "linux") {
            assert!(available_memory().is_some_and(|bytes| bytes > 1 << 20));
        }
    }
}
