use lowrank_backend::{Gemm, Stats};

use super::*;

#[test]
fn the_counters_count() {
    let cpu = Cpu::new();
    let x = put(&cpu, &[1.0f32, 2.0]);
    let mut y = empty(&cpu, 1);
    cpu.gemm(&Gemm::nt(1, 1, 2), x.view(), x.view(), y.set()).unwrap();
    assert_eq!(y.f32(), [5.0]);
    cpu.sync().unwrap();
    let want = Stats {
        launches: 1,
        waits: 2,
        bytes_live: 12,
        bytes_peak: 12,
        bytes_pooled: 0,
        bytes_uploaded: 12,
        bytes_downloaded: 4,
        ..Stats::default()
    };
    assert_eq!(cpu.stats(), want);
    drop(x);
    assert_eq!((cpu.stats().bytes_live, cpu.stats().bytes_peak, cpu.stats().bytes_pooled), (4, 12, 64));
    let mut z = put(&cpu, &[0.0f32; 3]);
    assert_eq!(cpu.stats().bytes_pooled, 0, "the block is used again");
    assert!(cpu.upload(&[0; 3], z.out()).is_err() && cpu.upload(&[0; 8], z.out()).is_err());
    assert_eq!(cpu.name(), "cpu");
}
