//! Libraries that are recognised so that their processes are not silently left out.

use super::{Hidden, registry::Library};
use crate::image::symbols::Name;

const fn unsupported(name: &'static str, marks: &'static [Name]) -> Library {
    Library {
        name,
        functions: &[],
        marks,
        is: |_| true,
        version: |_| None,
        hidden: Some(Hidden::NotSupported),
    }
}

/// Mozilla's; `libssl3.so`.
pub(super) const NSS: Library = unsupported("NSS", &[Name::Plain("SSL_ImportFD")]);
/// Mbed TLS.
pub(super) const MBEDTLS: Library = unsupported("Mbed TLS", &[Name::Plain("mbedtls_ssl_read")]);
/// wolfSSL.
pub(super) const WOLFSSL: Library = unsupported("wolfSSL", &[Name::Plain("wolfSSL_read")]);
/// Amazon's s2n-tls.
pub(super) const S2N: Library = unsupported("s2n-tls", &[Name::Plain("s2n_recv")]);

/// The TLS of Java is written in Java.
pub(super) const JAVA: Library = Library {
    name: "Java (JSSE)",
    functions: &[],
    marks: &[Name::Plain("JNI_CreateJavaVM")],
    is: |_| true,
    version: |_| None,
    hidden: Some(Hidden::MadeAtRunTime),
};
