//! The connections of the server: so many at once, each for so long.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};

/// Connections at once.
pub(super) const MOST: usize = 32;

/// How long those that have asked may take when the server ends.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// The connections.
#[derive(Default)]
pub(super) struct Connections {
    tasks: JoinSet<()>,
    /// In the order of their arrival.
    open: VecDeque<Open>,
}

struct Open {
    asked: Asked,
    task: AbortHandle,
}

/// Whether a connection's request has come.
#[derive(Clone, Default)]
pub(super) struct Asked(Arc<AtomicBool>);

impl Asked {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Connections {
    /// Serves one more. Where there are too many, the oldest one goes that has not asked for anything
    /// yet; if all have asked, the new one is not served.
    pub(super) fn add<T: Future<Output = ()> + Send + 'static>(
        &mut self,
        serve: impl FnOnce(Asked) -> T,
    ) {
        while self.tasks.try_join_next().is_some() {}
        self.open.retain(|open| !open.task.is_finished());
        if self.open.len() >= MOST {
            let Some(oldest) = self.open.iter().position(|open| !open.asked.get()) else { return };
            if let Some(open) = self.open.remove(oldest) {
                open.task.abort();
            }
        }
        let asked = Asked::default();
        let task = self.tasks.spawn(serve(asked.clone()));
        self.open.push_back(Open { asked, task });
    }

    /// Waits for those that have asked, and ends.
    pub(super) async fn end(mut self) {
        for open in self.open.iter().filter(|open| !open.asked.get()) {
            open.task.abort();
        }
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_ANSWERS, all).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(task: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(task)
    }

    #[test]
    fn one_that_has_not_asked_makes_place_for_another() {
        run(async {
            let mut connections = Connections::default();
            for _ in 0..MOST {
                connections.add(|_| std::future::pending());
            }
            let first: Vec<_> = connections.open.iter().map(|open| open.task.id()).collect();
            connections.open[0].asked.set();
            connections.add(|_| std::future::pending());
            let now: Vec<_> = connections.open.iter().map(|open| open.task.id()).collect();
            assert_eq!((now.len(), now[0]), (MOST, first[0]));
            assert_eq!(now[1..MOST - 1], first[2..]);
        });
    }

    #[test]
    fn when_all_have_asked_one_more_is_not_served() {
        run(async {
            let mut connections = Connections::default();
            for _ in 0..2 * MOST {
                connections.add(|asked| {
                    asked.set();
                    std::future::pending()
                });
            }
            assert_eq!((connections.open.len(), connections.tasks.len()), (MOST, MOST));
        });
    }

    #[test]
    fn the_places_of_those_that_have_ended_are_free() {
        run(async {
            let mut connections = Connections::default();
            for _ in 0..10 * MOST {
                connections.add(|asked| async move { asked.set() });
                tokio::task::yield_now().await;
            }
            assert!(connections.open.len() <= 2 && connections.tasks.len() <= 2);
            connections.end().await;
        });
    }
}
