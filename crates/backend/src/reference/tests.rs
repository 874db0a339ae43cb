//! Every required method against values worked out by hand.

use half::{bf16, f16};

use super::element::{to_bf16, to_f16};
use crate::testing::{Held, ready};
use crate::*;

const INF: f64 = f64::INFINITY;

fn message<T>(result: Result<T>) -> String {
    result.err().expect("an error").to_string()
}

#[test]
fn memory_is_counted_and_given_back() {
    let r = Reference::new();
    assert_eq!((r.name().as_str(), r.supports_dtype(DType::F16)), ("reference", true));
    let a = Held::of(&r, &[1f32, 2.0, 3.0]);
    drop(Held::empty(&r, DType::F64, 4));
    assert_eq!(a.read::<f32>(&r), [1.0, 2.0, 3.0]);
    r.sync().unwrap();
    let want = Stats {
        launches: 0,
        waits: 2,
        bytes_live: 12,
        bytes_peak: 44,
        bytes_pooled: 0,
        bytes_uploaded: 12,
        bytes_downloaded: 12,
        ..Stats::default()
    };
    assert_eq!(r.stats(), want);
    r.reset_peak();
    assert_eq!(r.stats().bytes_peak, 12);
    drop(a);
    assert_eq!(r.stats().bytes_live, 0);
    assert!(matches!(r.alloc(usize::MAX), Err(Error::OutOfMemory { .. })));
}

#[test]
fn transfers_respect_views_and_refuse_wrong_lengths() {
    let r = Reference::new();
    let mut t = Held::of(&r, &[1u32, 2, 3, 4]);
    r.upload(&7u32.to_ne_bytes(), t.out().narrow(2, 1)).unwrap();
    assert_eq!(t.read::<u32>(&r), [1, 2, 7, 4]);
    assert_eq!(ready(r.download(t.view().narrow(2, 1))).unwrap(), 7u32.to_ne_bytes());
    assert!(r.upload(&[0; 8], t.out()).is_err());
    assert!(r.upload(&[0; 3], t.out().narrow(0, 1)).is_err());
    let beyond = In { offset: 3, len: 2, ..t.view() };
    assert!(ready(r.download(beyond)).is_err());
}

struct Foreign;

impl Buffer for Foreign {
    fn bytes(&self) -> usize {
        64
    }
}

#[test]
fn buffers_of_other_devices_are_refused() {
    let r = Reference::new();
    let mut t = Held::empty(&r, DType::F32, 4);
    let error = message(r.map(Map::Exp, In::new(&Foreign, DType::F32, 4), t.set()));
    assert_eq!(error, "map: a buffer of another device was given to reference");
}

#[test]
fn copy_takes_strides_repeats_rows_and_keeps_gaps() {
    let r = Reference::new();
    let src = Held::of(&r, &[1f32, 2.0, 9.0, 3.0, 4.0]);
    let mut dst = Held::of(&r, &[0f32; 6]);
    let block = Block { rows: 2, cols: 2, src_stride: 3, dst_stride: 4 };
    r.copy(&block, src.view(), dst.set()).unwrap();
    assert_eq!(dst.read::<f32>(&r), [1.0, 2.0, 0.0, 0.0, 3.0, 4.0]);
    let repeat = Block { rows: 3, cols: 2, src_stride: 0, dst_stride: 2 };
    r.copy(&repeat, src.view().narrow(0, 2), dst.add()).unwrap();
    assert_eq!(dst.read::<f32>(&r), [2.0, 4.0, 1.0, 2.0, 4.0, 6.0]);

    assert!(message(r.copy(&Block { src_stride: 1, ..block }, src.view(), dst.set())).contains("smaller than a row"));
    let mut wide = Held::empty(&r, DType::F64, 6);
    assert!(message(r.copy(&block, src.view(), wide.set())).contains("f64"));
    let ids = Held::of(&r, &[1u32, 2]);
    let mut copied = Held::of(&r, &[5u32, 5]);
    let whole = Block { rows: 1, cols: 2, src_stride: 2, dst_stride: 2 };
    r.copy(&whole, ids.view(), copied.set()).unwrap();
    assert_eq!(copied.read::<u32>(&r), [1, 2]);
    assert!(r.copy(&whole, ids.view(), copied.add()).is_err());
}

#[test]
fn fill_sets_every_dtype() {
    let r = Reference::new();
    let mut t = Held::empty(&r, DType::BF16, 2);
    r.fill(-1.5, t.out()).unwrap();
    assert_eq!(t.read::<bf16>(&r), [bf16::from_f32(-1.5); 2]);
    let mut ids = Held::empty(&r, DType::U32, 1);
    r.fill(f64::from(u32::MAX), ids.out()).unwrap();
    assert_eq!(ids.read::<u32>(&r), [u32::MAX]);
    assert!(r.fill(0.5, ids.out()).is_err() && r.fill(-1.0, ids.out()).is_err());
}

/// [1 2 3; 4 5 6] · [7 8; 9 10; 11 12] = [58 64; 139 154]
#[test]
fn gemm_in_each_layout() {
    let r = Reference::new();
    let (a, at) = (Held::of(&r, &[1f64, 2., 3., 4., 5., 6.]), Held::of(&r, &[1f64, 4., 2., 5., 3., 6.]));
    let b = Held::of(&r, &[7f64, 8., 9., 10., 11., 12.].map(bf16::from_f64));
    let bt = Held::of(&r, &[7f32, 9., 11., 8., 10., 12.]);
    let mut c = Held::empty(&r, DType::F64, 4);
    for (op, a, b) in [(Gemm::nn(2, 2, 3), &a, &b), (Gemm::nt(2, 2, 3), &a, &bt), (Gemm::tn(2, 2, 3), &at, &b)] {
        r.gemm(&op, a.view(), b.view(), c.set()).unwrap();
        assert_eq!(c.read::<f64>(&r), [58., 64., 139., 154.]);
    }
    r.gemm(&Gemm::nn(2, 2, 3).alpha(-0.5), a.view(), b.view(), c.add()).unwrap();
    assert_eq!(c.read::<f64>(&r), [29., 32., 69.5, 77.]);
}

#[test]
fn gemm_of_batches_of_nothing_and_of_what_it_has_not() {
    let r = Reference::new();
    let (a, b) = (Held::of(&r, &[1f32, 2., 3., 4.]), Held::of(&r, &[5f32, 6., 7., 8.]));
    let mut c = Held::empty(&r, DType::F32, 2);
    r.gemm(&Gemm::nn(1, 1, 2).batch(2), a.view(), b.view(), c.set()).unwrap();
    assert_eq!(c.read::<f32>(&r), [17., 53.]);
    let none = a.view().narrow(0, 0);
    r.gemm(&Gemm::nn(1, 2, 0), none, none, c.set()).unwrap();
    assert!(c.read::<f32>(&r).iter().all(|v| v.to_bits() == 0));
    let both = Gemm { ta: true, tb: true, ..Gemm::nn(1, 1, 2) };
    assert!(matches!(r.gemm(&both, a.view(), b.view(), c.set()), Err(Error::Unsupported { .. })));
    let tf32 = Gemm::nn(1, 1, 2).precision(Precision::Tf32);
    assert_eq!(message(r.gemm(&tf32, a.view(), b.view(), c.set())), "gemm: reference does not support precision tf32");
    assert!(message(r.gemm(&Gemm::nn(2, 2, 2), a.view(), b.view(), c.set())).contains("c has 2 elements, expected 4"));
}

#[test]
fn map_functions() {
    let r = Reference::new();
    let apply = |op, x: &[f64]| {
        let mut y = Held::empty(&r, DType::F64, x.len());
        r.map(op, Held::of(&r, x).view(), y.set()).unwrap();
        y.read::<f64>(&r)
    };
    assert_eq!(apply(Map::Copy, &[1.5]), [1.5]);
    assert_eq!(apply(Map::Affine(2.0, -1.0), &[3.0]), [5.0]);
    assert_eq!(apply(Map::Exp, &[0.0, -INF]), [1.0, 0.0]);
    assert_eq!(apply(Map::Log, &[1.0, 0.0]), [0.0, -INF]);
    assert_eq!(apply(Map::Sqrt, &[9.0]), [3.0]);
    assert_eq!(apply(Map::Recip, &[4.0]), [0.25]);
    assert_eq!(apply(Map::Square, &[-3.0]), [9.0]);
    assert_eq!(apply(Map::Tanh, &[0.0, INF]), [0.0, 1.0]);
    assert_eq!(apply(Map::Min(1.0), &[0.5, 2.0]), [0.5, 1.0]);
    assert_eq!(apply(Map::Max(1.0), &[0.5, 2.0]), [1.0, 2.0]);
    assert_eq!(apply(Map::Relu, &[-2.0, 2.0]), [0.0, 2.0]);
    for op in [Map::Silu, Map::GeluErf, Map::GeluTanh] {
        assert_eq!(apply(op, &[0.0, 100.0]), [0.0, 100.0]);
    }
    for op in [Map::Min(1.0), Map::Max(1.0), Map::Relu] {
        assert!(apply(op, &[f64::NAN])[0].is_nan());
    }
}

#[test]
fn map_adds_casts_and_refuses_indices() {
    let r = Reference::new();
    let x = Held::of(&r, &[1f32, 2.0]);
    let mut y = Held::of(&r, &[10f64, 20.0]);
    r.map(Map::Square, x.view(), y.add()).unwrap();
    assert_eq!(y.read::<f64>(&r), [11.0, 24.0]);
    let mut half = Held::empty(&r, DType::F16, 2);
    r.map(Map::Copy, y.view(), half.set()).unwrap();
    assert_eq!(half.read::<f16>(&r), [f16::from_f32(11.0), f16::from_f32(24.0)]);
    let ids = Held::of(&r, &[1u32, 2]);
    assert!(r.map(Map::Copy, ids.view(), y.set()).is_err());
    let mut ids = ids;
    assert!(r.map(Map::Copy, x.view(), ids.set()).is_err());
}

/// Neighbours of 1: bf16 has 7 bits after the point, f16 has 10.
#[test]
fn f64_rounds_once_to_nearest_even() {
    let b = 2f64.powi(-7);
    let cases = [
        (1.0 + b / 2.0, 1.0),
        (1.0 + b / 2.0 + 2f64.powi(-50), 1.0 + b),
        (1.0 + 1.5 * b, 1.0 + 2.0 * b),
        (1.0 + 1.5 * b - 2f64.powi(-50), 1.0 + b),
        (-1.0 - b / 2.0 - 2f64.powi(-50), -1.0 - b),
        (1e300, INF),
        (f64::from(f32::MAX) * 1.001, INF),
        (1e-300, 0.0),
    ];
    for (x, want) in cases {
        assert_eq!(to_bf16(x).to_f64(), want, "{x:e}");
    }
    let f = 2f64.powi(-10);
    assert_eq!(to_f16(1.0 + f / 2.0).to_f64(), 1.0);
    assert_eq!(to_f16(1.0 + f / 2.0 + 2f64.powi(-50)).to_f64(), 1.0 + f);
    assert_eq!(to_f16(65519.999).to_f64(), 65504.0);
    assert_eq!(to_f16(65520.0).to_f64(), INF);
    // The smallest subnormal is 2⁻²⁴; half of it is a tie.
    assert_eq!(to_f16(2f64.powi(-25)).to_f64(), 0.0);
    assert_eq!(to_f16(2f64.powi(-25) * (1.0 + 1e-15)).to_f64(), 2f64.powi(-24));
    assert!(to_bf16(f64::NAN).is_nan() && to_f16(f64::NAN).is_nan());
}

#[test]
fn zip_broadcasts_any_dimension() {
    let r = Reference::new();
    let a = Held::of(&r, &[1f64, 2.0, 3.0]);
    let b = Held::of(&r, &[10f64, 20.0, 30.0, 40.0]);
    let dims = Broadcast::new(&[1, 3, 1], &[2, 1, 2]).unwrap();
    let mut y = Held::empty(&r, DType::F64, 12);
    r.zip(Zip::Add, &dims, a.view(), b.view(), y.set()).unwrap();
    assert_eq!(y.read::<f64>(&r), [11., 21., 12., 22., 13., 23., 31., 41., 32., 42., 33., 43.]);
    r.zip(Zip::Mul, &Broadcast::new(&[3, 1], &[1, 4]).unwrap(), a.view(), b.view(), y.add()).unwrap();
    assert_eq!(y.read::<f64>(&r), [21., 41., 42., 62., 33., 63., 91., 121., 62., 102., 123., 163.]);
    assert!(Broadcast::new(&[3], &[4]).is_none());
    assert!(r.zip(Zip::Add, &Broadcast::same(3), a.view(), b.view(), y.set()).is_err());
}

#[test]
fn zip_functions() {
    let r = Reference::new();
    let apply = |op, a: &[f64], b: &[f64]| {
        let mut y = Held::empty(&r, DType::F64, a.len());
        r.zip(op, &Broadcast::same(a.len()), Held::of(&r, a).view(), Held::of(&r, b).view(), y.set()).unwrap();
        y.read::<f64>(&r)
    };
    assert_eq!(apply(Zip::Sub, &[5.0], &[3.0]), [2.0]);
    assert_eq!(apply(Zip::Div, &[5.0], &[2.0]), [2.5]);
    assert_eq!(apply(Zip::Equal, &[1.0, 1.0, f64::NAN], &[1.0, 2.0, f64::NAN]), [1.0, 0.0, 0.0]);
    assert_eq!(apply(Zip::ReluGrad, &[1.0, 0.0, -1.0], &[7.0, f64::NAN, INF]), [7.0, 0.0, 0.0]);
    for op in [Zip::SiluGrad, Zip::GeluErfGrad, Zip::GeluTanhGrad] {
        assert_eq!(apply(op, &[0.0, 60.0], &[3.0, 3.0]), [1.5, 3.0]);
    }
    let (a, b) = (Held::of(&r, &[1u32, u32::MAX]), Held::of(&r, &[2u32, u32::MAX]));
    let mut y = Held::empty(&r, DType::F32, 2);
    r.zip(Zip::Equal, &Broadcast::same(2), a.view(), b.view(), y.set()).unwrap();
    assert_eq!(y.read::<f32>(&r), [0.0, 1.0]);
    assert!(r.zip(Zip::Add, &Broadcast::same(2), a.view(), b.view(), y.set()).is_err());
}

#[test]
fn reduce_over_the_middle() {
    let r = Reference::new();
    let x = Held::of(&r, &[1f64, 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12.]);
    let mut y = Held::empty(&r, DType::F64, 4);
    r.reduce(Reduce::Sum, [2, 3, 2], x.view(), y.set()).unwrap();
    assert_eq!(y.read::<f64>(&r), [9., 12., 27., 30.]);
    r.reduce(Reduce::Max, [2, 3, 2], x.view(), y.add()).unwrap();
    assert_eq!(y.read::<f64>(&r), [14., 18., 38., 42.]);
    let none = x.view().narrow(0, 0);
    r.reduce(Reduce::Sum, [4, 0, 1], none, y.set()).unwrap();
    assert_eq!(y.read::<f64>(&r), [0.0; 4]);
    r.reduce(Reduce::Max, [4, 0, 1], none, y.set()).unwrap();
    assert_eq!(y.read::<f64>(&r), [-INF; 4]);
    let x = Held::of(&r, &[1.0, f64::NAN, 2.0]);
    r.reduce(Reduce::Max, [1, 3, 1], x.view(), y.out().narrow(0, 1).set()).unwrap();
    assert!(y.read::<f64>(&r)[0].is_nan());
}

#[test]
fn permute_moves_dimensions() {
    let r = Reference::new();
    let x = Held::of(&r, &[0u32, 1, 2, 3, 4, 5]);
    let mut y = Held::empty(&r, DType::U32, 6);
    r.permute(&[2, 3], &[1, 0], x.view(), y.set()).unwrap();
    assert_eq!(y.read::<u32>(&r), [0, 3, 1, 4, 2, 5]);
    // x[i][j][k] = 6i + 3j + k goes to y[k][i][j]
    let x = Held::of(&r, &(0..12).map(f64::from).collect::<Vec<_>>());
    let mut y = Held::of(&r, &[100f64; 12]);
    r.permute(&[2, 2, 3], &[2, 0, 1], x.view(), y.add()).unwrap();
    let want = [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11].map(|v| f64::from(v + 100));
    assert_eq!(y.read::<f64>(&r), want);
    assert!(r.permute(&[2, 6], &[1, 1], x.view(), y.set()).is_err());
    assert!(r.permute(&[2, 6], &[0], x.view(), y.set()).is_err());
}

#[test]
fn gather_casts_and_names_an_id_out_of_range() {
    let r = Reference::new();
    let table = Held::of(&r, &[1f32, 2., 3., 4., 5., 6.].map(bf16::from_f32));
    let op = Rows { rows: 3, width: 2, count: 2 };
    let mut y = Held::empty(&r, DType::F32, 4);
    let ids = Held::of(&r, &[2u32, 0]);
    r.gather(&op, table.view(), ids.view(), y.set()).unwrap();
    r.gather(&op, table.view(), ids.view(), y.add()).unwrap();
    assert_eq!(y.read::<f32>(&r), [10., 12., 2., 4.]);
    let ids = Held::of(&r, &[1u32, 3]);
    let error = message(r.gather(&op, table.view(), ids.view(), y.set()));
    assert_eq!(error, "gather: ids[1] is 3, the table has only 3 rows");
}

#[test]
fn scatter_add_sums_repeated_rows() {
    let r = Reference::new();
    let op = Rows { rows: 3, width: 2, count: 3 };
    let ids = Held::of(&r, &[2u32, 0, 2]);
    let x = Held::of(&r, &[1f64, 2., 3., 4., 5., 6.]);
    let mut table = Held::empty(&r, DType::F64, 6);
    r.scatter_add(&op, ids.view(), x.view(), table.set()).unwrap();
    assert_eq!(table.read::<f64>(&r), [3., 4., 0., 0., 6., 8.]);
    r.scatter_add(&op, ids.view(), x.view(), table.add()).unwrap();
    assert_eq!(table.read::<f64>(&r), [6., 8., 0., 0., 12., 16.]);
    let ids = Held::of(&r, &[0u32, 1, 7]);
    let error = message(r.scatter_add(&op, ids.view(), x.view(), table.set()));
    assert_eq!(error, "scatter_add: ids[2] is 7, the table has only 3 rows");
}

#[test]
fn dropout_keeps_its_share_and_depends_on_the_step() {
    let r = Reference::new();
    let n = 100_000;
    let x = Held::of(&r, &vec![1f64; n]);
    let mut scalars = Scalars::new();
    let mut draw = |p, step: f32, stream| {
        scalars[Scalars::STEP] = step;
        let scalars = Held::of(&r, scalars.words());
        let mut y = Held::empty(&r, DType::F64, n);
        r.dropout(&Dropout { p, seed: 5, stream }, scalars.view(), x.view(), y.set()).unwrap();
        y.read::<f64>(&r)
    };
    let (p, q) = (0.3, 0.7);
    let first = draw(p, 1.0, 0);
    assert!(first.iter().all(|&v| v == 0.0 || v == 1.0 / q));
    let kept = first.iter().filter(|&&v| v != 0.0).count() as f64 / n as f64;
    let sigma = (p * q / n as f64).sqrt();
    assert!((kept - q).abs() < 3.0 * sigma, "{kept}");
    assert_eq!(first, draw(p, 1.0, 0));
    assert_ne!(first, draw(p, 2.0, 0));
    assert_ne!(first, draw(p, 1.0, 1));
    assert_eq!(draw(0.0, 1.0, 0), vec![1.0; n]);
    // Element 5 alone, from the definition.
    let kept = philox::word(5, 0, 1, 5) >= (p * 2f64.powi(32)).round() as u32;
    assert_eq!(first[5] != 0.0, kept);
}

#[test]
fn dropout_refuses_a_probability_of_one() {
    let r = Reference::new();
    let (x, scalars) = (Held::of(&r, &[1f64]), Held::of(&r, Scalars::new().words()));
    let mut y = Held::empty(&r, DType::F64, 1);
    for p in [1.0, -0.1, f64::NAN] {
        assert!(r.dropout(&Dropout { p, seed: 0, stream: 0 }, scalars.view(), x.view(), y.set()).is_err());
    }
}
