//! Hashes of tensors, to see that two are the same to the bit: of a base before and after a swap, of an adapter trained
//! alone and in a sweep.
//!
//! FNV-1a of 64 bits: it tells things apart, it does not resist someone who wants two to look the same.

use lowrank_core::Tensor;

use crate::scalar::host_bytes;
use crate::{Adapter, Host, Result};

/// Of names, dtypes, shapes and elements, in the order given. Waits for the device.
pub fn tensors<'a>(list: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<u64> {
    let mut hash = Fnv::default();
    for (name, tensor) in list {
        hash.eat(name.as_bytes());
        hash.eat(tensor.dtype().name().as_bytes());
        tensor.shape().iter().for_each(|&n| hash.eat(&(n as u64).to_le_bytes()));
        hash.eat(&host_bytes(tensor)?);
    }
    Ok(hash.0)
}

/// Of the weights that a host computes with: merged ones and whole copies in place of the base's; pairs beside them not.
pub fn weights(host: &dyn Host) -> Result<u64> {
    let mut list = Vec::new();
    host.visit(&mut |m| list.extend(m.parameters()));
    tensors(list.iter().map(|(name, t)| (name.as_str(), t)))
}

impl Adapter {
    /// Hash of all of its tensors in the form that is saved by default: [`Adapter::plain`].
    pub fn hash(&self) -> Result<u64> {
        let list = self.plain()?.tensors();
        tensors(list.iter().map(|(name, t)| (name.as_str(), t)))
    }
}

pub(crate) struct Fnv(pub u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    pub fn eat(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.0 = (self.0 ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use lowrank_core::DType;

    use super::*;
    use crate::testing::Tiny;
    use crate::{Adapters, Init, LoraConfig, detach, merge, unmerge};

    /// FNV-1a of "a" and "foobar", from its authors' test vectors.
    #[test]
    fn fnv() {
        for (text, want) in [("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8u64)] {
            let mut hash = Fnv::default();
            hash.eat(text.as_bytes());
            assert_eq!(hash.0, want);
        }
    }

    /// Swaps and merges in any order, on every storage type of the weights.
    #[test]
    fn swaps_and_unmerging_leave_the_bits() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let mut host = Tiny::new(dtype);
            let before = weights(&host).unwrap();
            let mut all = Adapters::new();
            for (i, targets) in ["q_proj", "all-linear", "v_proj,embed_tokens"].into_iter().enumerate() {
                let config =
                    LoraConfig { targets: targets.parse().unwrap(), init: Init::BothRandom, ..LoraConfig::default() };
                all.insert(Adapter::create(&host, &format!("a{i}"), config, i as u64).unwrap()).unwrap();
            }
            let hashes: Vec<u64> = (0..3).map(|i| all.get(&format!("a{i}")).unwrap().hash().unwrap()).collect();
            assert!(hashes[0] != hashes[1] && hashes[1] != hashes[2]);
            for i in [0, 1, 2, 1, 0, 2] {
                all.activate(&mut host, &format!("a{i}")).unwrap();
                assert_eq!(weights(&host).unwrap(), before);
                merge(&mut host).unwrap();
                assert_ne!(weights(&host).unwrap(), before);
                unmerge(&mut host).unwrap();
                assert_eq!(weights(&host).unwrap(), before);
                assert_eq!(all.get(&format!("a{i}")).unwrap().hash().unwrap(), hashes[i]);
            }
            merge(&mut host).unwrap();
            detach(&mut host);
            assert_eq!(weights(&host).unwrap(), before);
        }
    }
}
