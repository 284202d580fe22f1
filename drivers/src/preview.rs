//! Previews for people: a line diff of texts, cut where it gets long. Never used to decide.

use std::path::Path;

const MAX_LINES: usize = 40;
const MAX_BYTES: usize = 64 * 1024;

/// A diff of two contents: the lines that differ between their common head and tail.
pub(crate) fn diff(path: &Path, old: &[u8], new: &[u8]) -> String {
    let shown = path.display();
    let (Ok(old), Ok(new)) = (std::str::from_utf8(old), std::str::from_utf8(new)) else {
        return format!("--- {shown}: {} bytes\n+++ {shown}: {} bytes, not text\n", old.len(), new.len());
    };
    if old.len().max(new.len()) > MAX_BYTES {
        return format!("--- {shown}: {} bytes\n+++ {shown}: {} bytes, too long to show\n", old.len(), new.len());
    }
    let (a, b): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let head = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let tail = a.iter().skip(head).rev().zip(b.iter().skip(head).rev()).take_while(|(x, y)| x == y).count();
    let middle = |lines: &[&str], sign: char| -> Vec<String> {
        let until = lines.len().saturating_sub(tail).max(head);
        lines.get(head..until).unwrap_or(&[]).iter().map(|line| format!("{sign}{line}")).collect()
    };
    let lines = [middle(&a, '-'), middle(&b, '+')].concat();
    let mut out = format!("--- {shown}\n+++ {shown}\n@@ line {} @@\n", head + 1);
    out.push_str(&lines.iter().take(MAX_LINES).map(|line| format!("{line}\n")).collect::<String>());
    if lines.len() > MAX_LINES {
        out.push_str(&format!("… {} more lines\n", lines.len() - MAX_LINES));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_shows_what_differs_and_says_what_it_leaves_out() {
        let text = diff(Path::new("a"), b"1\n2\n3\n", b"1\nx\n3\n");
        assert_eq!(text, "--- a\n+++ a\n@@ line 2 @@\n-2\n+x\n");
        let long: String = (0..100).map(|n| format!("{n}\n")).collect();
        assert!(diff(Path::new("a"), b"", long.as_bytes()).contains("60 more lines"));
    }
}
