//! Token numbers on their way to a device, checked on the host: a device that must not wait cannot report a bad one.

use lowrank_backend::{Error, IGNORE, Result};

use crate::{Device, Tensor};

impl Tensor {
    /// Ids of an embedding with `limit` rows, as u32 of `shape`. An id that is not below `limit` is an error.
    pub fn ids(ids: &[u32], shape: &[usize], limit: usize, device: &Device) -> Result<Tensor> {
        checked("ids", ids, shape, limit, false, device)
    }

    /// Targets of a cross entropy over `limit` classes, as u32 of `shape`; [`IGNORE`] is
    /// allowed. Another target that is not below `limit` is an error.
    pub fn targets(targets: &[u32], shape: &[usize], limit: usize, device: &Device) -> Result<Tensor> {
        checked("targets", targets, shape, limit, true, device)
    }
}

fn checked(
    op: &'static str,
    ids: &[u32],
    shape: &[usize],
    limit: usize,
    ignore: bool,
    device: &Device,
) -> Result<Tensor> {
    // IGNORE is refused where it is not allowed even if the limit were above it.
    let bad = |&id: &u32| if id == IGNORE { !ignore } else { id as usize >= limit };
    if let Some(at) = ids.iter().position(bad) {
        return Err(Error::invalid(op, format!("number {at} is {}, not below {limit}", ids[at])));
    }
    Tensor::from_slice(ids, shape, device)
}
