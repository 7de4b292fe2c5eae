//! What the guest's processors show of themselves.

use serde::{Deserialize, Serialize};

/// `cpu_model=` and `cpuid=`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Processor {
    /// The model: one of QEMU's, or kxl-vmm's `host` and `baseline`; `None` = the backend's choice.
    pub model: Option<String>,
    /// What is shown or hidden beside what the model has; the last word about a feature counts.
    pub features: Vec<Feature>,
}

/// A feature that is shown or hidden, whatever the model has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feature {
    /// Its name in libxl, which [`crate::cpuid::find`] knows.
    pub name: String,
    /// Whether the guest sees it.
    pub shown: bool,
}

impl Processor {
    /// Whether nothing was asked for.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// `cpuid=` as xl reads it; `None` where it would say nothing.
    #[must_use]
    pub fn cpuid_text(&self) -> Option<String> {
        let words = self.features.iter().map(|feature| {
            let Feature { name, shown } = feature;
            format!(",{name}={}", u8::from(*shown))
        });
        (!self.features.is_empty()).then(|| format!("host{}", words.collect::<String>()))
    }
}
