//! Samples of images and of what processes have mapped.

use super::Samples;
use crate::image::{
    go::tests::Program,
    testing::{BASE, image, library, symbol, tables},
};

pub(super) fn elf() -> Samples {
    let symbols = [vec![0; 24], symbol(1, BASE, 0x20)].concat();
    let names = b"\0uv_run\0ngx_process_events\0";
    // Sections of one name that all are the whole file.
    let mut overlapping = image(&[(".dynstr", b"?".as_slice()); 60]);
    let length = (overlapping.len() as u64).to_le_bytes();
    let table = overlapping.len() - 62 * 64;
    for entry in overlapping[table + 64..].chunks_exact_mut(64).take(60) {
        entry[24..32].fill(0);
        entry[32..40].copy_from_slice(&length);
    }
    Samples {
        taken: vec![
            image(&[(".go.buildinfo", b"\xff Go buildinf:"), (".text", b"code")]),
            image(&[(".dynsym", &symbols), (".dynstr", names)]),
            image(&[
                (".rodata", b"nginx version: nginx/1.22"),
                (".dynstr", b"\0ngx_process_events_and_timers\0"),
            ]),
        ],
        refused: vec![
            image(&[(".text", b"code")]),
            overlapping,
            b"#!/bin/sh\nexit 0\n".to_vec(),
            Vec::new(),
        ],
    }
}

pub(super) fn tls_image() -> Samples {
    let openssl = [
        "SSL_read",
        "SSL_write",
        "SSL_read_ex",
        "SSL_write_ex",
        "SSL_free",
    ];
    let [symbols, names] = tables(&openssl);
    let gnutls = [
        "gnutls_record_recv",
        "gnutls_record_send",
        "gnutls_record_send2",
    ];
    let boringssl = ["SSL_read", "SSL_write", "SSL_get_early_data_reason"];
    let rustls = [
        "_ZN67_$LT$rustls..conn..connection..Writer$u20$as$u20$std..io..Write$GT$5write17haae04209dcc61889E",
        "_ZN6rustls4conn10connection6Reader16into_first_chunk17h08c99df10c30ff85E",
    ];
    let moved = Program {
        text_start: 0,
        ..Program::default()
    };
    let texts = b"TLS 1.3, server CertificateVerify\0OpenSSL 3.0.19 27 Jan 2026\0/rustls-0.23.31/src/conn.rs\0";
    Samples {
        taken: vec![
            image(&[
                (".text", &[0xc3; 64]),
                (".rodata", b"OpenSSL 3.0.19 27 Jan 2026\0"),
                (".symtab", &symbols),
                (".strtab", &names),
            ]),
            library(&gnutls),
            library(&boringssl),
            library(&rustls),
            Program::default().image(),
            moved.image(),
        ],
        refused: vec![
            library(&["SSL_read"]),
            image(&[(".rodata", texts)]),
            b"#!/bin/sh\n".to_vec(),
            Vec::new(),
        ],
    }
}

pub(super) fn maps() -> Samples {
    let all = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    Samples {
        taken: all(&[
            "55d0c0001000-55d0c0002000 r-xp 00001000 fe:00 77                         /usr/bin/curl\n",
            "1000-2000 r--p 00000000 fe:00 77 /usr/bin/curl\n2000-3000 r-xp 00001000 fe:00 77 /opt/my libs/libssl.so.3 (deleted)\n",
            "7f0000002000-7f0000003000 rwxp 00000000 00:01 12                         /memfd:jit (deleted)\n",
        ]),
        refused: all(&[
            "",
            "7ffd00000000-7ffd00001000 r-xp 00000000 00:00 0                          [vdso]\n",
            "1000-2000 rw-p 00000000 fe:00 77 /usr/bin/curl\n",
        ]),
    }
}
