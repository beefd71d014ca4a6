use std::collections::HashMap;

use anyhow::{Context as _, Result, bail, ensure};

/// Where the running kernel describes its types.
pub const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";

/// The parts of a BTF type section that are needed to find a member of a struct
/// (Documentation/bpf/btf.rst). aya parses the same data but keeps members to itself, and other
/// parsers copy every type; this one borrows, and keeps one offset a type.
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Offset in `types` of each type, by id; id 0 is void.
    index: Vec<u32>,
    structs: HashMap<&'a [u8], u32>,
}

const MAGIC: u16 = 0xeb9f;

const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

/// Size of `struct btf_type`.
const TYPE_SIZE: usize = 12;
/// How deep members are looked for in anonymous structs and unions.
const DEPTH_MAX: u32 = 16;
/// How many members one search looks at: those of the largest struct of a kernel, with what is nested in
/// it, are some hundreds. What nests twice at each level is looked at thousands of times.
const MEMBERS_MAX: usize = 65_536;

struct Type {
    kind: u32,
    bitfields: bool,
    members: usize,
    /// `size` or `type`.
    value: u32,
    /// Offset of what follows the `struct btf_type`.
    rest: usize,
}

impl<'a> Btf<'a> {
    /// Parses the type section of `data`.
    pub fn parse(data: &'a [u8]) -> Result<Self> {
        ensure!(data.len() >= 24 && u16::from_ne_bytes([data[0], data[1]]) == MAGIC, "not BTF");
        let header = u32_at(data, 4)? as usize;
        let section = |offset: usize, length: usize| -> Result<&'a [u8]> {
            let start = header + u32_at(data, offset)? as usize;
            let end = start + u32_at(data, length)? as usize;
            data.get(start..end).context("BTF section out of bounds")
        };
        let (types, strings) = (section(8, 12)?, section(16, 20)?);
        let mut btf = Self { types, strings, index: vec![0], structs: HashMap::new() };
        let mut at = 0;
        while at < types.len() {
            let id = btf.index.len() as u32;
            btf.index.push(at as u32);
            let this = btf.type_at(at)?;
            if this.kind == KIND_STRUCT {
                let name = btf.string(u32_at(types, at)?)?;
                btf.structs.entry(name).or_insert(id);
            }
            at = this.rest + this.rest_size()?;
        }
        Ok(btf)
    }

    /// Offset in bytes of the member `name` of `struct strukt`, `None` if there is none.
    pub fn member_offset(&self, strukt: &str, name: &str) -> Result<Option<u32>> {
        let Some(&id) = self.structs.get(strukt.as_bytes()) else {
            return Ok(None);
        };
        let mut left = MEMBERS_MAX;
        let Some(bits) = self.find_member(id, name.as_bytes(), 0, &mut left)? else {
            return Ok(None);
        };
        ensure!(bits % 8 == 0, "{strukt}.{name} is a bit field");
        Ok(Some(bits / 8))
    }

    /// Value of an enumerator, whatever enum it is in.
    pub fn enumerator(&self, name: &str) -> Result<Option<u32>> {
        for &at in &self.index[1..] {
            let this = self.type_at(at as usize)?;
            if this.kind != KIND_ENUM {
                continue;
            }
            for i in 0..this.members {
                let at = this.rest + i * 8;
                if self.string(u32_at(self.types, at)?)? == name.as_bytes() {
                    return Ok(Some(u32_at(self.types, at + 4)?));
                }
            }
        }
        Ok(None)
    }

    /// `left`: how many members may still be looked at.
    fn find_member(
        &self,
        id: u32,
        name: &[u8],
        depth: u32,
        left: &mut usize,
    ) -> Result<Option<u32>> {
        ensure!(depth < DEPTH_MAX, "BTF nests too deep");
        let this = self.type_at(self.offset_of(id)?)?;
        if this.kind != KIND_STRUCT && this.kind != KIND_UNION {
            return Ok(None);
        }
        for i in 0..this.members {
            *left = left.checked_sub(1).context("BTF nests too many members")?;
            let at = this.rest + i * TYPE_SIZE;
            let member = self.string(u32_at(self.types, at)?)?;
            let raw = u32_at(self.types, at + 8)?;
            // With kind_flag the upper byte is the width of a bit field.
            let bits = if this.bitfields { raw & 0x00ff_ffff } else { raw };
            if member == name {
                return Ok(Some(bits));
            }
            if member.is_empty() {
                let inner = self.resolve(u32_at(self.types, at + 4)?)?;
                if let Some(offset) = self.find_member(inner, name, depth + 1, left)? {
                    return bits.checked_add(offset).context("BTF offset too large").map(Some);
                }
            }
        }
        Ok(None)
    }

    /// Follows typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Result<u32> {
        for _ in 0..DEPTH_MAX {
            let this = self.type_at(self.offset_of(id)?)?;
            match this.kind {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
                    id = this.value;
                }
                _ => return Ok(id),
            }
        }
        bail!("BTF nests too deep")
    }

    /// Names of the structs that have one.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn struct_names(&self) -> impl Iterator<Item = String> {
        self.structs.keys().map(|name| String::from_utf8_lossy(name).into_owned())
    }

    fn offset_of(&self, id: u32) -> Result<usize> {
        match self.index.get(id as usize) {
            Some(&at) if id != 0 => Ok(at as usize),
            _ => bail!("BTF type {id} out of bounds"),
        }
    }

    fn type_at(&self, at: usize) -> Result<Type> {
        let info = u32_at(self.types, at + 4)?;
        Ok(Type {
            kind: info >> 24 & 0x1f,
            bitfields: info >> 31 != 0,
            members: (info & 0xffff) as usize,
            value: u32_at(self.types, at + 8)?,
            rest: at + TYPE_SIZE,
        })
    }

    fn string(&self, at: u32) -> Result<&'a [u8]> {
        let tail = self.strings.get(at as usize..).context("BTF string out of bounds")?;
        let end = tail.iter().position(|&b| b == 0).context("BTF string without an end")?;
        Ok(&tail[..end])
    }
}

impl Type {
    /// Bytes that follow the `struct btf_type`.
    fn rest_size(&self) -> Result<usize> {
        Ok(match self.kind {
            KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
            KIND_ARRAY => 12,
            KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => self.members * 12,
            KIND_ENUM | KIND_FUNC_PROTO => self.members * 8,
            // Pointer, forward, typedef, qualifiers, function, float, type tag.
            2 | 7..=12 | 16 | KIND_TYPE_TAG => 0,
            kind => bail!("BTF type kind {kind} is not known"),
        })
    }
}

fn u32_at(data: &[u8], at: usize) -> Result<u32> {
    let bytes = data.get(at..at + 4).context("BTF is cut off")?;
    Ok(u32::from_ne_bytes(bytes.try_into()?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// BTF by hand: `struct inner {u32 a; u32 b;}`, `struct outer {u32 x; struct {…inner…};}`.
    pub(in crate::sensor::ebpf) fn tiny() -> Vec<u8> {
        let strings = b"\0u32\0a\0b\0outer\0x\0E\0ONE\0".to_vec();
        let at = |name: &str| {
            strings
                .windows(name.len() + 2)
                .position(|w| {
                    w[0] == 0 && &w[1..=name.len()] == name.as_bytes() && w[name.len() + 1] == 0
                })
                .expect("in the table") as u32
                + 1
        };
        let mut types: Vec<u32> = Vec::new();
        types.extend([at("u32"), KIND_INT << 24, 4, 32]);
        types.extend([0, KIND_STRUCT << 24 | 2, 8, at("a"), 1, 0, at("b"), 1, 32]);
        types.extend([at("outer"), KIND_STRUCT << 24 | 2, 12, at("x"), 1, 0, 0, 2, 32]);
        types.extend([at("E"), KIND_ENUM << 24 | 1, 4, at("ONE"), 1]);
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut data = Vec::new();
        data.extend(MAGIC.to_ne_bytes());
        data.extend([1, 0]);
        for word in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            data.extend(word.to_ne_bytes());
        }
        data.extend(types);
        data.extend(strings);
        data
    }

    #[test]
    fn finds_members_also_in_anonymous_structs() {
        let data = tiny();
        let btf = Btf::parse(&data).unwrap();
        assert_eq!(btf.member_offset("outer", "x").unwrap(), Some(0));
        assert_eq!(btf.member_offset("outer", "b").unwrap(), Some(8));
        assert_eq!(btf.member_offset("outer", "nope").unwrap(), None);
        assert_eq!(btf.member_offset("nope", "x").unwrap(), None);
        assert_eq!(btf.enumerator("ONE").unwrap(), Some(1));
        assert_eq!(btf.enumerator("TWO").unwrap(), None);
    }

    #[test]
    fn what_nests_many_times_is_not_walked_through() {
        // Each of 14 levels has the one below it 64 times, without a name.
        let strings = b"\0a\0outer\0".to_vec();
        let mut types: Vec<u32> = vec![1, KIND_STRUCT << 24 | 1, 4, 1, 0, 0];
        for level in 1..=14_u32 {
            types.extend([if level == 14 { 3 } else { 0 }, KIND_STRUCT << 24 | 64, 4]);
            (0..64).for_each(|_| types.extend([0, level, 0]));
        }
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut data = [&MAGIC.to_ne_bytes()[..], &[1, 0]].concat();
        for word in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            data.extend(word.to_ne_bytes());
        }
        data.extend(types);
        data.extend(strings);
        let btf = Btf::parse(&data).unwrap();
        assert_eq!(btf.member_offset("outer", "a").unwrap(), Some(0));
        let error = btf.member_offset("outer", "none").unwrap_err();
        assert_eq!(error.to_string(), "BTF nests too many members");
    }

    #[test]
    fn a_cut_off_section_is_an_error_at_every_length() {
        let data = tiny();
        for length in 0..data.len() {
            assert!(Btf::parse(&data[..length]).is_err(), "{length} bytes");
        }
    }

    proptest::proptest! {
        #![proptest_config(crate::fuzz::cases())]

        #[test]
        fn any_bytes_are_read_or_refused(mutations in crate::fuzz::mutations()) {
            let data = crate::fuzz::mutated(&tiny(), &mutations);
            if let Ok(btf) = Btf::parse(&data) {
                for strukt in btf.structs.keys() {
                    let strukt = String::from_utf8_lossy(strukt);
                    let _ = btf.member_offset(&strukt, "none");
                }
                let _ = btf.enumerator("none");
            }
        }
    }

    #[test]
    fn the_running_kernel_has_the_fields() {
        let Ok(data) = std::fs::read(VMLINUX_BTF) else {
            eprintln!("SKIPPED: {VMLINUX_BTF} is missing: kernel without BTF");
            return;
        };
        let btf = Btf::parse(&data).unwrap();
        for field in slashtrace_ebpf::Field::ALL {
            let (strukt, member) = field.location();
            let needed = !strukt.starts_with("pt_regs") || cfg!(target_arch = "x86_64");
            if needed {
                assert!(btf.member_offset(strukt, member).unwrap().is_some(), "{strukt}.{member}");
            }
        }
        assert_eq!(btf.enumerator("PIDTYPE_SID").unwrap(), Some(3));
    }
}
