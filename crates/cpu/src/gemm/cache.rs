//! How large a core's second-level cache is: what the packed columns of a task are cut to.

use std::sync::OnceLock;

/// What is assumed where the machine does not say.
const USUAL: usize = 1 << 20;

/// Bytes of the second-level cache of a core.
pub(super) fn second_level() -> usize {
    static SIZE: OnceLock<usize> = OnceLock::new();
    // A size outside of these is a hypervisor's slip.
    *SIZE.get_or_init(|| told().filter(|size| (128 << 10..=64 << 20).contains(size)).unwrap_or(USUAL))
}

/// By CPUID's list of caches: leaf 4 of Intel's processors, 0x8000001D of AMD's, alike in form (Intel SDM vol. 2A, CPUID;
/// AMD APM vol. 3, E.4.15).
#[cfg(target_arch = "x86_64")]
fn told() -> Option<usize> {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    let last = |first: u32| __cpuid(first).eax;
    let lists = [(last(0), 4), (last(0x8000_0000), 0x8000_001D)];
    let leaves = lists.into_iter().filter(|(last, leaf)| last >= leaf).map(|(_, leaf)| leaf);
    leaves.flat_map(|leaf| (0..16).map(move |i| __cpuid_count(leaf, i))).find_map(size)
}

/// Bytes of the cache that an entry describes, if it is a second-level one that holds data.
#[cfg(target_arch = "x86_64")]
fn size(entry: std::arch::x86_64::CpuidResult) -> Option<usize> {
    let bits = |x: u32, from: u32, count: u32| (x >> from & ((1 << count) - 1)) as usize;
    let (kind, level) = (bits(entry.eax, 0, 5), bits(entry.eax, 5, 3));
    let (line, parts, ways) = (bits(entry.ebx, 0, 12), bits(entry.ebx, 12, 10), bits(entry.ebx, 22, 10));
    ((kind == 1 || kind == 3) && level == 2).then(|| (line + 1) * (parts + 1) * (ways + 1) * (entry.ecx as usize + 1))
}

/// By Linux's list of caches.
#[cfg(not(target_arch = "x86_64"))]
fn told() -> Option<usize> {
    (0..8).find_map(|i| {
        let read =
            |what: &str| std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{i}/{what}")).ok();
        let data = read("level")?.trim() == "2" && read("type")?.trim() != "Instruction";
        let kib = read("size")?.trim().strip_suffix('K')?.parse::<usize>().ok()?;
        data.then_some(kib << 10)
    })
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::arch::x86_64::CpuidResult;

    use super::*;

    /// Entries as two processors give them, by the manuals' tables: 2 MiB, 16 ways of lines of 64 bytes in 2048 sets; its
    /// first level, which is not asked for; 1 MiB, 16 ways, 1024 sets.
    #[test]
    fn sizes_of_caches_by_their_entries() {
        let entry = |eax, ebx, ecx| CpuidResult { eax, ebx, ecx, edx: 0 };
        assert_eq!(size(entry(0x43, 15 << 22 | 63, 2047)), Some(2 << 20));
        assert_eq!(size(entry(0x21, 11 << 22 | 63, 63)), None);
        assert_eq!(size(entry(0x143, 15 << 22 | 63, 1023)), Some(1 << 20));
        assert_eq!(size(entry(0, 0, 0)), None);
    }

    /// Linux says the same where it runs.
    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_agrees_with_linux() {
        let path = "/sys/devices/system/cpu/cpu0/cache/index2";
        let read = |what: &str| std::fs::read_to_string(format!("{path}/{what}"));
        let (Ok(level), Ok(size)) = (read("level"), read("size")) else { return };
        if level.trim() == "2" {
            assert_eq!(format!("{}K", second_level() >> 10), size.trim());
        }
    }
}
