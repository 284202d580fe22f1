//! Progress of a run: a bar on a terminal, an event a line for machines, nothing else.

use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use kernel::StepSpec;
use schemas::RecordBody;

use crate::output::Output;

pub(crate) struct Progress<'a> {
    output: &'a Output,
    run: String,
    steps: Arc<Vec<StepSpec>>,
    bar: Option<ProgressBar>,
}

impl<'a> Progress<'a> {
    pub(crate) fn new(output: &'a Output, run: &str, steps: &Arc<Vec<StepSpec>>) -> Self {
        let bar = output.progress.then(|| {
            let bar = ProgressBar::new(steps.len() as u64);
            if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { output, run: run.to_owned(), steps: steps.clone(), bar }
    }

    /// A fact that is durable.
    pub(crate) fn fact(&mut self, fact: &RecordBody) {
        self.output.event("record", &serde_json::json!({"run": self.run, "fact": fact}));
        // A stop of the kill switch leaves none.
        if let RecordBody::Halted { cause, timed_out: false } = fact
            && cause.starts_with("SIG")
        {
            self.output.note(&format!(
                "{cause}: nothing new starts; what runs has 4 seconds to end, and a second signal ends it at once"
            ));
        }
        let Some(bar) = &self.bar else { return };
        match fact {
            RecordBody::ApplyStarted { id, .. } => bar.set_message(id.clone()),
            RecordBody::Verified { .. } => bar.inc(1),
            RecordBody::VerifyFailed { step, .. } | RecordBody::UndoStarted { step, .. } => {
                let id = self.steps.get(*step as usize).map_or("", |step| step.id.as_str());
                bar.set_message(format!("putting back {id}"));
            }
            _ => {}
        }
    }

    pub(crate) fn done(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
