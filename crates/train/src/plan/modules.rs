//! Which modules are adapted, by family: the same place in every block.

use lowrank_lora::{Adapter, Host, Kind};
use serde::Serialize;

/// Modules that differ in their block's number only, and are treated alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Family {
    /// The name with `*` for the number: `model.layers.*.self_attn.q_proj`.
    pub name: String,
    /// `linear`, `embedding` or `norm`.
    pub kind: String,
    /// Modules.
    pub count: usize,
    /// Shape of each one's weight.
    pub shape: Vec<usize>,
    /// Rank of each one's pair, or width of its bottleneck; none where there is neither.
    pub rank: Option<usize>,
    /// Whether its weight is trained and saved whole.
    pub whole: bool,
    /// Numbers trained in all of them.
    pub trainable: usize,
}

impl Family {
    /// Whether anything of it is trained.
    pub fn matched(&self) -> bool {
        self.trainable > 0 || self.rank.is_some()
    }

    fn like(&self, other: &Family) -> bool {
        (&self.name, &self.shape, self.rank, self.whole) == (&other.name, &other.shape, other.rank, other.whole)
    }
}

/// Every module of the host, in families, in the host's order. Blocks that are adapted otherwise are a family of their
/// own.
pub fn families(host: &dyn Host, adapter: &Adapter) -> Vec<Family> {
    let mut list: Vec<Family> = Vec::new();
    host.visit(&mut |m| {
        let name = m.name();
        let pair = adapter.layers.get(name);
        let of = |part: &str| {
            let key = format!("{name}.{part}");
            adapter.saved.get(&key).or(adapter.biases.get(&key)).map_or(0, |t| t.len())
        };
        let parts = pair.map_or_else(Vec::new, |p| [Some(&p.a), Some(&p.b), p.magnitude.as_ref()].into());
        let bottleneck = adapter.bottlenecks.get(name);
        let behind = bottleneck.into_iter().flat_map(|b| b.tensors().map(|(_, t)| t));
        let trained = parts.into_iter().flatten().chain(behind).filter(|t| t.requires_grad());
        let pair_len: usize = trained.map(|t| t.len()).sum();
        let new = Family {
            name: star(name),
            kind: m.kind().to_string(),
            count: 1,
            shape: m.base_tensors().next().map_or_else(Vec::new, |t| t.shape().to_vec()),
            rank: pair.map(|p| p.rank).or(bottleneck.map(|b| b.width())),
            whole: adapter.saved.contains_key(&format!("{name}.weight")),
            trainable: pair_len + of("weight") + of("bias"),
        };
        match list.iter_mut().find(|f| f.like(&new)) {
            Some(f) => {
                f.count += 1;
                f.trainable += new.trainable;
            }
            None => list.push(new),
        }
    });
    // A norm that is not trained is no missed chance: pairs do not go on norms.
    list.retain(|f| f.matched() || f.kind != Kind::Norm.to_string());
    list
}

fn star(name: &str) -> String {
    let part =
        |p: &str| if !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) { "*".into() } else { p.to_string() };
    name.split('.').map(part).collect::<Vec<_>>().join(".")
}
