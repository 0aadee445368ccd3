//! What all hives reported, as one value that can be read without asking anyone.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::WorkerId;
use protocol::hive::{HiveEvent, HiveSnapshot, ModelEntry, WorkerInfo};
use protocol::worker::Backend;

/// The name of a machine that runs a hive.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(Arc<str>);

impl From<&str> for NodeName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl std::fmt::Display for NodeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl NodeName {
    /// The name as users write it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// All machines. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    nodes: Arc<BTreeMap<NodeName, Arc<Node>>>,
}

/// One machine, as its hive last reported.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Node {
    /// False while the link to the hive is down: what stands here is then the last that was heard.
    pub connected: bool,
    /// Where it is, if that was told.
    pub region: Option<Arc<str>>,
    pub workers: BTreeMap<WorkerId, Arc<WorkerInfo>>,
    pub models: BTreeMap<String, ModelEntry>,
    pub backends: Vec<Backend>,
}

impl Fleet {
    /// The machines by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeName, &Node)> {
        self.nodes.iter().map(|(name, node)| (name, &**node))
    }

    /// Whether nothing has changed between the two.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.nodes, &other.nodes)
    }

    /// All workers of all machines.
    pub fn workers(&self) -> impl Iterator<Item = (&NodeName, &Arc<WorkerInfo>)> {
        self.nodes().flat_map(|(name, node)| node.workers.values().map(move |worker| (name, worker)))
    }

    /// Workers of machines whose hive is connected.
    pub fn reachable_workers(&self) -> impl Iterator<Item = (&NodeName, &Arc<WorkerInfo>)> {
        let connected = self.nodes().filter(|(_, node)| node.connected);
        connected.flat_map(|(name, node)| node.workers.values().map(move |worker| (name, worker)))
    }

    /// A model's entry in any machine's catalog; one that is already downloaded first.
    pub fn model(&self, reference: &str) -> Option<&ModelEntry> {
        let entries = || self.nodes.values().filter_map(|node| node.models.get(reference));
        entries().find(|entry| entry.downloaded).or_else(|| entries().next())
    }

    /// One machine.
    pub fn node(&self, name: &NodeName) -> Option<&Node> {
        self.nodes.get(name).map(|node| &**node)
    }

    /// Changes one machine's part; a machine that is new is added.
    pub fn change(&mut self, name: &NodeName, change: impl FnOnce(&mut Node)) {
        let nodes = Arc::make_mut(&mut self.nodes);
        change(Arc::make_mut(nodes.entry(name.clone()).or_default()));
    }
}

impl Node {
    /// Takes over what the hive reports.
    pub fn apply(&mut self, event: HiveEvent) {
        match event {
            HiveEvent::Snapshot(HiveSnapshot { boot_id: _, workers, models, backends }) => {
                self.connected = true;
                self.workers = workers.into_iter().map(|worker| (worker.id.clone(), worker.into())).collect();
                self.models = models.into_iter().map(|model| (model.reference.clone(), model)).collect();
                self.backends = backends;
            }
            HiveEvent::Worker(worker) => {
                self.workers.insert(worker.id.clone(), worker.into());
            }
            HiveEvent::WorkerRemoved(removed) => {
                self.workers.remove(&removed.worker_id);
            }
            HiveEvent::Model(model) => {
                self.models.insert(model.reference.clone(), model);
            }
        }
    }
}
