//! Lines of a head, and where it ends.

/// Offset of the first LF.
#[inline]
pub(in crate::protocol::http1) fn find_newline(bytes: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', bytes)
}

/// The first line without its end, and what follows it.
pub(super) fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let Some(newline) = find_newline(bytes) else {
        return (bytes, &[]);
    };
    let (line, rest) = bytes.split_at(newline);
    (
        line.strip_suffix(b"\r").unwrap_or(line),
        rest.get(1..).unwrap_or_default(),
    )
}

/// Finds the end of a head over bytes cut anywhere: the first empty line after a line with text.
#[derive(Clone, Copy, Debug)]
pub(in crate::protocol::http1) struct HeadEnd {
    line: Line,
}

#[derive(Clone, Copy, Debug)]
enum Line {
    Text,
    Fresh,
    CarriageReturn,
}

impl HeadEnd {
    /// At the first byte of a head.
    pub(in crate::protocol::http1) const fn new() -> Self {
        Self { line: Line::Text }
    }

    /// Bytes of `bytes` up to and including the empty line, when it ends here. The first byte ever passed is the first of the first line.
    pub(in crate::protocol::http1) fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            match (self.line, byte) {
                (Line::Fresh | Line::CarriageReturn, b'\n') => return Some(at + 1),
                (Line::Fresh, b'\r') => {
                    self.line = Line::CarriageReturn;
                    at += 1;
                }
                _ => match bytes.get(at..).and_then(find_newline) {
                    Some(newline) => {
                        self.line = Line::Fresh;
                        at += newline + 1;
                    }
                    None => {
                        self.line = Line::Text;
                        return None;
                    }
                },
            }
        }
        None
    }
}
