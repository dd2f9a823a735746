//! Members of kernel structs, at offsets that the loader resolved.
//!
//! Two ways: [`load`] through a pointer whose type the verifier knows (one instruction, faults are handled by the kernel), and [`read`] by
//! helper from any address (through casts the verifier cannot follow, such as `sock` to `tcp_sock`, and on values that came back from a map).

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;

/// Loads the member at `offset` of the struct at `base`, a context argument or a pointer loaded from one.
#[inline(always)]
pub(crate) fn load<T: Copy>(base: *const u8, offset: u32) -> T {
    let member = base.wrapping_add(offset as usize).cast::<T>();
    // SAFETY: the verifier accepts only a member of the struct that `base` points to, and handles faults.
    unsafe { member.read_volatile() }
}

/// Reads two words that stand side by side at any kernel address; zeros when they cannot be read.
#[inline(always)]
pub(crate) fn read_pair(base: u64) -> [u64; 2] {
    let mut pair = [0u64; 2];
    // SAFETY: the helper checks the address; the destination is a local of that size.
    let failed = unsafe { bpf_probe_read_kernel((&raw mut pair).cast(), 16, base as *const _) };
    if failed == 0 { pair } else { [0; 2] }
}

/// Reads a value of eight bytes or less from any kernel address; zero when it cannot be read.
#[inline(always)]
pub(crate) fn read<T: Copy + Default>(base: u64, offset: u32) -> T {
    let mut value = T::default();
    let from = base.wrapping_add(u64::from(offset));
    // SAFETY: the helper checks the address; the destination is a local of that size.
    let failed = unsafe {
        bpf_probe_read_kernel(
            (&raw mut value).cast(),
            size_of::<T>() as u32,
            from as *const _,
        )
    };
    if failed == 0 { value } else { T::default() }
}
