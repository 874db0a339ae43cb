//! A thread's tiles, and what instructions do to them.
//!
//! What the processor refuses is an error here: the text that the handler writes before the process dies.

/// Tiles of palette 1: 8 of 16 rows of 64 bytes.
const TILES: usize = 8;
const ROWS: usize = 16;
const ROW: usize = 64;

/// Why an instruction cannot be executed.
pub(crate) type Fault = &'static str;

/// What TILECFG and TILEDATA hold.
pub(crate) struct State {
    configured: bool,
    rows: [u8; TILES],
    /// Bytes of a row.
    width: [u8; TILES],
    data: [[[u8; ROW]; ROWS]; TILES],
}

impl State {
    /// As a thread starts.
    pub(crate) const fn new() -> Self {
        State { configured: false, rows: [0; TILES], width: [0; TILES], data: [[[0; ROW]; ROWS]; TILES] }
    }

    /// TILERELEASE.
    pub(crate) fn release(&mut self) {
        *self = State::new();
    }

    /// LDTILECFG: byte 0 the palette, 1 the start row, 16 … 31 bytes per row, 48 … 55 rows; all others zero.
    pub(crate) fn configure(&mut self, config: &[u8; 64]) -> Result<(), Fault> {
        self.release();
        match config[0] {
            0 => return Ok(()),
            1 => {}
            _ => return Err("ldtilecfg: no such palette"),
        }
        // A start row other than 0 is for resuming a load that faulted, which does not happen here.
        let zero = |range: std::ops::Range<usize>| config[range].iter().all(|&x| x == 0);
        if !(zero(1..16) && zero(32..48) && zero(56..64)) {
            return Err("ldtilecfg: reserved bytes are not zero");
        }
        for t in 0..TILES {
            let (width, rows) = (u16::from_le_bytes([config[16 + 2 * t], config[17 + 2 * t]]), config[48 + t]);
            if usize::from(width) > ROW || usize::from(rows) > ROWS || (width == 0) != (rows == 0) {
                return Err("ldtilecfg: a tile's shape is impossible");
            }
            (self.width[t], self.rows[t]) = (width as u8, rows);
        }
        self.configured = true;
        Ok(())
    }

    /// Rows and bytes per row of a tile that may be used.
    fn shape(&self, tile: usize) -> Result<(usize, usize), Fault> {
        match (self.configured, self.rows[tile]) {
            (true, 1..) => Ok((usize::from(self.rows[tile]), usize::from(self.width[tile]))),
            _ => Err("a tile is not configured"),
        }
    }

    /// TILEZERO.
    pub(crate) fn zero(&mut self, tile: usize) -> Result<(), Fault> {
        self.shape(tile)?;
        self.data[tile] = [[0; ROW]; ROWS];
        Ok(())
    }

    /// TILELOADD, TILELOADDT1.
    ///
    /// # Safety
    /// The rows, `stride` bytes apart, are readable.
    pub(crate) unsafe fn load(&mut self, tile: usize, from: *const u8, stride: isize) -> Result<(), Fault> {
        let (rows, width) = self.shape(tile)?;
        self.data[tile] = [[0; ROW]; ROWS];
        for (i, row) in self.data[tile].iter_mut().enumerate().take(rows) {
            // SAFETY: the caller's promise.
            unsafe { from.wrapping_offset(i as isize * stride).copy_to_nonoverlapping(row.as_mut_ptr(), width) };
        }
        Ok(())
    }

    /// TILESTORED.
    ///
    /// # Safety
    /// The rows, `stride` bytes apart, are writable.
    pub(crate) unsafe fn store(&self, tile: usize, to: *mut u8, stride: isize) -> Result<(), Fault> {
        let (rows, width) = self.shape(tile)?;
        for (i, row) in self.data[tile].iter().enumerate().take(rows) {
            // SAFETY: the caller's promise.
            unsafe { to.wrapping_offset(i as isize * stride).copy_from_nonoverlapping(row.as_ptr(), width) };
        }
        Ok(())
    }

    /// TDPBF16PS: `c [m,n] += a [m,2k] b [2k,n]`, b as rows of pairs. Even and odd depths are summed by two chains of fused
    /// multiply-adds from 0, whose sum is added to c. Denormals are taken for zero and flushed to it, rounding is to
    /// nearest even. (Whether a result is denormal is judged after rounding.)
    pub(crate) fn multiply(&mut self, c: usize, a: usize, b: usize) -> Result<(), Fault> {
        if c == a || c == b || a == b {
            return Err("tdpbf16ps: a tile is named twice");
        }
        let ((m, n), (a_rows, a_width), (k, b_width)) = (self.shape(c)?, self.shape(a)?, self.shape(b)?);
        if a_rows != m || a_width != 4 * k || b_width != n || n % 4 != 0 {
            return Err("tdpbf16ps: the tiles' shapes do not fit");
        }
        let right = widen(&self.data[b]);
        let left = widen(&self.data[a]);
        let mut sums = self.data[c].map(|row| words(&row).map(f32::from_bits));
        for (sums, left) in sums.iter_mut().zip(&left).take(m) {
            chains(sums, left, &right, k);
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                let value = if i < m && j < n / 4 { *sum } else { 0.0 };
                self.data[c][i][4 * j..4 * j + 4].copy_from_slice(&value.to_le_bytes());
            }
        }
        Ok(())
    }
}

/// Values of one row of bf16: even ones, odd ones.
type Halves = [[f32; ROWS]; 2];

fn words(row: &[u8; ROW]) -> [u32; ROWS] {
    std::array::from_fn(|j| u32::from_le_bytes([row[4 * j], row[4 * j + 1], row[4 * j + 2], row[4 * j + 3]]))
}

fn widen(tile: &[[u8; ROW]; ROWS]) -> [Halves; ROWS] {
    tile.map(|row| {
        let words = words(&row);
        [words.map(|w| flush(f32::from_bits(w << 16))), words.map(|w| flush(f32::from_bits(w & 0xffff_0000)))]
    })
}

/// Zero of the same sign for a denormal.
#[inline(always)]
fn flush(x: f32) -> f32 {
    let bits = x.to_bits();
    if bits & 0x7f80_0000 == 0 { f32::from_bits(bits & 0x8000_0000) } else { x }
}

fn chains(c: &mut [f32; ROWS], a: &Halves, b: &[Halves; ROWS], k: usize) {
    #[inline(always)]
    fn body(c: &mut [f32; ROWS], a: &Halves, b: &[Halves; ROWS], k: usize) {
        let (mut even, mut odd) = ([0.0f32; ROWS], [0.0f32; ROWS]);
        for (p, b) in b.iter().enumerate().take(k) {
            for j in 0..ROWS {
                even[j] = flush(a[0][p].mul_add(b[0][j], even[j]));
                odd[j] = flush(a[1][p].mul_add(b[1][j], odd[j]));
            }
        }
        for j in 0..ROWS {
            c[j] = flush(flush(c[j]) + flush(even[j] + odd[j]));
        }
    }
    #[target_feature(enable = "avx2,fma")]
    fn fast(c: &mut [f32; ROWS], a: &Halves, b: &[Halves; ROWS], k: usize) {
        body(c, a, b, k);
    }
    // Found out when the handler was installed; the answer is cached.
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: just detected.
        return unsafe { fast(c, a, b, k) };
    }
    body(c, a, b, k);
}
