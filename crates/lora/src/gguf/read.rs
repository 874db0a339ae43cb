//! Reading GGUF. Every count, length and offset is checked against the bytes that are there before it is used.

use std::collections::BTreeMap;

use half::{bf16, f16};

use super::write::{ALIGNMENT, F16, F32, MAGIC, VERSION};
use crate::{Error, Result};

const BF16: u32 = 30;
/// Deepest nesting of arrays that is skipped.
const DEPTH: usize = 4;

/// A field that adapters need; the others are skipped.
enum Field {
    Text(String),
    Number(f32),
    Other,
}

struct Entry<'a> {
    /// Rows and columns.
    shape: [usize; 2],
    kind: u32,
    bytes: &'a [u8],
}

/// A GGUF file, checked.
pub(super) struct File<'a> {
    name: &'a str,
    fields: BTreeMap<String, Field>,
    tensors: BTreeMap<String, Entry<'a>>,
}

impl<'a> File<'a> {
    pub fn parse(name: &'a str, bytes: &'a [u8]) -> Result<Self> {
        let mut c = Cursor { bytes, at: 0 };
        let bad = |detail: String| Error::file(name, detail);
        parse(name, &mut c).map_err(|e| match e {
            Failure::Short => bad(format!("ends within what starts at byte {} of {}", c.at, bytes.len())),
            Failure::Bad(detail) => bad(detail),
        })
    }

    pub fn text(&self, key: &str) -> Result<&str> {
        match self.fields.get(key) {
            Some(Field::Text(s)) => Ok(s),
            Some(_) => Err(Error::file(self.name, format!("{key} is no text"))),
            None => Err(Error::file(self.name, format!("{key} is missing"))),
        }
    }

    pub fn f32(&self, key: &str) -> Result<f32> {
        match self.fields.get(key) {
            Some(Field::Number(x)) => Ok(*x),
            Some(_) => Err(Error::file(self.name, format!("{key} is no 32-bit float"))),
            None => Err(Error::file(self.name, format!("{key} is missing"))),
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn contains(&self, tensor: &str) -> bool {
        self.tensors.contains_key(tensor)
    }

    pub fn shape(&self, tensor: &str) -> Result<[usize; 2]> {
        Ok(self.entry(tensor)?.shape)
    }

    pub fn values(&self, tensor: &str) -> Result<Vec<f64>> {
        let entry = self.entry(tensor)?;
        let wide = |x: f32| f64::from(x);
        let values: Vec<f64> = match entry.kind {
            F16 => entry.bytes.as_chunks().0.iter().map(|&b| wide(f16::from_le_bytes(b).to_f32())).collect(),
            BF16 => entry.bytes.as_chunks().0.iter().map(|&b| wide(bf16::from_le_bytes(b).to_f32())).collect(),
            _ => entry.bytes.as_chunks().0.iter().map(|&b| wide(f32::from_le_bytes(b))).collect(),
        };
        match values.iter().position(|x| !x.is_finite()) {
            Some(i) => Err(Error::file(self.name, format!("tensor `{tensor}`: element {i} is {}", values[i]))),
            None => Ok(values),
        }
    }

    fn entry(&self, tensor: &str) -> Result<&Entry<'a>> {
        self.tensors.get(tensor).ok_or_else(|| Error::file(self.name, format!("tensor `{tensor}` is missing")))
    }
}

enum Failure {
    Short,
    Bad(String),
}

type Parsed<T> = std::result::Result<T, Failure>;

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Parsed<&'a [u8]> {
        let end = self.at.checked_add(n).ok_or(Failure::Short)?;
        let part = self.bytes.get(self.at..end).ok_or(Failure::Short)?;
        self.at = end;
        Ok(part)
    }

    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| Failure::Short)
    }

    fn u32(&mut self) -> Parsed<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn size(&mut self) -> Parsed<usize> {
        usize::try_from(u64::from_le_bytes(self.array()?)).map_err(|_| Failure::Short)
    }

    fn text(&mut self) -> Parsed<String> {
        let n = self.size()?;
        let bytes = self.take(n)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| Failure::Bad(format!("byte {}: text is not UTF-8", self.at)))
    }

    fn field(&mut self, kind: u32, depth: usize) -> Parsed<Field> {
        let width = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4 | 5 => 4,
            10..=12 => 8,
            6 => return Ok(Field::Number(f32::from_le_bytes(self.array()?))),
            8 => return Ok(Field::Text(self.text()?)),
            9 if depth < DEPTH => {
                let (kind, count) = (self.u32()?, self.size()?);
                // Every element takes a byte at least, so a count beyond the file ends in an error, not in memory.
                for _ in 0..count {
                    self.field(kind, depth + 1)?;
                }
                return Ok(Field::Other);
            }
            _ => return Err(Failure::Bad(format!("byte {}: a value of type {kind} is not understood", self.at))),
        };
        self.take(width)?;
        Ok(Field::Other)
    }
}

fn parse<'a>(name: &'a str, c: &mut Cursor<'a>) -> Parsed<File<'a>> {
    if c.bytes.get(..4) != Some(MAGIC) {
        return Err(Failure::Bad("is no GGUF file".into()));
    }
    c.take(4)?;
    let version = c.u32()?;
    if version != VERSION {
        return Err(Failure::Bad(format!("GGUF version {version} is not supported; {VERSION} is")));
    }
    let (count, fields_count) = (c.size()?, c.size()?);
    let mut fields = BTreeMap::new();
    let mut alignment = ALIGNMENT;
    for _ in 0..fields_count {
        let (key, kind) = (c.text()?, c.u32()?);
        let start = c.at;
        let field = c.field(kind, 0)?;
        if key == "general.alignment" && kind == 4 {
            alignment = u32::from_le_bytes(c.bytes[start..start + 4].try_into().map_err(|_| Failure::Short)?) as usize;
        }
        if fields.insert(key.clone(), field).is_some() {
            return Err(Failure::Bad(format!("{key} is there twice")));
        }
    }
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        return Err(Failure::Bad(format!("general.alignment {alignment} is no sensible power of two")));
    }
    let mut places = Vec::new();
    for _ in 0..count {
        let tensor = c.text()?;
        let dimensions = c.u32()?;
        if dimensions != 2 {
            return Err(Failure::Bad(format!("tensor `{tensor}` has {dimensions} dimensions, an adapter's have 2")));
        }
        let (cols, rows, kind, offset) = (c.size()?, c.size()?, c.u32()?, c.size()?);
        let width = match kind {
            F32 => 4,
            F16 | BF16 => 2,
            _ => {
                return Err(Failure::Bad(format!(
                    "tensor `{tensor}` has ggml type {kind}; f32, f16 and bf16 are read"
                )));
            }
        };
        let bytes = rows.checked_mul(cols).and_then(|n| n.checked_mul(width));
        let Some(bytes) = bytes else {
            return Err(Failure::Bad(format!("tensor `{tensor}`: shape [{rows}, {cols}] overflows")));
        };
        if offset % alignment != 0 {
            return Err(Failure::Bad(format!("tensor `{tensor}`: offset {offset} is not aligned to {alignment}")));
        }
        places.push((tensor, [rows, cols], kind, offset, bytes));
    }
    let data = c.bytes.get(c.at.next_multiple_of(alignment)..).unwrap_or(&[]);
    let mut tensors = BTreeMap::new();
    for (tensor, shape, kind, offset, bytes) in places {
        let Some(bytes) = offset.checked_add(bytes).and_then(|end| data.get(offset..end)) else {
            let detail = format!("tensor `{tensor}`: {bytes} bytes at {offset} lie outside the {} of data", data.len());
            return Err(Failure::Bad(detail));
        };
        if tensors.insert(tensor.clone(), Entry { shape, kind, bytes }).is_some() {
            return Err(Failure::Bad(format!("tensor `{tensor}` is there twice")));
        }
    }
    Ok(File { name, fields, tensors })
}
