//! The strings of protocol 0, which are text with escapes.

/// Decodes a protocol-0 string, which Python 2's `repr` wrote; `None` if it is not quoted.
pub(super) fn unquote(line: &str) -> Option<Vec<u8>> {
    let quote = line.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let inner = line[1..].strip_suffix(quote)?;
    Some(unescape(inner.as_bytes(), false))
}

/// Decodes backslash escapes: those of Python 2's strings (`\n`, `\\`, `\'`, `\x41`), or with `unicode` only `\u0041`.
pub(super) fn unescape(text: &[u8], unicode: bool) -> Vec<u8> {
    let hex = |digits: Option<&[u8]>| u32::from_str_radix(std::str::from_utf8(digits?).ok()?, 16).ok();
    let mut bytes = Vec::with_capacity(text.len());
    let mut i = 0;
    while i < text.len() {
        let (c, next) = (text[i], text.get(i + 1).copied());
        i += 1;
        let simple = match (c, next, unicode) {
            (b'\\', Some(b'u'), true) => {
                if let Some(c) = hex(text.get(i + 1..i + 5)).and_then(char::from_u32) {
                    bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
                    i += 5;
                    continue;
                }
                None
            }
            (b'\\', Some(b'x'), false) => {
                if let Some(byte) = hex(text.get(i + 1..i + 3)) {
                    bytes.push(byte as u8);
                    i += 3;
                    continue;
                }
                None
            }
            (b'\\', Some(b'n'), false) => Some(b'\n'),
            (b'\\', Some(b't'), false) => Some(b'\t'),
            (b'\\', Some(b'r'), false) => Some(b'\r'),
            (b'\\', Some(c @ (b'\\' | b'\'' | b'"')), false) => Some(c),
            _ => None,
        };
        i += usize::from(simple.is_some());
        bytes.push(simple.unwrap_or(c));
    }
    bytes
}
