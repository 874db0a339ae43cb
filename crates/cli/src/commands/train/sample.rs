//! What the model writes before and after.

use lowrank_core::IGNORE;
use lowrank_models::{Llama, Sampling, Tokenizer, generate};
use lowrank_train::Example;

use crate::failure::Result;

/// Tokens of a sample, and of its prompt where the data does not set one.
const SAMPLE: usize = 48;
const PROMPT: usize = 24;

/// The start of a held-out example: up to the first counted target, or a line or two of a text.
pub fn prompt(valid: &[Example], positions: usize) -> &[u32] {
    let Some(example) = valid.first() else { return &[] };
    let given = 1 + example.targets.iter().position(|&t| t != IGNORE).unwrap_or(0);
    let length = if given > 1 { given } else { PROMPT.min(example.ids.len().div_ceil(2)) };
    // The end of a prompt that would leave no room.
    let start = (length + SAMPLE).saturating_sub(positions).min(length - 1);
    &example.ids[start..length]
}

/// A continuation of the prompt, drawn with a fixed seed.
pub fn sample(model: &Llama, tokenizer: &Tokenizer, prompt: &[u32]) -> Result<String> {
    let sampling = Sampling { temperature: 0.8, top_p: 0.95, seed: 0 };
    let tokens = generate(model, prompt, SAMPLE, &sampling, &mut |_| true)?.tokens;
    let all: Vec<u32> = prompt.iter().chain(&tokens).copied().collect();
    // Decoded together, as a token's text can depend on what stands before it.
    let (all, prompt) = (tokenizer.decode(&all)?, tokenizer.decode(prompt)?);
    Ok(all.get(prompt.len()..).unwrap_or("").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_end_where_targets_start() {
        let text = Example { ids: (0..100).collect(), targets: (1..101).collect() };
        assert_eq!(prompt(std::slice::from_ref(&text), 128).len(), PROMPT);
        assert_eq!(prompt(&[text], 60), (12..24).collect::<Vec<u32>>());
        let pair = Example { ids: vec![5, 6, 7, 8], targets: vec![IGNORE, IGNORE, 8, 9] };
        assert_eq!(prompt(&[pair], 128), [5, 6, 7]);
    }
}
