//! Generation from a tiny model.

use serde_json::{Value, json};

use super::{Llama, tiny};
use crate::{Sampling, Stop, generate};

/// A model that never ends a text, and one greedy continuation of [3, 1] by its definition: full forward passes.
fn endless(changes: Value) -> (Llama, Vec<u32>) {
    let mut all = json!({"eos_token_id": null});
    all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let (model, _) = tiny(all);
    let mut ids = vec![3, 1];
    while ids.len() < 10 {
        let logits = model.forward(&model.ids(&ids, 1, ids.len()).unwrap()).unwrap().to_f64().unwrap();
        let last = &logits[(ids.len() - 1) * 11..];
        let best = (0..11).max_by(|&i, &j| last[i].total_cmp(&last[j])).unwrap();
        ids.push(best as u32);
    }
    (model, ids)
}

#[test]
fn greedy_is_the_largest_logit_each_time() {
    let (model, want) = endless(json!({}));
    let mut seen = Vec::new();
    let out = generate(&model, &want[..2], 8, &Sampling::default(), &mut |t| {
        seen.push(t);
        true
    })
    .unwrap();
    assert_eq!((&out.tokens[..], out.stop), (&want[2..], Stop::MaxNew));
    assert_eq!(seen, out.tokens);
    assert!(generate(&model, &want[..2], 0, &Sampling::default(), &mut |_| true).unwrap().tokens.is_empty());
}

#[test]
fn ends_by_eos_by_the_caller_and_by_positions() {
    let (_, want) = endless(json!({}));
    // Ended by the first token that the prompt and the text before it do not have.
    let end = (2..10).find(|&i| !want[2..i].contains(&want[i]) && i > 2).unwrap_or(2);
    let (model, _) = tiny(json!({"eos_token_id": [0, want[end]]}));
    let out = generate(&model, &want[..2], 8, &Sampling::default(), &mut |_| true).unwrap();
    let stop = want[2..].iter().position(|t| [0, want[end]].contains(t)).unwrap();
    assert_eq!((&out.tokens[..], out.stop), (&want[2..2 + stop], Stop::EndOfText));

    let (model, want) = endless(json!({}));
    let out = generate(&model, &want[..2], 8, &Sampling::default(), &mut |_| false).unwrap();
    assert_eq!((&out.tokens[..], out.stop), (&want[2..3], Stop::Caller));

    // Two for the prompt leave 14 positions; the token drawn at the last one needs none itself.
    let out = generate(&model, &want[..2], 100, &Sampling::default(), &mut |_| true).unwrap();
    assert_eq!((out.tokens.len(), out.stop), (15, Stop::Positions));
    let out = generate(&model, &[1; 16], 100, &Sampling::default(), &mut |_| true).unwrap();
    assert_eq!((out.tokens.len(), out.stop), (1, Stop::Positions));
    let out = generate(&model, &want[..2], 15, &Sampling::default(), &mut |_| true).unwrap();
    assert_eq!((out.tokens.len(), out.stop), (15, Stop::MaxNew));
}

#[test]
fn sampling_is_decided_by_its_seed() {
    let (model, _) = endless(json!({}));
    let run = |seed| {
        let sampling = Sampling { temperature: 1.5, top_p: 0.95, seed };
        generate(&model, &[3, 1], 12, &sampling, &mut |_| true).unwrap().tokens
    };
    assert_eq!(run(1), run(1));
    assert!((2..8).any(|seed| run(seed) != run(1)));
}

#[test]
fn wrong_prompts_are_refused() {
    let (model, _) = endless(json!({}));
    let message =
        |prompt: &[u32]| generate(&model, prompt, 1, &Sampling::default(), &mut |_| true).unwrap_err().to_string();
    assert!(message(&[]).contains("no tokens"));
    assert!(message(&[1; 17]).contains("17") && message(&[1; 17]).contains("16"));
    assert!(message(&[11]).contains("11"));
}
