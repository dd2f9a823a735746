//! BoringSSL, and AWS-LC, which descends from it: Envoy, gRPC, programs of Google's and Amazon's.
//!
//! Functions: `include/openssl/ssl.h`. Where there is an `SSL_read_ex` (AWS-LC) it calls `SSL_read`, which is seen.

use super::{
    openssl::{BORINGSSL_ONLY, FUNCTIONS, Kin, kin},
    registry::Library,
};

/// The library.
pub(super) const BORINGSSL: Library = Library {
    name: "BoringSSL",
    functions: &FUNCTIONS,
    marks: &[BORINGSSL_ONLY],
    is: |facts| kin(facts) == Some(Kin::Boring),
    // It has none.
    version: |_| None,
    hidden: None,
};
