//! Nothing is allocated by a training step's operations after the first step: packed operands, scratch memory and
//! temporaries are used again. (What the tape and a tensor's handle take is not the backend's.)

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use lowrank_backend::{
    AdamW, AdamWParam, Attention, Backend, Buffer, CrossEntropy, DType, Dropout, In, Linear, Lora, Map, Norm, Out,
    Precision, Reduce, Rope, Rows, Scalars, Weight,
};
use lowrank_cpu::Cpu;

/// Counts while it is told to.
struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);
static COUNTING: AtomicBool = AtomicBool::new(false);

fn count() {
    if COUNTING.load(SeqCst) {
        COUNT.fetch_add(1, SeqCst);
    }
}

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(start, layout, size) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Values on the device.
struct T(Box<dyn Buffer>, DType, usize);

impl T {
    fn new(cpu: &Cpu, values: &[f32]) -> T {
        let mut t = T(cpu.alloc(4 * values.len()).unwrap(), DType::F32, values.len());
        cpu.upload(bytemuck::cast_slice(values), t.out()).unwrap();
        t
    }

    /// Values in −0.5 … 0.5.
    fn some(cpu: &Cpu, dtype: DType, len: usize) -> T {
        let values = T::new(cpu, &(0..len).map(|i| (i * 7 % 11) as f32 / 10.0 - 0.5).collect::<Vec<_>>());
        let mut t = T(cpu.alloc(dtype.size() * len).unwrap(), dtype, len);
        cpu.map(Map::Copy, values.view(), t.out().set()).unwrap();
        t
    }

    fn view(&self) -> In<'_> {
        In::new(&*self.0, self.1, self.2)
    }

    fn out(&mut self) -> Out<'_> {
        Out::new(&mut *self.0, self.1, self.2)
    }
}

const BATCH: usize = 2;
const LEN: usize = 70;
const TOKENS: usize = BATCH * LEN;
const HEADS: usize = 2;
const HIDDEN: usize = 600;
const INNER: usize = 700;
const R: usize = 8;
const VOCAB: usize = 300;

/// What a step reads and writes.
struct Step<'c> {
    cpu: &'c Cpu,
    t: Vec<T>,
    ids: Box<dyn Buffer>,
    precision: Precision,
}

impl<'c> Step<'c> {
    fn new(cpu: &'c Cpu, activations: DType, precision: Precision) -> Self {
        let mut words = Scalars::new();
        words[Scalars::CLIP] = 1.0;
        words[Scalars::CORRECTION1] = 0.5;
        words[Scalars::CORRECTION2] = 0.5;
        let mut t = vec![T::new(cpu, words.words())];
        let sizes = [
            TOKENS * HIDDEN,      // 1 x
            INNER * HIDDEN,       // 2 W
            R * HIDDEN,           // 3 A
            INNER * R,            // 4 B
            TOKENS * INNER,       // 5 y
            TOKENS * R,           // 6 h
            TOKENS * INNER,       // 7 gy
            TOKENS * HIDDEN,      // 8 dx
            R * HIDDEN,           // 9 dA
            INNER * R,            // 10 dB
            TOKENS * HIDDEN,      // 11 attention's y
            BATCH * HEADS * LEN,  // 12 lse
            TOKENS * HIDDEN,      // 13 dq
            TOKENS * HIDDEN,      // 14 dk
            TOKENS * HIDDEN,      // 15 dv
            HIDDEN,               // 16 weight of a norm
            TOKENS,               // 17 rstd
            HIDDEN,               // 18 its gradient
            LEN * HIDDEN / HEADS, // 19 cos and sin
            TOKENS * VOCAB,       // 20 logits
            1,                    // 21 loss
            TOKENS,               // 22 its lse
            R * HIDDEN,           // 23 m
            R * HIDDEN,           // 24 v
            VOCAB * HIDDEN,       // 25 table
            TOKENS * INNER,       // 26 up
            INNER,                // 27 sums
            HIDDEN,               // 28 bias of a norm
            HIDDEN,               // 29 its gradient
            TOKENS,               // 30 mean
            TOKENS * INNER,       // 31 gradient of the gate
            TOKENS * INNER,       // 32 gradient of up
            VOCAB * HIDDEN,       // 33 gradient of an embedding
        ];
        t.extend(sizes.iter().enumerate().map(|(i, &len)| {
            let dtype =
                if [1, 5, 7, 8, 11, 13, 14, 15, 20, 26, 31, 32].contains(&(i + 1)) { activations } else { DType::F32 };
            T::some(cpu, dtype, len)
        }));
        t[21] = T::new(cpu, &[1.0]);
        let mut ids = cpu.alloc(4 * TOKENS).unwrap();
        let values: Vec<u32> = (0..TOKENS as u32).map(|i| i * 31 % VOCAB as u32).collect();
        cpu.upload(bytemuck::cast_slice(&values), Out::new(&mut *ids, DType::U32, TOKENS)).unwrap();
        Step { cpu, t, ids, precision }
    }

    fn run(&mut self) {
        let precision = self.precision;
        let (cpu, ids) = (self.cpu, In::new(&*self.ids, DType::U32, TOKENS));
        let [
            words,
            x,
            w,
            a,
            b,
            y,
            h,
            gy,
            dx,
            da,
            db,
            ay,
            alse,
            dq,
            dk,
            dv,
            nw,
            rstd,
            dnw,
            table,
            logits,
            loss,
            lse,
            m,
            v,
            rows,
            up,
            sums,
            nb,
            dnb,
            mean,
            dgate,
            dup,
            scattered,
        ] = &mut self.t[..]
        else {
            panic!("34 tensors")
        };
        let gather = Rows { rows: VOCAB, width: HIDDEN, count: TOKENS };
        cpu.gather(&gather, rows.view(), ids, x.out().set()).unwrap();
        let norm = Norm { rows: TOKENS, cols: HIDDEN, eps: 1e-5 };
        cpu.rms_norm_forward(&norm, x.view(), nw.view(), dx.out(), rstd.out()).unwrap();
        for dropout in [None, Some(Dropout { p: 0.1, seed: 1, stream: 0 })] {
            let base = Linear { m: TOKENS, n: INNER, k: HIDDEN, w: Weight::Dense(w.view()), bias: None, precision };
            let op = Lora { base, r: R, scale: 2.0, a: a.view(), b: b.view(), dropout, scalars: words.view() };
            cpu.linear_forward(&base, x.view(), up.out()).unwrap();
            cpu.lora_forward(&op, x.view(), y.out(), h.out()).unwrap();
            let (sx, sa, sb) = (dx.out().set(), da.out().set(), db.out().set());
            cpu.lora_backward(&op, x.view(), h.view(), gy.view(), Some(sx), Some(sa), Some(sb)).unwrap();
            cpu.linear_backward(&base, gy.view(), dx.out().add()).unwrap();
        }
        let dim = HIDDEN / HEADS;
        let rope = Rope { batch: BATCH, seq: LEN, heads: HEADS, dim, start: 0, positions: LEN * 2, inverse: false };
        cpu.rope(&rope, x.view(), table.view(), table.view(), dq.out().set()).unwrap();
        let op = Attention {
            batch: BATCH,
            q_len: LEN,
            kv_len: LEN,
            heads: HEADS,
            kv_heads: HEADS,
            dim,
            scale: 0.1,
            causal: true,
            precision: Precision::Full,
        };
        cpu.attention_forward(&op, x.view(), x.view(), x.view(), ay.out(), alse.out()).unwrap();
        let slots = (Some(dq.out().set()), Some(dk.out().set()), Some(dv.out().set()));
        let views = (x.view(), ay.view(), alse.view());
        cpu.attention_backward(&op, views.0, views.0, views.0, views.1, views.2, dx.view(), slots.0, slots.1, slots.2)
            .unwrap();
        let slots = (Some(dx.out().set()), Some(dnw.out().set()));
        cpu.rms_norm_backward(&norm, x.view(), nw.view(), rstd.view(), ay.view(), slots.0, slots.1).unwrap();
        cpu.layer_norm_forward(&norm, x.view(), nw.view(), nb.view(), dx.out(), mean.out(), rstd.out()).unwrap();
        let slots = [dx.out().set(), dnw.out().set(), dnb.out().set()].map(Some);
        let (saved, [sx, sw, sb]) = ((mean.view(), rstd.view()), slots);
        cpu.layer_norm_backward(&norm, x.view(), nw.view(), saved.0, saved.1, ay.view(), sx, sw, sb).unwrap();
        cpu.swiglu_forward(gy.view(), up.view(), y.out()).unwrap();
        let slots = (Some(dgate.out().set()), Some(dup.out().set()));
        cpu.swiglu_backward(gy.view(), up.view(), y.view(), slots.0, slots.1).unwrap();
        cpu.scatter_add(&gather, ids, dx.view(), scattered.out().add()).unwrap();
        cpu.map(Map::Affine(0.5, 0.1), gy.view(), y.out().set()).unwrap();
        cpu.reduce(Reduce::Sum, [1, TOKENS, INNER], y.view(), sums.out().set()).unwrap();
        let op = CrossEntropy { rows: TOKENS, vocab: VOCAB, denominator: TOKENS as f64 };
        cpu.cross_entropy_forward(&op, logits.view(), ids, loss.out(), lse.out()).unwrap();
        cpu.cross_entropy_backward(&op, logits.out(), ids, lse.view(), loss.view()).unwrap();
        cpu.grad_norm(&[da.view(), db.view()], Some(1.0), words.out()).unwrap();
        let op = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, group: 0 };
        let mut params = [AdamWParam { p: a.out(), m: m.out(), v: v.out(), g: da.view() }];
        cpu.adamw(&op, words.view(), &mut params).unwrap();
    }
}

/// Allocations while `f` runs.
fn allocations(f: impl FnOnce()) -> usize {
    COUNT.store(0, SeqCst);
    COUNTING.store(true, SeqCst);
    f();
    COUNTING.store(false, SeqCst);
    COUNT.load(SeqCst)
}

/// On one thread the second step allocates nothing. With more, which thread takes what is chance, so each may still meet
/// a task for the first time: a few allocations per thread in twenty steps, where thousands of tasks run.
#[test]
fn nothing_is_allocated_after_the_first_step() {
    let steps = |(activations, precision): (DType, Precision), threads: usize, warm: usize, counted: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        // In the pool: handing work to it from outside allocates in its queue.
        pool.install(|| {
            let cpu = Cpu::new();
            let mut step = Step::new(&cpu, activations, precision);
            (0..warm).for_each(|_| step.run());
            allocations(|| (0..counted).for_each(|_| step.run()))
        })
    };
    let modes = [Precision::Full, Precision::Bf16, Precision::Bf16x3].map(|precision| (DType::F32, precision));
    for mode in modes.into_iter().chain([(DType::BF16, Precision::Full), (DType::BF16, Precision::Bf16)]) {
        assert_eq!(steps(mode, 1, 1, 3), 0, "{mode:?}, on one thread");
        let several = steps(mode, 3, 2, 20);
        assert!(several <= 3 * 12, "{mode:?}: {several} allocations on three threads");
    }
}
