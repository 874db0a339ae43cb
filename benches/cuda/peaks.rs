//! What this GPU can do at most, measured: products of registers (on Hopper: of shared memory) that never leave a
//! multiprocessor, in a loop of its own PTX, and a large copy. Operands are random: equal ones take less power and time.

use std::ffi::{CString, c_void};
use std::fmt::Write as _;

use cudarc::driver::{result, sys};
use lowrank_core::Precision;

use crate::clock::Memory;
use crate::{Outcome, Setup};

/// FLOP/s by kind of product, and bytes/s of a copy (read and written).
pub struct Peaks {
    fma: f64,
    tf32: f64,
    bf16: f64,
    pub copy: f64,
}

impl Peaks {
    /// The peak that a precision is held against. Three products of bf16 make one of Bf16x3.
    pub fn flops(&self, precision: Precision) -> f64 {
        match precision {
            Precision::Full => self.fma,
            Precision::Tf32 => self.tf32,
            Precision::Bf16 => self.bf16,
            Precision::Bf16x3 => self.bf16 / 3.0,
        }
    }
}

/// A kernel `probe(out, turns)` that repeats its products.
struct Probe {
    name: &'static str,
    ptx: String,
    /// Of one warp (of one warp group on Hopper) in one turn.
    flops: f64,
    /// Threads of a block, all of them in one such group.
    threads: u32,
}

/// `count` registers from number `from` on.
fn list(kind: char, from: usize, count: usize) -> String {
    let names: Vec<String> = (from..from + count).map(|i| format!("%{kind}{i}")).collect();
    format!("{{{}}}", names.join(", "))
}

/// Pairs of bf16, and f32 (of which tf32 is the upper part): any sign, 0.5 to 2, all of the mantissa random.
const BF16: [u32; 2] = [0x80ff_80ff, 0x3f00_3f00];
const F32: [u32; 2] = [0x80ff_ffff, 0x3f00_0000];

/// A random operand: the next number of a thread's own sequence (t6), its upper bits over the lower ones.
fn random(register: &str, [and, or]: [u32; 2]) -> String {
    format!(
        "mad.lo.u32 %t6, %t6, 1664525, 1013904223; shr.u32 %t7, %t6, 15; xor.b32 %t7, %t6, %t7; \
         and.b32 %t7, %t7, {and}; or.b32 {register}, %t7, {or};\n"
    )
}

/// The frame of a probe: `sums` accumulators, what comes before the loop, and what is in it.
fn ptx(header: &str, sums: usize, before: &str, work: &str) -> String {
    let mut text = format!(
        "{header}\n.address_size 64\n.visible .entry probe(.param .u64 out, .param .u32 turns) {{\n\
         .reg .pred %p<3>; .reg .b32 %t<8>; .reg .b32 %a<32>; .reg .b32 %b<16>; .reg .b64 %o<8>; .reg .f32 %d<{sums}>;\n\
         .shared .align 1024 .b8 tile[10240];\n\
         ld.param.u32 %t0, [turns]; mov.u32 %t1, %tid.x; setp.eq.u32 %p1, %t0, %t0;\n\
         mov.u32 %t6, %ctaid.x; mad.lo.u32 %t6, %t6, 40503, %t1; mul.lo.u32 %t6, %t6, 2654435761;\n"
    );
    (0..sums).for_each(|i| _ = writeln!(text, "mov.f32 %d{i}, 0f00000000;"));
    let _ = write!(text, "{before}LOOP:\n{work}sub.u32 %t0, %t0, 1; setp.ne.u32 %p0, %t0, 0; @%p0 bra LOOP;\n");
    (1..sums).for_each(|i| _ = writeln!(text, "add.f32 %d0, %d0, %d{i};"));
    text + "mov.u32 %t2, %ctaid.x; mov.u32 %t3, %ntid.x; mad.lo.u32 %t2, %t2, %t3, %t1;\n\
            ld.param.u64 %o0, [out]; cvta.to.global.u64 %o0, %o0; mul.wide.u32 %o1, %t2, 4; add.u64 %o0, %o0, %o1;\n\
            st.global.f32 [%o0], %d0; ret;\n}\n"
}

fn fma() -> Probe {
    let mut work = String::new();
    for _ in 0..8 {
        (0..16).for_each(|i| _ = writeln!(work, "fma.rn.f32 %d{i}, %d{i}, %d16, %d17;"));
    }
    // A factor below 1, so that sums stay finite.
    let factor = random("%a0", [0x807f_ffff, 0x3f00_0000]);
    let before = format!("{factor}mov.b32 %d16, %a0;\n{}mov.b32 %d17, %a1;\n", random("%a1", F32));
    Probe { name: "f32 fma", ptx: ptx(AMPERE, 18, &before, &work), flops: 32.0 * 2.0 * 128.0, threads: 256 }
}

const AMPERE: &str = ".version 7.0\n.target sm_80";
const HOPPER: &str = ".version 8.0\n.target sm_90a";

/// Eight independent products of a warp, each of operands of its own, behind itself in the turn before.
fn mma(name: &'static str, shape: &str, types: &str, k: usize, bits: [u32; 2]) -> Probe {
    let (mut before, mut work) = (String::new(), String::new());
    (0..32).for_each(|i| before += &random(&format!("%a{i}"), bits));
    (0..16).for_each(|i| before += &random(&format!("%b{i}"), bits));
    for i in 0..8 {
        let (d, a, b) = (list('d', 4 * i, 4), list('a', 4 * i, 4), list('b', 2 * i, 2));
        let _ = writeln!(work, "mma.sync.aligned.{shape}.row.col.f32.{types}.f32 {d}, {a}, {b}, {d};");
    }
    let flops = (8 * 2 * 16 * 8 * k) as f64;
    Probe { name, ptx: ptx(AMPERE, 32, &before, &work), flops, threads: 256 }
}

/// Products of a warp group, 64 x 256, both operands in shared memory without swizzle: 8 x 16 bytes are 128 in a row,
/// 128 bytes from one to the next along k, 256 along rows.
fn wgmma(name: &'static str, types: &str, k: usize, bits: [u32; 2]) -> Probe {
    let mut before = String::from("mov.u32 %t4, tile; mad.lo.u32 %t5, %t1, 80, %t4;\n");
    for i in 0..20 {
        before += &random("%a0", bits);
        let _ = writeln!(before, "st.shared.u32 [%t5+{}], %a0;", 4 * i);
    }
    before += "fence.proxy.async.shared::cta; bar.sync 0;\n\
               cvt.u64.u32 %o2, %t4; and.b64 %o2, %o2, 262143; shr.u64 %o2, %o2, 4; or.b64 %o2, %o2, 68720001024;\n\
               add.u64 %o3, %o2, 128;\n";
    let mut work = String::from("wgmma.fence.sync.aligned;\n");
    for _ in 0..8 {
        let scale = if types.contains("tf32") { "%p1, 1, 1" } else { "%p1, 1, 1, 0, 0" };
        let d = list('d', 0, 128);
        let _ = writeln!(work, "wgmma.mma_async.sync.aligned.m64n256k{k}.f32.{types} {d}, %o2, %o3, {scale};");
    }
    work += "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n";
    Probe { name, ptx: ptx(HOPPER, 128, &before, &work), flops: (8 * 2 * 64 * 256 * k) as f64, threads: 128 }
}

impl Probe {
    /// FLOP/s with `blocks` blocks, each of so many turns.
    fn run(&self, setup: &Setup, blocks: u32, turns: u32) -> Outcome<f64> {
        let kernel = Kernel::new(&self.ptx)?;
        let bytes = 4 * blocks as usize * self.threads as usize;
        let out = Memory::new(bytes)?;
        let seconds = setup.time(|| kernel.launch(setup, blocks, self.threads, &mut [out.0, u64::from(turns)]))?;
        let sums = out.read()?;
        // A sum may be 0, for once.
        let there = sums.iter().filter(|v| v.is_finite() && **v != 0.0).count();
        if there * 100 < sums.len() * 99 || !sums.iter().all(|v| v.is_finite()) {
            return Err(format!("the probe {} computes nothing", self.name).into());
        }
        let groups = if self.threads == 128 { 1 } else { self.threads / 32 };
        Ok(f64::from(blocks) * f64::from(groups) * f64::from(turns) * self.flops / seconds)
    }
}

/// The kernel `probe` of a module of its own.
struct Kernel {
    module: sys::CUmodule,
    f: sys::CUfunction,
}

impl Kernel {
    fn new(ptx: &str) -> Outcome<Self> {
        let (text, name) = (CString::new(ptx)?, CString::new("probe")?);
        // SAFETY: PTX text that ends with 0; the kernel is of the module just loaded.
        unsafe {
            let module = result::module::load_data(text.as_ptr().cast())?;
            Ok(Kernel { module, f: result::module::get_function(module, name)? })
        }
    }

    /// Puts it on the stream that is timed. Arguments in 8 bytes each, of which a kernel reads what it takes.
    fn launch(&self, setup: &Setup, blocks: u32, threads: u32, arguments: &mut [u64]) -> Outcome {
        let mut places: Vec<*mut c_void> = arguments.iter_mut().map(|a| (&raw mut *a).cast()).collect();
        // SAFETY: what the kernels of this file take, little-endian; addresses have room for every thread.
        unsafe {
            result::launch_kernel(self.f, (blocks, 1, 1), (threads, 1, 1), 0, setup.clock.stream, &mut places)?;
        }
        Ok(())
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // SAFETY: loaded once; the clock has waited for every launch.
        let _ = unsafe { sys::cuModuleUnload(self.module) };
    }
}

/// Measures all of them, and prints them.
pub fn measure(setup: &Setup) -> Outcome<Peaks> {
    let gpu = setup.cuda.device();
    // Four blocks of 256 threads fill a multiprocessor for these loops.
    let (blocks, turns) = if setup.tiny { (1, 2) } else { (4 * gpu.multiprocessors as u32, 20_000) };
    let best = |probes: &[Probe]| -> Outcome<f64> {
        let mut best = 0f64;
        for probe in probes {
            let flops = probe.run(setup, blocks, turns)?;
            println!("peak, {}: {:.2} TFLOP/s", probe.name, flops / 1e12);
            best = best.max(flops);
        }
        Ok(best)
    };
    let mut bf16 = vec![mma("bf16 mma", "m16n8k16", "bf16.bf16", 16, BF16)];
    let mut tf32 = vec![mma("tf32 mma", "m16n8k8", "tf32.tf32", 8, F32)];
    // Only this generation has these.
    if gpu.compute_capability == (9, 0) {
        bf16.push(wgmma("bf16 wgmma", "bf16.bf16", 16, BF16));
        tf32.push(wgmma("tf32 wgmma", "tf32.tf32", 8, F32));
    }
    Ok(Peaks { fma: best(&[fma()])?, tf32: best(&tf32)?, bf16: best(&bf16)?, copy: copy(setup)? })
}

/// 16 bytes a thread.
const COPY: &str = "\
    .visible .entry probe(.param .u64 to, .param .u64 from) {\n\
    .reg .b32 %t<8>; .reg .b64 %o<4>;\n\
    mov.u32 %t0, %ctaid.x; mov.u32 %t1, %ntid.x; mov.u32 %t2, %tid.x; mad.lo.u32 %t0, %t0, %t1, %t2;\n\
    mul.wide.u32 %o0, %t0, 16; ld.param.u64 %o1, [to]; ld.param.u64 %o2, [from];\n\
    cvta.to.global.u64 %o1, %o1; cvta.to.global.u64 %o2, %o2; add.u64 %o1, %o1, %o0; add.u64 %o2, %o2, %o0;\n\
    ld.global.v4.u32 {%t4, %t5, %t6, %t7}, [%o2]; st.global.v4.u32 [%o1], {%t4, %t5, %t6, %t7}; ret;\n}\n";

/// Bytes/s, read and written, of the driver's copy or of a kernel, whichever is faster.
fn copy(setup: &Setup) -> Outcome<f64> {
    let bytes = if setup.tiny { 1 << 14 } else { 1 << 30 };
    let numbers: Vec<u32> = (0..bytes as u32 / 4).map(|i| i.wrapping_mul(2_654_435_761) >> 9 | 0x3f80_0000).collect();
    let (from, to) = (Memory::of(bytemuck::cast_slice(&numbers))?, Memory::new(bytes)?);
    let kernel = Kernel::new(&format!("{AMPERE}\n.address_size 64\n{COPY}"))?;
    // SAFETY: both have so many bytes.
    let driver = || unsafe { result::memcpy_dtod_async(to.0, from.0, bytes, setup.clock.stream) }.map_err(Into::into);
    let mut best = 0f64;
    let seconds = [
        ("the driver's", setup.time(driver)?),
        ("16 bytes a thread", setup.time(|| kernel.launch(setup, (bytes / 4096) as u32, 256, &mut [to.0, from.0]))?),
    ];
    if to.read()?.iter().map(|v| v.to_bits()).ne(numbers) {
        return Err("the copy of the peak copies something else".into());
    }
    for (what, seconds) in seconds {
        let rate = 2.0 * bytes as f64 / seconds;
        println!("peak, copy of {} KiB, {what}: {:.1} GB/s", bytes >> 10, rate / 1e9);
        best = best.max(rate);
    }
    Ok(best)
}
