//! Device memory between launches: allocations with guard gaps, which bytes were ever written, and host copies.
//!
//! A freed allocation leaves a tombstone, so that a later access is reported as use after free and not as a wild
//! pointer.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::types::GLOBAL_BASE;

/// Addresses are multiples of this, as CUDA promises.
const ALIGN: u64 = 256;
/// Unmapped bytes between allocations.
const GUARD: u64 = 4096;

pub(crate) struct Alloc {
    pub base: u64,
    pub data: Vec<u8>,
    /// One bit a byte, or `None` when every byte was written.
    pub init: Option<Vec<u64>>,
    pub len: u64,
    pub freed: bool,
}

impl Alloc {
    pub fn is_init(&self, off: usize, n: usize) -> bool {
        match &self.init {
            None => true,
            Some(bits) => (off..off + n).all(|i| bits[i >> 6] >> (i & 63) & 1 == 1),
        }
    }
    pub fn set_init(&mut self, off: usize, n: usize) {
        if n as u64 == self.len {
            self.init = None;
        }
        if let Some(bits) = &mut self.init {
            for i in off..off + n {
                bits[i >> 6] |= 1 << (i & 63);
            }
        }
    }
}

/// The memory of the simulated device.
///
/// ```
/// let mut mem = ptxsim::Memory::new();
/// let p = mem.upload(&[1.0f32, 2.0]);
/// assert_eq!(mem.download::<f32>(p, 2).unwrap(), [1.0, 2.0]);
/// ```
#[derive(Default)]
pub struct Memory {
    pub(crate) allocs: Vec<Alloc>,
    /// Addresses of the variables of each module, by module id.
    pub(crate) modules: HashMap<u64, Vec<u64>>,
    next: u64,
    live: u64,
}

/// Plain numbers that can be copied to and from device memory.
pub trait Element: Copy {
    /// Bytes of one element.
    const SIZE: usize;
    /// Appends the little-endian bytes.
    fn put(self, out: &mut Vec<u8>);
    /// Reads the little-endian bytes of one element.
    fn get(bytes: &[u8]) -> Self;
}

macro_rules! element {
    ($($t:ty),*) => {$(
        impl Element for $t {
            const SIZE: usize = size_of::<$t>();
            fn put(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn get(bytes: &[u8]) -> Self {
                let mut b = [0; size_of::<$t>()];
                b.copy_from_slice(&bytes[..size_of::<$t>()]);
                <$t>::from_le_bytes(b)
            }
        }
    )*};
}
element!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

impl Memory {
    /// Empty memory.
    pub fn new() -> Self {
        Memory { next: GLOBAL_BASE, ..Default::default() }
    }

    /// Reserves `bytes` bytes that count as uninitialised until someone writes them. Returns the device address.
    pub fn alloc(&mut self, bytes: usize) -> u64 {
        self.alloc_aligned(bytes, ALIGN)
    }

    pub(crate) fn alloc_aligned(&mut self, bytes: usize, align: u64) -> u64 {
        let base = self.next.next_multiple_of(align.max(ALIGN));
        let len = bytes as u64;
        self.next = base + len + GUARD;
        self.live += len;
        let init = Some(vec![0u64; bytes.div_ceil(64)]);
        self.allocs.push(Alloc { base, data: vec![0xff; bytes], init, len, freed: false });
        base
    }

    /// Allocates and fills with `values`.
    pub fn upload<T: Element>(&mut self, values: &[T]) -> u64 {
        let p = self.alloc(values.len() * T::SIZE);
        let mut bytes = Vec::with_capacity(values.len() * T::SIZE);
        values.iter().for_each(|v| v.put(&mut bytes));
        // A fresh allocation holds exactly these bytes.
        let _ = self.write(p, &bytes);
        p
    }

    /// Copies `n` elements back from `addr`.
    ///
    /// # Errors
    /// If the range does not lie inside one live allocation.
    pub fn download<T: Element>(&self, addr: u64, n: usize) -> Result<Vec<T>> {
        let bytes = self.read(addr, n.checked_mul(T::SIZE).ok_or_else(|| Error::memory("size overflows"))?)?;
        Ok(bytes.chunks_exact(T::SIZE).map(T::get).collect())
    }

    /// Writes bytes from the host.
    ///
    /// # Errors
    /// If the range does not lie inside one live allocation.
    pub fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<()> {
        let (i, off) = self.find(addr, bytes.len() as u64).map_err(Error::memory)?;
        let a = &mut self.allocs[i];
        a.data[off..off + bytes.len()].copy_from_slice(bytes);
        a.set_init(off, bytes.len());
        Ok(())
    }

    /// Reads bytes to the host.
    ///
    /// # Errors
    /// If the range does not lie inside one live allocation.
    pub fn read(&self, addr: u64, n: usize) -> Result<&[u8]> {
        let (i, off) = self.find(addr, n as u64).map_err(Error::memory)?;
        Ok(&self.allocs[i].data[off..off + n])
    }

    /// Frees an allocation by its first address.
    ///
    /// # Errors
    /// If `addr` is not the start of a live allocation.
    pub fn free(&mut self, addr: u64) -> Result<()> {
        let i = self.allocs.binary_search_by_key(&addr, |a| a.base).ok().filter(|i| !self.allocs[*i].freed);
        let Some(i) = i else { return Err(Error::memory(format!("free of {addr:#x}, which is no live allocation"))) };
        let a = &mut self.allocs[i];
        a.freed = true;
        a.data = Vec::new();
        a.init = None;
        self.live -= a.len;
        Ok(())
    }

    /// Bytes in live allocations.
    pub fn live_bytes(&self) -> u64 {
        self.live
    }

    /// The allocation that contains an address: its start and length.
    pub fn allocation(&self, addr: u64) -> Option<(u64, u64)> {
        let (i, _) = self.find(addr, 0).ok()?;
        Some((self.allocs[i].base, self.allocs[i].len))
    }

    /// Index and offset of an access, or what is wrong with it.
    pub(crate) fn find(&self, addr: u64, n: u64) -> std::result::Result<(usize, usize), String> {
        let i = self.allocs.partition_point(|a| a.base <= addr);
        let Some(a) = i.checked_sub(1).map(|i| &self.allocs[i]) else {
            return Err(format!("address {addr:#x} belongs to no allocation"));
        };
        let off = addr - a.base;
        if off.checked_add(n).is_some_and(|end| end <= a.len) && !(a.freed && n > 0) {
            return Ok((i - 1, off as usize));
        }
        Err(if a.freed && off < a.len {
            format!("use after free: address {addr:#x} is at offset {off} of a freed allocation of {} bytes", a.len)
        } else if off < a.len + GUARD {
            format!("{n} bytes at offset {off} of an allocation of {} bytes", a.len)
        } else {
            format!("address {addr:#x} belongs to no allocation")
        })
    }
}
