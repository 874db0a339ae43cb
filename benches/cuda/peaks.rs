//! What this GPU can do at most, measured: products of registers (on Hopper: of shared memory) that never leave a
//! multiprocessor, in a loop of its own PTX, and a large copy.

use std::ffi::{CString, c_void};
use std::fmt::Write as _;

use cudarc::driver::{result, sys};
use lowrank_core::backend::Block;
use lowrank_core::{DType, Precision, Tensor};

use crate::{Outcome, Setup, time};

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

/// The frame of a probe: `sums` accumulators, what comes before the loop, and what is in it.
fn ptx(header: &str, sums: usize, before: &str, work: &str) -> String {
    let mut text = format!(
        "{header}\n.address_size 64\n.visible .entry probe(.param .u64 out, .param .u32 turns) {{\n\
         .reg .pred %p<3>; .reg .b32 %t<8>; .reg .b32 %a<4>; .reg .b32 %b<4>; .reg .b64 %o<8>; .reg .f32 %d<{sums}>;\n\
         .shared .align 1024 .b8 tile[10240];\n\
         ld.param.u32 %t0, [turns]; mov.u32 %t1, %tid.x; setp.eq.u32 %p1, %t0, %t0;\n"
    );
    // Operands near 1 that differ from thread to thread.
    for i in 0..4 {
        let _ = writeln!(text, "add.u32 %a{i}, %t1, {}; add.u32 %b{i}, %t1, {};", 0x3f80_3f80 + i, 0x3f00_3f01 - i);
    }
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
    let before = "mov.f32 %d16, 0f3f7fff00; mov.f32 %d17, 0f38000000;\n";
    Probe { name: "f32 fma", ptx: ptx(AMPERE, 18, before, &work), flops: 32.0 * 2.0 * 128.0, threads: 256 }
}

const AMPERE: &str = ".version 7.0\n.target sm_80";
const HOPPER: &str = ".version 8.0\n.target sm_90a";

/// Eight independent products of a warp, each behind itself in the turn before.
fn mma(name: &'static str, shape: &str, types: &str, k: usize) -> Probe {
    let mut work = String::new();
    for i in 0..8 {
        let (d, a, b) = (list('d', 4 * i, 4), list('a', 0, 4), list('b', 0, 2));
        let _ = writeln!(work, "mma.sync.aligned.{shape}.row.col.f32.{types}.f32 {d}, {a}, {b}, {d};");
    }
    let flops = (8 * 2 * 16 * 8 * k) as f64;
    Probe { name, ptx: ptx(AMPERE, 32, "", &work), flops, threads: 256 }
}

/// Products of a warp group, 64 x 256, both operands in shared memory without swizzle: 8 x 16 bytes are 128 in a row,
/// 128 bytes from one to the next along k, 256 along rows.
fn wgmma(name: &'static str, types: &str, k: usize) -> Probe {
    let mut before = String::from("mov.u32 %t4, tile; mad.lo.u32 %t5, %t1, 80, %t4;\n");
    (0..20).for_each(|i| _ = writeln!(before, "st.shared.u32 [%t5+{}], %a{};", 4 * i, i % 4));
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
        let (text, name) = (CString::new(self.ptx.as_str())?, CString::new("probe")?);
        // SAFETY: PTX text that ends with 0; the kernel is of the module just loaded.
        let (module, f) = unsafe {
            let module = result::module::load_data(text.as_ptr().cast())?;
            (module, result::module::get_function(module, name)?)
        };
        let bytes = 4 * blocks as usize * self.threads as usize;
        // SAFETY: freed below, behind the last use.
        let mut out = unsafe { result::malloc_sync(bytes)? };
        let mut turns_ = turns;
        let mut arguments = [(&raw mut out).cast::<c_void>(), (&raw mut turns_).cast()];
        let (grid, block) = ((blocks, 1, 1), (self.threads, 1, 1));
        let wait = || result::ctx::synchronize().map_err(Into::into);
        let seconds = time(setup.turns, wait, || {
            // SAFETY: its parameters are an address of 4 bytes a thread, and a number.
            unsafe { result::launch_kernel(f, grid, block, 0, std::ptr::null_mut(), &mut arguments)? };
            Ok(())
        })?;
        let mut sums = vec![0f32; bytes / 4];
        // SAFETY: the device has been waited for, and the memory and the module are used no more.
        unsafe {
            result::memcpy_dtoh_sync(&mut sums, out)?;
            result::free_sync(out)?;
            sys::cuModuleUnload(module).result()?;
        }
        if !sums.iter().all(|v| v.is_finite() && *v != 0.0) {
            return Err(format!("the probe {} computes nothing", self.name).into());
        }
        let groups = if self.threads == 128 { 1 } else { self.threads / 32 };
        Ok(f64::from(blocks) * f64::from(groups) * f64::from(turns) * self.flops / seconds)
    }
}

/// Measures all of them, and prints them.
pub fn measure(setup: &Setup) -> Outcome<Peaks> {
    let gpu = result::device::get(0)?;
    use sys::CUdevice_attribute::*;
    // SAFETY: a device that the driver has named; this only reads properties.
    let attribute = |a| unsafe { result::device::get_attribute(gpu, a) };
    let major = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let processors = attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32;
    // Four blocks of 256 threads fill a multiprocessor for these loops.
    let (blocks, turns) = if setup.tiny { (1, 2) } else { (4 * processors, 20_000) };
    let best = |probes: &[Probe]| -> Outcome<f64> {
        let mut best = 0f64;
        for probe in probes {
            let flops = probe.run(setup, blocks, turns)?;
            println!("peak, {}: {:.2} TFLOP/s", probe.name, flops / 1e12);
            best = best.max(flops);
        }
        Ok(best)
    };
    let mut bf16 = vec![mma("bf16 mma", "m16n8k16", "bf16.bf16", 16)];
    let mut tf32 = vec![mma("tf32 mma", "m16n8k8", "tf32.tf32", 8)];
    // Only this generation has these.
    if major == 9 {
        bf16.push(wgmma("bf16 wgmma", "bf16.bf16", 16));
        tf32.push(wgmma("tf32 wgmma", "tf32.tf32", 8));
    }
    Ok(Peaks { fma: best(&[fma()])?, tf32: best(&tf32)?, bf16: best(&bf16)?, copy: copy(setup)? })
}

fn copy(setup: &Setup) -> Outcome<f64> {
    let len = if setup.tiny { 1 << 12 } else { 1 << 28 };
    let device = &setup.device;
    let (from, to) = (Tensor::zeros(&[len], DType::F32, device)?, Tensor::zeros(&[len], DType::F32, device)?);
    let block = Block { rows: 1, cols: len, src_stride: len, dst_stride: len };
    let seconds = setup.time(|| Ok(device.backend().copy(&block, from.read().view(), to.write().out().set())?))?;
    let bytes = 8.0 * len as f64 / seconds;
    println!("peak, copy of {} KiB: {:.1} GB/s", len >> 8, bytes / 1e9);
    Ok(bytes)
}
