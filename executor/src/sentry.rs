//! A thread that watches the folder of stops, so that a stop reaches a run at once and not at its next act.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use tokio::sync::mpsc;

use crate::work::{Brake, Message};

/// How often the folder is looked at all the same: not every file system tells of changes.
const ROUND: Duration = Duration::from_millis(50);

/// The thread, as long as it is wanted.
pub(crate) struct Sentry(Arc<AtomicBool>);

impl Sentry {
    pub(crate) fn post(brake: Arc<dyn Brake>, messages: mpsc::Sender<Message>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let is_over = over.clone();
        std::thread::spawn(move || {
            let watch = watch(brake.as_ref());
            while !is_over.load(Ordering::SeqCst) {
                if let Some(braked) = brake.braked() {
                    // The run may have come to rest meanwhile.
                    let _ = messages.blocking_send(Message::Braked(braked));
                    return;
                }
                wait(watch.as_ref());
            }
        });
        Self(over)
    }
}

impl Drop for Sentry {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn watch(brake: &dyn Brake) -> Option<OwnedFd> {
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok()?;
    let flags = inotify::WatchFlags::CREATE
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::CLOSE_WRITE
        | inotify::WatchFlags::DELETE_SELF
        | inotify::WatchFlags::MOVE_SELF;
    inotify::add_watch(&fd, brake.folder(), flags).ok()?;
    Some(fd)
}

/// Waits for a change, at most a round.
fn wait(watch: Option<&OwnedFd>) {
    let Some(fd) = watch else { return std::thread::sleep(ROUND) };
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(ROUND.subsec_nanos()) };
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    if poll(&mut fds, Some(&timeout)).is_ok_and(|count| count > 0) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(fd, &mut buffer);
        while events.next().is_ok() {}
    }
}
