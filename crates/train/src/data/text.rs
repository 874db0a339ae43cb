//! A running text: windows of its tokens.

use super::{DataOptions, Encode, Example, encode_checked};
use crate::{Error, Result};

/// Tokens of the whole text.
pub(super) fn tokens(file: &str, text: &str, encode: &Encode<'_>, options: &DataOptions) -> Result<Vec<u32>> {
    encode_checked(file, "", (text, false), encode, options)
}

/// The last tenth of the tokens is held out, in [`windows`]; training windows lie in the first nine tenths, one every
/// `seq_len` tokens, so that every token but the first is a target once.
pub(super) fn split(file: &str, tokens: &[u32], seq_len: usize) -> Result<(Vec<Example>, Vec<Example>)> {
    let (train, held_out) = tokens.split_at(tokens.len() - tokens.len() / 10);
    let valid = windows(held_out, seq_len);
    if train.len() <= seq_len || valid.is_empty() {
        // The least n with n − ⌊n/10⌋ > seq_len and ⌊n/10⌋ ≥ 2.
        let need = (20..).find(|n| n - n / 10 > seq_len).unwrap_or(usize::MAX);
        let detail =
            format!("{} tokens are too few for --seq-len {seq_len}, which needs {need}; lower it", tokens.len());
        return Err(Error::data(file, detail));
    }
    let train = train.windows(seq_len + 1).step_by(seq_len).map(Example::next_tokens).collect();
    Ok((train, valid))
}

/// Contiguous windows of `seq_len + 1` tokens that do not overlap; the last one may be shorter.
pub(super) fn windows(tokens: &[u32], seq_len: usize) -> Vec<Example> {
    tokens.chunks(seq_len + 1).filter(|window| window.len() > 1).map(Example::next_tokens).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_do_not_overlap_and_nothing_leaks() {
        let tokens: Vec<u32> = (0..100).collect();
        let (train, valid) = split("f", &tokens, 4).unwrap();
        // 90 tokens to train on: windows start at 0, 4, … 84; 85..=88 + target 89 does not fit a start at 88.
        assert_eq!(train.len(), 22);
        assert_eq!(train[1], Example { ids: vec![4, 5, 6, 7], targets: vec![5, 6, 7, 8] });
        assert_eq!(train[21].targets.last(), Some(&88));
        // 10 held out: two windows of 5; with 4 tokens a window also a rest of two, with 3 a rest that predicts nothing.
        assert_eq!((valid.len(), windows(&tokens[90..], 3).len(), windows(&tokens[90..], 2).len()), (2, 3, 3));
        assert_eq!(valid[0], Example { ids: vec![90, 91, 92, 93], targets: vec![91, 92, 93, 94] });
        assert_eq!(valid[1].ids[0], 95);
    }

    #[test]
    fn a_short_held_out_part_is_one_window() {
        let tokens: Vec<u32> = (0..40).collect();
        let (_, valid) = split("f", &tokens, 8).unwrap();
        assert_eq!(valid, vec![Example { ids: vec![36, 37, 38], targets: vec![37, 38, 39] }]);
    }

    #[test]
    fn the_least_length_is_named_rightly() {
        for seq_len in [1, 4, 17, 18, 19, 128] {
            let message = split("f", &[0; 3], seq_len).unwrap_err().to_string();
            let need: usize = message.split("needs ").nth(1).unwrap().split(';').next().unwrap().parse().unwrap();
            assert!(split("f", &vec![0; need], seq_len).is_ok(), "{message}");
            assert!(split("f", &vec![0; need - 1], seq_len).is_err(), "{message}");
        }
    }
}
