//! BoringSSL, and AWS-LC, which descends from it: Envoy, gRPC, programs of Google's and Amazon's.
//!
//! Functions: `include/openssl/ssl.h`. Where there is an `SSL_read_ex` (AWS-LC) it calls `SSL_read`, which is seen.

use super::{
    evidence::Facts,
    openssl::{BORINGSSL_ONLY, FUNCTIONS},
    registry::Library,
};

/// The library.
pub(super) const BORINGSSL: Library = Library {
    name: "BoringSSL",
    functions: &FUNCTIONS,
    marks: &[BORINGSSL_ONLY],
    is: is_boringssl,
    // It has none.
    version: |_| None,
    hidden: None,
};

/// It has a function of its own, or says that it is "OpenSSL 1.1.1 (compatible; BoringSSL)".
pub(super) fn is_boringssl(facts: &dyn Facts) -> bool {
    let named = || facts.says("(compatible; BoringSSL)") || facts.says("AWS-LC");
    let mut functions = FUNCTIONS.iter();
    functions.any(|function| facts.has(function.name)) && (facts.has(BORINGSSL_ONLY) || named())
}
