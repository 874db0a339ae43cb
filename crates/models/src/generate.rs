//! Text from a model, one token at a time.

use lowrank_core::philox::Rng;

use crate::{Llama, Result, invalid};

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// What logits are divided by, finite and ≥ 0. 0 takes the most likely token (the lowest number of equals).
    pub temperature: f64,
    /// Tokens are drawn from the smallest set of the most likely ones with at least this probability, in (0, 1]
    /// (Holtzman et al. 2020, "The curious case of neural text degeneration").
    pub top_p: f64,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Default for Sampling {
    /// Greedy.
    fn default() -> Self {
        Sampling { temperature: 0.0, top_p: 1.0, seed: 0 }
    }
}

/// Why [`generate`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model ended the text.
    EndOfText,
    /// As many tokens as asked for.
    MaxNew,
    /// The model has no position left for another token.
    Positions,
    /// The caller's function returned false.
    Caller,
}

/// The result of [`generate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// The new tokens, without the prompt and without the one that ends the text.
    pub tokens: Vec<u32>,
    /// Why there are no more.
    pub stop: Stop,
}

/// Continues `prompt` by up to `max_new` tokens, one of which is given to `on_token` as soon as it is drawn; false from
/// there ends the text after it.
///
/// The same model, prompt and sampling give the same tokens. An empty prompt, or one longer than
/// `max_position_embeddings`, is an error; to run out of positions later is not (see [`Stop::Positions`]).
pub fn generate(
    model: &Llama,
    prompt: &[u32],
    max_new: usize,
    sampling: &Sampling,
    on_token: &mut dyn FnMut(u32) -> bool,
) -> Result<Generated> {
    sampling.check()?;
    let positions = model.config().max_position_embeddings;
    if prompt.is_empty() {
        return Err(invalid("generate", "the prompt has no tokens"));
    }
    if prompt.len() > positions {
        let detail = format!("the prompt has {} tokens, the model {positions} positions", prompt.len());
        return Err(invalid("generate", detail));
    }
    let mut tokens = Vec::new();
    let done = |tokens, stop| Ok(Generated { tokens, stop });
    if max_new == 0 {
        return done(tokens, Stop::MaxNew);
    }
    // The last new token is never fed back, so it needs no place in the cache.
    let mut cache = model.new_cache(prompt.len().saturating_add(max_new - 1).min(positions))?;
    let mut rng = Rng::new(sampling.seed, 0);
    let mut logits = model.forward_cached(prompt, &mut cache)?;
    loop {
        let token = sampling.choose(&logits.to_f64()?, &mut rng)?;
        if model.config().eos_token_ids.contains(&token) {
            return done(tokens, Stop::EndOfText);
        }
        tokens.push(token);
        if !on_token(token) {
            return done(tokens, Stop::Caller);
        }
        if tokens.len() == max_new {
            return done(tokens, Stop::MaxNew);
        }
        if cache.len() == positions {
            return done(tokens, Stop::Positions);
        }
        logits = model.forward_cached(&[token], &mut cache)?;
    }
}

impl Sampling {
    fn check(&self) -> Result<()> {
        let Sampling { temperature, top_p, .. } = *self;
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(invalid("generate", format!("temperature {temperature} is not a finite number ≥ 0")));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(invalid("generate", format!("top_p {top_p} is not in (0, 1]")));
        }
        Ok(())
    }

    /// One token from its logits `[vocab]`.
    fn choose(&self, logits: &[f64], rng: &mut Rng) -> Result<u32> {
        if let Some(i) = logits.iter().position(|x| !x.is_finite()) {
            return Err(invalid("generate", format!("the logit of token {i} is {}", logits[i])));
        }
        let best = (0..logits.len()).reduce(|best, i| if logits[i] > logits[best] { i } else { best });
        let Some(best) = best else { return Err(invalid("generate", "there are no logits")) };
        if self.temperature == 0.0 {
            return Ok(best as u32);
        }
        let top = logits[best];
        let weights: Vec<f64> = logits.iter().map(|x| ((x - top) / self.temperature).exp()).collect();
        let mut order: Vec<usize> = (0..weights.len()).collect();
        // Stable, so that equals stay in the order of their numbers.
        order.sort_by(|&i, &j| weights[j].total_cmp(&weights[i]));
        let total: f64 = order.iter().map(|&i| weights[i]).sum();
        let mut kept = 0.0;
        let mut count = 0;
        for &i in &order {
            kept += weights[i];
            count += 1;
            if kept >= self.top_p * total {
                break;
            }
        }
        let mut left = rng.uniform() * kept;
        for &i in &order[..count] {
            left -= weights[i];
            if left < 0.0 {
                return Ok(i as u32);
            }
        }
        // Rounding can leave a crumb over: it belongs to the last token that has any weight.
        let last = order[..count].iter().rev().find(|&&i| weights[i] > 0.0);
        Ok(last.copied().unwrap_or(best) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(s: Sampling, logits: &[f64], n: usize) -> Vec<usize> {
        let mut rng = Rng::new(s.seed, 0);
        let mut counts = vec![0; logits.len()];
        for _ in 0..n {
            counts[s.choose(logits, &mut rng).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn temperature_0_is_the_first_of_the_largest() {
        let s = Sampling::default();
        assert_eq!(draws(s, &[0.0, 3.0, -1.0, 3.0], 5), [0, 5, 0, 0]);
    }

    #[test]
    fn frequencies_are_the_probabilities() {
        // p = 1/2, 1/4, 1/8, 1/8 at temperature 1; at ½ they are squared: 16 : 4 : 1 : 1.
        let ln2 = 2f64.ln();
        let logits = [-ln2, -2.0 * ln2, -3.0 * ln2, -3.0 * ln2];
        let n = 44_000;
        for (temperature, want) in [(1.0, [0.5, 0.25, 0.125, 0.125]), (0.5, [16. / 22., 4. / 22., 1. / 22., 1. / 22.])]
        {
            let counts = draws(Sampling { temperature, top_p: 1.0, seed: 3 }, &logits, n);
            for (count, p) in counts.iter().zip(want) {
                // Five standard deviations.
                let bound = 5.0 * (n as f64 * p * (1.0 - p)).sqrt();
                assert!((*count as f64 - n as f64 * p).abs() < bound, "{counts:?} against {want:?}");
            }
        }
    }

    #[test]
    fn top_p_keeps_the_smallest_sufficient_set() {
        let ln2 = 2f64.ln();
        // Probabilities 1/8, 1/2, 1/8, 1/4.
        let logits = [-3.0 * ln2, -ln2, -3.0 * ln2, -2.0 * ln2];
        let seen = |top_p| {
            let counts = draws(Sampling { temperature: 1.0, top_p, seed: 5 }, &logits, 2000);
            counts.into_iter().map(|c| c > 0).collect::<Vec<_>>()
        };
        assert_eq!(seen(0.4), [false, true, false, false]);
        assert_eq!(seen(0.51), [false, true, false, true]);
        // 3/4 and an eighth: of the two equals the lower number.
        assert_eq!(seen(0.8), [true, true, false, true]);
        assert_eq!(seen(1.0), [true; 4]);
    }

    #[test]
    fn a_tiny_temperature_is_greedy_and_bad_logits_are_named() {
        let s = Sampling { temperature: 1e-300, top_p: 1.0, seed: 0 };
        assert_eq!(draws(s, &[1.0, 2.0, 1.5], 20), [0, 20, 0]);
        let error = s.choose(&[0.0, f64::NAN], &mut Rng::new(0, 0)).unwrap_err().to_string();
        assert!(error.contains("token 1") && error.contains("NaN"), "{error}");
    }

    #[test]
    fn ranges_are_checked() {
        for (temperature, top_p) in
            [(-1.0, 1.0), (f64::NAN, 1.0), (f64::INFINITY, 1.0), (1.0, 0.0), (1.0, 1.1), (1.0, f64::NAN)]
        {
            assert!(Sampling { temperature, top_p, seed: 0 }.check().is_err(), "{temperature} {top_p}");
        }
        assert!(Sampling { temperature: 2.0, top_p: 1.0, seed: 0 }.check().is_ok());
    }
}
