//! Instructions as programs execute them: through the handler here, natively on a processor with AMX.

use std::arch::asm;

use crate::state::State;

/// Rows and bytes per row of tmm0 … tmm2.
fn config(shapes: [(u8, u16); 3]) -> [u8; 64] {
    let mut c = [0; 64];
    c[0] = 1;
    for (t, (rows, width)) in shapes.into_iter().enumerate() {
        c[16 + 2 * t..18 + 2 * t].copy_from_slice(&width.to_le_bytes());
        c[48 + t] = rows;
    }
    c
}

fn bf16(x: f32) -> u16 {
    (x.to_bits() >> 16) as u16
}

/// `c [m,n] += a [m,2k] b [2k,n]` with rows of the operands `stride` bytes apart, by instructions.
fn run(c: &mut [f32], a: &[u16], b: &[u16], [m, n, k]: [usize; 3], strides: [usize; 3]) {
    assert!(crate::install());
    let config = config([(m as u8, 4 * n as u16), (m as u8, 4 * k as u16), (k as u8, 4 * n as u16)]);
    // SAFETY: tiles of these shapes lie in the slices.
    unsafe {
        asm!("ldtilecfg [{config}]",
            "tilezero tmm2",
            "tileloadd tmm0, [{c} + {cs}*1]",
            "tileloaddt1 tmm1, [{a} + {as_}*1]",
            "tileloadd tmm2, [{b} + {bs}*1]",
            "tdpbf16ps tmm0, tmm1, tmm2",
            "tilestored [{c} + {cs}*1], tmm0",
            "tilerelease",
            config = in(reg) &config, c = in(reg) c.as_mut_ptr(), a = in(reg) a.as_ptr(), b = in(reg) b.as_ptr(),
            cs = in(reg) strides[0], as_ = in(reg) strides[1], bs = in(reg) strides[2], options(nostack));
    }
}

#[test]
fn a_product_of_integers() {
    for [m, n, k] in [[16, 16, 16], [3, 5, 7], [1, 1, 1], [16, 1, 16], [9, 16, 2]] {
        // Rows further apart than they are long; what lies between must stay.
        let (cs, as_, bs) = (n + 3, 2 * k + 6, 2 * n + 2);
        let value = |i: usize, seed: usize| ((i * 7 + seed * 3) % 13) as f32 - 6.0;
        let a: Vec<u16> = (0..m * as_).map(|i| bf16(value(i, 1))).collect();
        let b: Vec<u16> = (0..k * bs).map(|i| bf16(value(i, 2))).collect();
        let mut c: Vec<f32> = (0..m * cs).map(|i| value(i, 3)).collect();
        let mut want = c.clone();
        for i in 0..m {
            for j in 0..n {
                // b holds pairs: depths 2p and 2p + 1 of column j lie side by side.
                let term = |p: usize| value(i * as_ + p, 1) * value(p / 2 * bs + 2 * j + p % 2, 2);
                want[i * cs + j] += (0..2 * k).map(term).sum::<f32>();
            }
        }
        run(&mut c, &a, &b, [m, n, k], [4 * cs, 2 * as_, 2 * bs]);
        assert_eq!(c, want, "{m} {n} {k}");
    }
}

#[test]
fn every_thread_has_its_own_tiles() {
    let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(a_product_of_integers)).collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
}

/// One element: c += a·b over the pairs given.
fn element(c: f32, a: &[f32], b: &[f32]) -> f32 {
    let mut c = [c];
    let pairs = |x: &[f32]| x.iter().map(|&x| bf16(x)).collect::<Vec<_>>();
    let k = a.len() / 2;
    run(&mut c, &pairs(a), &pairs(b), [1, 1, k], [4, 4 * k, 4]);
    c[0]
}

/// By the manual's pseudo code: even and odd depths in chains of their own, then their sum, then c.
#[test]
fn the_order_of_the_sum() {
    let big = 2f32.powi(30);
    // In one chain 1 would be lost in 2³⁰ between the two; here it is alone in the odd one.
    assert_eq!(element(0.0, &[big, 1.0, -big, 0.0], &[1.0; 4]), 1.0);
    assert_eq!(element(0.0, &[big, 0.0, 1.0, 0.0, -big, 0.0], &[1.0; 6]), 0.0);
    // c comes last.
    assert_eq!(element(-big, &[big, 1.0], &[1.0; 2]), 0.0);
    assert_eq!(element(1.0, &[big, -big], &[1.0; 2]), 1.0);
    // A product is not rounded before it is added: (1 + 2⁻⁷)² · 2⁻¹⁶ has 15 bits, of which the sum keeps those above 2⁻²³.
    let x = 1.0 + 2f32.powi(-7);
    let small = 2f32.powi(-16);
    let exact = 1.0 + f64::from(x) * f64::from(x) * f64::from(small);
    assert_eq!(element(0.0, &[1.0, 0.0, x, 0.0], &[1.0, 0.0, x * small, 0.0]), exact as f32);
    // Ties to even: 1 + 2⁻²⁴ is 1, 1 + 3·2⁻²⁴ is 1 + 2⁻²².
    let half = 2f32.powi(-24);
    assert_eq!(element(1.0, &[half, 0.0], &[1.0; 2]), 1.0);
    assert_eq!(element(1.0, &[3.0 * half, 0.0], &[1.0; 2]), 1.0 + 2f32.powi(-22));
}

#[test]
fn denormals_are_zero_and_infinities_travel() {
    let tiny = f32::from_bits(0x0040_0000);
    let least = f32::MIN_POSITIVE;
    assert_eq!(element(0.0, &[tiny, 0.0], &[1.0; 2]), 0.0);
    assert_eq!(element(0.0, &[tiny, 0.0], &[big(), 0.0]), 0.0, "an operand");
    assert_eq!(element(tiny, &[0.0; 2], &[0.0; 2]), 0.0, "the old content");
    assert_eq!(element(0.0, &[least, 0.0], &[0.5, 0.0]), 0.0, "a result");
    assert_eq!(element(0.0, &[least, 0.0], &[1.0, 0.0]), least);
    let inf = f32::INFINITY;
    assert_eq!(element(0.0, &[inf, 1.0], &[2.0; 2]), inf);
    assert!(element(0.0, &[inf, 1.0], &[0.0; 2]).is_nan());
    assert!(element(0.0, &[inf, -inf], &[1.0; 2]).is_nan());
    assert!(element(f32::NAN, &[0.0; 2], &[0.0; 2]).is_nan());
}

fn big() -> f32 {
    2f32.powi(100)
}

#[test]
fn a_load_zeroes_what_lies_behind_it() {
    let mut state = State::new();
    let ones = [1u8; 1024];
    state.configure(&config([(16, 64), (0, 0), (0, 0)])).unwrap();
    // SAFETY: 16 rows of 64 bytes.
    unsafe { state.load(0, ones.as_ptr(), 64).unwrap() };
    let mut out = [7u8; 1024];
    // SAFETY: as above.
    unsafe { state.store(0, out.as_mut_ptr(), 64).unwrap() };
    assert_eq!(out, ones);
    // A new configuration zeroes the tiles.
    state.configure(&config([(16, 64), (0, 0), (0, 0)])).unwrap();
    // SAFETY: as above.
    unsafe { state.store(0, out.as_mut_ptr(), 64).unwrap() };
    assert_eq!(out, [0; 1024]);
}

#[test]
fn what_the_processor_refuses_is_a_fault() {
    let mut state = State::new();
    assert!(state.zero(0).is_err(), "nothing is configured");
    let good = config([(4, 16), (4, 8), (2, 16)]);
    state.configure(&good).unwrap();
    assert!(state.zero(3).is_err(), "this tile is not");
    assert!(state.multiply(0, 1, 2).is_ok());
    assert!(state.multiply(0, 2, 1).is_err(), "shapes");
    assert!(state.multiply(0, 1, 1).is_err(), "one tile twice");
    for (byte, value) in [(0, 2), (1, 1), (5, 1), (32, 1), (63, 1), (16, 65), (48, 17), (48, 0), (18, 0)] {
        let mut bad = good;
        bad[byte] = value;
        assert!(state.configure(&bad).is_err(), "byte {byte} = {value}");
    }
    state.configure(&good).unwrap();
    state.release();
    assert!(state.zero(0).is_err());
}
