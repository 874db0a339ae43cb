//! What is refused: patterns without effect, block families matched in part, and layers that cannot carry a pair.

use std::collections::{BTreeMap, BTreeSet};

use super::Selection;
use super::matcher::{Lookup, Matcher};
use super::pattern::{Pattern, entry_matches};
use crate::host::Info;
use crate::{Error, Kind, LoraConfig, Result};

/// No norms among the targets, no module both targeted and saved.
pub(super) fn possible(selection: &Selection, config: &LoraConfig) -> Result<()> {
    if let Some(norm) = selection.targeted.iter().find(|m| m.kind == Kind::Norm) {
        return Err(Error::targets(format!(
            "target_modules: {} selects `{}`, which is a norm; pairs go on linear layers and embeddings",
            config.targets, norm.name
        )));
    }
    let saved: BTreeSet<&str> = selection.saved.iter().map(|m| m.name.as_str()).collect();
    if let Some(both) = selection.targeted.iter().find(|m| saved.contains(m.name.as_str())) {
        return Err(Error::targets(format!("modules_to_save: `{}` is a target as well", both.name)));
    }
    Ok(())
}

/// Every entry, pattern and number has an effect.
pub(super) fn everything_matches(
    matcher: &Matcher,
    infos: &[Info],
    selection: &Selection,
    config: &LoraConfig,
) -> Result<()> {
    let names = || infos.iter().map(|m| m.name.as_str());
    let nothing = |field: &str, what: &str, why: &str| {
        Err(Error::targets(format!("{field}: {what} matches no {why}; there are {}", families(infos))))
    };
    match &matcher.exclude {
        Some(Pattern::Regex(_)) if !names().any(|n| matcher.excludes(n)) => {
            return nothing("exclude_modules", "the regular expression", "module");
        }
        Some(Pattern::List(list)) => {
            if let Some(entry) = list.iter().find(|e| !names().any(|n| entry_matches(e, n))) {
                return nothing("exclude_modules", &format!("`{entry}`"), "module");
            }
        }
        _ => {}
    }
    for entry in &config.modules_to_save {
        if entry.is_empty() || !names().any(|n| n.ends_with(entry.as_str())) {
            return nothing("modules_to_save", &format!("`{entry}`"), "module");
        }
    }
    layers(matcher, infos)?;
    match &matcher.targets {
        Pattern::List(list) => {
            let hit = |entry: &str| names().any(|n| matcher.eligible(n) && matcher.entry_selects(entry, n));
            if let Some(entry) = list.iter().find(|e| !hit(e)) {
                let why = if names().any(|n| entry_matches(entry, n)) {
                    "module that is not excluded, saved whole or in another layer"
                } else {
                    "module"
                };
                return nothing("target_modules", &format!("`{entry}`"), why);
            }
            if list.is_empty() {
                return Err(Error::targets(format!("target_modules: no targets; there are {}", families(infos))));
            }
        }
        _ if selection.targeted.is_empty() => {
            return nothing(
                "target_modules",
                &config.targets.to_string(),
                "module that is not excluded or saved whole",
            );
        }
        _ => {}
    }
    let targets = selection.targeted.iter().map(|m| m.name.as_str());
    let ranks = Lookup::new("rank_pattern", &config.rank_pattern)?.unused(targets.clone());
    let alphas = Lookup::new("alpha_pattern", &config.alpha_pattern)?.unused(targets);
    for (field, unused) in [("rank_pattern", ranks), ("alpha_pattern", alphas)] {
        if let Some(key) = unused {
            let detail = format!("{field}: `{key}` matches no target; targeted are {}", families(&selection.targeted));
            return Err(Error::targets(detail));
        }
    }
    Ok(())
}

/// Every number and every pattern of layers_to_transform meets a target.
fn layers(matcher: &Matcher, infos: &[Info]) -> Result<()> {
    let (Some(layers), Pattern::List(list)) = (&matcher.layers, &matcher.targets) else { return Ok(()) };
    let wanted = |m: &&Info| matcher.eligible(&m.name) && list.iter().any(|e| entry_matches(e, &m.name));
    let found: BTreeSet<usize> = infos.iter().filter(wanted).filter_map(|m| layers.number(&m.name)).collect();
    for number in &layers.numbers {
        if !found.contains(number) {
            let have = join(found.iter().map(usize::to_string));
            let detail =
                format!("layers_to_transform: no target in layer {number}; there are targets in layers {have}");
            return Err(Error::targets(detail));
        }
    }
    for (pattern, regex) in &layers.patterns {
        if !infos.iter().any(|m| regex.is_match(&m.name)) {
            let detail = format!("layers_pattern: `{pattern}` matches no module; there are {}", families(infos));
            return Err(Error::targets(detail));
        }
    }
    Ok(())
}

/// A block family is targeted in all its layers, unless the configuration names the layers or allows a part.
pub(super) fn whole_families(
    matcher: &Matcher,
    infos: &[Info],
    selection: &Selection,
    config: &LoraConfig,
) -> Result<()> {
    if config.allow_partial || matcher.layers.is_some() {
        return Ok(());
    }
    let targeted: BTreeSet<&str> = selection.targeted.iter().map(|m| m.name.as_str()).collect();
    let mut members: BTreeMap<String, (Vec<&str>, Vec<&str>)> = BTreeMap::new();
    // What is excluded by name is left out knowingly.
    for m in infos.iter().filter(|m| m.kind != Kind::Norm && matcher.eligible(&m.name)) {
        let (with, without) = members.entry(family(&m.name)).or_default();
        if targeted.contains(m.name.as_str()) { with.push(&m.name) } else { without.push(&m.name) }
    }
    for (family, (with, without)) in members {
        if !with.is_empty() && !without.is_empty() {
            return Err(Error::targets(format!(
                "target_modules: {} matches only some of {family}: matched {}; not matched {}; name the layers with \
                 layers_to_transform, or allow a partial match",
                config.targets,
                with.join(", "),
                without.join(", ")
            )));
        }
    }
    Ok(())
}

/// A name with its numbers replaced: `model.layers.*.mlp.up_proj`.
fn family(name: &str) -> String {
    let star = |part: &'_ str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    join_with(name.split('.').map(|part| if star(part) { "*" } else { part }.to_string()), ".")
}

/// What exists, by family: `lm_head, model.layers.*.mlp.up_proj (4)`.
pub(crate) fn families(infos: &[Info]) -> String {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for m in infos {
        *count.entry(family(&m.name)).or_default() += 1;
    }
    if count.is_empty() {
        return "none".to_string();
    }
    join(count.into_iter().map(|(family, n)| if n == 1 { family } else { format!("{family} ({n})") }))
}

fn join(items: impl Iterator<Item = String>) -> String {
    join_with(items, ", ")
}

fn join_with(items: impl Iterator<Item = String>, separator: &str) -> String {
    items.collect::<Vec<_>>().join(separator)
}
