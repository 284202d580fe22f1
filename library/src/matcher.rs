//! Matching a command against entries, token by token: words in order, flags in any order, nothing left over.
//!
//! Must never split or join text: a token of the command is a token of the pattern or nothing.

use std::collections::BTreeMap;

use crate::entry::Entry;

/// Folders in which programs are installed, in the order in which they are searched.
pub const PROGRAM_FOLDERS: [&str; 5] = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"];

/// Bound placeholders; one that binds the rest has many values.
pub type Bindings = BTreeMap<String, Vec<String>>;

/// An entry and what its placeholders stand for.
#[derive(Clone, Debug)]
pub struct Match<'a> {
    /// The entry.
    pub entry: &'a Entry,
    /// Values of its placeholders.
    pub bindings: Bindings,
}

pub(crate) fn find<'a>(entries: &'a [Entry], argv: &[String]) -> Option<Match<'a>> {
    let program = program_of(argv.first()?)?;
    let named = entries.iter().filter(|entry| entry.words.first().is_some_and(|word| word == program));
    let matches = named.filter_map(|entry| Some(Match { entry, bindings: matched(entry, argv)? }));
    matches.max_by_key(|found| (closeness(found.entry), found.entry.class))
}

/// The name of a program that is found where programs are installed; one in any other folder may be anything.
fn program_of(word: &str) -> Option<&str> {
    match word.rsplit_once('/') {
        None => Some(word),
        Some((folder, name)) => PROGRAM_FOLDERS.contains(&folder).then_some(name),
    }
}

/// How much of a command an entry pins down.
fn closeness(entry: &Entry) -> usize {
    let fixed = |words: &[String]| words.iter().filter(|word| placeholders(word).is_empty()).count();
    fixed(&entry.words) * 4 + entry.words.len() + entry.flags.len() * 2
}

/// Fills the placeholders of `argv`; the error is the name of one that nothing fills. A word that is one placeholder with many
/// values becomes many words; a word with a placeholder that is bound to nothing is left out.
pub fn bind(argv: &[String], bindings: &Bindings) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    for word in argv {
        let names = placeholders(word);
        match names.as_slice() {
            [] => out.push(word.clone()),
            [name] if *word == format!("{{{name}}}") => {
                out.extend(bindings.get(name).ok_or_else(|| name.clone())?.iter().cloned());
            }
            _ => out.extend(filled(word, bindings)?),
        }
    }
    Ok(out)
}

/// A word with each placeholder filled once: what a value holds is never looked at again. `None` where one is bound to nothing.
fn filled(word: &str, bindings: &Bindings) -> Result<Option<String>, String> {
    let mut out = String::new();
    for piece in pieces(word) {
        match piece {
            Piece::Text(text) => out.push_str(&text),
            Piece::Hole(hole) => match bindings.get(&hole.name).ok_or(hole.name)?.as_slice() {
                [value] => out.push_str(value),
                _ => return Ok(None),
            },
        }
    }
    Ok(Some(out))
}

/// Names of the placeholders in a word: `{name}`, `{name:type}`, `{name:type...}`.
pub(crate) fn placeholders(word: &str) -> Vec<String> {
    pieces(word)
        .into_iter()
        .filter_map(|piece| match piece {
            Piece::Hole(hole) => Some(hole.name),
            Piece::Text(_) => None,
        })
        .collect()
}

#[derive(Debug, PartialEq)]
enum Piece {
    Text(String),
    Hole(Hole),
}

#[derive(Debug, PartialEq)]
struct Hole {
    name: String,
    kind: String,
    rest: bool,
}

fn pieces(word: &str) -> Vec<Piece> {
    let mut out = Vec::new();
    let mut left = word;
    while let Some((text, after)) = left.split_once('{') {
        let Some((inner, rest)) = after.split_once('}') else { break };
        if !text.is_empty() {
            out.push(Piece::Text(text.to_owned()));
        }
        let (name, kind) = inner.split_once(':').unwrap_or((inner, "any"));
        let (kind, is_rest) = kind.strip_suffix("...").map_or((kind, false), |kind| (kind, true));
        out.push(Piece::Hole(Hole { name: name.to_owned(), kind: kind.to_owned(), rest: is_rest }));
        left = rest;
    }
    if !left.is_empty() {
        out.push(Piece::Text(left.to_owned()));
    }
    out
}

/// A flag of a pattern: its spellings and what its value binds.
struct Flag {
    spellings: Vec<String>,
    value: Option<String>,
}

fn flag(pattern: &str) -> Flag {
    let (names, value) = match pattern.split_once('=') {
        Some((names, value)) => (names, Some(value.to_owned())),
        None => (pattern, None),
    };
    Flag { spellings: names.split('|').map(str::to_owned).collect(), value }
}

fn matched(entry: &Entry, argv: &[String]) -> Option<Bindings> {
    let mut bindings = Bindings::new();
    for name in entry.optional.iter().flat_map(|pattern| placeholders(pattern)) {
        bindings.insert(name, Vec::new());
    }
    let (_, rest) = argv.split_first()?;
    let (_, patterns) = entry.words.split_first()?;
    let words = take_flags(entry, rest, &mut bindings)?;
    bind_words(patterns, &words, entry.any_flags, &mut bindings)?;
    Some(bindings)
}

/// Takes the flags out of `argv` and returns the words; `None` if one is not allowed or one is missing.
fn take_flags(entry: &Entry, argv: &[String], bindings: &mut Bindings) -> Option<Vec<String>> {
    let mut needed: Vec<Flag> = entry.flags.iter().map(|pattern| flag(pattern)).collect();
    let allowed: Vec<Flag> = entry.optional.iter().map(|pattern| flag(pattern)).collect();
    let mut words = Vec::new();
    let mut tokens = argv.iter();
    while let Some(token) = tokens.next() {
        if token == "--" {
            words.extend(tokens.cloned());
            break;
        }
        if !token.starts_with('-') || token == "-" {
            words.push(token.clone());
            continue;
        }
        let (name, glued) = token.split_once('=').map_or((token.as_str(), None), |(name, value)| (name, Some(value)));
        let at = needed.iter().position(|flag| flag.spellings.iter().any(|spelling| spelling == name));
        let known = at.map(|at| needed.remove(at));
        let known = known.as_ref().or_else(|| allowed.iter().find(|f| f.spellings.iter().any(|s| s == name)));
        match known {
            None if entry.any_flags => {}
            None => return None,
            Some(Flag { value: None, .. }) if glued.is_some() => return None,
            Some(Flag { value: None, .. }) => {}
            Some(Flag { value: Some(pattern), .. }) => {
                let value = match glued {
                    Some(value) => value,
                    None => tokens.next()?,
                };
                bind_word(pattern, value, bindings)?;
            }
        }
    }
    needed.is_empty().then_some(words)
}

/// `loose`: flags that are not listed may have left their values among the words.
fn bind_words(patterns: &[String], words: &[String], loose: bool, bindings: &mut Bindings) -> Option<()> {
    let mut words = words.iter();
    for (at, pattern) in patterns.iter().enumerate() {
        if let [Piece::Hole(hole)] = pieces(pattern).as_slice()
            && hole.rest
        {
            // What comes after the rest takes its words from the end.
            let after = patterns.len() - at - 1;
            let left: Vec<&String> = words.by_ref().collect();
            let split = left.len().checked_sub(after).filter(|count| *count > 0)?;
            let (mine, theirs) = left.split_at(split);
            if !mine.iter().all(|value| fits(&hole.kind, value)) {
                return None;
            }
            bindings.insert(hole.name.clone(), mine.iter().map(|value| (*value).clone()).collect());
            let tail: Vec<String> = theirs.iter().map(|value| (*value).clone()).collect();
            return bind_words(patterns.get(at + 1..)?, &tail, loose, bindings);
        }
        bind_word(pattern, words.next()?, bindings)?;
    }
    (loose || words.next().is_none()).then_some(())
}

/// Binds one token: texts must be there as they stand, holes take what is between them.
fn bind_word(pattern: &str, token: &str, bindings: &mut Bindings) -> Option<()> {
    let mut left = token;
    let pieces = pieces(pattern);
    let mut pieces = pieces.iter().peekable();
    while let Some(piece) = pieces.next() {
        match piece {
            Piece::Text(text) => left = left.strip_prefix(text.as_str())?,
            Piece::Hole(hole) => {
                let end = match pieces.peek() {
                    Some(Piece::Text(text)) => left.find(text.as_str())?,
                    _ => left.len(),
                };
                let (value, rest) = left.split_at(end);
                if !fits(&hole.kind, value) {
                    return None;
                }
                let bound = bindings.entry(hole.name.clone()).or_default();
                if !bound.is_empty() && *bound != [value] {
                    return None;
                }
                *bound = vec![value.to_owned()];
                left = rest;
            }
        }
    }
    left.is_empty().then_some(())
}

/// Whether a value is of a type. No type but `any` lets a value look like a flag.
fn fits(kind: &str, value: &str) -> bool {
    let name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:@".contains(&byte);
    let plain = !value.is_empty() && !value.starts_with('-') && !value.contains('\0');
    match kind {
        "number" => !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()),
        "name" => plain && value.bytes().all(name),
        "ref" => plain && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte)),
        "image" | "url" => plain && value.bytes().all(|byte| name(byte) || b"/+%?=&~".contains(&byte)),
        "path" => plain,
        "sed" => is_substitution(value),
        "sql" | "any" => !value.contains('\0'),
        _ => false,
    }
}

/// One `s` command of sed whose flags neither run nor write anything.
fn is_substitution(script: &str) -> bool {
    let mut rest = script.chars();
    let (Some('s'), Some(mark)) = (rest.next(), rest.next()) else { return false };
    if mark.is_ascii_alphanumeric() || mark.is_whitespace() || mark == '\\' || script.contains(['\n', '\0']) {
        return false;
    }
    let (mut marks, mut escaped, mut flags) = (0, false, String::new());
    for next in rest {
        if marks == 2 {
            flags.push(next);
        } else if escaped {
            escaped = false;
        } else if next == '\\' {
            escaped = true;
        } else if next == mark {
            marks += 1;
        }
    }
    marks == 2 && flags.chars().all(|flag| flag.is_ascii_digit() || "gpiIM".contains(flag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_of_sed_that_runs_or_writes_is_no_substitution() {
        for good in ["s/a/b/", "s|a|b|g", "s/a\\/b/c/2", "s,x=1,x=2,gI"] {
            assert!(is_substitution(good), "{good}");
        }
        for bad in ["1e touch x", "w f", "s/a/b/e", "s/a/b/w f", "s/a/b/;w f", "s/a/b", "s/a/b/\nw f", "sxaxbx", "/a/d"]
        {
            assert!(!is_substitution(bad), "{bad}");
        }
    }

    #[test]
    fn a_program_in_any_other_folder_is_unknown() {
        for good in ["cat", "/bin/cat", "/usr/local/bin/cat"] {
            assert_eq!(program_of(good), Some("cat"));
        }
        for bad in ["./cat", "/srv/app/cat", "bin/cat", "/bin/../srv/cat"] {
            assert_eq!(program_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_a_value_holds_is_not_filled_again() {
        let one = |value: &str| vec![value.to_owned()];
        let bindings = Bindings::from([("a".to_owned(), one("{b}")), ("b".to_owned(), one("secret"))]);
        assert_eq!(bind(&["{a}={b}".to_owned()], &bindings).unwrap(), ["{b}=secret"]);
    }

    fn bound(pattern: &str, token: &str) -> Option<Bindings> {
        let mut bindings = Bindings::new();
        bind_word(pattern, token, &mut bindings).map(|()| bindings)
    }

    #[test]
    fn a_value_can_never_become_a_flag() {
        assert!(bound("{name:name}", "web").is_some());
        for bad in ["-rf", "--all", "", "a b", "a;b", "$(x)"] {
            assert!(bound("{name:name}", bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn texts_and_holes_share_a_token() {
        assert_eq!(bound("deployment/{name:name}", "deployment/web").unwrap()["name"], ["web"]);
        assert!(bound("deployment/{name:name}", "pod/web").is_none());
        assert!(bound("of={file:path}", "of=/dev/sda").is_some());
    }

    #[test]
    fn a_word_whose_optional_value_is_missing_is_left_out() {
        let bindings = Bindings::from([("ns".to_owned(), vec![]), ("n".to_owned(), vec!["web".to_owned()])]);
        let argv = ["get".to_owned(), "{n}".to_owned(), "--namespace={ns}".to_owned()];
        assert_eq!(bind(&argv, &bindings).unwrap(), ["get", "web"]);
    }

    #[test]
    fn a_placeholder_that_nothing_fills_is_an_error() {
        assert_eq!(bind(&["{x}".to_owned()], &Bindings::new()), Err("x".to_owned()));
    }
}
