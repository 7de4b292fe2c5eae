//! Reading columns as what they mean. What cannot be read is a damaged record, named by its
//! domain; it is never taken for something else.

use std::fmt::Display;

use kxl_domain::supervision::Record;
use kxl_domain::{DomainConfig, DomainName, DomainUuid};
use rusqlite::types::FromSql;
use rusqlite::{Row, RowIndex};

use crate::error::Fault;
use crate::rows::ProcessRow;

/// A row that begins with the uuid and name of the domain it belongs to. Columns are read by
/// place where many rows are (SQLite compares names one by one), else by name.
pub(crate) struct Columns<'a>(pub(crate) &'a Row<'a>);

impl Columns<'_> {
    fn fault(&self, column: impl RowIndex, problem: impl Display) -> Fault {
        let what = self.0.get::<_, String>(0).unwrap_or_else(|_| "a domain".into());
        let statement = self.0.as_ref();
        let column = column.idx(statement).and_then(|at| statement.column_name(at));
        let column = column.unwrap_or("a column");
        Fault::Record { what, problem: format!("{column} {problem}") }
    }

    /// Any value that SQLite itself knows.
    pub(crate) fn get<T: FromSql>(&self, column: impl RowIndex) -> Result<T, Fault> {
        self.0.get(column).map_err(|error| self.fault(column, format_args!("is odd: {error}")))
    }

    fn text(&self, column: impl RowIndex) -> Result<Option<&str>, Fault> {
        self.0
            .get_ref(column)
            .and_then(|value| Ok(value.as_str_or_null()?))
            .map_err(|error| self.fault(column, format_args!("is odd: {error}")))
    }

    /// A text that is there, made into a value.
    pub(crate) fn word<T>(
        &self,
        column: impl RowIndex,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Fault> {
        self.maybe(column, parse)?.ok_or_else(|| self.fault(column, "is missing"))
    }

    /// A text that may be missing, made into a value.
    pub(crate) fn maybe<T>(
        &self,
        column: impl RowIndex,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Fault> {
        let Some(text) = self.text(column)? else { return Ok(None) };
        let odd = || self.fault(column, format_args!("is \"{}\"", text.escape_debug()));
        parse(text).map(Some).ok_or_else(odd)
    }

    pub(crate) fn uuid(&self) -> Result<DomainUuid, Fault> {
        self.word(0, |text| text.parse().ok())
    }

    pub(crate) fn name(&self) -> Result<DomainName, Fault> {
        self.word(1, |text| DomainName::new(text).ok())
    }

    /// A number that is never negative.
    pub(crate) fn count(&self, column: impl RowIndex) -> Result<u64, Fault> {
        u64::try_from(self.get::<i64>(column)?).map_err(|_| self.fault(column, "is negative"))
    }

    /// Three columns from this place on that are all there or not: pid, start time, boot.
    pub(crate) fn process(&self, from: usize) -> Result<Option<ProcessRow>, Fault> {
        let Some(pid) = self.get::<Option<i32>>(from)? else { return Ok(None) };
        let start_time = self.count(from + 1)?;
        Ok(Some(ProcessRow { pid, start_time, boot_id: self.get(from + 2)? }))
    }

    /// A value stored as JSON, which may be missing.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(
        &self,
        column: impl RowIndex,
    ) -> Result<Option<T>, Fault> {
        let Some(text) = self.text(column)? else { return Ok(None) };
        serde_json::from_str(text)
            .map(Some)
            .map_err(|error| self.fault(column, format_args!("is odd: {error}")))
    }

    /// JSON as it is stored, which others read; a damaged one is told here.
    pub(crate) fn document(&self, column: &str) -> Result<Option<String>, Fault> {
        self.json::<serde::de::IgnoredAny>(column)?;
        Ok(self.text(column)?.map(str::to_owned))
    }

    /// What supervision remembers; `None` in a record from before there was any.
    pub(crate) fn supervision(&self, column: usize) -> Result<Option<Record>, Fault> {
        self.json(column)
    }

    pub(crate) fn config(&self) -> Result<DomainConfig, Fault> {
        let text = self.text("config")?.unwrap_or_default();
        serde_json::from_str(text)
            .map_err(|error| self.fault("config", format_args!("is odd: {error}")))
    }
}

/// A value that may be missing, as JSON.
pub(crate) fn json_text<T: serde::Serialize>(value: Option<&T>) -> Result<Option<String>, Fault> {
    value
        .map(serde_json::to_string)
        .transpose()
        .map_err(|error| Fault::Record { what: "a value".into(), problem: error.to_string() })
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
