//! Guest text made fit for logs, terminals and JSON: printable, bounded. Secrets in it are masked by `mask.rs`.

use super::mask::Masker;

/// Makes text printable: what is not UTF-8, controls the terminal or reorders text becomes U+FFFD. At most `max`
/// characters.
pub(super) fn printable(bytes: &[u8], max: usize) -> String {
    // Four bytes a character at most: no need to look at more.
    let bytes = &bytes[..bytes.len().min(max.saturating_mul(4))];
    let unfit = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    String::from_utf8_lossy(bytes)
        .chars()
        .take(max)
        .map(|c| if unfit(c) { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

/// A command line from its NUL-separated form: printable, at most `max` characters, its secrets masked.
pub(super) fn command_line(raw: &[u8], max: usize) -> String {
    let mut arguments = raw.split(|byte| *byte == 0).map(|argument| printable(argument, max));
    let mut line = arguments.next().unwrap_or_default();
    let mut masker = Masker::new(&line);
    for argument in arguments.filter(|argument| !argument.is_empty()) {
        if line.len() >= max.saturating_mul(4) {
            break;
        }
        line.push(' ');
        line.push_str(&masker.argument(&argument));
    }
    line.chars().take(max).collect()
}
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn replaces_what_could_fool_a_terminal() {
        assert_eq!(printable(b"a\x1b[31m\nb\xff", 20), "a\u{fffd}[31m\u{fffd}b\u{fffd}");
        assert_eq!(printable("x\u{202e}y\u{e4}".as_bytes(), 20), "x\u{fffd}y\u{e4}");
        assert_eq!(printable(&[b'a'; 100], 3), "aaa");
    }

    proptest! {
        #[test]
        fn any_bytes_become_bounded_printable_text(raw in proptest::collection::vec(any::<u8>(), 0..600), max in 0_usize..300) {
            for text in [printable(&raw, max), command_line(&raw, max)] {
                prop_assert!(text.chars().count() <= max);
                prop_assert!(!text.chars().any(char::is_control));
            }
        }
    }
}
