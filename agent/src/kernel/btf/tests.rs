//! Tests on small BTF that an encoder of our own writes, and on bytes that are none.

use proptest::prelude::*;

use super::*;

/// Writes BTF, type by type; each call gives the number of the new type.
pub(crate) struct Encoder {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self {
            types: Vec::new(),
            strings: vec![0],
            count: 0,
        }
    }

    pub(crate) fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend(name.bytes().chain([0]));
        at
    }

    /// A type of any kind; `info` holds kind, count and flag as in `struct btf_type`.
    pub(crate) fn raw(&mut self, name: &str, info: u32, size_or_type: u32, details: &[u32]) -> u32 {
        let name = self.name(name);
        for word in [name, info, size_or_type].iter().chain(details) {
            self.types.extend(word.to_ne_bytes());
        }
        self.count += 1;
        self.count
    }

    pub(crate) fn int(&mut self, name: &str, bytes: u32) -> u32 {
        self.raw(name, 1 << 24, bytes, &[bytes * 8])
    }

    pub(crate) fn pointer(&mut self, to: u32) -> u32 {
        self.raw("", 2 << 24, to, &[])
    }

    pub(crate) fn array(&mut self, of: u32, count: u32) -> u32 {
        self.raw("", 3 << 24, 0, &[of, of, count])
    }

    /// Members are (name, type, offset in bits).
    pub(crate) fn structure(
        &mut self,
        name: &str,
        bytes: u32,
        members: &[(&str, u32, u32)],
    ) -> u32 {
        self.aggregate(4, name, bytes, members)
    }

    pub(crate) fn union(&mut self, name: &str, bytes: u32, members: &[(&str, u32)]) -> u32 {
        let members: Vec<_> = members.iter().map(|(name, id)| (*name, *id, 0)).collect();
        self.aggregate(5, name, bytes, &members)
    }

    fn aggregate(
        &mut self,
        kind: u32,
        name: &str,
        bytes: u32,
        members: &[(&str, u32, u32)],
    ) -> u32 {
        let details: Vec<u32> = members
            .iter()
            .flat_map(|(name, id, bits)| [self.name(name), *id, *bits])
            .collect();
        self.raw(name, kind << 24 | members.len() as u32, bytes, &details)
    }

    pub(crate) fn enumeration(&mut self, name: &str, values: &[(&str, u32)]) -> u32 {
        let details: Vec<u32> = values
            .iter()
            .flat_map(|(name, value)| [self.name(name), *value])
            .collect();
        self.raw(name, 6 << 24 | values.len() as u32, 4, &details)
    }

    pub(crate) fn alias(&mut self, kind: u32, name: &str, of: u32) -> u32 {
        self.raw(name, kind << 24, of, &[])
    }

    pub(crate) fn function(&mut self, name: &str, returns: u32, args: &[u32]) -> u32 {
        let details: Vec<u32> = args
            .iter()
            .flat_map(|id| [if *id == 0 { 0 } else { self.name("arg") }, *id])
            .collect();
        let prototype = self.raw("", 13 << 24 | args.len() as u32, returns, &details);
        self.raw(name, 12 << 24, prototype, &[])
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = 0xeb9f_u16.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        for word in [24, 0, types, types, strings] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(&self.types);
        bytes.extend(&self.strings);
        bytes
    }
}

/// A kernel in small: the shapes that the real one has, each of them once.
pub(crate) fn sample() -> Encoder {
    let mut to = Encoder::new();
    let int = to.int("int", 4);
    let short = to.int("short unsigned int", 2);
    let byte = to.int("unsigned char", 1);
    let long = to.int("long unsigned int", 8);
    let size = to.alias(8, "size_t", long);
    let volatile = to.alias(9, "", byte);
    let sock = to.structure("sock", 64, &[("sk_err", int, 96)]);
    let sock_pointer = to.pointer(sock);
    to.structure(
        "socket",
        24,
        &[("state", volatile, 0), ("sk", sock_pointer, 64)],
    );

    let pair = to.structure("", 8, &[("skc_daddr", int, 0), ("skc_rcv_saddr", int, 32)]);
    let addresses = to.union("", 8, &[("skc_addrpair", long), ("", pair)]);
    let net_pointer = to.pointer(int);
    let net = to.structure("", 8, &[("net", net_pointer, 0)]);
    let possible_net = to.alias(8, "possible_net_t", net);
    let words = to.array(int, 4);
    to.structure(
        "sock_common",
        40,
        &[
            ("", addresses, 0),
            ("skc_family", short, 64),
            ("skc_net", possible_net, 128),
            ("v6", words, 192),
        ],
    );

    // kind_flag: a member's width stands in the upper byte of its position.
    let (a, b, c) = (
        to.name("whole"),
        to.name("first_bits"),
        to.name("last_bits"),
    );
    to.raw(
        "flags",
        1 << 31 | 4 << 24 | 3,
        8,
        &[a, int, 0, b, int, 3 << 24 | 32, c, int, 5 << 24 | 35],
    );
    // Without kind_flag: it stands in the integer.
    let narrow = to.raw("int", 1 << 24, 4, &[2]);
    to.structure("old_flags", 4, &[("bits", narrow, 0)]);

    to.structure("twice", 8, &[("same", int, 0), ("moved", int, 32)]);
    to.structure("twice", 8, &[("same", int, 0), ("moved", short, 48)]);
    to.alias(8, "pt_regs", int);
    to.structure("pt_regs", 8, &[("ip", long, 0)]);

    to.enumeration("iter_type", &[("ITER_UBUF", 0), ("ITER_IOVEC", 1)]);
    let (low, high) = (to.name("SMALL"), to.name("LARGE"));
    to.raw("wide", 19 << 24 | 2, 8, &[low, 1, 0, high, 2, 3]);
    let negative = to.name("NEGATIVE");
    to.raw(
        "signed",
        1 << 31 | 6 << 24 | 1,
        4,
        &[negative, (-2_i32).cast_unsigned()],
    );

    let constant = to.alias(10, "", sock);
    let constant_pointer = to.pointer(constant);
    let double = to.pointer(sock_pointer);
    to.function("inet_sendmsg", int, &[sock_pointer, constant_pointer, size]);
    to.function("release", 0, &[double, words]);
    to.function("printk", int, &[0]);
    to.function("clash", int, &[int]);
    to.function("clash", int, &[size]);
    to.function("static_twice", int, &[int]);
    to.function("static_twice", int, &[int]);
    to
}

#[test]
fn finds_members_through_nameless_and_renamed_types() {
    let bytes = sample().bytes();
    let btf = Btf::parse(&bytes).expect("the encoder writes valid BTF");
    let at = |structure, path| {
        btf.member(structure, path)
            .map(|member| (member.offset, member.bytes))
    };
    assert_eq!(at("socket", "sk"), Ok((8, 8)));
    assert_eq!(at("socket", "state"), Ok((0, 1)));
    assert_eq!(at("sock", "sk_err"), Ok((12, 4)));
    assert_eq!(at("sock_common", "skc_daddr"), Ok((0, 4)));
    assert_eq!(at("sock_common", "skc_rcv_saddr"), Ok((4, 4)));
    assert_eq!(at("sock_common", "skc_net.net"), Ok((16, 8)));
    assert_eq!(at("sock_common", "v6"), Ok((24, 16)));
    assert_eq!(btf.structure_size("sock_common"), Ok(40));
}

#[test]
fn tells_why_a_member_has_no_offset() {
    let bytes = sample().bytes();
    let btf = Btf::parse(&bytes).expect("the encoder writes valid BTF");
    assert_eq!(btf.member("socket", "skk"), Err(LookupError::NoMember));
    assert_eq!(
        btf.member("socket", "sk.sk_err"),
        Err(LookupError::NoMember),
        "pointers are not followed"
    );
    assert_eq!(btf.member("socket", ""), Err(LookupError::NoMember));
    assert_eq!(btf.member("nothing", "at_all"), Err(LookupError::NoType));
    assert_eq!(
        btf.member("inet_sendmsg", "sk"),
        Err(LookupError::NoType),
        "a function is no struct"
    );
    assert_eq!(
        btf.member("flags", "whole"),
        Ok(Member {
            offset: 0,
            bytes: 4
        })
    );
    assert_eq!(
        btf.member("flags", "first_bits"),
        Err(LookupError::BitField)
    );
    assert_eq!(btf.member("flags", "last_bits"), Err(LookupError::BitField));
    assert_eq!(btf.member("old_flags", "bits"), Err(LookupError::BitField));
}

#[test]
fn takes_a_name_by_kind_and_refuses_structs_that_disagree() {
    let bytes = sample().bytes();
    let btf = Btf::parse(&bytes).expect("the encoder writes valid BTF");
    assert_eq!(
        btf.member("pt_regs", "ip"),
        Ok(Member {
            offset: 0,
            bytes: 8
        })
    );
    assert_eq!(
        btf.member("twice", "same"),
        Ok(Member {
            offset: 0,
            bytes: 4
        })
    );
    assert_eq!(btf.member("twice", "moved"), Err(LookupError::Ambiguous));
}

#[test]
fn reads_enumerators_of_both_widths() {
    let bytes = sample().bytes();
    let btf = Btf::parse(&bytes).expect("the encoder writes valid BTF");
    assert_eq!(btf.enumerator("iter_type", "ITER_UBUF"), Ok(0));
    assert_eq!(btf.enumerator("iter_type", "ITER_IOVEC"), Ok(1));
    assert_eq!(btf.enumerator("wide", "LARGE"), Ok(3 << 32 | 2));
    assert_eq!(
        btf.enumerator("signed", "NEGATIVE"),
        Ok((-2_i64).cast_unsigned())
    );
    assert_eq!(
        btf.enumerator("iter_type", "ITER_XARRAY"),
        Err(LookupError::NoMember)
    );
    assert_eq!(
        btf.enumerator("sock", "ITER_UBUF"),
        Err(LookupError::NoType)
    );
}

#[test]
fn spells_prototypes_as_c_does() {
    let bytes = sample().bytes();
    let btf = Btf::parse(&bytes).expect("the encoder writes valid BTF");
    let spelled = |name| btf.function(name).map(|prototype| prototype.to_string());
    assert_eq!(
        spelled("inet_sendmsg").as_deref(),
        Some("int (struct sock *, const struct sock *, size_t)")
    );
    assert_eq!(
        spelled("release").as_deref(),
        Some("void (struct sock **, int[4])")
    );
    assert_eq!(spelled("printk").as_deref(), Some("int (...)"));
    assert_eq!(
        btf.function("inet_sendmsg")
            .map(|prototype| prototype.args.len()),
        Some(3)
    );
    assert_eq!(spelled("static_twice").as_deref(), Some("int (int)"));
    assert_eq!(
        spelled("clash"),
        None,
        "two functions of one name, and no telling which would be hooked"
    );
    assert_eq!(spelled("sock"), None, "a struct is no function");
}

#[test]
fn ends_on_types_that_contain_themselves() {
    let mut to = Encoder::new();
    // Type 1 holds itself twice without a name: 2^32 ways for a reader without a bound.
    to.structure("endless", 8, &[("", 1, 0), ("", 1, 0)]);
    to.alias(8, "loop", 2);
    to.structure("looped", 8, &[("member", 2, 0)]);
    to.raw("", 3 << 24, 0, &[4, 4, 2]);
    to.structure("nested", 8, &[("array", 4, 0)]);
    to.structure("dangling", 8, &[("member", 99, 0)]);
    to.pointer(7);
    to.function("itself", 7, &[7]);
    let bytes = to.bytes();
    let btf = Btf::parse(&bytes).expect("the encoder writes valid BTF");
    assert_eq!(btf.member("endless", "member"), Err(LookupError::Malformed));
    assert_eq!(btf.member("looped", "member"), Err(LookupError::Malformed));
    assert_eq!(btf.member("nested", "array"), Err(LookupError::Malformed));
    assert_eq!(
        btf.member("dangling", "member"),
        Err(LookupError::Malformed)
    );
    assert_eq!(
        btf.function("itself")
            .map(|prototype| prototype.returns)
            .as_deref(),
        Some("... ****************")
    );
}

#[test]
fn refuses_what_is_no_btf_and_says_why() {
    let whole = sample().bytes();
    let parse = |bytes: &[u8]| {
        Btf::parse(bytes)
            .map(|btf| btf.len())
            .map_err(|error| error.to_string())
    };
    assert!(parse(&[]).is_err_and(|error| error.contains("ends in the middle of the header")));
    assert!(parse(b"\x7fELF").is_err_and(|error| error.contains("not BTF")));
    let with = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        bytes
    };
    assert!(parse(&with(2, 2)).is_err_and(|error| error.contains("version 2")));
    let swapped: Vec<u8> = [whole[1], whole[0]]
        .into_iter()
        .chain(whole[2..].iter().copied())
        .collect();
    assert!(parse(&swapped).is_err_and(|error| error.contains("byte order")));
    assert!(parse(&whole[..whole.len() - 1]).is_err_and(|error| error.contains("the strings")));
    assert!(
        parse(&with(24 + 7, 0x7f)).is_err_and(|error| error.contains("unknown kind 127 at type 1"))
    );
}

/// Asks everything that the daemon asks; none of the answers matters here.
pub(super) fn ask(bytes: &[u8]) {
    let Ok(btf) = Btf::parse(bytes) else { return };
    for structure in ["socket", "sock_common", "flags", "twice", "pt_regs", ""] {
        for path in [
            "sk",
            "skc_daddr",
            "skc_net.net",
            "first_bits",
            "moved",
            "v6",
            "",
            ".",
            "a.b.c",
        ] {
            let _ = btf.member(structure, path);
        }
        let _ = btf.structure_size(structure);
    }
    for name in ["inet_sendmsg", "release", "printk", "clash", ""] {
        let _ = btf.function(name);
    }
    let _ = (
        btf.enumerator("iter_type", "ITER_IOVEC"),
        btf.enumerator("wide", "LARGE"),
    );
    let _ = crate::kernel::offsets::Offsets::resolve(&btf);
}

proptest! {
    #[test]
    fn never_panics_on_changed_bytes(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..24),
        end in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = sample().bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cut {
            bytes.truncate(end.index(bytes.len()));
        }
        ask(&bytes);
    }

    #[test]
    fn never_panics_on_random_types(types in prop::collection::vec(any::<u32>(), 0..200)) {
        let mut to = sample();
        for word in types {
            to.types.extend(word.to_ne_bytes());
        }
        ask(&to.bytes());
    }
}
