//! TMA and bulk copies through libcu++, clusters, multicast, tensor copies of every rank and swizzle (`cu/hopper.cu`).

#![allow(clippy::needless_range_loop, clippy::type_complexity)]
mod common;
use common::{clean, module};
use ptxsim::{Arg, Config, FindingKind, Memory, Module, Swizzle, TensorMap, launch};

#[test]
fn tma_tile_through_libcu() {
    let (m, mut mem) = (module("hopper.compute_90a"), Memory::new());
    let a = mem.upload(&(0..64 * 32).collect::<Vec<i32>>());
    let b = mem.upload(&vec![-1i32; 64 * 32]);
    let map = |base| {
        let t = TensorMap {
            base,
            data_type: 3,
            dims: vec![64, 32],
            strides: vec![256],
            boxes: vec![64, 8],
            swizzle: Swizzle::None,
            nan_fill: false,
        };
        Arg::Bytes(t.encode().unwrap().to_vec())
    };
    let args = [map(a), map(b), Arg::I32(0), Arg::I32(8)];
    clean(&m, "k_tma", &mut mem, &Config::new([1; 3], [64, 1, 1]), &args);
    let out = mem.download::<i32>(b, 64 * 32).unwrap();
    for (i, v) in out.iter().enumerate() {
        let want = match i / 64 {
            8 => i as i32 + (i % 64) as i32,
            9..=15 => i as i32,
            _ => -1,
        };
        assert_eq!(*v, want, "element {i}");
    }
}

#[test]
fn bulk_copies() {
    let (m, mut mem) = (module("hopper.compute_90a"), Memory::new());
    let x: Vec<f32> = (0..3072).map(|i| i as f32).collect();
    let (a, b) = (mem.upload(&x), mem.alloc(3072 * 4));
    clean(&m, "k_bulk", &mut mem, &Config::new([3, 1, 1], [128, 1, 1]), &[Arg::Ptr(a), Arg::Ptr(b)]);
    assert!(mem.download::<f32>(b, 3072).unwrap().iter().zip(&x).all(|(y, x)| *y == x + 1.0));
}

#[test]
fn clusters_and_multicast() {
    let (m, mut mem) = (module("hopper.compute_90a"), Memory::new());
    let o = mem.upload(&[0i32; 70]);
    clean(&m, "k_cluster", &mut mem, &Config::new([2, 1, 1], [32, 1, 1]), &[Arg::Ptr(o)]);
    let v = mem.download::<i32>(o, 66).unwrap();
    // Each thread of the neighbour added one to the first cell.
    assert_eq!(v[64..], [32, 132]);
    for b in 0..2 {
        for t in 0..32 {
            assert_eq!(v[b * 32 + t], t as i32 + 100 * (b as i32 ^ 1), "block {b} thread {t}");
        }
    }
}

#[test]
fn multicast_and_bulk_reduction() {
    let (m, mut mem) = (module("hopper.compute_90a"), Memory::new());
    let x: Vec<f32> = (0..256).map(|i| i as f32).collect();
    let (a, s) = (mem.upload(&x), mem.upload(&[0f32; 256]));
    clean(&m, "k_multicast", &mut mem, &Config::new([2, 1, 1], [64, 1, 1]), &[Arg::Ptr(a), Arg::Ptr(s)]);
    // Both blocks hold all the data; block r adds (r + 1) times it.
    assert!(mem.download::<f32>(s, 256).unwrap().iter().zip(&x).all(|(y, x)| *y == 3.0 * x));
}

#[test]
fn dependent_launch_and_assert() {
    let (m, mut mem) = (module("hopper.compute_90a"), Memory::new());
    let o = mem.upload(&[0i32; 32]);
    clean(&m, "k_pdl", &mut mem, &Config::new([1; 3], [32, 1, 1]), &[Arg::Ptr(o)]);
    assert_eq!(mem.download::<i32>(o, 32).unwrap(), [1; 32]);
    clean(&m, "k_assert", &mut mem, &Config::new([1; 3], [1, 1, 1]), &[Arg::Ptr(o)]);
    mem.write(o, &[0; 4]).unwrap();
    let r = launch(&m, "k_assert", &mut mem, &Config::new([1; 3], [1, 1, 1]), &[Arg::Ptr(o)]).unwrap();
    assert!(r.has(FindingKind::Trap), "{r}");
}

/// Loads a box of a tensor of any rank and writes its raw bytes out.
fn box_kernel(rank: usize, bytes: usize) -> Module {
    let coords: Vec<String> = (0..rank).map(|i| format!("%c{i}")).collect();
    let loads: String = (0..rank).map(|i| format!("ld.param.s32 %c{i}, [c+{}];", 4 * i)).collect();
    let text = format!(".version 8.0\n.target sm_90a\n.address_size 64\n.entry k(.param .align 128 .b8 m[128], .param .u64 o, .param .align 4 .b8 c[20], .param .align 128 .b8 back[128]) {{
        .reg .pred %p<3>; .reg .b32 %r<9>; .reg .b32 %c<5>; .reg .b64 %rd<9>; .shared .align 1024 .b8 s[{bytes}]; .shared .align 8 .b8 bar[8];
        mov.u32 %r1, %tid.x; mov.u32 %r2, bar; mov.u32 %r3, s; setp.ne.u32 %p1, %r1, 0; mov.b64 %rd1, m; mov.b64 %rd4, back; {loads}
        @%p1 bra W; mbarrier.init.shared.b64 [%r2], 1; mbarrier.arrive.expect_tx.shared.b64 _, [%r2], {bytes};
        cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r3], [%rd1, {{{c}}}], [%r2];
        W: bar.sync 0;
        L: mbarrier.try_wait.parity.shared.b64 %p2, [%r2], 0; @!%p2 bra L;
        ld.param.u64 %rd2, [o]; mov.u32 %r4, %r1;
        C: add.u32 %r5, %r4, %r3; ld.shared.u8 %r6, [%r5]; cvt.u64.u32 %rd3, %r4; add.u64 %rd3, %rd2, %rd3; st.global.u8 [%rd3], %r6;
        add.u32 %r4, %r4, 32; setp.lt.u32 %p2, %r4, {bytes}; @%p2 bra C;
        fence.proxy.async; bar.sync 0; @%p1 bra E;
        cp.async.bulk.tensor.{rank}d.global.shared::cta.tile.bulk_group [%rd4, {{{c}}}], [%r3]; cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;
        E: ret; }}", c = coords.join(","));
    Module::parse(&text).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn tensor_copies_of_every_rank_and_swizzle() {
    let dims: [u64; 5] = [20, 5, 4, 3, 2];
    let boxes: [u32; 5] = [8, 3, 2, 2, 2];
    for rank in 1..=5 {
        for (swizzle, width) in [(Swizzle::None, 0usize), (Swizzle::B32, 2), (Swizzle::B64, 4), (Swizzle::B128, 8)] {
            for start in [[0i32; 5], [4, 1, 1, 0, 0], [-3, -1, -1, -1, -1], [15, 3, 3, 2, 1]] {
                // Elements are u32; the innermost dimension is padded to 24 of them.
                let total: usize = 24 * dims[1..rank].iter().product::<u64>() as usize;
                let (mut mem, mut strides, mut s) = (Memory::new(), vec![], 96u64);
                for d in 1..rank {
                    strides.push(s);
                    s *= dims[d];
                }
                let src = mem.upload(&(0..total as u32).map(|i| i + 1).collect::<Vec<_>>());
                let dst = mem.upload(&vec![0u32; total]);
                let map = |base| {
                    let t = TensorMap {
                        base,
                        data_type: 2,
                        dims: dims[..rank].to_vec(),
                        strides: strides.clone(),
                        boxes: boxes[..rank].to_vec(),
                        swizzle,
                        nan_fill: false,
                    };
                    Arg::Bytes(t.encode().unwrap().to_vec())
                };
                let elems: usize = boxes[..rank].iter().map(|b| *b as usize).product();
                let m = box_kernel(rank, elems * 4);
                let o = mem.alloc(elems * 4);
                let c = Arg::Bytes(start.iter().flat_map(|x| x.to_le_bytes()).collect());
                // A row of the box is 32 bytes: wider patterns still permute rows by their address.
                clean(&m, "k", &mut mem, &Config::new([1; 3], [32, 1, 1]), &[map(src), Arg::Ptr(o), c, map(dst)]);
                let out = mem.download::<u32>(o, elems).unwrap();
                let back = mem.download::<u32>(dst, total).unwrap();
                let mut want_back = vec![0u32; total];
                for e in 0..elems {
                    let (mut rest, mut at, mut inside) = (e, 0i64, true);
                    for d in 0..rank {
                        let i = start[d] as i64 + (rest % boxes[d] as usize) as i64;
                        rest /= boxes[d] as usize;
                        inside &= i >= 0 && i < dims[d] as i64;
                        at += i * if d == 0 { 1 } else { strides[d - 1] as i64 / 4 };
                    }
                    let chunk = e * 4 / 16;
                    // Chunk number xor the 128-byte row number, within the width of the pattern.
                    let place = if width > 1 { chunk ^ ((chunk / 8) % width) } else { chunk } * 4 + e % 4;
                    let value = if inside { at as u32 + 1 } else { 0 };
                    // A pattern may reach past a box that does not fill it; such boxes are not legal to rely on.
                    if place < elems {
                        assert_eq!(out[place], value, "rank {rank} {swizzle:?} {start:?} element {e}");
                    }
                    if inside {
                        want_back[at as usize] = value;
                    }
                }
                if (elems * 4).is_multiple_of(1024) || width <= 2 {
                    assert_eq!(back, want_back, "rank {rank} {swizzle:?} {start:?}");
                }
            }
        }
    }
}
