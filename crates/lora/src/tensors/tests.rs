use half::{bf16, f16};
use proptest::prelude::*;

use super::*;

fn device() -> Device {
    Device::reference().unwrap()
}

/// A file of this header text and this much data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn parse_error(bytes: &[u8]) -> String {
    let e = TensorFile::parse("x.safetensors", bytes).err().expect("an error").to_string();
    assert!(e.starts_with("x.safetensors: ") && !e.contains('\n'), "{e}");
    e
}

fn load_error(bytes: &[u8], dtype: DType) -> String {
    let f = TensorFile::parse("x.safetensors", bytes).unwrap();
    let e = f.load("t", &[2], dtype, &device()).expect_err("an error").to_string();
    assert!(e.starts_with("x.safetensors: tensor `t`"), "{e}");
    e
}

#[test]
fn what_is_written_is_read() {
    let d = device();
    let tensors = vec![
        ("b".to_string(), Tensor::from_slice(&[1.5f32, -2.0, 0.25, 3.0], &[2, 2], &d).unwrap()),
        ("a".to_string(), Tensor::from_slice(&[bf16::from_f32(0.5)], &[1], &d).unwrap()),
        ("i".to_string(), Tensor::from_slice(&[7u32, 9], &[2], &d).unwrap()),
        ("h".to_string(), Tensor::from_slice(&[f16::from_f32(-4.0)], &[1, 1], &d).unwrap()),
        ("z".to_string(), Tensor::from_slice::<f32>(&[], &[0, 3], &d).unwrap()),
    ];
    let bytes = write_tensors(&tensors).unwrap();
    let reversed: Vec<_> = tensors.iter().rev().cloned().collect();
    assert_eq!(bytes, write_tensors(&reversed).unwrap());
    assert!(String::from_utf8_lossy(&bytes[8..]).starts_with(r#"{"__metadata__":{"format":"pt"}"#));
    let f = TensorFile::parse("f", &bytes).unwrap();
    assert_eq!(f.names().collect::<Vec<_>>(), ["a", "b", "h", "i", "z"]);
    assert_eq!((f.dtype_name("a").unwrap(), f.shape("b").unwrap()), ("BF16".to_string(), &[2, 2][..]));
    let b = f.load("b", &[2, 2], DType::F32, &d).unwrap();
    assert_eq!((b.to_vec::<f32>().unwrap(), b.name()), (vec![1.5, -2.0, 0.25, 3.0], Some("b")));
    assert_eq!(f.load("a", &[1], DType::F64, &d).unwrap().to_vec::<f64>().unwrap(), [0.5]);
    assert_eq!(f.load("h", &[1, 1], DType::BF16, &d).unwrap().to_f64().unwrap(), [-4.0]);
    assert_eq!(f.load("z", &[0, 3], DType::F32, &d).unwrap().len(), 0);
    assert_eq!((f.u32s("i").unwrap(), f.i64s("i").unwrap()), (vec![7, 9], vec![7, 9]));
}

#[test]
fn integers_of_other_widths() {
    let bytes = file(r#"{"t":{"dtype":"I64","shape":[2],"data_offsets":[0,16]}}"#, bytemuck::cast_slice(&[5i64, -1]));
    let f = TensorFile::parse("x", &bytes).unwrap();
    assert_eq!(f.i64s("t").unwrap(), [5, -1]);
    assert_eq!(f.u32s("t").unwrap_err().to_string(), "x: tensor `t`: element 1 is -1, no 32-bit index");
}

#[test]
fn hostile_headers() {
    assert!(parse_error(b"abc").contains("3 bytes are too few"));
    let valid = file(r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, &[0; 4]);
    assert!(parse_error(&valid[..20]).contains("header length 54 is beyond the file of 20 bytes"));
    assert!(parse_error(&u64::MAX.to_le_bytes()).contains("header length 18446744073709551615 is beyond"));
    assert!(parse_error(&file("{\"t\"", &[])).contains("header: EOF"));
    assert!(parse_error(&file("{\"t\":\"\\ud800", &[])).contains("header: "));
    assert!(parse_error(&file(&"[".repeat(5000), &[])).contains("header: "));
    let cases = [
        (
            r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"u":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
            4,
            "overlaps",
        ),
        (
            r#"{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"u":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
            8,
            "tensor `u`: offset 4 overlaps",
        ),
        (r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#, 8, "leaves a gap"),
        (r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 8, "8 bytes of data, tensors cover 4"),
        (
            r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
            2,
            "tensor `t`: offsets 0..4 lie outside the 2 bytes",
        ),
        (r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#, 4, "offsets 4..0"),
        (r#"{"t":{"dtype":"F32","shape":[3],"data_offsets":[0,4]}}"#, 4, "4 bytes for [3] of F32"),
        (r#"{"t":{"dtype":"F32","shape":[9223372036854775807,3],"data_offsets":[0,4]}}"#, 4, "overflows"),
        (
            r#"{"t":{"dtype":"F32","shape":[0],"data_offsets":[18446744073709551608,18446744073709551608]}}"#,
            0,
            "outside",
        ),
        (r#"{"t":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, 4, "tensor `t`"),
        (r#"{"t":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}"#, 4, "tensor `t`"),
        (r#"{"t":3}"#, 0, "tensor `t`"),
        (r#"{"t":{"dtype":"F4","shape":[1],"data_offsets":[0,0]}}"#, 0, "tensor `t`"),
    ];
    for (header, data, want) in cases {
        let e = parse_error(&file(header, &vec![0; data]));
        assert!(e.contains(want), "{e}");
    }
}

#[test]
fn bad_contents() {
    let f32s =
        |x: [f32; 2]| file(r#"{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, bytemuck::cast_slice(&x));
    assert_eq!(load_error(&f32s([1.0, f32::NAN]), DType::F32), "x.safetensors: tensor `t`: element 1 is NaN");
    assert!(load_error(&f32s([f32::INFINITY, 0.0]), DType::F64).ends_with("element 0 is inf"));
    assert!(load_error(&f32s([1.0, 1e6]), DType::F16).ends_with("element 1 is 1000000, beyond the range of f16"));
    assert!(load_error(&f32s([1.0, 2.0]), DType::U32).ends_with("cannot be loaded as u32, which is no float type"));
    let good = f32s([1.0, 2.0]);
    let f = TensorFile::parse("x", &good).unwrap();
    let e = f.load("t", &[1, 2], DType::F32, &device()).unwrap_err().to_string();
    assert_eq!(e, "x: tensor `t`: shape [2], expected [1, 2]");
    let e = f.load("u", &[2], DType::F32, &device()).unwrap_err().to_string();
    assert_eq!(e, "x: tensor `u` is missing");
    let bytes = file(r#"{"t":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}"#, &[0; 2]);
    assert!(load_error(&bytes, DType::F32).contains("F8_E4M3 is not supported"));
}

fn valid() -> Vec<u8> {
    let d = device();
    let a = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3], &d).unwrap();
    let b = Tensor::from_slice(&[bf16::from_f32(1.0); 4], &[4], &d).unwrap();
    write_tensors(&[("t".into(), a), ("u".into(), b)]).unwrap()
}

/// Reads everything there is to read; only the absence of a panic matters.
fn exercise(bytes: &[u8]) {
    let Ok(f) = TensorFile::parse("x", bytes) else { return };
    let d = device();
    for name in f.names() {
        let shape = f.shape(name).unwrap().to_vec();
        for dtype in [DType::F32, DType::BF16, DType::F64] {
            let _ = f.load(name, &shape, dtype, &d);
        }
        let _ = (f.i64s(name), f.u32s(name), f.raw(name), f.dtype_name(name));
    }
}

proptest! {
    #[test]
    fn random_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        exercise(&bytes);
        exercise(&file(&String::from_utf8_lossy(&bytes), &bytes));
    }

    #[test]
    fn damaged_files_do_not_panic(edits in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..6), cut in any::<u16>()) {
        let mut bytes = valid();
        for (at, byte) in edits {
            let at = usize::from(at) % bytes.len();
            bytes[at] = byte;
        }
        exercise(&bytes);
        bytes.truncate(usize::from(cut) % (bytes.len() + 1));
        exercise(&bytes);
    }

    /// Digits become other digits: headers stay readable and turn wrong.
    #[test]
    fn wrong_numbers_do_not_panic(edits in proptest::collection::vec((any::<u16>(), 0..10u8), 1..8)) {
        let mut bytes = valid();
        let digits: Vec<usize> = (8..bytes.len()).filter(|&i| bytes[i].is_ascii_digit()).collect();
        for (at, digit) in edits {
            bytes[digits[usize::from(at) % digits.len()]] = b'0' + digit;
        }
        exercise(&bytes);
    }
}
