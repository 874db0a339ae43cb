//! The table of opcodes in `docs/opcodes.md`: every row has an example that must load, or must be refused by name.
//!
//! `UPDATE=1 cargo test -p ptxsim --test opcodes` writes the table anew.

use ptxsim::{ErrorKind, Module};

/// Section of the PTX ISA manual (chapter "Instructions"), opcode, forms, state, examples separated by `;`.
type Row = (&'static str, &'static str, &'static str, &'static str, &'static str);

const RUNS: &str = "runs";
const NOTHING: &str = "accepted, no effect";
const REFUSED: &str = "refused by name";

const TABLE: &[Row] = &[
    (
        "Integer Arithmetic",
        "add, sub",
        ".u16 .s16 .u32 .s32 .u64 .s64, .sat.s32, .u16x2 .s16x2 (add)",
        RUNS,
        "add.u16 %h0, %h1, %h2; sub.sat.s32 %r0, %r1, %r2; add.s64 %d0, %d1, %d2; add.u16x2 %r0, %r1, %r2",
    ),
    (
        "Integer Arithmetic",
        "mul, mad",
        ".lo .hi .wide, every width, .hi.sat.s32 (mad)",
        RUNS,
        "mul.lo.s32 %r0, %r1, %r2; mul.wide.u32 %d0, %r1, %r2; mad.hi.s64 %d0, %d1, %d2, %d3; mad.hi.sat.s32 %r0, %r1, %r2, %r3",
    ),
    (
        "Integer Arithmetic",
        "mul24, mad24",
        ".lo .hi",
        RUNS,
        "mul24.lo.u32 %r0, %r1, %r2; mad24.hi.s32 %r0, %r1, %r2, %r3",
    ),
    (
        "Integer Arithmetic",
        "sad, div, rem, abs, neg",
        "every width",
        RUNS,
        "sad.s32 %r0, %r1, %r2, %r3; div.u64 %d0, %d1, %d2; rem.s16 %h0, %h1, %h2; abs.s64 %d0, %d1; neg.s32 %r0, %r1",
    ),
    (
        "Integer Arithmetic",
        "min, max",
        "every width, .relu.s32, .s16x2 .u16x2",
        RUNS,
        "min.u32 %r0, %r1, %r2; max.relu.s32 %r0, %r1, %r2; min.s16x2 %r0, %r1, %r2",
    ),
    (
        "Integer Arithmetic",
        "popc, clz, brev, bfind",
        ".b32 .b64; bfind.shiftamt",
        RUNS,
        "popc.b64 %r0, %d1; clz.b32 %r0, %r1; brev.b64 %d0, %d1; bfind.shiftamt.s64 %r0, %d1",
    ),
    (
        "Integer Arithmetic",
        "bfe, bfi, bmsk, szext",
        "every form",
        RUNS,
        "bfe.s64 %d0, %d1, %r2, %r3; bfi.b32 %r0, %r1, %r2, 3, 4; bmsk.wrap.b32 %r0, %r1, %r2; szext.clamp.s32 %r0, %r1, %r2",
    ),
    (
        "Integer Arithmetic",
        "dp4a, dp2a",
        "all signs; dp2a.lo .hi",
        RUNS,
        "dp4a.u32.s32 %r0, %r1, %r2, %r3; dp2a.hi.s32.s32 %r0, %r1, %r2, %r3",
    ),
    ("Integer Arithmetic", "fns", ".b32", RUNS, "fns.b32 %r0, %r1, %r2, %r3"),
    (
        "Extended-Precision Integer Arithmetic",
        "add.cc, addc, sub.cc, subc, mad.cc, madc",
        ".u32 .s32 .u64 .s64",
        RUNS,
        "add.cc.u32 %r0, %r1, %r2; addc.cc.u64 %d0, %d1, %d2; subc.s32 %r0, %r1, %r2; madc.hi.cc.u32 %r0, %r1, %r2, %r3",
    ),
    (
        "Floating-Point",
        "add, sub, mul, fma, mad",
        ".f32 with .rn .rz .rm .rp, .ftz, .sat; .f64 with all modes",
        RUNS,
        "add.rp.ftz.sat.f32 %f0, %f1, %f2; mul.rm.f64 %e0, %e1, %e2; fma.rz.f32 %f0, %f1, %f2, %f3; fma.rp.f64 %e0, %e1, %e2, %e3",
    ),
    (
        "Floating-Point",
        "div, rcp, sqrt",
        ".approx .full .rn .rz .rm .rp, .ftz; f64",
        RUNS,
        "div.full.f32 %f0, %f1, %f2; div.rn.f64 %e0, %e1, %e2; rcp.approx.ftz.f32 %f0, %f1; rcp.approx.ftz.f64 %e0, %e1; sqrt.rm.f32 %f0, %f1",
    ),
    (
        "Floating-Point",
        "rsqrt, sin, cos, lg2, ex2, tanh",
        ".approx, .ftz; rsqrt.f64",
        RUNS,
        "rsqrt.approx.f64 %e0, %e1; sin.approx.ftz.f32 %f0, %f1; cos.approx.f32 %f0, %f1; lg2.approx.f32 %f0, %f1; ex2.approx.ftz.f32 %f0, %f1; tanh.approx.f32 %f0, %f1",
    ),
    (
        "Floating-Point",
        "abs, neg, copysign, testp",
        ".f32 .f64, .ftz",
        RUNS,
        "abs.ftz.f32 %f0, %f1; neg.f64 %e0, %e1; copysign.f32 %f0, %f1, %f2; testp.subnormal.f64 %p0, %e1",
    ),
    (
        "Floating-Point",
        "min, max",
        ".ftz .NaN .xorsign.abs; .f64",
        RUNS,
        "min.NaN.f32 %f0, %f1, %f2; max.NaN.xorsign.abs.f32 %f0, %f1, %f2; max.f64 %e0, %e1, %e2",
    ),
    (
        "Half Precision Floating-Point",
        "add, sub, mul, fma, neg, abs, min, max",
        ".f16 .f16x2 .bf16 .bf16x2; .sat .relu .ftz .NaN where the ISA has them",
        RUNS,
        "fma.rn.relu.bf16x2 %r0, %r1, %r2, %r3; add.sat.f16x2 %r0, %r1, %r2; max.NaN.f16 %h0, %h1, %h2; neg.bf16 %h0, %h1",
    ),
    (
        "Half Precision Floating-Point",
        "ex2, tanh",
        ".approx: f16, f16x2, bf16 (ex2.ftz), bf16x2",
        RUNS,
        "ex2.approx.f16x2 %r0, %r1; ex2.approx.ftz.bf16 %h0, %h1; tanh.approx.bf16x2 %r0, %r1",
    ),
    (
        "Comparison and Selection",
        "set, setp, selp, slct",
        "all comparisons, and/or/xor with a predicate, p|q",
        RUNS,
        "setp.geu.and.f32 %p0|%p1, %f1, %f2, !%p2; set.lt.u32.s64 %r0, %d1, %d2; selp.f64 %e0, %e1, %e2, %p1; slct.f32.s32 %f0, %f1, %f2, %r1; setp.gt.f16x2 %p0|%p1, %r1, %r2; set.eq.f16x2.f16x2 %r0, %r1, %r2",
    ),
    (
        "Logic and Shift",
        "and, or, xor, not, cnot, shl, shr, lop3, shf",
        "every width; predicates; lop3 with a boolean operator",
        RUNS,
        "and.pred %p0, %p1, %p2; xor.b64 %d0, %d1, %d2; cnot.b32 %r0, %r1; shr.s16 %h0, %h1, %r2; lop3.or.b32 %r0|%p0, %r1, %r2, %r3, 0x80, %p1; shf.l.clamp.b32 %r0, %r1, %r2, %r3",
    ),
    (
        "Data Movement and Conversion",
        "mov",
        "registers, addresses, special registers, packing into and out of vectors",
        RUNS,
        "mov.b64 {%r0, %r1}, %d1; mov.b32 %r0, {%h0, %h1}; mov.u32 %r0, %laneid; mov.u64 %d0, glob; mov.pred %p0, %p1",
    ),
    (
        "Data Movement and Conversion",
        "ld, st, ldu",
        ".global .shared(::cta ::cluster) .local .param .const and generic; .v2 .v4; .volatile .relaxed .acquire .release; cache hints are accepted",
        RUNS,
        "ld.global.nc.L1::no_allocate.v4.f32 {%f0, %f1, %f2, %f3}, [%d0+16]; ld.acquire.gpu.u32 %r0, [%d0]; st.shared::cluster.u32 [%r0], %r1; ld.const.f32 %f0, [cst+4]; st.volatile.global.b8 [%d0], %h0",
    ),
    (
        "Data Movement and Conversion",
        "prefetch, prefetchu, applypriority, createpolicy",
        "",
        NOTHING,
        "prefetch.global.L2 [%d0]; createpolicy.fractional.L2::evict_last.b64 %d0, 1.0",
    ),
    (
        "Data Movement and Conversion",
        "cvta, isspacep, mapa, getctarank",
        "global, shared, local, param, const",
        RUNS,
        "cvta.to.shared.u64 %d0, %d1; cvta.param.u64 %d0, %d1; isspacep.global %p0, %d1; mapa.shared::cluster.u32 %r0, %r1, %r2; getctarank.u64 %r0, %d1",
    ),
    (
        "Data Movement and Conversion",
        "prmt",
        "all modes",
        RUNS,
        "prmt.b32 %r0, %r1, %r2, %r3; prmt.b32.rc16 %r0, %r1, %r2, %r3",
    ),
    (
        "Data Movement and Conversion",
        "cvt",
        "all pairs of .u8…s64, .f16 .bf16 .f32 .f64; .rn .rz .rm .rp, .rni …, .rna.tf32; .sat .ftz .relu; .f16x2 .bf16x2",
        RUNS,
        "cvt.rpi.u64.f16 %d0, %h0; cvt.rn.relu.bf16x2.f32 %r0, %f0, %f1; cvt.rna.tf32.f32 %r0, %f0; cvt.sat.s8.s64 %h0, %d0; cvt.rz.bf16.f32 %h0, %f0",
    ),
    (
        "Data Movement and Conversion",
        "cvt of pairs of 8-bit floats",
        ".e4m3x2 .e5m2x2 from .f32 and .f16x2 (.satfinite), to .f16x2; .relu",
        RUNS,
        "cvt.rn.satfinite.e4m3x2.f32 %h0, %f0, %f1; cvt.rn.satfinite.relu.e5m2x2.f16x2 %h0, %r0; cvt.rn.f16x2.e4m3x2 %r0, %h0",
    ),
    (
        "Data Movement and Conversion",
        "cvt to fp6, fp4, ue8m0; cvt.rs",
        "",
        REFUSED,
        "cvt.rn.satfinite.e2m1x2.f32 %h0, %f0, %f1; cvt.rn.satfinite.e2m3x2.f32 %h0, %f0, %f1",
    ),
    ("Data Movement and Conversion", "ld, st, mov of .b128", "", REFUSED, "ld.global.b128 %d0, [%d1]"),
    (
        "Data Movement and Conversion",
        "cp.async",
        ".ca .cg, 4/8/16 bytes, source size, ignored source, groups, mbarrier.arrive(.noinc)",
        RUNS,
        "cp.async.cg.shared.global.L2::128B [%r0], [%d0], 16, %r1; cp.async.ca.shared.global [%r0], [%d0], 4, !%p0; cp.async.commit_group; cp.async.wait_group 2; cp.async.wait_all; cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%r0]",
    ),
    (
        "Data Movement and Conversion",
        "cp.async.bulk, cp.reduce.async.bulk",
        "global→shared(::cluster, multicast), shared→global, shared→cluster; groups",
        RUNS,
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r0], [%d0], %r1, [%r2]; cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%d0], [%r0], %r1; cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0",
    ),
    (
        "Data Movement and Conversion",
        "cp.async.bulk.tensor, cp.reduce.async.bulk.tensor",
        "1d…5d tiles, all swizzles but the 128-byte atoms of sm_100",
        RUNS,
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%r0], [%d0, {%r1, %r2, %r3}], [%r4], %h0; cp.async.bulk.tensor.1d.global.shared::cta.bulk_group [%d0, {%r1}], [%r0]; cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%d0, {%r1, %r2}], [%r0]",
    ),
    (
        "Data Movement and Conversion",
        "cp.async.bulk.tensor with im2col",
        "",
        REFUSED,
        "cp.async.bulk.tensor.3d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%r0], [%d0, {%r1, %r2, %r3}], [%r4], {%h0}",
    ),
    (
        "Data Movement and Conversion",
        "cp.async.bulk.prefetch",
        "",
        NOTHING,
        "cp.async.bulk.prefetch.L2.global [%d0], %r0",
    ),
    (
        "Data Movement and Conversion",
        "multimem",
        "",
        REFUSED,
        "multimem.ld_reduce.relaxed.sys.global.add.f32 %f0, [%d0]",
    ),
    (
        "Texture, Surface",
        "tex, tld4, txq, suld, sust, sured, suq",
        "",
        REFUSED,
        "tex.2d.v4.f32.s32 {%f0, %f1, %f2, %f3}, [%d0, {%r0, %r1}]; suld.b.1d.b32.trap %r0, [%d0, {%r1}]",
    ),
    (
        "Control Flow",
        "bra, brx.idx, ret, exit, guards",
        "",
        RUNS,
        "@!%p0 bra.uni END; brx.idx %r0, LIST; @%p1 ret; exit",
    ),
    (
        "Control Flow",
        "call",
        "device functions, expanded in place; pointers to functions of the module; no recursion; __assertfail traps, vprintf and malloc are refused",
        RUNS,
        "call.uni fn, (); mov.u64 %d0, fn; call %d0, (), PROTO",
    ),
    (
        "Parallel Synchronization and Communication",
        "bar, barrier",
        ".sync .arrive .red, named, counted, aligned or not; bar.warp.sync",
        RUNS,
        "bar.sync 0; barrier.sync %r0, 64; bar.arrive 1, 128; bar.red.popc.u32 %r0, 0, %p0; barrier.cta.red.or.pred %p0, 1, 32, %p1; bar.warp.sync 0xffffffff",
    ),
    (
        "Parallel Synchronization and Communication",
        "barrier.cluster",
        ".arrive .wait",
        RUNS,
        "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned",
    ),
    (
        "Parallel Synchronization and Communication",
        "membar, fence, fence.proxy",
        "memory, async proxy, mbarrier_init",
        RUNS,
        "membar.gl; fence.acq_rel.gpu; fence.sc.cta; fence.proxy.async.shared::cta; fence.mbarrier_init.release.cluster",
    ),
    (
        "Parallel Synchronization and Communication",
        "atom, red",
        "add and or xor exch cas inc dec min max; f16 f16x2 bf16 bf16x2 f32 f64 add; vectors (add); global, shared, generic",
        RUNS,
        "red.global.add.v2.f32 [%d0], {%f0, %f1}; atom.global.add.noftz.v4.f16x2 {%r0, %r1, %r2, %r3}, [%d0], {%r4, %r5, %r6, %r7}; atom.shared.cas.b64 %d0, [%r0], %d1, %d2; red.global.add.f32 [%d0], %f0; atom.global.gpu.acq_rel.inc.u32 %r0, [%d0], %r1; atom.add.noftz.bf16x2 %r0, [%d0], %r1; atom.global.cas.b16 %h0, [%d0], %h1, %h2",
    ),
    (
        "Parallel Synchronization and Communication",
        "st.async, red.async",
        "with an mbarrier; 4 and 8 bytes, vectors (st); every operation (red)",
        RUNS,
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%r0], {%r1, %r2, %r3, %r4}, [%r5]; red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r0], %r1, [%r2]",
    ),
    (
        "Parallel Synchronization and Communication",
        "atom.b128, vector min and max",
        "",
        REFUSED,
        "atom.global.exch.b128 %d0, [%d0], %d1; red.global.min.noftz.v2.f16 [%d0], {%h0, %h1}",
    ),
    (
        "Parallel Synchronization and Communication",
        "shfl.sync, vote.sync, match.sync, redux.sync, activemask, elect.sync",
        "integers (redux), every mode",
        RUNS,
        "shfl.sync.bfly.b32 %r0|%p0, %r1, 1, 31, -1; vote.sync.ballot.b32 %r0, %p0, -1; match.all.sync.b64 %r0|%p0, %d0, -1; redux.sync.min.s32 %r0, %r1, -1; activemask.b32 %r0; elect.sync %r0|%p0, -1",
    ),
    (
        "Parallel Synchronization and Communication",
        "shfl, vote without .sync",
        "",
        REFUSED,
        "shfl.up.b32 %r0, %r1, 1, 0; vote.all.pred %p0, %p1",
    ),
    (
        "Parallel Synchronization and Communication",
        "mbarrier",
        "init inval arrive arrive_drop expect_tx complete_tx test_wait try_wait (parity) pending_count",
        RUNS,
        "mbarrier.init.shared::cta.b64 [%r0], %r1; mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 %d0, [%r0], %r1; mbarrier.try_wait.parity.shared.b64 %p0, [%r0], %r1, %r2; mbarrier.arrive_drop.shared.b64 %d0, [%r0]; mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r0]; mbarrier.pending_count.b64 %r0, %d0; mbarrier.inval.shared.b64 [%r0]",
    ),
    (
        "Parallel Synchronization and Communication",
        "griddepcontrol",
        "launches run one after the other",
        NOTHING,
        "griddepcontrol.wait; griddepcontrol.launch_dependents",
    ),
    (
        "Warp-Level Matrix",
        "mma.sync m16n8",
        "bf16, f16 k8 k16; tf32 k4 k8; e4m3/e5m2 k16 k32; s8/u8 k16 k32, s4/u4 k32 k64 (.satfinite); b1 k128 k256; f64 k4 k8 k16; f32, f16, s32, f64 accumulators",
        RUNS,
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f0,%f1,%f2,%f3}, {%r0,%r1,%r2,%r3}, {%r4,%r5}, {%f0,%f1,%f2,%f3}; mma.sync.aligned.m16n8k32.row.col.satfinite.s32.u8.s8.s32 {%r0,%r1,%r2,%r3}, {%r0,%r1,%r2,%r3}, {%r4,%r5}, {%r0,%r1,%r2,%r3}",
    ),
    (
        "Warp-Level Matrix",
        "mma.sync m8n8",
        "f64 k4; s8/u8 k16; s4/u4 k32; b1 k128",
        RUNS,
        "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%e0,%e1}, {%e2}, {%e3}, {%e0,%e1}; mma.sync.aligned.m8n8k32.row.col.s32.s4.u4.s32 {%r0,%r1}, {%r2}, {%r3}, {%r0,%r1}",
    ),
    (
        "Warp-Level Matrix",
        "mma.sync m8n8k4 of f16; mma.sp",
        "",
        REFUSED,
        "mma.sync.aligned.m8n8k4.row.col.f16.f16.f16.f16 {%r0,%r1,%r2,%r3}, {%r0,%r1}, {%r2,%r3}, {%r0,%r1,%r2,%r3}; mma.sp.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%r0,%r1}, {%r0,%r1}, {%r2,%r3}, {%r0,%r1}, %r4, 0x0",
    ),
    (
        "Warp-Level Matrix",
        "wmma.load, wmma.store, wmma.mma",
        "m16n16k16, m32n8k16, m8n32k16: f16, bf16, s8, u8; m16n16k8: tf32; m8n8k4: f64; m8n8k32: s4, u4; m8n8k128: b1; fragments in a layout of our own",
        RUNS,
        "wmma.load.a.sync.aligned.row.m16n16k16.global.f16 {%r0,%r1,%r2,%r3,%r4,%r5,%r6,%r7}, [%d0], %r1; wmma.store.d.sync.aligned.col.m32n8k16.f32 [%d0], {%f0,%f1,%f2,%f3,%f4,%f5,%f6,%f7}",
    ),
    (
        "Warp-Level Matrix",
        "ldmatrix, stmatrix, movmatrix",
        ".m8n8 .x1 .x2 .x4 .trans .b16",
        RUNS,
        "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r0,%r1,%r2,%r3}, [%r4]; stmatrix.sync.aligned.m8n8.x2.shared::cta.b16 [%r0], {%r1,%r2}; movmatrix.sync.aligned.m8n8.trans.b16 %r0, %r1",
    ),
    (
        "Asynchronous Warpgroup Matrix",
        "wgmma.mma_async",
        "bf16, f16, tf32, e4m3/e5m2, s8/u8; A from shared or registers; no/32/64/128-byte swizzle; transposes; scales",
        RUNS,
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0,%f1,%f2,%f3}, %d0, %d1, %p0, 1, -1, 0, 1; wgmma.mma_async.sync.aligned.m64n8k8.f32.tf32.tf32 {%f0,%f1,%f2,%f3}, {%r0,%r1,%r2,%r3}, %d1, 1, 1, 1",
    ),
    (
        "Asynchronous Warpgroup Matrix",
        "wgmma.fence, commit_group, wait_group",
        "",
        RUNS,
        "wgmma.fence.sync.aligned; wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 1",
    ),
    (
        "Asynchronous Warpgroup Matrix",
        "wgmma of bits, wgmma.sp",
        "",
        REFUSED,
        "wgmma.mma_async.sync.aligned.m64n8k256.s32.b1.b1.and.popc {%r0,%r1,%r2,%r3}, %d0, %d1, 1",
    ),
    ("TensorCore 5th Generation", "tcgen05", "", REFUSED, "tcgen05.wait::ld.sync.aligned"),
    ("Stack Manipulation", "stacksave, stackrestore, alloca", "", REFUSED, "alloca.u64 %d0, %d1"),
    ("Video", "vabsdiff4.u32.u32.u32", "", RUNS, "vabsdiff4.u32.u32.u32 %r0, %r1, %r2, %r3"),
    (
        "Video",
        "other video instructions",
        "",
        REFUSED,
        "vadd.s32.s32.s32 %r0, %r1, %r2; vset4.s32.s32.eq %r0, %r1, %r2, %r3",
    ),
    ("Miscellaneous", "trap, brkpt", "end the launch with a finding", RUNS, "trap; brkpt"),
    (
        "Miscellaneous",
        "nanosleep, setmaxnreg, pmevent",
        "",
        NOTHING,
        "nanosleep.u32 100; setmaxnreg.inc.sync.aligned.u32 232; pmevent 3",
    ),
];

fn kernel(instruction: &str) -> String {
    format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n.global .u32 glob;\n.const .b8 cst[64];\n.func fn() {{ ret; }}\n\
         .entry k() {{\n.reg .b16 %h<9>; .reg .b32 %r<9>; .reg .b64 %d<9>; .reg .f32 %f<9>; .reg .f64 %e<9>; .reg .pred %p<9>;\n\
         LIST: .branchtargets END, END; PROTO: .callprototype _ ();\n{instruction};\nEND: ret; }}"
    )
}

#[test]
fn every_example_is_what_the_table_says() {
    for (_, op, _, state, examples) in TABLE {
        for e in examples.split(';').map(str::trim) {
            match (Module::parse(&kernel(e)), *state) {
                (Ok(_), RUNS | NOTHING) => {}
                (Err(x), REFUSED) => {
                    assert_eq!(x.kind, ErrorKind::Unsupported, "{op}: {e}: {x}");
                    assert!(x.message.contains(e.split(' ').next().unwrap()), "{op}: {e}: {x}");
                }
                (Ok(_), _) => panic!("{op}: {e} is not refused"),
                (Err(x), _) => panic!("{op}: {e}: {x}"),
            }
        }
    }
}

#[test]
fn the_document_is_up_to_date() {
    let mut text = String::from(
        "# Opcodes\n\nWhat the interpreter runs, by section of the PTX ISA manual (chapter \"Instruction Set\"). Anything not \
         listed,\nand any modifier not understood, is refused by name with its line when a module is parsed.\n\
         Written by `tests/opcodes.rs`, which also tries an example of every row.\n\n\
         | section | opcodes | forms | state |\n| --- | --- | --- | --- |\n",
    );
    for (section, op, forms, state, _) in TABLE {
        text += &format!("| {section} | `{op}` | {} | {state} |\n", forms.replace('|', "\\|"));
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/opcodes.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), text, "run with UPDATE=1");
}
