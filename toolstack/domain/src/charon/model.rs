//! The machines that Charon emulates, and how many processors each has where nothing says more.

/// Whose machine it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// An Alpha.
    Alpha,
    /// A VAX.
    Vax,
    /// A PDP-11.
    Pdp11,
}

/// One model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// What `hw_model` calls it; the case of its letters counts.
    pub name: &'static str,
    /// Whose it is.
    pub family: Family,
    /// The processors it has when its configuration does not say; a licence may lower it.
    pub cpus: u32,
}

impl Model {
    /// The model of a name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        MODELS.iter().find(|model| model.name == name)
    }

    /// Whose machine a name is, known or not.
    #[must_use]
    pub fn family_of(name: &str) -> Option<Family> {
        let by_prefix = [
            ("AlphaServer", Family::Alpha),
            ("AlphaStation", Family::Alpha),
            ("MicroVAX", Family::Vax),
            ("VAX", Family::Vax),
            ("PDP", Family::Pdp11),
        ];
        by_prefix.into_iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, family)| family)
    }
}

const fn alpha(name: &'static str, cpus: u32) -> Model {
    Model { name, family: Family::Alpha, cpus }
}

const fn vax(name: &'static str, cpus: u32) -> Model {
    Model { name, family: Family::Vax, cpus }
}

const fn pdp(name: &'static str) -> Model {
    Model { name, family: Family::Pdp11, cpus: 1 }
}

/// Every model that is known.
pub const MODELS: &[Model] = &[
    alpha("AlphaServer_AS400", 1),
    alpha("AlphaServer_AS800", 1),
    alpha("AlphaServer_AS1000", 1),
    alpha("AlphaServer_AS1000A", 1),
    alpha("AlphaServer_AS1200", 2),
    alpha("AlphaServer_AS2000", 2),
    alpha("AlphaServer_AS2100", 4),
    alpha("AlphaServer_AS4000", 2),
    alpha("AlphaServer_AS4100", 4),
    alpha("AlphaServer_DS10", 1),
    alpha("AlphaServer_DS10L", 1),
    alpha("AlphaServer_DS15", 1),
    alpha("AlphaServer_DS20", 2),
    alpha("AlphaServer_DS25", 2),
    alpha("AlphaServer_ES40", 4),
    alpha("AlphaServer_ES45", 4),
    alpha("AlphaServer_GS80", 8),
    alpha("AlphaServer_GS160", 16),
    alpha("AlphaServer_GS320", 32),
    vax("MicroVAX_II", 1),
    vax("MicroVAX_3100_Model_96", 1),
    vax("MicroVAX_3100_Model_98", 1),
    vax("MicroVAX_3600", 1),
    vax("MicroVAX_3900", 1),
    vax("VAXserver_3600", 1),
    vax("VAXserver_3600_128", 1),
    vax("VAXserver_3600_512", 1),
    vax("VAXserver_3900", 1),
    vax("VAXserver_3900_128", 1),
    vax("VAXserver_3900_512", 1),
    vax("VAXstation_4000_Model_90", 1),
    vax("VAX_4000_Model_106", 1),
    vax("VAX_4000_Model_108", 1),
    vax("VAX_4000_Model_700", 1),
    vax("VAX_4000_Model_705", 1),
    vax("VAX_6000_Model_310", 1),
    vax("VAX_6610", 1),
    vax("VAX_6620", 2),
    vax("VAX_6630", 3),
    vax("VAX_6640", 4),
    vax("VAX_6650", 5),
    vax("VAX_6660", 6),
    pdp("PDP_1193"),
    pdp("PDP_1194"),
];
