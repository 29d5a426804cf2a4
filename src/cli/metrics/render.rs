//! The metrics as text, in the text format of Prometheus, version 0.0.4: what a Prometheus reads that
//! is asked over HTTP, and what the textfile collector of node_exporter reads. The latter does not
//! read OpenMetrics.

use prometheus::TextEncoder;
use prometheus::proto::MetricFamily;

use crate::cli::metrics::samples::Samples;
use crate::cli::metrics::snapshot::Snapshot;
use crate::cli::metrics::table::ALL;

/// All metrics that have values.
///
/// # Errors
/// Those of the encoder, which the names of the table do not cause.
pub(super) fn render(snapshot: &Snapshot<'_>) -> anyhow::Result<String> {
    let mut text = String::new();
    // One after the other, so that memory is for the values of one only.
    for definition in ALL {
        let mut samples = Samples::of(definition);
        (definition.samples)(snapshot, &mut samples);
        if samples.metrics.is_empty() {
            continue;
        }
        let mut family = MetricFamily::default();
        family.set_name(definition.name.to_owned());
        family.set_help(definition.help.to_owned());
        family.set_field_type(definition.kind.proto());
        family.set_metric(samples.metrics);
        TextEncoder::new().encode_utf8(&[family], &mut text)?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
