//! One gathering at a time, whoever asks.

use std::sync::Arc;

use hyper::body::Bytes;
use tokio::sync::{mpsc, oneshot};

/// What those who wait are told: the text, or why there is none.
pub(super) type Answer = Result<Bytes, String>;

/// Asks for the text. Those who ask while the text for others is gathered wait for the next one and
/// share it, so that all get what was gathered after they asked.
#[derive(Clone)]
pub(super) struct Gatherer(mpsc::Sender<oneshot::Sender<Answer>>);

impl Gatherer {
    /// Makes one that calls `text` in a thread of its own. At most `queue` wait.
    pub(super) fn start(
        queue: usize,
        text: impl Fn() -> anyhow::Result<String> + Send + Sync + 'static,
    ) -> Self {
        let (sender, waiting) = mpsc::channel(queue);
        tokio::spawn(answer_all(waiting, Arc::new(text)));
        Gatherer(sender)
    }

    /// The text, gathered from now on.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn text(&self) -> Answer {
        let (sender, answer) = oneshot::channel();
        let gone = || "the gathering has ended".to_owned();
        self.0.send(sender).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

async fn answer_all(
    mut waiting: mpsc::Receiver<oneshot::Sender<Answer>>,
    text: Arc<impl Fn() -> anyhow::Result<String> + Send + Sync + 'static>,
) {
    while let Some(first) = waiting.recv().await {
        let mut all = vec![first];
        while let Ok(next) = waiting.try_recv() {
            all.push(next);
        }
        // Some may have gone while another text was gathered.
        all.retain(|one| !one.is_closed());
        if all.is_empty() {
            continue;
        }
        let text = Arc::clone(&text);
        let answer = match tokio::task::spawn_blocking(move || text()).await {
            Ok(Ok(text)) => Ok(Bytes::from(text)),
            Ok(Err(error)) => Err(format!("{error:#}")),
            Err(error) => Err(error.to_string()),
        };
        for one in all {
            let _ = one.send(answer.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc as blocking;

    use super::*;

    fn run<T>(task: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(task)
    }

    #[test]
    fn those_who_ask_during_a_gathering_share_the_next_one() {
        let gathered = Arc::new(AtomicUsize::new(0));
        let (begun, begins) = blocking::channel();
        let (go_on, may_go_on) = blocking::channel::<()>();
        let may_go_on = std::sync::Mutex::new(may_go_on);
        let counter = Arc::clone(&gathered);
        run(async move {
            let gatherer = Gatherer::start(8, move || {
                begun.send(()).unwrap();
                may_go_on.lock().unwrap().recv().unwrap();
                Ok(counter.fetch_add(1, Ordering::SeqCst).to_string())
            });
            let ask = || {
                let gatherer = gatherer.clone();
                tokio::spawn(async move { gatherer.text().await })
            };
            let first = ask();
            let begins = tokio::task::spawn_blocking(move || {
                begins.recv().unwrap();
                begins
            });
            let begins = begins.await.unwrap();
            let (gone, others) = (ask(), [ask(), ask(), ask()]);
            while gatherer.0.capacity() > 4 {
                tokio::task::yield_now().await;
            }
            gone.abort();
            go_on.send(()).unwrap();
            assert_eq!(first.await.unwrap(), Ok(Bytes::from("0")));
            go_on.send(()).unwrap();
            for other in others {
                assert_eq!(other.await.unwrap(), Ok(Bytes::from("1")));
            }
            drop(begins);
        });
        assert_eq!(gathered.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_failure_is_told_and_the_next_one_is_tried() {
        let attempts = AtomicUsize::new(0);
        run(async move {
            let gatherer =
                Gatherer::start(1, move || match attempts.fetch_add(1, Ordering::SeqCst) {
                    0 => anyhow::bail!("no state"),
                    1 => panic!("a fault"),
                    _ => Ok("fine".into()),
                });
            assert_eq!(gatherer.text().await, Err("no state".into()));
            assert!(gatherer.text().await.is_err());
            assert_eq!(gatherer.text().await, Ok(Bytes::from("fine")));
        });
    }
}
