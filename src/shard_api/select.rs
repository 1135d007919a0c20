//! The selector of List: labels that a shard must have, and labels that it must not have.

use std::collections::BTreeMap;

use tonic::Status;

use super::id::{shard_id, shard_number};
use crate::admin::ShardView;
use crate::proto::consumer::{Label, LabelSelector};
use crate::shard::LABEL_ID;

/// A checked selector.
#[derive(Debug, Default)]
pub(super) struct Selector {
    /// The labels that must be there, by their names: one of each name.
    include: BTreeMap<String, Vec<Label>>,
    exclude: Vec<Label>,
}

impl Selector {
    /// Reads a selector, or says what is wrong with it.
    pub(super) fn of(selector: Option<LabelSelector>) -> Result<Self, Status> {
        let LabelSelector { include, exclude } = selector.unwrap_or_default();
        let (include, exclude) = (include.unwrap_or_default().labels, exclude.unwrap_or_default().labels);
        if include.iter().chain(&exclude).any(|label| label.name.is_empty()) {
            return Err(Status::invalid_argument("a label of the selector has no name"));
        }
        let mut selector = Selector { exclude, ..Selector::default() };
        for label in include {
            selector.include.entry(label.name.clone()).or_default().push(label);
        }
        Ok(selector)
    }

    pub(super) fn selects(&self, shard: &ShardView) -> bool {
        let is_any = |labels: &[Label]| labels.iter().any(|label| is_there(label, shard));
        self.include.values().all(|labels| is_any(labels)) && !is_any(&self.exclude)
    }
}

fn is_there(label: &Label, shard: &ShardView) -> bool {
    if label.name == LABEL_ID {
        let is_number = !label.prefix && shard_number(&label.value) == Some(shard.shard);
        return is_number || is_equal(label, &shard_id(shard.shard));
    }
    shard.spec.labels.get(&label.name).is_some_and(|value| is_equal(label, value))
}

/// Compares with a value. An empty label value stands for every value.
fn is_equal(label: &Label, value: &str) -> bool {
    label.value.is_empty() || label.value == value || (label.prefix && value.starts_with(&label.value))
}
