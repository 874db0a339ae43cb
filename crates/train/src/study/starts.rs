//! Why B may start at zero and the base may not: five starts on the two-layer MLP.

use lowrank_core::optim::{AdamW, AdamWOptions, Group};
use lowrank_core::philox::Rng;
use lowrank_core::{DType, Device, Tensor, no_grad};
use lowrank_lora::{Adapter, Init, Linear, LoraConfig, attach, detach};
use lowrank_models::Mlp;

use super::{Report, mean, spread};
use crate::{Chart, Result, Series};

const INPUTS: usize = 16;
const HIDDEN: usize = 32;
const CLASSES: usize = 4;
const EXAMPLES: usize = 4096;
const RANK: usize = 4;
const LR: f64 = 1e-2;
/// Steps with which the base learns the first task.
const PRETRAINING: usize = 200;

/// One way to begin.
#[derive(Clone, Copy, PartialEq)]
enum Start {
    BaseZero,
    BaseRandom,
    Pair { a_random: bool, b_random: bool },
}

const STARTS: [(&str, Start); 6] = [
    ("base zero, trained in full", Start::BaseZero),
    ("base random, trained in full (yardstick)", Start::BaseRandom),
    ("A = 0, B = 0", Start::Pair { a_random: false, b_random: false }),
    ("A random, B random", Start::Pair { a_random: true, b_random: true }),
    ("A random, B = 0 (LoRA)", Start::Pair { a_random: true, b_random: false }),
    ("A = 0, B random", Start::Pair { a_random: false, b_random: true }),
];

/// What one start came to with one seed.
struct Course {
    /// Held-out loss before each step and after the last.
    losses: Vec<f64>,
    /// Gradient norms of (A, B), or of (W₁, W₂), at the first and the second step.
    gradients: [[f64; 2]; 2],
}

/// A classification task: inputs and labels of a teacher network, to train on and held out.
struct Task {
    train: (Tensor, Tensor),
    valid: (Tensor, Tensor),
}

/// Every start with each of `seeds` seeds, `steps` steps long. `ticked` hears of every finished course.
pub fn starts(device: &Device, steps: usize, seeds: u64, ticked: &dyn Fn()) -> Result<Report> {
    let mut all: Vec<Vec<Course>> = STARTS.iter().map(|_| Vec::new()).collect();
    let mut base_losses = Vec::new();
    for seed in 0..seeds {
        let teacher = Teacher::new(seed);
        let (first, second) = (teacher.task(seed, false, device)?, teacher.task(seed, true, device)?);
        let mut base = network(seed, 1.0, device)?;
        train(&base.0, base.1.clone(), &first, PRETRAINING)?;
        freeze(&mut base)?;
        base_losses.push(loss(&base.0, &second.valid)?);
        for ((_, start), courses) in STARTS.iter().zip(&mut all) {
            courses.push(course(*start, &mut base.0, &second, seed, steps)?);
            ticked();
        }
    }
    let mut rows = vec![
        ["start", "held-out loss before", "after", "first ‖dA‖, ‖dB‖", "second ‖dA‖, ‖dB‖"].map(String::from).to_vec(),
    ];
    let mut series = Vec::new();
    for ((name, _), courses) in STARTS.iter().zip(&all) {
        let at = |i: usize| courses.iter().map(|c| c.losses[i.min(c.losses.len() - 1)]).collect::<Vec<_>>();
        let norms = |step: usize| {
            let of = |which: usize| mean(&courses.iter().map(|c| c.gradients[step][which]).collect::<Vec<_>>());
            format!("{}, {}", norm(of(0)), norm(of(1)))
        };
        rows.push(vec![name.to_string(), spread(&at(0)), spread(&at(steps)), norms(0), norms(1)]);
        series.push(Series::with_spread(name, (0..=steps).map(|i| (i as f64, at(i)))));
    }
    let method = format!(
        "A network {INPUTS} → {HIDDEN} → {CLASSES} with ReLU learns a teacher's {CLASSES} classes ({PRETRAINING} steps on \
         {EXAMPLES} points), and is then adapted to a second teacher, the first one with a change of rank 2 in its first \
         layer: rank {RANK}, α = {}, both layers, AdamW with learning rate {LR}, {steps} steps on all {EXAMPLES} points at \
         once; losses are on {EXAMPLES} other points, means over {seeds} seeds with half the distance between the \
         extremes, which bands in the picture show. The frozen base's loss on the second task is {}, a guess among the classes costs {:.4}. Rows trained in full start \
         from no base: their gradient norms are those of W₁ and W₂.",
        2 * RANK,
        spread(&base_losses),
        (CLASSES as f64).ln()
    );
    Ok(Report {
        name: "starts",
        question: "Why may B start at zero, and the base not?".into(),
        method,
        tables: vec![("Before the first and after the last step:".into(), rows)],
        chart: Chart { title: "five starts".into(), x: "step".into(), y: "held-out loss".into(), log_x: false, series },
    })
}

fn norm(x: f64) -> String {
    if x == 0.0 { "0".into() } else { format!("{x:.2e}") }
}

fn course(start: Start, base: &mut Mlp, task: &Task, seed: u64, steps: usize) -> Result<Course> {
    match start {
        Start::BaseZero | Start::BaseRandom => {
            let scale = if start == Start::BaseZero { 0.0 } else { 1.0 };
            let (mlp, tensors) = network(seed + 1000, scale, lowrank_lora::Host::device(base))?;
            let watched = [vec![tensors[0].1.clone()], vec![tensors[2].1.clone()]];
            watch(&mlp, tensors, watched, task, steps)
        }
        Start::Pair { a_random, b_random } => {
            let config =
                LoraConfig { r: RANK, alpha: 2.0 * RANK as f64, init: Init::BothRandom, ..LoraConfig::default() };
            let adapter = Adapter::create(base, "default", config, seed)?;
            let zero = |t: &Tensor| t.set(&vec![0f32; t.len()]);
            for pair in adapter.layers.values() {
                if !a_random {
                    zero(&pair.a)?;
                }
                if !b_random {
                    zero(&pair.b)?;
                }
            }
            attach(base, &adapter)?;
            let of = |f: fn(&lowrank_lora::LowRank) -> &Tensor| adapter.layers.values().map(|p| f(p).clone()).collect();
            let watched = [of(|p| &p.a), of(|p| &p.b)];
            let course = watch(base, adapter.parameters(), watched, task, steps);
            detach(base);
            course
        }
    }
}

type Params = Vec<(String, Tensor)>;

/// Trains, and writes down losses and the first gradients.
fn watch(mlp: &Mlp, params: Params, watched: [Vec<Tensor>; 2], task: &Task, steps: usize) -> Result<Course> {
    let mut optimiser = optimiser(params)?;
    let mut losses = vec![loss(mlp, &task.valid)?];
    let mut gradients = [[0.0; 2]; 2];
    for step in 0..steps {
        optimiser.zero_grad();
        backward(mlp, &task.train)?;
        if let Some(norms) = gradients.get_mut(step) {
            for (norm, tensors) in norms.iter_mut().zip(&watched) {
                for t in tensors {
                    let g = t.grad().map_or(Ok(Vec::new()), |g| g.to_f64())?;
                    *norm += g.iter().map(|v| v * v).sum::<f64>();
                }
                *norm = norm.sqrt();
            }
        }
        optimiser.step(1.0, None)?;
        losses.push(loss(mlp, &task.valid)?);
    }
    Ok(Course { losses, gradients })
}

fn train(mlp: &Mlp, params: Params, task: &Task, steps: usize) -> Result<()> {
    let mut optimiser = optimiser(params)?;
    for _ in 0..steps {
        optimiser.zero_grad();
        backward(mlp, &task.train)?;
        optimiser.step(1.0, None)?;
    }
    optimiser.zero_grad();
    Ok(())
}

fn optimiser(params: Params) -> Result<AdamW> {
    Ok(AdamW::new(vec![Group { params, lr: LR, weight_decay: 0.0 }], AdamWOptions::default())?)
}

fn backward(mlp: &Mlp, (x, targets): &(Tensor, Tensor)) -> Result<()> {
    Ok(mlp.forward(x)?.cross_entropy(targets, EXAMPLES as f64)?.backward()?)
}

fn loss(mlp: &Mlp, (x, targets): &(Tensor, Tensor)) -> Result<f64> {
    no_grad(|| Ok(mlp.forward(x)?.cross_entropy(targets, EXAMPLES as f64)?.item()?))
}

/// A network whose four tensors are trainable: W₁, b₁, W₂, b₂, uniform in ±scale/√inputs.
fn network(seed: u64, scale: f64, device: &Device) -> Result<(Mlp, Params)> {
    let mut rng = Rng::new(seed, 0x4d4c_5000);
    let mut params = Vec::new();
    let mut layer = |name: &str, n: usize, k: usize| -> Result<Linear> {
        let bound = scale / (k as f64).sqrt();
        let mut leaf = |part: &str, shape: &[usize]| -> Result<Tensor> {
            let values: Vec<f64> = (0..shape.iter().product()).map(|_| bound * (2.0 * rng.uniform() - 1.0)).collect();
            let name = format!("{name}.{part}");
            let t = Tensor::from_f64(&values, shape, DType::F32, device)?.named(&name).trainable()?;
            params.push((name, t.clone()));
            Ok(t)
        };
        let (w, b) = (leaf("weight", &[n, k])?, leaf("bias", &[n])?);
        Ok(Linear::new(name, w, Some(b)))
    };
    let (fc1, fc2) = (layer("fc1", HIDDEN, INPUTS)?, layer("fc2", CLASSES, HIDDEN)?);
    Ok((Mlp::from_layers(fc1, fc2)?, params))
}

/// The same values, no longer trainable.
fn freeze(base: &mut (Mlp, Params)) -> Result<()> {
    let t = |i: usize| base.1[i].1.detach();
    let (fc1, fc2) = (Linear::new("fc1", t(0), Some(t(1))), Linear::new("fc2", t(2), Some(t(3))));
    *base = (Mlp::from_layers(fc1, fc2)?, Vec::new());
    Ok(())
}

/// The network that labels points: the class of the largest output.
struct Teacher {
    first: Vec<f64>,
    changed: Vec<f64>,
    second: Vec<f64>,
}

impl Teacher {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 0x5445_4100);
        let mut draw = |n: usize, d: f64| (0..n).map(|_| rng.normal() * d).collect::<Vec<f64>>();
        let first = draw(HIDDEN * INPUTS, 1.0);
        let second = draw(CLASSES * HIDDEN, 1.0);
        // 2 · 0.35², a quarter of the first layer's variance.
        let (u, v) = (draw(HIDDEN * 2, 0.35), draw(2 * INPUTS, 1.0));
        let mut changed = first.clone();
        for i in 0..HIDDEN {
            for j in 0..INPUTS {
                changed[i * INPUTS + j] += (0..2).map(|r| u[i * 2 + r] * v[r * INPUTS + j]).sum::<f64>();
            }
        }
        Teacher { first, changed, second }
    }

    fn label(&self, x: &[f64], changed: bool) -> u32 {
        let w = if changed { &self.changed } else { &self.first };
        let dot = |w: &[f64], x: &[f64]| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        let h: Vec<f64> = w.chunks(INPUTS).map(|row| dot(row, x).max(0.0)).collect();
        let y: Vec<f64> = self.second.chunks(HIDDEN).map(|row| dot(row, &h)).collect();
        (0..y.len()).reduce(|best, i| if y[i] > y[best] { i } else { best }).unwrap_or(0) as u32
    }

    fn task(&self, seed: u64, changed: bool, device: &Device) -> Result<Task> {
        let mut rng = Rng::new(seed, if changed { 0x4441_5401 } else { 0x4441_5400 });
        let mut points = || -> Result<(Tensor, Tensor)> {
            let x: Vec<f64> = (0..EXAMPLES * INPUTS).map(|_| rng.normal()).collect();
            let labels: Vec<u32> = x.chunks(INPUTS).map(|x| self.label(x, changed)).collect();
            Ok((
                Tensor::from_f64(&x, &[EXAMPLES, INPUTS], DType::F32, device)?,
                Tensor::targets(&labels, &[EXAMPLES], CLASSES, device)?,
            ))
        };
        Ok(Task { train: points()?, valid: points()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the theory says of each start, whatever the task: which gradients are exactly zero, and which starts are
    /// stuck for ever.
    #[test]
    fn the_starts_do_what_the_theory_says() {
        let device = Device::cpu().unwrap();
        let teacher = Teacher::new(3);
        let task = teacher.task(3, true, &device).unwrap();
        let mut base = network(3, 1.0, &device).unwrap();
        freeze(&mut base).unwrap();
        let base_loss = loss(&base.0, &task.valid).unwrap();
        let mut run = |start: Start| course(start, &mut base.0, &task, 3, 3).unwrap();
        let zero = run(Start::BaseZero);
        assert_eq!(zero.gradients, [[0.0; 2]; 2]);
        assert!((zero.losses[0] - (CLASSES as f64).ln()).abs() < 1e-6);
        let pair = |a_random, b_random| Start::Pair { a_random, b_random };
        let dead = run(pair(false, false));
        assert_eq!(dead.gradients, [[0.0; 2]; 2]);
        assert_eq!(dead.losses, [dead.losses[0]; 4]);
        let broken = run(pair(true, true));
        assert!(broken.losses[0] != base_loss && broken.gradients[0].iter().all(|&g| g > 0.0));
        let [lora, mirrored] = [run(pair(true, false)), run(pair(false, true))];
        assert!(lora.gradients[0][0] == 0.0 && lora.gradients[0][1] > 0.0 && lora.gradients[1][0] > 0.0);
        assert!(mirrored.gradients[0][1] == 0.0 && mirrored.gradients[0][0] > 0.0 && mirrored.gradients[1][1] > 0.0);
        for course in [&lora, &mirrored] {
            assert_eq!(course.losses[0], base_loss);
            assert!(course.losses[3] < base_loss);
        }
    }
}
