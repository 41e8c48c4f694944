//! A switchover that one node orders of another, which has the VIP: what each of them does with its story.

use std::time::Duration;

use tokio::sync::mpsc;

use super::{Progress, Said, Word};
use crate::control::Request;
use crate::link::Line;

/// Lines of a story that may wait, at whoever watches or on the way there.
pub(crate) const STORY: usize = 64;

/// Where there is nothing to tell, that is told.
const STILL_EVERY: Duration = Duration::from_secs(2);

/// A node that has said nothing for so long isn't there, or its standin is too old to be asked.
const SILENT_FOR: Duration = Duration::from_secs(8);

/// How the control plane reaches the task that follows.
pub(crate) struct Handle {
    pub(crate) vip: String,
    /// The node that was asked.
    pub(crate) to: String,
    pub(crate) words: mpsc::Sender<Word>,
}

/// One VIP's switchover between this node and a peer, as both call it.
pub(crate) struct Thread {
    pub(crate) id: u64,
    pub(crate) vip: String,
    pub(crate) peer: String,
    pub(crate) line: Line,
}

impl Thread {
    pub(crate) fn say(&self, word: Word) -> bool {
        let said = Said { id: self.id, vip: self.vip.clone(), word };
        self.line.say(&self.peer, said)
    }
}

/// Passes the story on to the node that ordered it.
pub(crate) fn tell(thread: Thread, mut story: mpsc::Receiver<Progress>) {
    tokio::spawn(async move {
        loop {
            let word = match tokio::time::timeout(STILL_EVERY, story.recv()).await {
                Ok(Some(progress)) => Word::Story(progress),
                Ok(None) => return,
                Err(_) => Word::Still,
            };
            // A node that can't be told sees by its own `status` how it ends.
            let _ = thread.say(word);
        }
    });
}

/// Tells the node that wants its VIP back if it doesn't get it.
pub(crate) fn tell_failure(thread: Thread, mut story: mpsc::Receiver<Progress>) {
    tokio::spawn(async move {
        while let Some(progress) = story.recv().await {
            if progress.step == "failed" {
                // It also finds out by waiting.
                let _ = thread.say(Word::Refused { why: progress.text.clone() });
            }
        }
    });
}

/// Follows what the other node tells, for whoever watches here.
pub(crate) fn follow(
    thread: Thread,
    desk: mpsc::Sender<Request>,
) -> (Handle, mpsc::Receiver<Progress>) {
    let (words, heard) = mpsc::channel(STORY);
    let (progress, story) = mpsc::channel(STORY);
    let handle = Handle { vip: thread.vip.clone(), to: thread.peer.clone(), words };
    tokio::spawn(async move {
        pass_on(&thread, heard, progress).await;
        let _ = desk.send(Request::Followed { id: thread.id }).await;
    });
    (handle, story)
}

async fn pass_on(
    thread: &Thread,
    mut heard: mpsc::Receiver<Word>,
    progress: mpsc::Sender<Progress>,
) {
    let Thread { vip, peer, .. } = thread;
    let failed = |text: String| Progress::new("failed", vip, "", text);
    let mut moved: Option<String> = None;
    loop {
        let word = tokio::select! {
            word = tokio::time::timeout(SILENT_FOR, heard.recv()) => word,
            () = progress.closed() => {
                if moved.is_none() {
                    let by = "whoever asked for it, by going away".to_owned();
                    // Without a link it has broken off, or goes on as it would have.
                    let _ = thread.say(Word::CallOff { by });
                }
                return;
            }
        };
        let line = match word {
            Ok(Some(Word::Story(line))) => line,
            Ok(Some(Word::Refused { why })) => failed(format!("{peer}: {why}")),
            Ok(Some(_)) => continue,
            Ok(None) => return,
            Err(_) => failed(match &moved {
                Some(to) => format!(
                    "nothing was heard of {peer} for {SILENT_FOR:?}, and {to} had {vip} already; see \
                     `standin status` on {to}"
                ),
                None => format!(
                    "nothing was heard of {peer}, which has {vip}, for {SILENT_FOR:?}; if a switchover \
                     has begun there it goes on, and `standin status` shows who has {vip}"
                ),
            }),
        };
        if line.step == "moved" {
            moved = Some(line.to.clone());
        }
        let last = matches!(line.step.as_str(), "done" | "called_off" | "failed");
        // Who is too slow to watch misses a line.
        let _ = progress.try_send(line);
        if last {
            return;
        }
    }
}
