//! Guest text made fit for logs, terminals and JSON: printable, bounded, secrets masked.

/// What a masked value looks like.
const MASK: &str = "***";

/// Names whose value is a secret, where they end an option's or a variable's name.
const SECRETS: [&str; 10] = [
    "password",
    "passwd",
    "passphrase",
    "pass",
    "pwd",
    "token",
    "secret",
    "key",
    "credential",
    "credentials",
];

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

/// A command line from its NUL-separated form: printable, at most `max` characters, with the values of options and
/// variables whose name ends in a word for a secret masked.
pub(super) fn command_line(raw: &[u8], max: usize) -> String {
    let mut line = String::new();
    let mut mask_next = false;
    for argument in raw.split(|byte| *byte == 0) {
        // A shell's script is one argument with spaces in it; its words are looked at one by one.
        let argument = printable(argument, max);
        for word in argument.split(' ').filter(|word| !word.is_empty()) {
            if !line.is_empty() {
                line.push(' ');
            }
            if mask_next && !word.starts_with('-') {
                line.push_str(MASK);
                mask_next = false;
            } else {
                mask_next = push_masked(&mut line, word);
            }
        }
        if line.len() >= max {
            break;
        }
    }
    line.chars().take(max).collect()
}

/// Appends a word without its secrets; true if the word is an option whose secret is the next one.
fn push_masked(line: &mut String, word: &str) -> bool {
    if let Some(at) = word.find(['=', ':'])
        && is_secret(&word[..at])
        && at + 1 < word.len()
    {
        line.push_str(&word[..=at]);
        line.push_str(MASK);
        return false;
    }
    // scheme://user:password@host
    if let Some((scheme, rest)) = word.split_once("://")
        && let Some((user, host)) = rest.split('/').next().and_then(|authority| authority.rsplit_once('@'))
        && let Some((name, _)) = user.split_once(':')
    {
        let after_host = &rest[user.len() + 1 + host.len()..];
        line.extend([scheme, "://", name, ":", MASK, "@", host, after_host]);
        return false;
    }
    line.push_str(word);
    is_secret(word) && (word.starts_with('-') || word.ends_with(':'))
}

fn is_secret(name: &str) -> bool {
    let name = name.trim_end_matches([':', '"', '\'']).to_ascii_lowercase();
    SECRETS.iter().any(|secret| name.ends_with(secret))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(arguments: &[&str]) -> String {
        command_line(arguments.join("\0").as_bytes(), 200)
    }

    #[test]
    fn replaces_what_could_fool_a_terminal() {
        assert_eq!(printable(b"a\x1b[31m\nb\xff", 20), "a\u{fffd}[31m\u{fffd}b\u{fffd}");
        assert_eq!(printable("x\u{202e}y\u{e4}".as_bytes(), 20), "x\u{fffd}y\u{e4}");
        assert_eq!(printable(&[b'a'; 100], 3), "aaa");
    }

    #[test]
    fn masks_secrets() {
        assert_eq!(masked(&["db", "--password=hunter2", "-v"]), "db --password=*** -v");
        assert_eq!(masked(&["db", "--api-key", "hunter2", "x"]), "db --api-key *** x");
        assert_eq!(masked(&["sh", "-c", "TOKEN=hunter2 run it"]), "sh -c TOKEN=*** run it");
        assert_eq!(masked(&["curl", "-H", "X-Auth-Token: hunter2"]), "curl -H X-Auth-Token: ***");
        assert_eq!(masked(&["get", "https://me:hunter2@host:1/a"]), "get https://me:***@host:1/a");
        assert_eq!(masked(&["app", "--secret", "--next"]), "app --secret --next");
    }

    #[test]
    fn leaves_other_arguments_alone() {
        for line in ["httpd -f -p 80", "cp key /etc", "qemu -k keyboard=us", "ssh a:b", "x://y/z@w:v"] {
            assert_eq!(masked(&line.split(' ').collect::<Vec<_>>()), line);
        }
        assert_eq!(masked(&["sleep", "1", ""]), "sleep 1");
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
