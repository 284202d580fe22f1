//! How things are shown: data on standard output, the rest on standard error, colour only for people.

use std::io::{IsTerminal as _, Write as _};

use clap::ValueEnum;
use schemas::{Finding, Severity};
use serde::Serialize;

use crate::commands::Global;
use crate::problem::Problem;

/// The form of what is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Pretty,
    /// One JSON object.
    Json,
    /// One JSON object a line, as things happen; the first has `event` `version`, the last `result` or `problem`.
    Jsonl,
}

/// Where and how to print.
pub(crate) struct Output {
    format: Format,
    colour: bool,
    pub(crate) progress: bool,
    lost: std::cell::Cell<bool>,
    /// Whether a person can be asked.
    asks: bool,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        let env = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let terminal = std::io::stderr().is_terminal();
        let colour = !env("NO_COLOR") && (env("CLICOLOR_FORCE") || terminal);
        let asks = !global.no_input && global.format == Format::Pretty && terminal && std::io::stdin().is_terminal();
        let output = Self {
            format: global.format,
            colour,
            progress: terminal && global.format == Format::Pretty,
            lost: std::cell::Cell::new(false),
            asks,
        };
        if output.format == Format::Jsonl {
            output.line(&serde_json::json!({"event": "version", "version": env!("CARGO_PKG_VERSION"), "format": 1}));
        }
        output
    }

    pub(crate) fn is_pretty(&self) -> bool {
        self.format == Format::Pretty
    }

    /// The result of a command: a text for people, or an object.
    pub(crate) fn result<T: Serialize>(&self, value: &T, pretty: impl FnOnce() -> String) {
        match self.format {
            Format::Pretty => self.print(&shown(&pretty())),
            Format::Json => self.print(&(serde_json::to_string_pretty(value).unwrap_or_default() + "\n")),
            Format::Jsonl => self.line(&tagged("result", value)),
        }
    }

    /// Something that happened, for machines only.
    pub(crate) fn event<T: Serialize>(&self, kind: &str, value: &T) {
        if self.format == Format::Jsonl {
            self.line(&tagged(kind, value));
        }
    }

    /// Asks a person at a terminal; where nobody can be asked, the command line was the answer.
    pub(crate) fn confirmed(&self, question: &str) -> bool {
        if !self.asks {
            return true;
        }
        let _ = write!(std::io::stderr(), "{question} [y/N] ");
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer);
        read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
    }

    /// What somebody types at a terminal; `None` where nobody can be asked.
    pub(crate) fn typed(&self, question: &str) -> Option<String> {
        if !self.asks {
            return None;
        }
        let _ = write!(std::io::stderr(), "{question} ");
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).ok()?;
        Some(answer.trim().to_owned())
    }

    /// A remark for people.
    pub(crate) fn note(&self, text: &str) {
        if self.is_pretty() {
            let _ = writeln!(std::io::stderr(), "{}", shown(text));
        }
    }

    /// A line for people.
    pub(crate) fn print_line(&self, text: &str) {
        self.print(&format!("{}\n", shown(text)));
    }

    fn line(&self, value: &serde_json::Value) {
        self.print(&format!("{value}\n"));
    }

    /// A reader that went away is no failure of ours; a disk that is full is.
    fn print(&self, text: &str) {
        let mut out = std::io::stdout();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => self.lost.set(true),
            _ => {}
        }
    }

    /// Whether something could not be printed, so that a command that did its work still does not end green.
    pub(crate) fn lost(&self) -> bool {
        self.lost.get()
    }

    /// A problem: on standard error for people, on standard output for machines.
    pub(crate) fn problem(&self, problem: &Problem) {
        match self.format {
            Format::Pretty => {
                let _ = std::io::stderr().write_all(shown(&self.problem_text(problem)).as_bytes());
            }
            Format::Json => self.print(&(serde_json::to_string_pretty(problem).unwrap_or_default() + "\n")),
            Format::Jsonl => self.line(&tagged("problem", problem)),
        }
    }

    fn problem_text(&self, problem: &Problem) -> String {
        let mut out = format!("{} {}\n", self.red(&format!("{}:", problem.kind)), problem.title);
        for finding in &problem.findings {
            out.push_str(&self.finding(finding));
        }
        out.push_str(&format!("next: {}\n", problem.next));
        out
    }

    /// One finding in a few lines.
    pub(crate) fn finding(&self, finding: &Finding) -> String {
        let word = match finding.severity {
            Severity::Error => self.red("error"),
            Severity::Warning => "warning".to_owned(),
        };
        let step = finding.step.as_ref().map_or(String::new(), |step| format!(" step {step}"));
        let rules = if finding.rules.is_empty() { String::new() } else { format!(" by {}", finding.rules.join(", ")) };
        let place = if finding.pointer.is_empty() { String::new() } else { format!(" at {}", finding.pointer) };
        format!("  {word} {}{step}{place}{rules}\n    {}\n    -> {}\n", finding.code, finding.detail, finding.hint)
    }

    pub(crate) fn red(&self, text: &str) -> String {
        if self.colour { format!("\x1b[31m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Text of others for a terminal: nothing in it may move the cursor, hide, recolour or turn round what is written.
fn shown(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let ours = ["\x1b[31m", "\x1b[0m"];
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some(code) = ours.iter().find(|code| rest.starts_with(**code)) {
            out.push_str(code);
            rest = rest.strip_prefix(code).unwrap_or_default();
            continue;
        }
        match first {
            '\n' | '\t' => out.push(first),
            first if first.is_control() || turns(first) => out.extend(first.escape_unicode()),
            first => out.push(first),
        }
        rest = rest.get(first.len_utf8()..).unwrap_or_default();
    }
    out
}

/// The fields of `value` beside `event`; what has no fields of its own stands in `value`.
fn tagged<T: Serialize>(kind: &str, value: &T) -> serde_json::Value {
    let mut out = serde_json::Map::from_iter([("event".to_owned(), kind.into())]);
    match serde_json::to_value(value).unwrap_or_default() {
        serde_json::Value::Object(fields) => out.extend(fields),
        other => drop(out.insert("value".to_owned(), other)),
    }
    serde_json::Value::Object(out)
}

/// A table without lines, for people.
pub(crate) fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(head.to_vec());
    for row in rows {
        table.add_row(row);
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn what_an_agent_writes_cannot_steer_the_terminal() {
        assert_eq!(shown("a\tb\n"), "a\tb\n");
        assert_eq!(shown("x\x1b[2Jy\r\u{202e}z"), "x\\u{1b}[2Jy\\u{d}\\u{202e}z");
        assert_eq!(shown("\x1b[31merror\x1b[0m"), "\x1b[31merror\x1b[0m");
    }
}
