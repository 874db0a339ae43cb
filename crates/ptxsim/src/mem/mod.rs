//! Memory: device allocations as the host sees them, the view of one CTA during a launch, and the shadow that knows
//! who touched what.

pub(crate) mod device;
pub(crate) mod inter;
pub(crate) mod shadow;
pub(crate) mod view;
