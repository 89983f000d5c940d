//! The document's tree, built when it is needed and built anew when it broke.

use syncline_protocol::close::Close;
use tracing::{error, info, warn};

use super::Task;
use crate::document::load::{LoadError, load, wake};

impl Task {
    /// Builds the tree of a large document at rest. False: it is lost.
    pub(super) async fn wake(&mut self) -> bool {
        let stop = self.options.give_up.clone();
        match stop.run_until_cancelled(wake(&self.log_source, self.core.lend())).await {
            Some(Ok((replica, outcome))) => {
                self.core.give_back(replica, outcome, &mut self.effects);
                self.reload_if_broken().await;
            }
            Some(Err(failure)) => self.lose(&failure),
            None => self.give_up(),
        }
        !self.lost
    }

    pub(super) async fn reload_if_broken(&mut self) {
        // Its offender may have been ended for something else besides, after `Effect::Reload`.
        if self.core.is_broken() && !self.lost {
            Box::pin(self.reload()).await;
        }
    }

    /// The CRDT broke: load it again. Everything that was ever applied and taken is in the log.
    async fn reload(&mut self) {
        self.execute().await;
        self.metrics.reloads.inc();
        warn!(
            document = self.name.as_str(),
            "the document broke on an update; loading it again from its log, without that update"
        );
        self.settle().await;
        let loading = async {
            let loaded = load(&self.log_source, &self.name, &self.options.draw).await?;
            // Awake: whether it makes a document must be known now.
            wake(&self.log_source, loaded.replica).await
        };
        let Some(loaded) = self.options.give_up.run_until_cancelled(loading).await else { return self.give_up() };
        match loaded.and_then(|(replica, outcome)| Ok(outcome.map(|()| replica)?)) {
            Ok(replica) => {
                self.core.restore(replica);
                // Loading may have freed what had waited, and nobody was told of it.
                for lease in self.readers.joined() {
                    let floor = self.readers.floor(lease);
                    self.core.resync(lease, floor.as_deref(), &mut self.effects);
                }
                if self.core.is_broken() {
                    error!(
                        document = self.name.as_str(),
                        "its state cannot be encoded, also when loaded anew; its sessions are closed"
                    );
                    self.readers.close_all(&Close::DocumentUnavailable);
                    self.lost = true;
                }
            }
            Err(failure) => self.lose(&failure),
        }
    }

    /// The server stops and waits no longer. What was logged is in the log, the rest is with its authors.
    pub(super) fn give_up(&mut self) {
        info!(document = %self.name, "the server stops: an update in progress is dropped; its author has it and sends it again");
        self.lost = true;
    }

    fn lose(&mut self, failure: &LoadError) {
        error!(document = self.name.as_str(), %failure, "the document could not be loaded again; its sessions are closed");
        self.readers.close_all(&Close::DocumentUnavailable);
        self.lost = true;
    }
}
