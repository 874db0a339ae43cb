//! Which layers an adapter goes on.
//!
//! The rules of matching are PEFT's ([`Matcher`]). What is stricter here: [`select`] refuses a pattern that matches
//! nothing, or only a part of a block family, because such a slip otherwise trains in silence.

mod matcher;
mod pattern;
mod strict;

pub(crate) use matcher::{Lookup, Matcher};
pub(crate) use strict::families;

use crate::host::Info;
use crate::{LoraConfig, Result};

/// Layers chosen by a configuration, in the host's order.
pub(crate) struct Selection {
    /// They get a pair.
    pub targeted: Vec<Info>,
    /// They are trained whole.
    pub saved: Vec<Info>,
}

/// What the configuration chooses. With `strict`, every part of it must choose something, and no part of a block
/// family is left out unless it says so; without, only what could not work at all is refused (PEFT's own measure).
pub(crate) fn select(infos: &[Info], config: &LoraConfig, strict: bool) -> Result<Selection> {
    let matcher = Matcher::new(config)?;
    let selection = Selection {
        targeted: infos.iter().filter(|m| matcher.selects(m)).cloned().collect(),
        saved: infos.iter().filter(|m| matcher.saves(&m.name)).cloned().collect(),
    };
    strict::possible(&selection, config)?;
    if strict {
        strict::everything_matches(&matcher, infos, &selection, config)?;
        strict::whole_families(&matcher, infos, &selection, config)?;
    }
    Ok(selection)
}

#[cfg(test)]
mod tests;
