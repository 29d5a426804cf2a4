//! What a metric is, and its values.

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricType};

use crate::cli::metrics::snapshot::Snapshot;

/// A metric.
pub(super) struct Definition {
    /// By the conventions of Prometheus: `mcrun_`, then what, then the unit; a counter ends in
    /// `_total`.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    /// For people, as the text format's HELP.
    pub(super) help: &'static str,
    /// Finds the values.
    pub(super) samples: fn(&Snapshot<'_>, &mut Samples),
}

/// How the values go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only up, or anew from zero.
    Counter,
    /// Up and down.
    Gauge,
}

impl Kind {
    pub(super) fn proto(self) -> MetricType {
        match self {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
        }
    }
}

/// The values of one metric.
pub(super) struct Samples {
    kind: Kind,
    labels: &'static [&'static str],
    pub(super) metrics: Vec<Metric>,
}

impl Samples {
    pub(super) fn of(definition: &Definition) -> Self {
        Samples { kind: definition.kind, labels: definition.labels, metrics: Vec::new() }
    }

    /// A value, with the values of all labels in their order.
    pub(super) fn add(&mut self, values: &[&str], value: f64) {
        debug_assert_eq!(self.labels.len(), values.len(), "{:?}", self.labels);
        let pairs = self.labels.iter().zip(values).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut metric = Metric::from_label(pairs.collect());
        match self.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        self.metrics.push(metric);
    }
}
