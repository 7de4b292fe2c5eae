//! The processor that a configuration asks for, in the words of each program.

use kxl_backend::{BackendError, Result};
use kxl_domain::DomainConfig;
use kxl_domain::cpuid::{self, Flag};
use serde_json::{Map, Value, json};

/// What kxl-vmm calls what most servers have.
const BASELINE: &str = "baseline";

/// The models of kxl-vmm.
pub(super) const OF_KXL_VMM: &[&str] = &["host", BASELINE];

/// What follows `-cpu` of QEMU: the configuration's model, else `default`, and its features.
///
/// A name without a version is one by the machine type, which has one.
///
/// # Errors
/// [`BackendError::Config`] for a model of kxl-vmm, and for one that is not the same tomorrow.
pub(super) fn of_qemu(config: &DomainConfig, default: &str) -> Result<String> {
    let model = config.processor.model.as_deref().unwrap_or(default);
    if model == BASELINE {
        let why = "baseline is a model of kxl-vmm (backend=\"kvm\"); qemu-system-x86_64 -cpu help \
                   names those of QEMU";
        return Err(BackendError::config("cpu_model", why));
    }
    if model == "max" {
        let why = "max is another processor with each release of QEMU, and no state of it would come \
                   back; name a model, such as Haswell";
        return Err(BackendError::config("cpu_model", why));
    }
    let features = asked(config).map(|(flag, shown)| {
        let value = if shown { "on" } else { "off" };
        format!(",{}={value}", flag.qemu)
    });
    Ok(format!("{model}{}", features.collect::<String>()))
}

/// What follows `-cpu` of kxl-vmm.
pub(super) fn of_kxl_vmm(config: &DomainConfig) -> String {
    let model = config.processor.model.as_deref().unwrap_or("host");
    let masks = asked(config).map(|(flag, shown)| {
        let Flag { leaf, subleaf, register, bit, .. } = flag;
        let sign = if shown { '+' } else { '-' };
        let subleaf = subleaf.map(|subleaf| format!(".{subleaf}")).unwrap_or_default();
        format!(",{sign}{leaf:#x}{subleaf}:{register}.{bit}")
    });
    format!("{model}{}", masks.collect::<String>())
}

fn asked(config: &DomainConfig) -> impl Iterator<Item = (&'static Flag, bool)> {
    let features = config.processor.features.iter();
    features.filter_map(|feature| Some((cpuid::find(&feature.name)?, feature.shown)))
}

/// The same in the words of `query-cpu-model-expansion`.
pub(super) fn expansion(cpu: &str) -> Value {
    let mut words = cpu.split(',');
    let name = words.next().unwrap_or_default();
    let props: Map<String, Value> = words
        .filter_map(|word| word.split_once('='))
        .map(|(name, value)| (name.to_owned(), json!(value == "on")))
        .collect();
    json!({"type": "full", "model": {"name": name, "props": props}})
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use kxl_domain::config::model::Feature;

    use super::*;

    fn config() -> DomainConfig {
        let mut config = DomainConfig::new("guest".parse().unwrap());
        config.processor.features = [("avx2", false), ("sse3", true), ("invtsc", true)]
            .map(|(name, shown)| Feature { name: name.into(), shown })
            .to_vec();
        config
    }

    #[test]
    fn a_feature_is_said_in_the_words_of_each_program() {
        let mut config = config();
        let qemu = of_qemu(&config, "Nehalem-v1").unwrap();
        assert_eq!(qemu, "Nehalem-v1,avx2=off,pni=on,invtsc=on");
        let vmm = of_kxl_vmm(&config);
        assert_eq!(vmm, "host,-0x7.0:ebx.5,+0x1:ecx.0,+0x80000007:edx.8");
        assert_eq!(
            expansion(&qemu),
            json!({"type": "full", "model": {"name": "Nehalem-v1",
                "props": {"avx2": false, "pni": true, "invtsc": true}}})
        );
        config.processor.model = Some(BASELINE.into());
        assert!(of_kxl_vmm(&config).starts_with("baseline,-0x7"));
        for (model, why) in [(BASELINE, "kxl-vmm"), ("max", "come back")] {
            config.processor.model = Some(model.into());
            let error = of_qemu(&config, "Nehalem-v1").unwrap_err().to_string();
            assert!(error.contains("cpu_model") && error.contains(why), "{error}");
        }
    }

    #[test]
    fn qemu_knows_all_features_by_these_names() {
        let Ok(output) = Command::new("qemu-system-x86_64").args(["-cpu", "help"]).output() else {
            crate::testing::skip("qemu-system-x86_64 is not installed");
            return;
        };
        let help = String::from_utf8_lossy(&output.stdout);
        let known: Vec<&str> = help.split_whitespace().collect();
        for name in cpuid::names() {
            let flag = cpuid::find(name).unwrap();
            assert!(known.contains(&flag.qemu), "{name}: QEMU has no {}", flag.qemu);
        }
    }
}
