//! The memory that this process may use: the machine's, a control group's, that of `ulimit`, or what the program was told.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError, RwLock};

/// The limit that [`limit_memory`] has set, or found.
static SET: RwLock<Option<MemoryLimit>> = RwLock::new(None);

/// The limit that the system told first. It is read once, since every charge of the budget asks for it.
static OF_SYSTEM: LazyLock<Option<MemoryLimit>> = LazyLock::new(|| limit_under(Path::new("/")));

/// A limit on the memory of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Bytes.
    pub bytes: u64,
    /// The source of the limit, such as `the memory of this machine`.
    pub source: String,
}

/// Returns the least limit on the memory of this process: what [`limit_memory`] set, else what Linux tells; `None` on other
/// systems.
pub fn memory_limit() -> Option<MemoryLimit> {
    memory_limit_set().or_else(|| OF_SYSTEM.clone())
}

/// Calls `tell` with what [`memory_limit`] returns. It can be called when memory ran out: it allocates nothing and waits for
/// nothing.
pub fn with_memory_limit<T>(tell: impl FnOnce(Option<&MemoryLimit>) -> T) -> T {
    let set = SET.try_read();
    tell(set.as_ref().ok().and_then(|set| set.as_ref()).or_else(|| OF_SYSTEM.as_ref()))
}

/// Limits the memory of this process, to `limit` or the least limit that the system tells. From then on an allocation
/// above it fails, where the system supports that (`RLIMIT_DATA` of Linux), before the system has to kill a process.
///
/// # Errors
/// If the system refuses, such as a limit above the one that an administrator has set.
pub fn limit_memory(limit: Option<MemoryLimit>) -> io::Result<()> {
    let least = [limit, limit_under(Path::new("/"))].into_iter().flatten().min_by_key(|limit| limit.bytes);
    let Some(least) = least else { return Ok(()) };
    set_data_limit(|_| least.bytes)?;
    if let Ok(mut set) = SET.write() {
        *set = Some(least);
    }
    Ok(())
}

/// The number of computations that run [`without_limit`].
static LIFTED: Mutex<usize> = Mutex::new(0);

/// Lifts what [`limit_memory`] has set while `compute` runs, for a library that reserves address space and hardly uses it:
/// `RLIMIT_DATA` counts what is reserved.
pub fn without_limit<T>(compute: impl FnOnce() -> T) -> T {
    /// Sets the limit again, also after a panic.
    struct Lifted;
    impl Drop for Lifted {
        fn drop(&mut self) {
            let mut count = LIFTED.lock().unwrap_or_else(PoisonError::into_inner);
            *count -= 1;
            if let (0, Some(limit)) = (*count, memory_limit_set()) {
                // It was possible before.
                let _ = set_data_limit(|_| limit.bytes);
            }
        }
    }
    let mut count = LIFTED.lock().unwrap_or_else(PoisonError::into_inner);
    *count += 1;
    if *count == 1 && memory_limit_set().is_some() {
        // If it stays, `compute` may fail.
        let _ = set_data_limit(|hard| hard);
    }
    drop(count);
    let _lifted = Lifted;
    compute()
}

fn memory_limit_set() -> Option<MemoryLimit> {
    SET.read().ok().and_then(|set| set.clone())
}

/// Sets the limit that can be raised again to what `limit` makes of the one that cannot.
#[cfg(target_os = "linux")]
fn set_data_limit(limit: impl Fn(u64) -> u64) -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_DATA)?;
    Ok(setrlimit(Resource::RLIMIT_DATA, limit(hard).min(hard), hard)?)
}

#[cfg(not(target_os = "linux"))]
fn set_data_limit(_limit: impl Fn(u64) -> u64) -> io::Result<()> {
    Ok(())
}

/// Returns the peak of the resident memory of this process in bytes, where the system tells it.
pub fn peak_memory() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Reads the limits below a root folder, which is not `/` in tests.
fn limit_under(root: &Path) -> Option<MemoryLimit> {
    let read = |path: &str| fs::read_to_string(root.join(path)).ok();
    let machine = read("proc/meminfo").and_then(|text| kilobytes(&text, "MemTotal:"));
    let machine = machine.map(|bytes| MemoryLimit { bytes, source: "the memory of this machine".into() });
    let groups = read("proc/self/cgroup").unwrap_or_default();
    let groups = groups.lines().flat_map(group_files).filter_map(|path| {
        let bytes = fs::read_to_string(root.join(&path)).ok()?.trim().parse().ok()?;
        Some(MemoryLimit { bytes, source: format!("the control group's limit, /{}", path.display()) })
    });
    let (limits, status) = (read("proc/self/limits").unwrap_or_default(), read("proc/self/status").unwrap_or_default());
    // Address space is also taken by what never becomes resident, such as the stacks of threads.
    let unused = kilobytes(&status, "VmSize:").unwrap_or(0).saturating_sub(kilobytes(&status, "VmRSS:").unwrap_or(0));
    let user =
        [("Max address space", "ulimit -v"), ("Max data size", "ulimit -d")].into_iter().filter_map(|(row, name)| {
            let line = limits.lines().find_map(|line| line.strip_prefix(row))?;
            let bytes: u64 = line.split_whitespace().next()?.parse().ok()?;
            Some(MemoryLimit { bytes: bytes.saturating_sub(unused), source: format!("the limit of `{name}`") })
        });
    machine.into_iter().chain(groups).chain(user).min_by_key(|limit| limit.bytes)
}

/// Returns the files of the limits of a line of `/proc/self/cgroup`: those of the group and of all groups above it.
fn group_files(line: &str) -> Vec<PathBuf> {
    let mut fields = line.splitn(3, ':');
    let (Some(_), Some(controllers), Some(group)) = (fields.next(), fields.next(), fields.next()) else {
        return Vec::new();
    };
    let (base, file) = match controllers {
        "" => ("sys/fs/cgroup", "memory.max"),
        list if list.split(',').any(|name| name == "memory") => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        _ => return Vec::new(),
    };
    Path::new(group.trim_start_matches('/')).ancestors().map(|group| Path::new(base).join(group).join(file)).collect()
}

/// Returns the bytes of a line like `MemTotal:  24683656 kB`.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes files below a new folder and returns the limit there.
    fn limit(name: &str, files: &[(&str, &str)]) -> Option<(u64, String)> {
        let root = std::env::temp_dir().join(format!("ddpm-memory-{}-{name}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let found = limit_under(&root);
        let _ = fs::remove_dir_all(&root);
        found.map(|limit| (limit.bytes, limit.source))
    }

    const MEMORY: (&str, &str) = ("proc/meminfo", "MemTotal:        1000 kB\nMemFree: 1 kB\n");

    #[test]
    fn the_least_limit_counts() {
        assert_eq!(limit("none", &[]), None);
        assert_eq!(limit("machine", &[MEMORY]).unwrap(), (1_024_000, "the memory of this machine".into()));
        // Version 2, where the parent has the limit; `max` is none.
        let files = [
            MEMORY,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/memory.max", "5000\n"),
        ];
        let expected = (5000, "the control group's limit, /sys/fs/cgroup/a/memory.max".into());
        assert_eq!(limit("v2", &files).unwrap(), expected);
        // Version 1, in a container that sees its group as the root.
        let files = [
            MEMORY,
            ("proc/self/cgroup", "5:cpu:/x\n4:memory:/docker/1\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "6000\n"),
            ("sys/fs/cgroup/cpu/x/memory.limit_in_bytes", "1\n"),
        ];
        let expected = (6000, "the control group's limit, /sys/fs/cgroup/memory/memory.limit_in_bytes".into());
        assert_eq!(limit("v1", &files).unwrap(), expected);
        let files = [
            MEMORY,
            (
                "proc/self/limits",
                "Max data size  unlimited  unlimited  bytes\nMax address space  9000000  unlimited  bytes\n",
            ),
            ("proc/self/status", "VmSize: 8000 kB\nVmRSS: 1000 kB\n"),
        ];
        assert_eq!(limit("user", &files).unwrap(), (1_024_000, "the memory of this machine".into()));
        let files = [
            MEMORY,
            ("proc/self/limits", "Max address space         900000               unlimited            bytes\n"),
            ("proc/self/status", "VmSize: 300 kB\nVmRSS: 100 kB\n"),
        ];
        assert_eq!(limit("user", &files).unwrap(), (900_000 - 200 * 1024, "the limit of `ulimit -v`".into()));
    }

    #[test]
    fn this_process_has_a_peak_where_there_is_proc() {
        assert_eq!(peak_memory().is_some(), Path::new("/proc/self/status").exists());
        assert!(peak_memory().is_none_or(|bytes| bytes > 100_000));
    }
}
