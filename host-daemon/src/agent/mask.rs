//! Secrets in command lines, masked before anything is stored or shown. It guesses, and rather masks too much.

/// What a masked value looks like.
const MASK: &str = "***";

/// Names whose value is a secret, where they end an option's, a variable's or a header's name.
const SECRETS: [&str; 13] = [
    "password",
    "passwd",
    "passphrase",
    "pass",
    "passin",
    "pwd",
    "token",
    "secret",
    "key",
    "credential",
    "credentials",
    "authorization",
    "cookie",
];

/// Short options that take a secret, by what the program's name begins with.
const SHORT: [(&str, &str); 13] = [
    ("mysql", "-p"),
    ("mariadb", "-p"),
    ("mongo", "-p"),
    ("sshpass", "-p"),
    ("docker", "-p"),
    ("podman", "-p"),
    ("redis-cli", "-a"),
    ("ldap", "-w"),
    ("curl", "-u"),
    ("curl", "-U"),
    ("smbclient", "-U"),
    ("ipmitool", "-P"),
    ("sqlcmd", "-P"),
];
/// Words before a secret in a header.
const SCHEMES: [&str; 2] = ["bearer", "basic"];

/// Walks along the arguments of one program.
#[derive(Debug)]
pub(super) struct Masker {
    /// Short options of the program that take a secret.
    short: Vec<&'static str>,
    /// The next argument is a secret.
    next: bool,
    /// The next argument is a shell's script.
    script: bool,
}

impl Masker {
    /// For a program called by this name.
    pub(super) fn new(program: &str) -> Self {
        let name = program.rsplit('/').next().unwrap_or_default();
        let short = SHORT.iter().filter(|(prefix, _)| name.starts_with(prefix));
        Self { short: short.map(|(_, option)| *option).collect(), next: false, script: false }
    }

    /// An argument without its secrets.
    pub(super) fn argument(&mut self, argument: &str) -> String {
        let option = argument.starts_with('-');
        if std::mem::take(&mut self.next) && !argument.starts_with("--") {
            return MASK.to_owned();
        }
        if std::mem::take(&mut self.script) && !option {
            return Self::script(argument);
        }
        if let Some(short) = self.short.iter().find(|short| argument.starts_with(**short)) {
            self.next = argument.len() == short.len();
            return if self.next { argument.to_owned() } else { format!("{short}{MASK}") };
        }
        self.script = option && !argument.starts_with("--") && argument.ends_with('c');
        // An argument is one value, whatever is in it; "a script" in a shell's history has more than one.
        if let Some(masked) = value(argument).or_else(|| scheme(argument)) {
            return masked;
        }
        self.next = is_secret(argument) && (option || argument.ends_with(':')) || is_scheme(argument);
        if argument.contains("://") && !argument.contains(' ') {
            url(argument)
        } else {
            Self::words(argument)
        }
    }

    /// A script: its words are what a program's arguments are.
    fn script(script: &str) -> String {
        let mut masker = Self::new("");
        let mut quote = None;
        let mut words = Vec::new();
        for word in script.split(' ') {
            // The rest of a quoted secret.
            if let Some(mark) = quote {
                quote = (!word.ends_with(mark)).then_some(mark);
                continue;
            }
            if words.is_empty() || word.is_empty() {
                masker = Self { next: masker.next, ..Self::new(word) };
            } else if let Some(program) = word.strip_prefix(['|', ';', '(', '&']) {
                masker = Self { next: masker.next, ..Self::new(program) };
            } else if masker.short.is_empty() {
                masker.short = Self::new(word).short;
            }
            let masked = masker.argument(word);
            // In a script "-c" is nothing special.
            masker.script = false;
            if masked.ends_with(MASK) {
                quote = open_quote(word);
            }
            words.push(masked);
        }
        words.join(" ")
    }

    /// Text with spaces that is no script for all we know: URLs in it count.
    fn words(text: &str) -> String {
        text.split(' ').map(url).collect::<Vec<_>>().join(" ")
    }
}

/// The quotation mark that a word opens and does not close.
fn open_quote(word: &str) -> Option<char> {
    ['\'', '"'].into_iter().find(|mark| word.matches(*mark).count() % 2 == 1)
}

/// `name=value` or `name:value` with a secret's name, also within a query or an object: all behind it is masked.
fn value(text: &str) -> Option<String> {
    let separators = text.match_indices(['=', ':']);
    let at = separators.map(|(at, _)| at).find(|at| is_secret(&text[..*at]) && at + 1 < text.len())?;
    let blank = if text[at + 1..].starts_with(' ') { " " } else { "" };
    Some(format!("{}{blank}{MASK}", &text[..=at]))
}

/// `Bearer secret` in one argument.
fn scheme(text: &str) -> Option<String> {
    let (scheme, secret) = text.split_once(' ')?;
    (is_scheme(scheme) && !secret.trim().is_empty()).then(|| format!("{scheme} {MASK}"))
}

/// `scheme://user:password@host`.
fn url(word: &str) -> String {
    let masked = || {
        let (scheme, rest) = word.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next()?;
        // A password may have any of them in it.
        let end = authority.rfind('@').or_else(|| rest.rfind('@'))?;
        let (name, _) = rest[..end].split_once(':')?;
        (!name.contains('/')).then(|| format!("{scheme}://{name}:{MASK}{}", &rest[end..]))
    };
    masked().unwrap_or_else(|| word.to_owned())
}

fn is_scheme(word: &str) -> bool {
    SCHEMES.iter().any(|scheme| word.trim_start_matches(['"', '\'']).eq_ignore_ascii_case(scheme))
}

fn is_secret(name: &str) -> bool {
    let name = name.trim_end_matches([':', '"', '\'', ' ']).to_ascii_lowercase();
    SECRETS.iter().any(|secret| name.ends_with(secret))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::text::command_line;

    fn masked(arguments: &[&str]) -> String {
        command_line(arguments.join("\0").as_bytes(), 400)
    }

    #[test]
    fn masks_secrets() {
        for (arguments, expected) in [
            (&["db", "--password=hunter2", "-v"][..], "db --password=*** -v"),
            (&["db", "--password=hunter2 with spaces", "-v"], "db --password=*** -v"),
            (&["db", "--api-key", "hunter2", "x"], "db --api-key *** x"),
            (&["db", "--api-key", "two words", "x"], "db --api-key *** x"),
            (&["sh", "-c", "TOKEN=hunter2 run it"], "sh -c TOKEN=*** run it"),
            (&["sh", "-c", "TOKEN='hunter2 is long' run it"], "sh -c TOKEN=*** run it"),
            (&["bash", "-lc", "mysql -phunter2 db"], "bash -lc mysql -p*** db"),
            (&["curl", "-H", "X-Auth-Token: hunter2"], "curl -H X-Auth-Token: ***"),
            (&["curl", "-H", "Authorization: Bearer hunter2"], "curl -H Authorization: ***"),
            (&["x", "Bearer", "hunter2", "y"], "x Bearer *** y"),
            (&["x", "bearer hunter2"], "x bearer ***"),
            (&["curl", "-u", "me:hunter2", "h"], "curl -u *** h"),
            (&["get", "https://me:hunter2@host:1/a"], "get https://me:***@host:1/a"),
            (&["get", "https://me:hun/ter2@host/a"], "get https://me:***@host/a"),
            (&["get", "https://h/?a=1&token=hunter2&b=2"], "get https://h/?a=1&token=***"),
            (&["x", "{\"user\":\"me\",\"password\":\"hunter2\"}"], "x {\"user\":\"me\",\"password\":***"),
            (&["/usr/bin/mysqldump", "-u", "me", "-phunter2"], "/usr/bin/mysqldump -u me -p***"),
            (&["sshpass", "-p", "hunter2", "ssh", "h"], "sshpass -p *** ssh h"),
            (&["redis-cli", "-a", "hunter2"], "redis-cli -a ***"),
            (&["openssl", "-passin", "pass:hunter2"], "openssl -passin ***"),
            (&["app", "--secret", "--next"], "app --secret --next"),
        ] {
            assert_eq!(masked(arguments), expected);
        }
    }

    #[test]
    fn leaves_other_arguments_alone() {
        for line in
            ["httpd -f -p 80", "cp key /etc", "qemu -k keyboard=us", "ssh a:b", "x://y/z@w:v", "cc -c a.c"]
        {
            assert_eq!(masked(&line.split(' ').collect::<Vec<_>>()), line);
        }
        assert_eq!(masked(&["sleep", "1", ""]), "sleep 1");
        assert_eq!(
            masked(&["sh", "-c", "for i in 1 2; do echo $i; done"]),
            "sh -c for i in 1 2; do echo $i; done"
        );
    }

    proptest! {
        #[test]
        fn no_secret_survives(
            secret in "Z[a-zA-Z0-9 _.,;&@!#$%/=:+-]{7,20}Q",
            name in "(--|-|DB_|X-)?[a-z]{0,5}[-_]?(password|token|secret|key|credential|PASSWD|Passphrase)",
            before in "[a-z/-]{0,12}",
        ) {
            // Of a script (`sh -c`) the value ends at the space; those are above.
            prop_assume!(!(before.starts_with('-') && before.ends_with('c')));
            let argument = format!("{name}={secret}");
            let option = format!("--{name}");
            let header = format!("{name}: {secret}");
            let bearer = format!("Authorization: Bearer {secret}");
            let short = format!("-p{secret}");
            let script = format!("{name}='{secret}' run");
            for arguments in [
                &["run", &before, &argument, "end"][..],
                &["run", &before, &option, &secret, "end"],
                &["curl", "-H", &header],
                &["curl", "-H", &bearer],
                &["mysql", &short],
                &["sh", "-c", &script],
            ] {
                let line = masked(arguments);
                prop_assert!(!line.contains(&secret[1..7]), "{line}");
            }
            let simple = secret.replace([' ', '#'], "");
            let line = masked(&["get", &format!("https://me:{simple}@host/path")]);
            prop_assert!(!line.contains(&simple), "{line}");
        }
    }
}
