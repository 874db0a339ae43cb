//! PEFT's rules: exclude first, then modules_to_save, then targets, then the numbers of blocks.

use regex::Regex;

use super::pattern::{Pattern, entry_matches, regex};
use crate::host::Info;
use crate::{Kind, LoraConfig, Result};

/// A configuration's patterns, compiled.
pub(crate) struct Matcher {
    pub(super) targets: Pattern,
    pub(super) exclude: Option<Pattern>,
    saved: Vec<String>,
    pub(super) layers: Option<Layers>,
}

/// The filter on numbers of blocks.
pub(crate) struct Layers {
    pub(super) numbers: Vec<usize>,
    /// Each with the pattern it is made of, and the number as the group `number`.
    pub(super) patterns: Vec<(String, Regex)>,
}

impl Matcher {
    pub(crate) fn new(config: &LoraConfig) -> Result<Self> {
        config.validate()?;
        let numbers = config.layers_to_transform.clone().unwrap_or_default();
        let layers = if numbers.is_empty() { None } else { Some(Layers::new(numbers, config)?) };
        let exclude = match &config.exclude {
            Some(e) => Some(Pattern::new("exclude_modules", e)?),
            None => None,
        };
        let targets = Pattern::new("target_modules", &config.targets)?;
        Ok(Matcher { targets, exclude, saved: config.modules_to_save.clone(), layers })
    }

    pub(crate) fn selects(&self, m: &Info) -> bool {
        if !self.eligible(&m.name) {
            return false;
        }
        match &self.targets {
            Pattern::AllLinear => m.kind == Kind::Linear && !m.head,
            Pattern::Regex(regex) => regex.is_match(&m.name),
            Pattern::List(list) => list.iter().any(|entry| self.entry_selects(entry, &m.name)),
        }
    }

    /// Whether one entry of a list selects an eligible name. An entry equal to the name is not filtered by number.
    pub(super) fn entry_selects(&self, entry: &str, name: &str) -> bool {
        entry == name
            || entry_matches(entry, name)
                && self.layers.as_ref().is_none_or(|l| l.number(name).is_some_and(|n| l.numbers.contains(&n)))
    }

    /// Neither excluded nor saved whole.
    pub(super) fn eligible(&self, name: &str) -> bool {
        !self.excludes(name) && !self.saved.iter().any(|s| inside(s, name))
    }

    pub(super) fn excludes(&self, name: &str) -> bool {
        match &self.exclude {
            None | Some(Pattern::AllLinear) => false,
            Some(Pattern::Regex(regex)) => regex.is_match(name),
            Some(Pattern::List(list)) => list.iter().any(|entry| entry_matches(entry, name)),
        }
    }

    /// Whether modules_to_save asks for this module: any end of a name will do, dot or not.
    pub(crate) fn saves(&self, name: &str) -> bool {
        self.saved.iter().any(|end| !end.is_empty() && name.ends_with(end.as_str()))
    }
}

impl Layers {
    fn new(numbers: Vec<usize>, config: &LoraConfig) -> Result<Self> {
        let mut patterns = Vec::new();
        let given = config.layers_pattern.clone().unwrap_or_default();
        let any = given.is_empty().then(|| "[^.]*".to_string());
        for pattern in given.into_iter().chain(any) {
            // Lazily: the first numbered part is the block, later ones are experts and the like.
            let regex = regex("layers_pattern", &pattern, |p| format!(r"\A.*?\.(?:{p})\.(?P<number>\d+)\."))?;
            patterns.push((pattern, regex));
        }
        Ok(Layers { numbers, patterns })
    }

    /// The number of the block that a module is in, by the first pattern that matches.
    pub(super) fn number(&self, name: &str) -> Option<usize> {
        let captures = self.patterns.iter().find_map(|(_, regex)| regex.captures(name))?;
        captures["number"].parse().ok()
    }
}

/// Whether `module` is, or lies in, a module whose name ends in `entry` from a dot on.
fn inside(entry: &str, module: &str) -> bool {
    let ends = module.match_indices('.').map(|(i, _)| i).chain([module.len()]);
    ends.into_iter().any(|end| entry_matches(entry, &module[..end]))
}

/// The keys of rank_pattern or alpha_pattern, compiled.
pub(crate) struct Lookup<'m, T>(Vec<(&'m str, Regex, T)>);

impl<'m, T: Copy> Lookup<'m, T> {
    /// Keys match the end of a name, as `re.match("(.*\.)?(KEY)$", name)` does.
    pub(crate) fn new(field: &str, entries: impl IntoIterator<Item = (&'m String, &'m T)>) -> Result<Self>
    where
        T: 'm,
    {
        let mut list = Vec::new();
        for (key, &value) in entries {
            list.push((key.as_str(), regex(field, key, |k| format!(r"\A(?:.*\.)?(?:{k})\z"))?, value));
        }
        Ok(Lookup(list))
    }

    /// The value of the first key that matches. The order of a configuration is the sorted one, as in PEFT's files.
    pub(crate) fn get(&self, name: &str) -> Option<T> {
        self.0.iter().find(|(_, regex, _)| regex.is_match(name)).map(|&(_, _, value)| value)
    }

    /// The first key that matches none of these names.
    pub(crate) fn unused<'n>(&self, names: impl Iterator<Item = &'n str> + Clone) -> Option<&'m str> {
        self.0.iter().find(|(_, regex, _)| !names.clone().any(|n| regex.is_match(n))).map(|&(key, _, _)| key)
    }
}
