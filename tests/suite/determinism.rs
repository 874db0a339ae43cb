//! The same bits on every run, for any number of threads, and for a row alone or among others.

use libtest_mimic::{Failed, Trial};
use lowrank_core::ops::RowAdapter;
use lowrank_core::{DType, Device, Tensor, no_grad};
use lowrank_lora::{Adapter, Init, LoraConfig, attach};

use crate::case::Case;
use crate::devices::{self, Checks, Target};
use crate::random::Random;
use crate::report::{Outcome, same_bits};

/// Numbers of threads that must not matter.
const THREADS: [usize; 4] = [1, 2, 3, 8];

/// Runs `f` inside a pool of this many threads.
pub fn with_threads<T: Send>(threads: usize, f: impl FnOnce() -> T + Send) -> Result<T, Failed> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(|e| e.to_string())?;
    Ok(pool.install(f))
}

/// One row: result and gradients, twice for each number of threads; once more where the host's threads do no work.
pub fn check(case: &Case, target: &Target) -> Outcome {
    let values = case.values(false);
    let gy = Random::of(&case.name()).vec(case.output_len());
    let run = || case.run(target, &target.open()?, &values, Some(&gy));
    let first = with_threads(1, run)??;
    let (numbers, times) = if target.is_cuda() { (&THREADS[..1], 1) } else { (&THREADS[..], 2) };
    for &threads in numbers {
        for _ in 0..times {
            let again = with_threads(threads, run)??;
            same_bits(&format!("result with {threads} threads"), &again.y, &first.y)?;
            for (i, pair) in again.grads.iter().zip(&first.grads).enumerate() {
                if let (Some(again), Some(first)) = pair {
                    same_bits(&format!("gradient of input {i} with {threads} threads"), again, first)?;
                }
            }
        }
    }
    Ok(())
}

/// The trials of this module that are no rows of the table.
pub const CHECKS: Checks =
    &[("row-invariance", row_invariance), ("rows-of-many-adapters-equal-each-alone", rows_of_many_adapters)];

/// A row of y and of dx has the same bits in any batch and at any place, above the decode path of 16 rows.
fn row_invariance(target: &Target) -> Outcome {
    for [n, k, r] in [[127, 131, 5], [257, 300, 8], [64, 64, 16]] {
        let device = target.open()?;
        let mut random = Random::of("rows");
        let mut rows = |width: usize| -> Vec<Vec<f64>> { (0..64).map(|_| random.vec(width)).collect() };
        let (x_rows, gy_rows) = (rows(k), rows(n));
        let mut tensor =
            |shape: [usize; 2]| Tensor::from_f64(&random.vec(shape[0] * shape[1]), &shape, target.dtype(), &device);
        let (w, a, b) = (tensor([n, k])?, tensor([r, k])?, tensor([n, r])?);
        // y and dx of the rows with these numbers.
        let run = |picked: &[usize]| -> Result<(Vec<f64>, Vec<f64>), Failed> {
            let pick = |rows: &[Vec<f64>], width: usize| {
                let values: Vec<f64> = picked.iter().flat_map(|&i| rows[i].clone()).collect();
                Tensor::from_f64(&values, &[picked.len(), width], target.dtype(), &device)
            };
            let x = pick(&x_rows, k)?.trainable()?;
            let y = x.lora_linear(&w, None, &a, &b, 2.0, 0.0)?;
            let values = y.to_f64()?;
            y.backward_with(pick(&gy_rows, n)?)?;
            Ok((values, x.grad().ok_or("no gradient")?.to_f64()?))
        };
        let (y, dx) = run(&(0..64).collect::<Vec<_>>())?;
        for count in [17, 18, 23, 33, 48] {
            // Spread over the rows, backwards, so that each stands elsewhere.
            let picked: Vec<usize> = (0..count).map(|i| (63 - i * 5 % 64) % 64).collect();
            let (some_y, some_dx) = run(&picked)?;
            for (place, &row) in picked.iter().enumerate() {
                let name = |what: &str| format!("{what} of row {row} as {place} of {count} (n {n} k {k} r {r})");
                same_bits(&name("y"), &some_y[place * n..][..n], &y[row * n..][..n])?;
                same_bits(&name("dx"), &some_dx[place * k..][..k], &dx[row * k..][..k])?;
            }
        }
    }
    Ok(())
}

/// Rows with adapters of their own: y, dx, dA and dB have the bits they have in a batch of that adapter alone, whatever
/// stands between them and however few they are.
fn rows_of_many_adapters(target: &Target) -> Outcome {
    let [m, n, k] = [64, 127, 131];
    let device = target.open()?;
    let mut random = Random::of("many adapters");
    let mut tensor =
        |shape: [usize; 2]| Tensor::from_f64(&random.vec(shape[0] * shape[1]), &shape, target.dtype(), &device);
    let (w, x, gy, bias) = (tensor([n, k])?, tensor([m, k])?, tensor([m, n])?, tensor([1, n])?.reshape(&[n])?);
    let mut adapters = Vec::new();
    for (r, scale) in [(8, 2.0), (5, 0.3), (300, 0.7), (4, -1.5)] {
        adapters.push(RowAdapter { a: tensor([r, k])?.trainable()?, b: tensor([n, r])?.trainable()?, scale });
    }
    // Many rows of 0, some of 1, one of 2 in the middle, none of 3, and some without.
    let rows: Vec<Option<usize>> =
        (0..m).map(|i| if i == 33 { Some(2) } else { [Some(0), Some(1), Some(0), None][i * 7 % 4] }).collect();
    let leaf = x.trainable()?;
    let y = leaf.lora_linear_multi(&w, Some(&bias), &adapters, &rows)?;
    let values = y.to_f64()?;
    y.backward_with(gy.detach())?;
    let dx = leaf.grad().ok_or("no gradient")?.to_f64()?;
    let row = |all: &[f64], i: usize, width: usize| all[i * width..][..width].to_vec();
    let (all_x, all_gy) = (x.to_f64()?, gy.to_f64()?);
    for (a, l) in adapters.iter().enumerate() {
        let own: Vec<usize> = (0..m).filter(|&i| rows[i] == Some(a)).collect();
        // The whole batch with this adapter: the rows' own results.
        let leaf = x.trainable()?;
        let alone = leaf.lora_linear(&w, Some(&bias), &l.a.detach(), &l.b.detach(), l.scale, 0.0)?;
        let alone_y = alone.to_f64()?;
        alone.backward_with(gy.detach())?;
        let alone_dx = leaf.grad().ok_or("no gradient")?.to_f64()?;
        for &i in &own {
            same_bits(&format!("y of row {i}"), &row(&values, i, n), &row(&alone_y, i, n))?;
            same_bits(&format!("dx of row {i}"), &row(&dx, i, k), &row(&alone_dx, i, k))?;
        }
        // Its rows as a batch of their own: its gradients. (16 rows or fewer are summed otherwise.)
        if own.len() > 16 || own.is_empty() {
            let (a, b) = (l.a.detach().trainable()?, l.b.detach().trainable()?);
            if !own.is_empty() {
                let pick = |all: &[f64], width| own.iter().flat_map(|&i| row(all, i, width)).collect::<Vec<f64>>();
                let x = Tensor::from_f64(&pick(&all_x, k), &[own.len(), k], target.dtype(), &device)?;
                let gy = Tensor::from_f64(&pick(&all_gy, n), &[own.len(), n], target.dtype(), &device)?;
                x.lora_linear(&w, Some(&bias), &a, &b, l.scale, 0.0)?.backward_with(gy)?;
            }
            for (what, shared, single) in [("dA", &l.a, &a), ("dB", &l.b, &b)] {
                let single = match single.grad() {
                    Some(g) => g.to_f64()?,
                    None => vec![0.0; single.len()],
                };
                same_bits(what, &shared.grad().ok_or("no gradient")?.to_f64()?, &single)?;
            }
        }
    }
    let plain = no_grad(|| x.linear(&w, Some(&bias)))?.to_f64()?;
    for i in (0..m).filter(|&i| rows[i].is_none()) {
        same_bits(&format!("y of row {i}, without adapter"), &row(&values, i, n), &row(&plain, i, n))?;
    }
    Ok(())
}

/// Two whole training steps of the small Llama, dropout and clipping included.
pub fn whole_step() -> [Trial; 2] {
    [DType::F32, DType::BF16].map(|activations| {
        Trial::test(format!("determinism/cpu/training-step-of-llama-{activations}"), move || {
            let first = with_threads(1, || two_steps(activations))??;
            for threads in THREADS {
                for (again, first) in with_threads(threads, || two_steps(activations))??.iter().zip(&first) {
                    same_bits(&format!("{} with {threads} threads", first.0), &again.1, &first.1)?;
                }
            }
            Ok(())
        })
        .with_ignored_flag(!devices::all()[1].present())
    })
}

/// Losses and all adapter weights.
fn two_steps(activations: DType) -> Result<Vec<(String, Vec<f64>)>, Failed> {
    let device = Device::from_name("cpu")?;
    device.set_activations(activations)?;
    let mut model = crate::golden::glass(&device)?;
    let config = LoraConfig { r: 8, dropout: 0.1, init: Init::BothRandom, ..LoraConfig::default() };
    let adapter = Adapter::create(&model, "default", config, 1)?;
    attach(&mut model, &adapter)?;
    let mut random = Random::of("tokens");
    let mut tokens = |n: usize| -> Vec<u32> { (0..n).map(|_| random.integer(0, 1023) as u32).collect() };
    let ids = Tensor::from_slice(&tokens(3 * 41), &[3, 41], &device)?;
    let targets = Tensor::from_slice(&tokens(3 * 41), &[3 * 41], &device)?;
    let mut optimiser = crate::flow::adamw(adapter.parameters(), 0.01)?;
    let mut values = Vec::new();
    for step in 0..2 {
        device.begin_step(step)?;
        optimiser.zero_grad();
        let loss = model.loss(&ids, &targets, 123.0)?;
        values.push((format!("loss {step}"), loss.to_f64()?));
        loss.backward()?;
        optimiser.step(1.0, Some(1.0))?;
    }
    for (name, t) in adapter.parameters() {
        values.push((name, t.to_f64()?));
    }
    Ok(values)
}
