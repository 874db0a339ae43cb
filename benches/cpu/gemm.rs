//! Plain products: GFLOP/s per core of processor time, and the share of the peak of multiply-adds measured in turns with them.
//! Beside matrixmultiply, gemm and faer: the bench `lora`.

use lowrank_backend::{Backend, Buffer, DType, Gemm, In, Out};
use lowrank_core::Result;
use lowrank_cpu::Cpu;

use crate::{median, probe, random, turns};

/// m, n, k.
const SIZES: [[usize; 3]; 2] = [[1024; 3], [4096; 3]];

/// One product, or those of the table.
pub fn run(sizes: Option<[usize; 3]>, kind: Option<&str>) -> Result<()> {
    println!("{} threads; GFLOP/s per core by processor time", rayon::current_num_threads());
    for size in sizes.map_or(SIZES.to_vec(), |size| vec![size]) {
        for kind in kind.map_or(vec!["nn", "nt"], |kind| vec![kind]) {
            line(size, kind)?;
        }
    }
    Ok(())
}

fn tensor(cpu: &Cpu, len: usize, stream: u32) -> Result<Box<dyn Buffer>> {
    let mut buffer = cpu.alloc(4 * len)?;
    cpu.upload(bytemuck::cast_slice(&random(len, stream)), Out::new(&mut *buffer, DType::F32, len))?;
    Ok(buffer)
}

fn line([m, n, k]: [usize; 3], kind: &str) -> Result<()> {
    let op = match kind {
        "nn" => Gemm::nn(m, n, k),
        "nt" => Gemm::nt(m, n, k),
        "tn" => Gemm::tn(m, n, k),
        _ => panic!("{kind} is none of nn, nt, tn"),
    };
    let cpu = Cpu::from_env()?;
    let (a, b, mut c) = (tensor(&cpu, m * k, 0)?, tensor(&cpu, k * n, 1)?, cpu.alloc(4 * m * n)?);
    let mut peaks = Vec::new();
    let results = turns(
        2.0,
        &mut [
            (
                "product",
                Box::new(|| {
                    let (a, b) = (In::new(&*a, DType::F32, m * k), In::new(&*b, DType::F32, k * n));
                    cpu.gemm(&op, a, b, Out::new(&mut *c, DType::F32, m * n).set()).expect("gemm");
                }),
            ),
            ("peak", Box::new(|| peaks.push(probe::multiply_adds()))),
        ],
    );
    let (time, peak) = (results[0].0, median(peaks));
    let rate = (2 * m * n * k) as f64 / time.processor / 1e9;
    println!(
        "gemm {kind} m{m} n{n} k{k}\tms {:.3}\tprocessor_ms {:.3}\t{rate:.1} of {peak:.1} ({:.1} %)",
        time.clock * 1e3,
        time.processor * 1e3,
        100.0 * rate / peak,
    );
    Ok(())
}
