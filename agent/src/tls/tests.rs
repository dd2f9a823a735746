use std::fs::File;

use agent_common::abi::Direction::{Receive, Send};

use super::*;
use crate::image::{
    go::tests::{Program, READ, WRITE, buildinfo},
    testing::*,
};

fn examined(bytes: &[u8]) -> Examined {
    examine(&Image::read(bytes).expect("an image"))
}

/// The one library of an image.
fn only(bytes: &[u8]) -> Finding {
    let mut findings = examined(bytes).findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    findings.remove(0)
}

/// A program with these functions, and a text among its constants.
fn program(functions: &[&str], text: &str) -> Vec<u8> {
    let [symbols, names] = tables(functions);
    image(&[
        (".text", &[0xc3; 4096]),
        (".rodata", text.as_bytes()),
        (".symtab", &symbols),
        (".strtab", &names),
    ])
}

fn probe(function: &'static str, call: Call, number: u64, exit: Exit) -> Probe {
    Probe {
        function,
        call,
        entry: number * 16,
        exit,
    }
}

const OPENSSL_TEXT: &str = "\0OpenSSL %s\0OpenSSL 3.0.19 27 Jan 2026\0";

#[test]
fn knows_openssl_inside_of_a_program() {
    let functions = [
        "main",
        "SSL_read",
        "SSL_write",
        "SSL_peek",
        "SSL_read_ex",
        "SSL_sendfile",
        "SSL_free",
    ];
    let found = only(&program(&functions, OPENSSL_TEXT));
    assert_eq!(found.library, "OpenSSL");
    assert_eq!(found.version.as_deref(), Some("3.0.19"));
    let expected = vec![
        probe("SSL_read", Call::Counted(Receive), 1, Exit::Return),
        probe("SSL_write", Call::Counted(Send), 2, Exit::Return),
        probe("SSL_read_ex", Call::Stored(Receive), 4, Exit::Return),
        probe("SSL_sendfile", Call::SendFile, 5, Exit::Return),
        probe("SSL_free", Call::Free, 6, Exit::None),
    ];
    assert_eq!(found.probes, Ok(expected), "nothing is seen of SSL_peek");
}

/// What calls another function of the table is left to that one: a relative must not be taken for OpenSSL.
#[test]
fn tells_relatives_of_openssl_apart() {
    let functions = [
        "SSL_read",
        "SSL_write",
        "SSL_read_ex",
        "SSL_write_ex",
        "SSL_get_early_data_reason",
    ];
    let of = |functions: &[&str], text: &str| {
        let found = only(&program(functions, text));
        let probes = found.probes.expect("it can be seen");
        let names: Vec<_> = probes.iter().map(|probe| probe.function).collect();
        (found.library, found.version, names)
    };
    let few = vec!["SSL_read", "SSL_write"];
    assert_eq!(of(&functions, ""), ("BoringSSL", None, few.clone()));
    let text = "OpenSSL 1.1.1 (compatible; BoringSSL)";
    assert_eq!(of(&functions[..4], text), ("BoringSSL", None, few.clone()));
    assert_eq!(
        of(&functions[..4], "AWS-LC 1.40.0"),
        ("BoringSSL", None, few.clone())
    );
    let text = "LibreSSL 3.8.2\0OpenSSL 2.0";
    assert_eq!(
        of(&functions[..4], text),
        ("LibreSSL or alike", Some("3.8.2".into()), few.clone())
    );
    assert_eq!(
        of(&functions[..4], ""),
        ("LibreSSL or alike", None, few),
        "nothing tells"
    );
    assert_eq!(of(&functions[..4], OPENSSL_TEXT).2, &functions[..4]);
    let imitation = library(&["SSL_read", "SSL_write", "SSL_CTX_sess_connect_renegotiate"]);
    assert_eq!(
        examined(&imitation),
        Examined::default(),
        "what it calls is seen"
    );
}

#[test]
fn half_of_a_conversation_is_hidden() {
    let found = only(&program(&["SSL_read", "SSL_read_ex"], OPENSSL_TEXT));
    assert_eq!(found.probes, Err(Hidden::Incomplete(Send)));
    let found = only(&program(&["SSL_read", "SSL_write_ex"], OPENSSL_TEXT));
    assert_eq!(found.probes.map(|probes| probes.len()), Ok(2));
}

#[test]
fn does_not_guess_which_function_is_meant() {
    let found = only(&program(
        &["SSL_read", "SSL_write", "SSL_write"],
        OPENSSL_TEXT,
    ));
    assert_eq!(found.probes, Err(Hidden::Ambiguous("SSL_write")));
    // A linker has put two functions with the same code into one place.
    let names = b"\0SSL_read\0SSL_write\0";
    let symbols = [vec![0; 24], symbol(1, BASE, 16), symbol(10, BASE, 16)].concat();
    let folded = image(&[
        (".text", &[0xc3; 64]),
        (".symtab", &symbols),
        (".strtab", names),
    ]);
    assert_eq!(only(&folded).probes, Err(Hidden::Ambiguous("SSL_write")));
}

#[test]
fn probes_what_does_the_work_of_gnutls() {
    let of = |functions: &[&str]| {
        let found = only(&library(functions));
        assert_eq!(found.library, "GnuTLS");
        let probes = found.probes.expect("it can be seen");
        probes
            .iter()
            .map(|probe| probe.function)
            .collect::<Vec<_>>()
    };
    let old = [
        "gnutls_record_recv",
        "gnutls_record_send",
        "gnutls_bye",
        "gnutls_deinit",
    ];
    assert_eq!(of(&old), old);
    let new = [
        "gnutls_record_recv",
        "gnutls_record_send",
        "gnutls_record_send2",
    ];
    assert_eq!(of(&new), ["gnutls_record_recv", "gnutls_record_send2"]);
}

#[test]
fn names_what_it_cannot_see() {
    let of = |bytes: &[u8]| {
        let found = only(bytes);
        (found.library, found.version, found.probes.err())
    };
    let texts = |text: &str| {
        program(
            &["main"],
            &format!("\0TLS 1.3, server CertificateVerify\0{text}\0"),
        )
    };
    let hidden = Some(Hidden::NoSymbols);
    assert_eq!(
        of(&texts("OpenSSL 3.0.19 27 Jan 2026")),
        ("OpenSSL", Some("3.0.19".into()), hidden.clone())
    );
    assert_eq!(
        of(&texts("OpenSSL 1.1.1 (compatible; BoringSSL)")),
        ("BoringSSL", None, hidden.clone())
    );
    let path = "/home/u/.cargo/registry/src/index/rustls-0.23.31/src/conn.rs";
    assert_eq!(
        of(&texts(path)),
        ("rustls", Some("0.23.31".into()), hidden.clone())
    );
    assert_eq!(of(&texts("")), ("a TLS library", None, hidden));
    for (function, name) in [
        ("SSL_ImportFD", "NSS"),
        ("mbedtls_ssl_read", "Mbed TLS"),
        ("wolfSSL_read", "wolfSSL"),
        ("s2n_recv", "s2n-tls"),
    ] {
        assert_eq!(
            of(&library(&[function])),
            (name, None, Some(Hidden::NotSupported))
        );
    }
    let java = library(&["JNI_CreateJavaVM"]);
    assert_eq!(of(&java).2, Some(Hidden::MadeAtRunTime));
}

#[test]
fn programs_that_only_use_a_library_have_none() {
    assert_eq!(
        examined(&program(&["main"], OPENSSL_TEXT)),
        Examined::default()
    );
    // The other part of OpenSSL tells the version, and holds no TLS.
    let crypto = program(&["OpenSSL_version_num"], OPENSSL_TEXT);
    let expected = Examined {
        findings: Vec::new(),
        openssl: Some("3.0.19".to_owned()),
    };
    assert_eq!(examined(&crypto), expected);
}

#[test]
fn knows_go_with_its_return_instructions() {
    let found = only(&Program::default().image());
    assert_eq!(
        (found.library, found.version.as_deref()),
        ("Go crypto/tls", Some("1.24.3"))
    );
    let go = |function, direction, entry| Probe {
        function,
        call: Call::Go(direction),
        entry,
        exit: Exit::Instructions(vec![entry + 4]),
    };
    let expected = vec![go(READ, Receive, FIRST + 2), go(WRITE, Send, FIRST + 7)];
    assert_eq!(found.probes, Ok(expected));
}

#[test]
fn says_why_a_go_program_cannot_be_seen() {
    let reason = |program: &Program<'_>| only(&program.image()).probes.err();
    let quiet = Program {
        functions: &[("main.main", b"\xc3")],
        ..Program::default()
    };
    assert!(
        examined(&quiet.image()).findings.is_empty(),
        "it speaks no TLS"
    );
    let old = Program {
        magic: 0xffff_fffa,
        ..Program::default()
    };
    assert_eq!(reason(&old), Some(Hidden::Go(GoError::Layout)));
    let odd: &[u8] = b"\x49\x3b\x66\x10\x06\xc3";
    let odd = Program {
        functions: &[(READ, odd), (WRITE, odd)],
        ..Program::default()
    };
    let error = ReturnsError::Code;
    assert_eq!(
        reason(&odd),
        Some(Hidden::Returns {
            function: READ,
            error
        })
    );
    let half = Program {
        functions: &[(WRITE, b"\x49\x3b\x66\x10\xc3")],
        ..Program::default()
    };
    assert_eq!(reason(&half), Some(Hidden::Incomplete(Receive)));
    let damaged = image(&[
        (".gopclntab", &[0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8]),
        (".go.buildinfo", &buildinfo("go1.24.3")),
    ]);
    assert!(matches!(only(&damaged).probes, Err(Hidden::Go(_))));
}

/// This test binary has rustls in it, with symbols, since the exporter speaks TLS.
#[test]
fn finds_rustls_in_this_very_program() {
    let file = File::open("/proc/self/exe").expect("its own image is readable");
    let image = Image::read(&file).expect("it runs");
    let findings = examine(&image).findings;
    let rustls = findings.iter().find(|finding| finding.library == "rustls");
    let rustls = rustls.expect("it is linked in");
    assert!(
        rustls
            .version
            .as_deref()
            .is_some_and(|version| version.starts_with("0.23.")),
        "{rustls:?}"
    );
    let probes = rustls.probes.as_ref().expect("it has symbols");
    let functions: Vec<_> = probes.iter().map(|probe| probe.function).collect();
    assert!(
        functions.contains(&"<rustls::conn::connection::Writer as std::io::Write>::write"),
        "{functions:?}"
    );
}

/// Texts at which this very file looks are no library.
#[test]
fn a_program_that_knows_the_names_has_no_library_of_them() {
    let file = File::open("/proc/self/exe").expect("its own image is readable");
    let image = Image::read(&file).expect("it runs");
    let names: Vec<_> = examine(&image)
        .findings
        .iter()
        .map(|finding| finding.library)
        .collect();
    assert_eq!(names, ["rustls"]);
}

/// What a large file costs: most of it is symbols of names that begin as wanted ones do, and constants.
#[test]
fn a_large_image_costs_bounded_memory() {
    const SYMBOLS: u32 = 1_000_000;
    let (mut symbols, mut names) = (vec![0; 24], vec![0]);
    for number in 0..SYMBOLS {
        symbols.extend(symbol(names.len() as u32, BASE, 16));
        names.extend(format!("SSL_function_number_{number}\0").into_bytes());
    }
    symbols.extend(symbol(names.len() as u32, BASE + 16, 16));
    names.extend(b"SSL_read\0");
    let mut constants = vec![b'O'; 56 << 20];
    constants.extend(b"\0OpenSSL 3.0.19 27 Jan 2026\0");
    let bytes = image(&[
        (".text", &[0xc3; 64]),
        (".rodata", &constants),
        (".symtab", &symbols),
        (".strtab", &names),
    ]);
    let path = std::env::temp_dir().join(format!("undertrace-large-{}", std::process::id()));
    std::fs::write(&path, &bytes).expect("the temporary folder is writable");
    let length = bytes.len();
    drop((bytes, symbols, names, constants));
    let file = File::open(&path).expect("it was just written");
    std::fs::remove_file(&path).expect("it was just written");

    let counted = Peak::default();
    let reader = Counting {
        file: &file,
        peak: &counted,
    };
    let begin = std::time::Instant::now();
    let image = Image::read(&reader).expect("an image");
    let found = examine(&image).findings;
    println!(
        "{} MB examined in {:?}: {} MB read in pieces of at most {} KB",
        length >> 20,
        begin.elapsed(),
        counted.read.get() >> 20,
        counted.largest.get() >> 10
    );
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].probes, Err(Hidden::Incomplete(Send)));
    assert!(length > 100 << 20);
    // A read fills what was taken for it and no more.
    assert!(counted.largest.get() <= 1 << 20);
    assert!(counted.read.get() <= 8 * length as u64);
}

/// A file that goes on for ever, with zeros.
struct Endless<'a> {
    start: &'a [u8],
    read: std::cell::Cell<u64>,
}

impl ReadAt for Endless<'_> {
    fn read_some(&self, into: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let there = self.start.read_some(into, offset)?;
        into[there..].fill(0);
        self.read.set(self.read.get() + into.len() as u64);
        Ok(into.len())
    }
}

/// Every table is said to be as long as the file, and all that is looked for is in it, so that nothing ends the search early.
#[test]
fn an_image_without_end_costs_bounded_reads() {
    let go = Program::default();
    let mut table = go.table();
    table[8..16].copy_from_slice(&(2_u64 << 20).to_le_bytes());
    table[40..48].copy_from_slice(&((256_u64 << 20) - 1).to_le_bytes());
    let names = b"\0SSL_read\0";
    let mut bytes = image(&[
        (".text", &go.text()),
        (".go.buildinfo", &buildinfo("go1.24.3")),
        (".rodata", b"OpenSSL legacy\0"),
        (".gopclntab", &table),
        (".symtab", &[0; 24]),
        (".strtab", names),
        (".dynsym", &[0; 24]),
        (".dynstr", names),
        (".gnu.version_d", &[0; 20]),
    ]);
    let sections = bytes.len() - 11 * 64;
    for section in bytes[sections..].chunks_exact_mut(64).skip(1).take(9) {
        section[32..40].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    }
    for segment in [64, 120] {
        bytes[segment + 32..segment + 40].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    }
    let file = Endless {
        start: &bytes,
        read: std::cell::Cell::new(0),
    };
    let begin = std::time::Instant::now();
    let image = Image::read(&file).expect("an image");
    let found = examine(&image).findings;
    let read = file.read.get();
    println!(
        "an endless image examined in {:?}: {} MB read",
        begin.elapsed(),
        read >> 20
    );
    assert!(
        found.iter().all(|finding| finding.probes.is_err()),
        "{found:?}"
    );
    assert!(read < 4 << 30, "{read} bytes");
}

#[derive(Default)]
struct Peak {
    read: std::cell::Cell<u64>,
    largest: std::cell::Cell<usize>,
}

struct Counting<'a> {
    file: &'a File,
    peak: &'a Peak,
}

impl ReadAt for Counting<'_> {
    fn read_some(&self, into: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let read = self.file.read_some(into, offset)?;
        let Peak { read: sum, largest } = self.peak;
        sum.set(sum.get() + read as u64);
        largest.set(largest.get().max(into.len()));
        Ok(read)
    }
}
