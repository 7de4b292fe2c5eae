//! Reading columns as what they mean. What cannot be read is a damaged record, named by its
//! domain; it is never taken for something else.

use kxl_domain::{DomId, DomainConfig, DomainName, DomainUuid};
use rusqlite::Row;
use rusqlite::types::FromSql;

use crate::error::Fault;
use crate::rows::ProcessRow;

/// A row whose first column is the uuid it belongs to.
pub(crate) struct Columns<'a>(pub(crate) &'a Row<'a>);

impl Columns<'_> {
    fn fault(&self, problem: String) -> Fault {
        let what = self.0.get::<_, String>(0).unwrap_or_else(|_| "a domain".into());
        Fault::Record { what, problem }
    }

    /// Any value that SQLite itself knows.
    pub(crate) fn get<T: FromSql>(&self, column: &str) -> Result<T, Fault> {
        self.0.get(column).map_err(|error| self.fault(error.to_string()))
    }

    fn text(&self, column: &str) -> Result<Option<&str>, Fault> {
        self.0
            .get_ref(column)
            .and_then(|value| Ok(value.as_str_or_null()?))
            .map_err(|error| self.fault(format!("{column}: {error}")))
    }

    /// A text that is there, made into a value.
    pub(crate) fn word<T>(
        &self,
        column: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Fault> {
        self.maybe(column, parse)?.ok_or_else(|| self.fault(format!("{column} is missing")))
    }

    /// A text that may be missing, made into a value.
    pub(crate) fn maybe<T>(
        &self,
        column: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Fault> {
        let Some(text) = self.text(column)? else { return Ok(None) };
        let odd = || self.fault(format!("{column} is \"{}\"", text.escape_debug()));
        parse(text).map(Some).ok_or_else(odd)
    }

    pub(crate) fn uuid(&self) -> Result<DomainUuid, Fault> {
        self.word("uuid", |text| text.parse().ok())
    }

    pub(crate) fn name(&self) -> Result<DomainName, Fault> {
        self.word("name", |text| DomainName::new(text).ok())
    }

    pub(crate) fn domid(&self) -> Result<DomId, Fault> {
        Ok(DomId(self.get("domid")?))
    }

    /// A number that is never negative.
    pub(crate) fn count(&self, column: &str) -> Result<u64, Fault> {
        u64::try_from(self.get::<i64>(column)?).map_err(|_| self.fault(format!("{column} < 0")))
    }

    /// Three columns that are all there or not.
    pub(crate) fn process(
        &self,
        [pid, start_time, boot_id]: [&str; 3],
    ) -> Result<Option<ProcessRow>, Fault> {
        let Some(pid) = self.get::<Option<i32>>(pid)? else { return Ok(None) };
        let start_time = self.count(start_time)?;
        Ok(Some(ProcessRow { pid, start_time, boot_id: self.get(boot_id)? }))
    }

    pub(crate) fn config(&self) -> Result<DomainConfig, Fault> {
        let text = self.text("config")?.unwrap_or_default();
        serde_json::from_str(text).map_err(|error| self.fault(format!("config: {error}")))
    }
}

/// A configuration as it is stored: JSON, with the uuid it belongs to.
pub(crate) fn config_text(config: &DomainConfig, uuid: DomainUuid) -> Result<String, Fault> {
    let mut config = config.clone();
    config.uuid = Some(uuid);
    serde_json::to_string(&config)
        .map_err(|error| Fault::Record { what: uuid.to_string(), problem: error.to_string() })
}

/// A number for SQLite, which knows signed ones only.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The half-open range of uuids, as text, that share the first eight digits of this one.
pub(crate) fn same_start(uuid: DomainUuid) -> (String, String) {
    // '.' follows '-' in ASCII.
    (format!("{}-", uuid.short()), format!("{}.", uuid.short()))
}
