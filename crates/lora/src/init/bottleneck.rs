//! `W_down, W_up ~ N(0, 0.01²)`, cut at two standard deviations; biases zero (Houlsby et al. 2019, §3.6). The branch starts
//! near zero: the model starts next to the base, not on it.

use lowrank_core::philox::Rng;

use super::fnv1a;

const DEVIATION: f64 = 1e-2;

/// W_down and W_up, `r·n` elements each.
pub(crate) fn draw(layer: &str, seed: u64, len: usize) -> (Vec<f64>, Vec<f64>) {
    let mut rng = Rng::new(seed, fnv1a(layer));
    let mut matrix = || (0..len).map(|_| DEVIATION * within_two(&mut rng)).collect();
    (matrix(), matrix())
}

/// Normal, drawn again outside of ±2.
fn within_two(rng: &mut Rng) -> f64 {
    loop {
        let x = rng.normal();
        if x.abs() <= 2.0 {
            return x;
        }
    }
}
