//! The loop that owns a run: tasks for drivers, a thread for the journal, signals, a heartbeat.
//!
//! Must never do anything after the journal failed but wait for what is in flight.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use journal::{Entry, Journal, JournalError, LogHead};
use kernel::{Authority, Cancel, DriverSet, IllegalEvent, Scope};
use schemas::{RecordBody, RunSubject};
use tokens::Mint;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::conductor::{Conductor, Order, Tick, is_light};
use crate::fold::Folded;
use crate::heartbeat::show_life;
use crate::sentry::Sentry;
use crate::work::{Brake, Hands, Message, Warden, Work};

/// How long facts that are in no hurry wait for company before they are committed.
const FLUSH: Duration = Duration::from_millis(50);
/// How often the process shows that it lives.
const HEARTBEAT: Duration = Duration::from_millis(50);
/// How often the journal's lease is renewed.
const RENEW: Duration = Duration::from_secs(3);
/// How long steps in flight may go on after a stop before they are ended. A cancelled CI job has 7.5 s.
const DRAIN: Duration = Duration::from_secs(4);

/// What a run needs of the world around it.
pub struct Shell {
    /// The kinds.
    pub drivers: DriverSet,
    /// File for the signs of life.
    pub heartbeat: PathBuf,
    /// Folder for what steps wrote.
    pub outputs: PathBuf,
    /// After a crash, when the process before was last seen alive.
    pub alive_until_ms: Option<i64>,
    /// Whether SIGINT and SIGTERM stop the run.
    pub signals: bool,
    /// A stop from within the process.
    pub stop: Stop,
    /// Asked directly before a step acts; nobody while a run only goes back.
    pub warden: Option<Arc<dyn Warden>>,
    /// What stops it from outside; nothing while a run only goes back.
    pub brake: Option<Arc<dyn Brake>>,
    /// Where tokens come from.
    pub mint: Arc<Mint>,
    /// Who takes them.
    pub authority: Arc<dyn Authority>,
}

/// Stops a run from another thread.
#[derive(Clone, Debug, Default)]
pub struct Stop(Cancel);

impl Stop {
    /// Nothing new starts.
    pub fn stop(&self) {
        self.0.cancel();
    }
}

/// A run that is at rest.
pub struct Finished {
    /// Its state.
    pub folded: Folded,
    /// The journal, given back.
    pub journal: Box<dyn Journal>,
}

/// Why a run could not go on. What was in flight has come back; the journal says what it says.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// The journal failed.
    #[error("the journal failed: nothing more was started; run backout recover")]
    Journal(#[from] JournalError),
    /// A law of the kernel was broken: a bug, or a journal that was tampered with.
    #[error("the run was stopped because a law would have been broken")]
    Illegal(#[from] IllegalEvent),
    /// The operating system failed.
    #[error("{doing}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What it said.
        source: std::io::Error,
    },
}

/// What the journal's thread is asked.
enum Ask {
    Commit(Arc<Vec<Entry>>),
    Renew,
}

/// What it answers.
enum Answer {
    Committed(Result<LogHead, JournalError>),
    Lost(JournalError),
}

impl Shell {
    /// Runs until nothing is left to do. `observe` sees every fact once it is durable.
    pub fn run(
        &self,
        conductor: Conductor,
        journal: Box<dyn Journal>,
        observe: &mut dyn FnMut(&RecordBody),
    ) -> Result<Finished, ExecutorError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| ExecutorError::Io { doing: "cannot start the event loop", source })?;
        let outcome = runtime.block_on(self.drive(conductor, journal, observe));
        runtime.shutdown_background();
        outcome
    }

    async fn drive(
        &self,
        conductor: Conductor,
        journal: Box<dyn Journal>,
        observe: &mut dyn FnMut(&RecordBody),
    ) -> Result<Finished, ExecutorError> {
        let subject = Arc::new(conductor.folded().subject.clone());
        let (asks, ask) = std::sync::mpsc::channel();
        let (answer, answers) = mpsc::channel(16);
        let keeper = std::thread::spawn(move || keep(journal, &ask, &answer));
        let (messages, inbox) = mpsc::channel(1024);
        let stoppable = self.scope(&subject, None);
        let cancel = stoppable.cancel.clone();
        let hands = Arc::new(Hands {
            drivers: self.drivers.clone(),
            stoppable,
            steady: self.scope(&subject, self.alive_until_ms),
            outputs: self.outputs.clone(),
            warden: self.warden.clone(),
            brake: self.brake.clone(),
            mint: self.mint.clone(),
        });
        let _sentry = self.brake.as_ref().map(|brake| Sentry::post(brake.clone(), messages.clone()));
        let mut engine = Engine {
            shell: self,
            conductor,
            subject,
            asks,
            messages,
            hands,
            cancel,
            committing: None,
            in_flight: 0,
            halted: None,
            since: None,
        };
        let outcome = engine.turn(inbox, answers, observe).await;
        let Engine { conductor, asks, .. } = engine;
        drop(asks);
        let journal = keeper.join().map_err(|_| ExecutorError::Io {
            doing: "the journal's thread panicked",
            source: std::io::Error::other("panic"),
        })?;
        outcome.map(|()| Finished { folded: conductor.into_folded(), journal })
    }

    fn scope(&self, subject: &RunSubject, alive_until_ms: Option<i64>) -> Scope {
        let (run, authority) = (subject.run.clone(), self.authority.clone());
        Scope { run, cancel: Cancel::default(), alive_until_ms, authority }
    }
}

/// The journal's thread: one commit after the other.
fn keep(
    mut journal: Box<dyn Journal>,
    asks: &std::sync::mpsc::Receiver<Ask>,
    answers: &mpsc::Sender<Answer>,
) -> Box<dyn Journal> {
    while let Ok(ask) = asks.recv() {
        let answer = match ask {
            Ask::Commit(entries) => Some(Answer::Committed(journal.append(Timestamp::now(), &entries))),
            Ask::Renew => journal.renew_lease().err().map(Answer::Lost),
        };
        if answer.is_some_and(|answer| answers.blocking_send(answer).is_err()) {
            break;
        }
    }
    journal
}

struct Engine<'a> {
    shell: &'a Shell,
    conductor: Conductor,
    subject: Arc<RunSubject>,
    asks: std::sync::mpsc::Sender<Ask>,
    messages: mpsc::Sender<Message>,
    hands: Arc<Hands>,
    /// Ends what acts forward.
    cancel: Cancel,
    committing: Option<Arc<Vec<Entry>>>,
    in_flight: usize,
    halted: Option<Instant>,
    /// Since when facts have waited.
    since: Option<Instant>,
}

impl Engine<'_> {
    async fn turn(
        &mut self,
        mut inbox: mpsc::Receiver<Message>,
        mut answers: mpsc::Receiver<Answer>,
        observe: &mut dyn FnMut(&RecordBody),
    ) -> Result<(), ExecutorError> {
        let failed = |source| ExecutorError::Io { doing: "cannot listen for signals", source };
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut renewed = Instant::now();
        loop {
            if self.follow_orders()? {
                return Ok(());
            }
            tokio::select! {
                Some(message) = inbox.recv() => {
                    self.take(message)?;
                    while let Ok(message) = inbox.try_recv() {
                        self.take(message)?;
                    }
                }
                Some(answer) = answers.recv() => {
                    if let Err(error) = self.answered(answer, observe) {
                        self.wait_for_flight(&mut inbox).await;
                        return Err(error);
                    }
                }
                _ = heartbeat.tick() => {
                    let _ = show_life(&self.shell.heartbeat, Timestamp::now().as_millisecond());
                    if renewed.elapsed() >= RENEW {
                        renewed = Instant::now();
                        let _ = self.asks.send(Ask::Renew);
                    }
                    self.mind_the_stop()?;
                }
                _ = interrupt.recv(), if self.shell.signals => self.halt("SIGINT")?,
                _ = terminate.recv(), if self.shell.signals => self.halt("SIGTERM")?,
            }
        }
    }

    /// Does what the conductor orders until it has nothing to order; says whether the run is at rest.
    fn follow_orders(&mut self) -> Result<bool, ExecutorError> {
        let now = Instant::now();
        let flush = self.since.is_some_and(|since| now.duration_since(since) >= FLUSH);
        while let Some(order) = self.conductor.next(Tick { flush })? {
            match order {
                Order::Commit(facts) => self.commit(facts),
                Order::Start(work) => self.start(*work)?,
                Order::Finish => return Ok(true),
            }
        }
        self.since = match (self.conductor.has_pending(), self.since) {
            (true, Some(since)) => Some(since),
            (true, None) => Some(now),
            (false, _) => None,
        };
        Ok(false)
    }

    fn commit(&mut self, facts: Vec<RecordBody>) {
        let entry = |fact| Entry { subject: Some(self.subject.clone()), fact };
        let entries = Arc::new(facts.into_iter().map(entry).collect::<Vec<_>>());
        self.committing = Some(entries.clone());
        self.since = None;
        // The thread ends only when this sender is dropped; an answer says if it could not commit.
        let _ = self.asks.send(Ask::Commit(entries));
    }

    fn start(&mut self, work: Work) -> Result<(), ExecutorError> {
        let light = match &work {
            Work::Prepare(step) | Work::Verify(step, _) => {
                is_light(step)
                    && step.undo.is_none()
                    && !step.lowered.argv.is_empty()
                    && step.lowered.way_back.entry.is_some()
            }
            Work::Checks(checks, _) => checks.is_empty(),
            _ => false,
        };
        if light {
            return Ok(self.conductor.on(work.perform_allowed(&self.hands))?);
        }
        self.in_flight += 1;
        let (messages, hands) = (self.messages.clone(), self.hands.clone());
        tokio::task::spawn_blocking(move || {
            let message = work.perform_allowed(&hands);
            // Nobody listens any more only when the run was given up after the journal failed.
            let _ = messages.blocking_send(message);
        });
        Ok(())
    }

    fn take(&mut self, message: Message) -> Result<(), ExecutorError> {
        if let Message::Braked(_) = &message {
            // It comes from no work. A second one finds the run halted.
            self.cancel.kill();
            if self.halted.replace(Instant::now()).is_some() {
                return Ok(());
            }
            return Ok(self.conductor.on(message)?);
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        if matches!(message, Message::Applied(..)) {
            // What a step changed is its own only up to the last sign of life: show one as soon as it is back.
            let _ = show_life(&self.shell.heartbeat, Timestamp::now().as_millisecond());
        }
        Ok(self.conductor.on(message)?)
    }

    fn answered(&mut self, answer: Answer, observe: &mut dyn FnMut(&RecordBody)) -> Result<(), ExecutorError> {
        match answer {
            Answer::Lost(error) => Err(error.into()),
            Answer::Committed(Err(error)) => Err(error.into()),
            Answer::Committed(Ok(_)) => {
                for entry in self.committing.take().iter().flat_map(|entries| entries.iter()) {
                    observe(&entry.fact);
                }
                Ok(self.conductor.on(Message::Durable)?)
            }
        }
    }

    fn halt(&mut self, cause: &str) -> Result<(), ExecutorError> {
        if self.halted.is_some() {
            self.cancel.cancel();
            return Ok(());
        }
        self.halted = Some(Instant::now());
        Ok(self.conductor.on(Message::Halt { cause: cause.to_owned(), timed_out: false })?)
    }

    fn mind_the_stop(&mut self) -> Result<(), ExecutorError> {
        if self.shell.stop.0.is_cancelled() && self.halted.is_none() {
            self.halt("stop")?;
        }
        if self.halted.is_some_and(|since| since.elapsed() >= DRAIN) {
            self.cancel.cancel();
        }
        Ok(())
    }

    /// After the journal failed: ends what acts and waits until it is back, so that nothing of this process goes on.
    async fn wait_for_flight(&mut self, inbox: &mut mpsc::Receiver<Message>) {
        self.cancel.cancel();
        while self.in_flight > 0
            && let Some(message) = inbox.recv().await
        {
            self.in_flight -= usize::from(!matches!(message, Message::Braked(_)));
        }
    }
}
