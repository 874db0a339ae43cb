//! Steps that come again: the bits of steps done kernel by kernel, in one launch each.

use super::*;

/// One step of a small low-rank layer: upload, forward, backward, gradient norm, AdamW.
struct Layer {
    w: Held,
    gy: Held,
    factors: [Held; 2],
    states: Vec<Held>,
    scalars: Held,
    /// Bytes dropped in the middle of a step that were there before it.
    early: Option<Held>,
}

const ROWS: usize = 20;
const SIZES: [usize; 3] = [12, 16, 3];

impl Layer {
    fn new(cuda: &Cuda) -> Self {
        let [n, k, r] = SIZES;
        let mut rng = philox::Rng::new(3, 0);
        let mut random = |len: usize| {
            let values: Vec<f32> = (0..len).map(|_| rng.uniform() as f32 - 0.5).collect();
            Held::of(cuda, &values)
        };
        let mut words = Scalars::new();
        words[Scalars::LR] = 0.01;
        Layer {
            w: random(n * k),
            gy: random(2 * ROWS * n),
            factors: [random(r * k), random(n * r)],
            states: [r * k, r * k, n * r, n * r].map(|len| Held::of(cuda, &vec![0.0f32; len])).into(),
            scalars: Held::of(cuda, words.words()),
            early: None,
        }
    }

    /// Returns y and the norm, which the next step must not overwrite.
    fn step(&mut self, cuda: &Cuda, step: u8, m: usize, scale: f64) -> Result<[Held; 2]> {
        let [n, k, r] = SIZES;
        // An upload into memory that a kernel of this step has used before it.
        let first = Held::of(cuda, &vec![9.0f32; m * k]);
        let mut sum = Held::empty(cuda, DType::F32, m * k);
        cuda.map(Map::Copy, first.view(), sum.out().set())?;
        drop(first);
        let x: Vec<f32> = (0..m * k).map(|i| ((i * 7 + usize::from(step)) % 11) as f32 / 11.0 - 0.4).collect();
        let x = Held::of(cuda, &x);
        cuda.upload(bytemuck::bytes_of(&f32::from(step)), self.scalars.out().narrow(Scalars::STEP, 1))?;
        if let Some(early) = self.early.take() {
            cuda.map(Map::Copy, early.view(), sum.out().narrow(0, 4).set())?;
        }
        cuda.map(Map::Copy, x.view(), sum.out().set())?;
        let (mut y, mut h) = (Held::empty(cuda, DType::F32, m * n), Held::empty(cuda, DType::F32, m * r));
        let (mut da, mut db) = (Held::empty(cuda, DType::F32, r * k), Held::empty(cuda, DType::F32, n * r));
        {
            let base = Linear { m, n, k, w: Weight::Dense(self.w.view()), bias: None, precision: Precision::Full };
            let dropout = Some(Dropout { p: 0.25, seed: 5, stream: 0 });
            let (a, b) = (self.factors[0].view(), self.factors[1].view());
            let op = Lora { base, r, scale, a, b, dropout, scalars: self.scalars.view() };
            cuda.lora_forward(&op, sum.view(), y.out(), h.out())?;
            let gy = self.gy.view().narrow(0, m * n);
            cuda.lora_backward(&op, sum.view(), h.view(), gy, None, Some(da.out().set()), Some(db.out().set()))?;
        }
        cuda.grad_norm(&[da.view(), db.view()], Some(0.5), self.scalars.out())?;
        let mut norm = Held::empty(cuda, DType::F32, 1);
        let one = Block { rows: 1, cols: 1, src_stride: 1, dst_stride: 1 };
        cuda.copy(&one, self.scalars.view().narrow(Scalars::NORM, 1), norm.out().set())?;
        let op = AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.01, group: 0 };
        let [a, b] = &mut self.factors;
        let [ma, va, mb, vb] = &mut self.states[..] else { unreachable!("four of them") };
        let mut list = [
            AdamWParam { p: a.out(), m: ma.out(), v: va.out(), g: da.view() },
            AdamWParam { p: b.out(), m: mb.out(), v: vb.out(), g: db.view() },
        ];
        cuda.adamw(&op, self.scalars.view(), &mut list)?;
        Ok([y, norm])
    }

    fn bits(&self, cuda: &Cuda, results: &[Held; 2]) -> Vec<u32> {
        let all = results.iter().chain(&self.factors).chain([&self.scalars]);
        all.flat_map(|t| t.read::<f32>(cuda)).map(f32::to_bits).collect()
    }
}

/// A step held back and started as one.
fn repeated<T>(cuda: &Cuda, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (mut work, mut done) = (Some(work), None);
    cuda.repeated(&mut || done = work.take().map(|work| work()))?;
    done.expect("work ran")
}

/// Counters after steps of which each is the one before with other values, or has so many rows and that scale.
fn counted(steps: &[(usize, f64)]) -> Option<[u64; 3]> {
    let cuda = device()?;
    let plain = Cuda::new(0).unwrap();
    let (mut here, mut there) = (Layer::new(&plain), Layer::new(&cuda));
    // What is kept of a step until the next is under way.
    let mut late: Option<([Held; 2], [Vec<f32>; 2])> = None;
    for (i, &(m, scale)) in steps.iter().enumerate() {
        let i = i as u8;
        (here.early, there.early) = (Some(Held::of(&plain, &[1.0f32; 4])), Some(Held::of(&cuda, &[1.0f32; 4])));
        let want = here.step(&plain, i, m, scale).unwrap();
        let waits = cuda.stats().waits;
        let got = repeated(&cuda, || there.step(&cuda, i, m, scale)).unwrap();
        assert_eq!(cuda.stats().waits, waits, "step {i} waited");
        if let Some((results, values)) = late.take() {
            let now = results.each_ref().map(|t| t.read::<f32>(&cuda));
            assert_eq!(now, values, "step {i} wrote over what was kept of the one before");
        }
        assert_eq!(there.bits(&cuda, &got), here.bits(&plain, &want), "step {i}");
        let values = want.each_ref().map(|t| t.read::<f32>(&plain));
        late = Some((got, values));
    }
    let (stats, plain) = (cuda.stats(), plain.stats());
    assert_eq!((stats.launches, stats.bytes_uploaded), (plain.launches, plain.bytes_uploaded));
    assert_eq!((plain.graph_launches, plain.graphs_recorded), (0, 0));
    drop((late, there));
    assert_eq!(cuda.stats().bytes_live, 0);
    Some([stats.graphs_recorded, stats.graph_launches, stats.graph_updates])
}

/// The first step is done kernel by kernel; the next two are recorded, as their results have two places by turns.
#[test]
fn repeated_steps_are_one_launch_each() {
    let Some([recorded, launched, updated]) = counted(&[(ROWS, 2.0); 7]) else { return };
    assert_eq!((recorded, launched), (2, 6));
    // One kernel reads what lies elsewhere in every step.
    assert!(updated <= 4, "{updated}");
}

#[test]
fn other_shapes_are_recorded_anew() {
    let mut steps = vec![(ROWS, 2.0); 4];
    steps.extend([(2 * ROWS, 2.0); 4]);
    // And back: what was recorded of these is still there.
    steps.extend([(ROWS, 2.0); 2]);
    let Some([recorded, launched, updated]) = counted(&steps) else { return };
    assert_eq!((recorded, launched), (4, 3 + 3 + 2), "{updated} updates");
}

/// A constant in a kernel's arguments changes: the kernels concerned get it, nothing is recorded.
#[test]
fn other_arguments_are_replaced() {
    let mut steps = vec![(ROWS, 2.0); 3];
    steps.extend([(ROWS, 3.0), (ROWS, 1.5), (ROWS, 1.5)]);
    let Some([recorded, launched, updated]) = counted(&steps) else { return };
    assert_eq!((recorded, launched), (2, 5));
    assert!((3..=12).contains(&updated), "{updated}");
}

/// Who reads back inside a step has it done as it comes.
#[test]
fn reading_inside_a_step_is_allowed() {
    let Some(cuda) = device() else { return };
    for _ in 0..3 {
        let values = repeated(&cuda, || {
            let x = Held::of(&cuda, &[1.0f32, 2.0]);
            let mut y = Held::empty(&cuda, DType::F32, 2);
            cuda.map(Map::Square, x.view(), y.out().set())?;
            let read = y.read::<f32>(&cuda);
            cuda.map(Map::Square, y.view(), Held::empty(&cuda, DType::F32, 2).out().set())?;
            // An upload of bytes that are no words of 4, and one that is too large to be held.
            let mut half = Held::empty(&cuda, DType::BF16, 1);
            cuda.upload(&[1, 2], half.out())?;
            let large = Held::of(&cuda, &vec![3u32; 1 << 19]);
            repeated(&cuda, || cuda.sync())?;
            Ok((read, large.read::<u32>(&cuda)[77]))
        });
        assert_eq!(values.unwrap(), (vec![1.0, 4.0], 3));
    }
    assert_eq!(cuda.stats().graph_launches, 0);
}

/// A step that fails or panics has done what came before, as without recording, and the next one works.
#[test]
fn failed_steps_leave_nothing_behind() {
    let Some(cuda) = device() else { return };
    let mut x = Held::of(&cuda, &[1.0f32; 4]);
    let failed = repeated(&cuda, || {
        cuda.fill(5.0, x.out())?;
        cuda.upload(&[0; 3], x.out())
    });
    assert!(failed.is_err());
    assert_eq!(x.read::<f32>(&cuda), [5.0; 4]);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        cuda.repeated(&mut || {
            cuda.fill(6.0, x.out()).unwrap();
            panic!("in the middle of a step");
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(x.read::<f32>(&cuda), [6.0; 4]);
    repeated(&cuda, || cuda.fill(7.0, x.out())).unwrap();
    assert_eq!(x.read::<f32>(&cuda), [7.0; 4]);
}
