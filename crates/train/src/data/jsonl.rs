//! JSON lines: one document a line.

use lowrank_core::IGNORE;
use lowrank_core::philox::Rng;
use serde_json::Value;

use super::{DataOptions, Encode, Example, encode_checked};
use crate::{Error, Result};

/// Stream of the seed's random numbers that the split uses.
const SPLIT: u32 = 0x5350_4c49;

pub(super) struct Documents {
    pub examples: Vec<Example>,
    pub cut: usize,
    pub dropped: usize,
}

/// One example a document. A document longer than `seq_len + 1` tokens loses its end.
pub(super) fn documents(file: &str, text: &str, encode: &Encode<'_>, options: &DataOptions) -> Result<Documents> {
    let mut documents = Documents { examples: Vec::new(), cut: 0, dropped: 0 };
    for (number, line) in text.lines().enumerate().map(|(i, line)| (i + 1, line)) {
        if line.trim().is_empty() {
            continue;
        }
        let place = format!("line {number}: ");
        let (prompt, completion) = parse(line).map_err(|detail| Error::data(file, format!("{place}{detail}")))?;
        let mut tokens = Vec::new();
        if let Some(prompt) = &prompt {
            tokens = encode_checked(file, &place, (prompt, true), encode, options)?;
            // A tokenizer that ends every text: the text does not end here.
            if !tokens.is_empty() && tokens.last() == options.eos.as_ref() {
                tokens.pop();
            }
        }
        let ignored = tokens.len();
        tokens.extend(encode_checked(file, &place, (&completion, prompt.is_none()), encode, options)?);
        if let Some(eos) = options.eos
            && tokens.last() != Some(&eos)
        {
            tokens.push(eos);
        }
        if tokens.len() > options.seq_len + 1 {
            tokens.truncate(options.seq_len + 1);
            documents.cut += 1;
        }
        // Token i is the target of position i − 1.
        if tokens.len() <= ignored.max(1) {
            documents.dropped += 1;
            continue;
        }
        let mut example = Example::next_tokens(&tokens);
        example.targets[..ignored.saturating_sub(1)].fill(IGNORE);
        documents.examples.push(example);
    }
    Ok(documents)
}

/// Prompt, if there is one, and what follows it.
fn parse(line: &str) -> Result<(Option<String>, String), String> {
    let value: Value = serde_json::from_str(line).map_err(|e| {
        // serde_json counts lines inside this one line: keep its column only.
        let text = e.to_string();
        format!("column {}: not valid JSON: {}", e.column(), text.split(" at line ").next().unwrap_or(&text))
    })?;
    let Value::Object(object) = value else { return Err("not a JSON object".into()) };
    let field = |name: &str| match object.get(name) {
        None => Ok(None),
        Some(Value::String(s)) => Ok(Some(s.clone())),
        Some(_) => Err(format!("field `{name}` is not a string")),
    };
    let filled = |name: &str, s: String| if s.is_empty() { Err(format!("field `{name}` is empty")) } else { Ok(s) };
    match (field("text")?, field("prompt")?, field("completion")?) {
        (Some(text), None, None) => Ok((None, filled("text", text)?)),
        (Some(_), ..) => Err("field `text` together with `prompt` or `completion`; give one or the other".into()),
        (None, Some(prompt), Some(completion)) => Ok((Some(prompt), filled("completion", completion)?)),
        (None, Some(_), None) => Err("field `completion` is missing".into()),
        (None, None, Some(_)) => Err("field `prompt` is missing".into()),
        (None, None, None) => Err("field `text` is missing (or `prompt` and `completion`)".into()),
    }
}

/// Holds out a tenth of the documents, at least one, chosen by the seed.
pub(super) fn split(file: &str, examples: Vec<Example>, seed: u64) -> Result<(Vec<Example>, Vec<Example>)> {
    if examples.len() < 2 {
        let detail = format!("{} usable documents; at least 2 are needed, as one is held out", examples.len());
        return Err(Error::data(file, detail));
    }
    let mut order: Vec<usize> = (0..examples.len()).collect();
    Rng::new(seed, SPLIT).shuffle(&mut order);
    let mut held_out = vec![false; examples.len()];
    for &i in &order[..(examples.len() / 10).max(1)] {
        held_out[i] = true;
    }
    let (valid, train): (Vec<_>, Vec<_>) = examples.into_iter().zip(held_out).partition(|(_, held_out)| *held_out);
    let strip = |part: Vec<(Example, bool)>| part.into_iter().map(|(example, _)| example).collect();
    Ok((strip(train), strip(valid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: DataOptions = DataOptions { seq_len: 6, seed: 1, eos: Some(0), vocab_size: 256 };

    fn bytes(text: &str, _: bool) -> lowrank_lora::Result<Vec<u32>> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn read(text: &str) -> Documents {
        documents("f", text, &bytes, &OPTIONS).unwrap()
    }

    #[test]
    fn the_loss_is_on_the_completion_only() {
        let d = read(r#"{"prompt":"ab","completion":"cd"}"#);
        let [a, b, c, d4] = [97, 98, 99, 100];
        assert_eq!(d.examples, vec![Example { ids: vec![a, b, c, d4], targets: vec![IGNORE, c, d4, 0] }]);
        assert_eq!(d.examples[0].counted(), 3);
    }

    #[test]
    fn a_text_counts_whole() {
        let d = read("{\"text\":\"abc\"}\n\n{\"prompt\":\"\",\"completion\":\"a\"}");
        assert_eq!(d.examples[0], Example { ids: vec![97, 98, 99], targets: vec![98, 99, 0] });
        assert_eq!(d.examples[1], Example { ids: vec![97], targets: vec![0] });
    }

    #[test]
    fn long_documents_are_cut_and_counted() {
        let d =
            read("{\"text\":\"abcdefghij\"}\n{\"prompt\":\"abcdefghij\",\"completion\":\"k\"}\n{\"text\":\"abcdef\"}");
        assert_eq!((d.cut, d.dropped, d.examples.len()), (2, 1, 2));
        assert_eq!(d.examples[0].ids.len(), 6);
        assert_eq!(d.examples[1].targets, vec![98, 99, 100, 101, 102, 0]);
    }

    #[test]
    fn special_tokens_stand_at_the_ends_only() {
        // A tokenizer that puts 1 before and 0 after every text.
        let special = |text: &str, add: bool| {
            let mut ids: Vec<u32> = text.bytes().map(u32::from).collect();
            if add {
                ids.insert(0, 1);
                ids.push(0);
            }
            Ok(ids)
        };
        let text = "{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"text\":\"a\"}";
        let d = documents("f", text, &special, &OPTIONS).unwrap();
        assert_eq!(d.examples[0], Example { ids: vec![1, 97, 98], targets: vec![IGNORE, 98, 0] });
        assert_eq!(d.examples[1], Example { ids: vec![1, 97], targets: vec![97, 0] });
    }

    #[test]
    fn bad_lines_name_line_and_field() {
        let error = |text: &str| documents("f", text, &bytes, &OPTIONS).err().map(|e| e.to_string()).unwrap();
        assert_eq!(error("{\"text\":\"a\"}\n{\"text\":1}"), "f: line 2: field `text` is not a string");
        assert_eq!(error("{\"prompt\":\"a\"}"), "f: line 1: field `completion` is missing");
        assert_eq!(error("{\"prompt\":\"a\",\"completion\":\"\"}"), "f: line 1: field `completion` is empty");
        assert_eq!(error("[1]"), "f: line 1: not a JSON object");
        assert!(
            error("{\"text\": }").starts_with("f: line 1: column 10: not valid JSON: "),
            "{}",
            error("{\"text\": }")
        );
    }

    #[test]
    fn the_split_is_seeded_and_complete() {
        let all: Vec<Example> = (0..25).map(|i| Example { ids: vec![i], targets: vec![i] }).collect();
        let (train, valid) = split("f", all.clone(), 3).unwrap();
        assert_eq!((train.len(), valid.len()), (23, 2));
        let mut ids: Vec<u32> = train.iter().chain(&valid).map(|e| e.ids[0]).collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..25).collect::<Vec<u32>>());
        assert_eq!(split("f", all.clone(), 3).unwrap().1, valid);
        assert!((4..20).any(|seed| split("f", all.clone(), seed).unwrap().1 != valid));
        assert!(split("f", all[..1].to_vec(), 0).is_err());
    }
}
