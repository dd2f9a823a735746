//! Pure decisions on bytes. The kernel takes them, the host tests them, and user space calls the same functions where it must agree.
//!
//! Input: bytes that may be cut anywhere. Output: values. Nothing here allocates, panics or loops without a constant bound.

pub mod chunked;
pub mod decide;
pub mod http1;
pub mod inject;
pub mod option;
pub mod propagator;
pub mod sampling;
pub mod scan;
pub mod state_line;
pub mod traceparent;
pub mod tracestate;
