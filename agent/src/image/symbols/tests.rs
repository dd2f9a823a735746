use super::*;
use crate::image::testing::*;

fn find_in(bytes: &[u8], names: &[Name]) -> Vec<Lookup<Symbol>> {
    find(&Image::read(bytes).expect("an image"), names)
}

fn at(start: u64, size: u64, version: Option<&str>) -> Lookup<Symbol> {
    Lookup::Found(Symbol {
        addresses: start..start + size,
        version: version.map(str::to_owned),
    })
}

const NAMES: [Name; 3] = [
    Name::Plain("SSL_read"),
    Name::Plain("SSL_write"),
    Name::Plain("gnutls_bye"),
];

#[test]
fn finds_exported_functions() {
    let bytes = library(&["SSL_read_ex", "SSL_read", "my_SSL_write", "gnutls_bye"]);
    assert_eq!(
        find_in(&bytes, &NAMES),
        [
            at(BASE + 16, 16, None),
            Lookup::Absent,
            at(BASE + 48, 16, None)
        ]
    );
}

#[test]
fn a_name_may_be_the_end_of_another_one() {
    // A linker keeps one text for both.
    let names = b"\0my_SSL_write\0";
    let symbols = [vec![0; 24], symbol(1, BASE, 8), symbol(4, BASE + 8, 8)].concat();
    let bytes = image(&[(".symtab", &symbols), (".strtab", names)]);
    assert_eq!(find_in(&bytes, &NAMES)[1], at(BASE + 8, 8, None));
}

#[test]
fn leaves_out_what_is_no_function_of_this_image() {
    let names = b"\0SSL_read\0SSL_write\0gnutls_bye\0";
    let imported = symbol(1, 0, 0);
    let mut object = symbol(10, BASE, 8);
    object[4] = 0x11;
    let outside = symbol(20, DATA, 8);
    let symbols = [vec![0; 24], imported, object, outside].concat();
    let bytes = image(&[(".dynsym", &symbols), (".dynstr", names)]);
    assert_eq!(find_in(&bytes, &NAMES), [const { Lookup::Absent }; 3]);
}

#[test]
fn says_when_several_could_be_meant() {
    let names = b"\0SSL_read\0SSL_read\0";
    let twice = [vec![0; 24], symbol(1, BASE, 8), symbol(10, BASE + 8, 8)].concat();
    let bytes = image(&[(".symtab", &twice), (".strtab", names)]);
    assert_eq!(find_in(&bytes, &NAMES)[0], Lookup::Ambiguous);

    // One of them is known in its own source file only.
    let mut local = symbol(1, BASE, 8);
    local[4] = 0x02;
    let one = [vec![0; 24], local.clone(), symbol(10, BASE + 8, 8)].concat();
    let bytes = image(&[(".symtab", &one), (".strtab", names)]);
    assert_eq!(find_in(&bytes, &NAMES)[0], at(BASE + 8, 8, None));

    // What the loader sees is what others call.
    let dynamic = [vec![0; 24], symbol(1, BASE + 16, 8)].concat();
    let bytes = image(&[
        (".symtab", &twice),
        (".strtab", names),
        (".dynsym", &dynamic),
        (".dynstr", b"\0SSL_read\0"),
    ]);
    assert_eq!(find_in(&bytes, &NAMES)[0], at(BASE + 16, 8, None));

    // The same function under the same name in both tables, or twice in one.
    let same = [vec![0; 24], symbol(1, BASE, 8), symbol(10, BASE, 8)].concat();
    let bytes = image(&[(".symtab", &same), (".strtab", names)]);
    assert_eq!(find_in(&bytes, &NAMES)[0], at(BASE, 8, None));
}

#[test]
fn takes_the_version_that_a_linker_takes() {
    let mut names = b"\0SSL_read\0".to_vec();
    let place = |names: &mut Vec<u8>, name: &str| {
        let at = names.len() as u32;
        names.extend(name.bytes().chain([0]));
        at
    };
    let own = place(&mut names, "libssl.so.3");
    let old = place(&mut names, "OPENSSL_1_1_0");
    let new = place(&mut names, "OPENSSL_3.0.0");
    let definition = |flags: u16, number: u16, name: u32, last: bool| {
        let mut entry = [1_u16, flags, number, 1].map(u16::to_le_bytes).concat();
        entry.extend(
            [0, 20, if last { 0 } else { 28 }, name, 0]
                .map(u32::to_le_bytes)
                .concat(),
        );
        entry
    };
    let definitions = [
        definition(1, 1, own, false),
        definition(0, 2, old, false),
        definition(0, 3, new, true),
    ]
    .concat();
    let numbers: Vec<u8> = [0, 2 | HIDDEN, 3]
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    let symbols = [vec![0; 24], symbol(1, BASE, 8), symbol(1, BASE + 8, 8)].concat();
    let bytes = image(&[
        (".dynsym", &symbols),
        (".dynstr", &names),
        (".gnu.version", &numbers),
        (".gnu.version_d", &definitions),
    ]);
    assert_eq!(
        find_in(&bytes, &NAMES)[0],
        at(BASE + 8, 8, Some("OPENSSL_3.0.0"))
    );
    let image = Image::read(bytes.as_slice()).expect("an image");
    assert_eq!(versions(&image), ["OPENSSL_1_1_0", "OPENSSL_3.0.0"]);
}

#[test]
fn a_name_may_carry_its_version() {
    let names = b"\0SSL_read@@OPENSSL_3.0.0\0";
    let symbols = [vec![0; 24], symbol(1, BASE, 8)].concat();
    let bytes = image(&[(".symtab", &symbols), (".strtab", names)]);
    assert_eq!(find_in(&bytes, &NAMES)[0], at(BASE, 8, None));
}

#[test]
fn knows_paths_of_rust_however_they_are_mangled() {
    const WRITE: Name = Name::Rust("<rustls::conn::connection::Writer as std::io::Write>::write");
    let old = "_ZN67_$LT$rustls..conn..connection..Writer$u20$as$u20$std..io..Write$GT$5write17haae04209dcc61889E";
    let other = "_ZN67_$LT$rustls..conn..connection..Writer$u20$as$u20$std..io..Write$GT$5flush17h785a241f4aff174dE";
    let new = "_RNvXs_NtNtCs3Dz1mHzDcYy_6rustls4conn10connectionNtB4_6WriterNtNtCs5Cjj5DPxNiT_3std2io5Write5write";
    for name in [old, new] {
        let bytes = library(&[other, "_ZN6rustlsE", name]);
        assert_eq!(
            find_in(&bytes, &[WRITE]),
            [at(BASE + 32, 16, None)],
            "{name}"
        );
    }
    assert_eq!(find_in(&library(&[other]), &[WRITE]), [Lookup::Absent]);
}

#[test]
fn passes_each_symbol_once_wherever_a_piece_ends() {
    let names: Vec<String> = (0..9000).map(|number| format!("f{number}")).collect();
    for at in [0, 2730, 2731, 2732, 5461, 5462, 8999] {
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names[at] = "SSL_write";
        let [symbols, texts] = tables(&names);
        let text = vec![0; 9000 * 16];
        let bytes = image(&[(".text", &text), (".symtab", &symbols), (".strtab", &texts)]);
        let found = find_in(&bytes, &NAMES);
        let expected = super::tests::at(BASE + 16 * at as u64, 16, None);
        assert_eq!(found[1], expected, "symbol {at}");
    }
}

#[test]
fn a_table_of_nothing_but_wanted_names_is_passed_in_bounds() {
    let names = "SSL_read\0".repeat(100_000);
    let symbols: Vec<u8> = (0..50_000).flat_map(|at| symbol(at * 9, BASE, 8)).collect();
    let bytes = image(&[(".symtab", &symbols), (".strtab", names.as_bytes())]);
    assert_eq!(find_in(&bytes, &NAMES)[0], at(BASE, 8, None));
}
