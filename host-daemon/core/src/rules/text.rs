//! From places in a TOML string's value to places in the file.

use std::ops::Range;

/// Maps a range of bytes of a string's value to bytes of the file. `raw` is the string as it stands in the file, with its
/// quotes, and begins at `at`.
pub(super) fn to_file(raw: &str, at: usize, range: &Range<usize>) -> Range<usize> {
    let places = places(raw);
    let last = places.last().copied().unwrap_or(0);
    let place = |n: usize| at + places.get(n).copied().unwrap_or(last);
    place(range.start)..place(range.end.max(range.start))
}

/// Where each byte of the value stands in `raw`, and its end.
fn places(raw: &str) -> Vec<usize> {
    let (quote, literal) = match raw.as_bytes() {
        [b'\'', b'\'', b'\'', ..] => (3, true),
        [b'"', b'"', b'"', ..] => (3, false),
        [b'\'', ..] => (1, true),
        _ => (1, false),
    };
    let end = raw.len().saturating_sub(quote).max(quote);
    let mut at = quote;
    let rest = |at: usize| raw.get(at..end).unwrap_or_default();
    if quote == 3 {
        // A line break right after the quotes is not part of the value.
        at += if rest(at).starts_with("\r\n") { 2 } else { usize::from(rest(at).starts_with('\n')) };
    }
    let mut places = Vec::new();
    while let Some(c) = rest(at).chars().next() {
        if c != '\\' || literal {
            places.extend((0..c.len_utf8()).map(|byte| at + byte));
            at += c.len_utf8();
            continue;
        }
        let escape = rest(at + 1).chars().next().unwrap_or(' ');
        let (length, bytes) = match escape {
            'x' => (4, decoded(rest(at), 2, 4)),
            'u' => (6, decoded(rest(at), 2, 6)),
            'U' => (10, decoded(rest(at), 2, 10)),
            c if c.is_whitespace() => {
                let skipped = rest(at + 1).len() - rest(at + 1).trim_start().len();
                (1 + skipped, 0)
            }
            _ => (2, 1),
        };
        places.extend((0..bytes).map(|_| at));
        at += length;
    }
    places.push(at);
    places
}

/// Bytes in UTF-8 of the character whose number stands in hexadecimal digits.
fn decoded(text: &str, from: usize, to: usize) -> usize {
    let digits = text.get(from..to).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    digits.and_then(char::from_u32).map_or(1, char::len_utf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_of_a_value_has_its_place_in_the_file() {
        assert_eq!(to_file("\"abc\"", 10, &(1..2)), 12..13);
        assert_eq!(to_file("'a\\c'", 10, &(2..3)), 13..14);
        assert_eq!(to_file("'''\na > b'''", 0, &(2..3)), 6..7);
        assert_eq!(to_file("\"a\\\"b\"", 0, &(2..3)), 4..5);
        assert_eq!(to_file("\"\\u00e9b\"", 0, &(2..3)), 7..8);
        assert_eq!(to_file("\"\"\"a \\\n  b\"\"\"", 0, &(2..3)), 9..10);
        assert_eq!(to_file("\"ab\"", 0, &(2..2)), 3..3);
        assert_eq!(to_file("\"", 0, &(0..9)), 1..1);
    }
}
