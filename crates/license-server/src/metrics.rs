//! The server's figures, read from the pool at each scrape so that they can never drift from it.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::server::Handle;

/// Prefix of every name here.
const PREFIX: &str = "portcullis_license";

pub(crate) fn register(registry: &mut Registry, handle: Handle) {
    registry
        .sub_registry_with_prefix(PREFIX)
        .register_collector(Box::new(Figures(handle)));
}

#[derive(Debug)]
struct Figures(Handle);

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let usage = self.0.usage();
        let totals = self.0.totals();
        let gauges = [
            (
                "used",
                "Licences leased",
                usage.iter().map(|f| (&f.name, f.used)).collect::<Vec<_>>(),
            ),
            (
                "seats",
                "Licences there are",
                usage.iter().map(|f| (&f.name, f.count)).collect(),
            ),
        ];
        for (name, help, values) in gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (feature, value) in values {
                let labels = [("feature", feature.as_str())];
                ConstGauge::new(i64::from(value)).encode(family.encode_family(&labels)?)?;
            }
        }
        let counters = [
            ("acquired", "Leases granted", totals.acquired),
            (
                "expired",
                "Leases that expired without being given back",
                totals.expired,
            ),
            ("returned", "Leases given back", totals.returned),
        ];
        for (name, help, value) in counters {
            let counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(counter)?;
        }
        let mut refused =
            encoder.encode_descriptor("refused", "Leases refused", None, MetricType::Counter)?;
        for (reason, value) in [
            ("none_available", totals.refused_none_available),
            ("unknown_feature", totals.refused_unknown_feature),
        ] {
            let labels = [("reason", reason)];
            ConstCounter::new(value).encode(refused.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LicenseServer, LicenseServerConfig, PoolConfig};

    #[test]
    fn figures_carry_the_prefix_and_follow_the_pool() {
        let server = LicenseServer::new(LicenseServerConfig {
            pool: PoolConfig::of_sessions(3),
            administrator: None,
        })
        .expect("a valid pool");
        let mut registry = Registry::default();
        server.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        for line in [
            "portcullis_license_used{feature=\"Agent-Session\"} 0",
            "portcullis_license_seats{feature=\"Agent-Session\"} 3",
            "portcullis_license_acquired_total 0",
            "portcullis_license_refused_total{reason=\"none_available\"} 0",
            "portcullis_license_expired_total 0",
            "portcullis_license_returned_total 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
