//! Speed of the interpreter on one core, with race checks: `cargo bench -p ptxsim`. Prints the best of five runs, in
//! processor time where the system tells it (Linux), so that a busy machine does not change the figures much.

use std::time::Instant;

use ptxsim::{Arg, Config, Memory, Module, launch};

/// Chains of fused multiply-adds in registers, 256 to a thread.
const ARITHMETIC: &str = ".version 8.0
.target sm_80
.address_size 64
.visible .entry chain(.param .u64 o) {
  .reg .f32 %f<5>; .reg .b32 %r<5>; .reg .b64 %rd<4>; .reg .pred %p;
  mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mad.lo.u32 %r1, %r2, 256, %r1; cvt.rn.f32.u32 %f1, %r1; mov.f32 %f2, 0f3F7FFFFF; mov.u32 %r3, 0;
L: fma.rn.f32 %f1, %f1, %f2, %f2; fma.rn.f32 %f1, %f1, %f2, %f1; add.u32 %r3, %r3, 1; setp.lt.u32 %p, %r3, 2000; @%p bra L;
  ld.param.u64 %rd1, [o]; mul.wide.u32 %rd2, %r1, 4; add.u64 %rd1, %rd1, %rd2; st.global.f32 [%rd1], %f1; ret; }";

/// Seconds of processor time of this thread, or by the clock.
fn seconds(start: Instant) -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let ns = stat.and_then(|s| s.split(' ').next()?.parse::<f64>().ok());
    ns.map_or(start.elapsed().as_secs_f64(), |n| n / 1e9)
}

fn measure(name: &str, m: &Module, entry: &str, cfg: &Config, args: impl Fn(&mut Memory) -> Vec<Arg>) {
    let (mut best, mut lanes) = (f64::INFINITY, 0);
    for _ in 0..5 {
        let mut mem = Memory::new();
        let args = args(&mut mem);
        let start = Instant::now();
        let before = seconds(start);
        let r = launch(m, entry, &mut mem, cfg, &args).expect("the launch is valid");
        best = best.min(seconds(start) - before);
        assert!(r.is_clean(), "{r}");
        lanes = r.counters.lane_instructions();
    }
    println!("{name}: {:.3} s, {:.0} M lane-instructions/s", best, lanes as f64 / best / 1e6);
}

fn main() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ptx/gemm.compute_80.ptx"));
    let gemm = Module::parse(&text.expect("tests/ptx is there")).expect("the PTX is valid");
    let chain = Module::parse(ARITHMETIC).expect("the PTX is valid");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("one thread");
    let ones = |mem: &mut Memory, n: usize, v: u16| Arg::Ptr(mem.upload(&vec![v; n]));
    pool.install(|| {
        let cfg = Config { shared: 61440, ..Config::new([4, 4, 1], [256, 1, 1]) };
        measure("bf16 mma.sync GEMM, 512 cubed", &gemm, "gemm_bf16", &cfg, |mem| {
            let n = 512 * 512;
            let ab = [ones(mem, n, 0x3f80), ones(mem, n, 0x3f80), Arg::Ptr(mem.alloc(n * 4))];
            ab.into_iter().chain([512; 3].map(Arg::I32)).collect()
        });
        let cfg = Config::new([16, 16, 1], [16, 16, 1]);
        measure("f32 GEMM in shared memory, 256 cubed", &gemm, "sgemm", &cfg, |mem| {
            let n = 256 * 256;
            let f = mem.upload(&vec![1f32; n]);
            vec![Arg::Ptr(f), Arg::Ptr(f), Arg::Ptr(mem.alloc(n * 4)), Arg::I32(256)]
        });
        measure("f32 arithmetic", &chain, "chain", &Config::new([16, 1, 1], [256, 1, 1]), |mem| {
            vec![Arg::Ptr(mem.alloc(16 * 256 * 4))]
        });
    });
}
