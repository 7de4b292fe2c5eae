//! Other files in the same grammar: `kxl.conf`, which holds plain settings.

use super::syntax::{self, ValueKind};
use super::text::{Place, SourceText};

/// A `key = value` whose value is a string or a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainSetting {
    /// The key.
    pub key: String,
    /// Its value as text.
    pub value: String,
    /// Where the key stands.
    pub place: Place,
}

/// Reads a text of plain settings; a key that is set twice has its last value.
///
/// # Errors
/// The place of the first line that is no setting, or whose value is a list.
pub fn settings(source_name: &str, text: &str) -> Result<Vec<PlainSetting>, Box<Place>> {
    let source = SourceText::new(source_name, text, &[]);
    let document = syntax::read(&source);
    if let Some(error) = document.errors.first() {
        return Err(Box::new(source.place(&error.span)));
    }
    document
        .settings
        .into_iter()
        .map(|(key, setting)| match setting.value.kind {
            ValueKind::Atom(value) => {
                Ok(PlainSetting { key, value, place: source.place(&setting.key_span) })
            }
            ValueKind::List(_) => Err(Box::new(source.place(&setting.value.span))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_with_their_places() {
        let read = settings("kxl.conf", "# bridge\ndefault_bridge = \"br0\"\n").unwrap();
        assert_eq!((read[0].key.as_str(), read[0].value.as_str()), ("default_bridge", "br0"));
        assert_eq!(read[0].place.to_string(), "kxl.conf:2:1");
    }

    #[test]
    fn a_list_or_a_broken_line_is_an_error_with_its_place() {
        assert_eq!(settings("c", "a = [1]\n").unwrap_err().line, 1);
        assert_eq!(settings("c", "a = 1\nb c\n").unwrap_err().line, 2);
    }
}
