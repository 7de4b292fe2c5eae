//! `%(name)s` in values.

use super::Surroundings;
use super::ini::Section;

/// How deep values may name others, and how long one may become on the way.
const DEPTH: usize = 10;
const LENGTH: usize = 64 << 10;

/// What names stand for.
pub(super) struct Names<'a> {
    /// The `x` of `[program:x]`; empty elsewhere.
    pub(super) program: &'a str,
    pub(super) section: &'a Section,
    pub(super) around: &'a Surroundings<'a>,
}

impl Names<'_> {
    /// A value with its names replaced.
    ///
    /// # Errors
    /// What cannot be replaced.
    pub(super) fn expand(&self, value: &str) -> Result<String, String> {
        self.at(value, 0)
    }

    fn at(&self, value: &str, depth: usize) -> Result<String, String> {
        let mut out = String::new();
        let mut rest = value;
        while let Some((before, behind)) = rest.split_once('%') {
            out.push_str(before);
            if let Some(behind) = behind.strip_prefix('%') {
                out.push('%');
                rest = behind;
            } else {
                let named = behind.strip_prefix('(').and_then(|named| named.split_once(')'));
                let Some((name, behind)) = named else {
                    return Err("a single % has no meaning: write %% for the sign".into());
                };
                let (value, behind) = self.named(name, behind, depth)?;
                out.push_str(&value);
                rest = behind;
            }
            if out.len() > LENGTH {
                return Err("becomes too long".into());
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    /// The value of a name, and what follows its format.
    fn named<'r>(
        &self,
        name: &str,
        behind: &'r str,
        depth: usize,
    ) -> Result<(String, &'r str), String> {
        if name == "process_num" {
            let end = behind.find('d').ok_or("%(process_num) needs a d behind it")?;
            let width = behind[..end].trim_start_matches('0');
            let width = if width.is_empty() { Ok(0) } else { width.parse::<usize>() };
            let width = width.ok().filter(|width| *width <= 20);
            let width = width.ok_or("the format behind %(process_num) is none")?;
            return Ok((format!("{:0width$}", 0), &behind[end + 1..]));
        }
        let behind =
            behind.strip_prefix('s').ok_or_else(|| format!("%({name}) needs an s behind it"))?;
        let value = match name {
            "program_name" | "group_name" if !self.program.is_empty() => self.program.to_owned(),
            "here" => self.around.here.display().to_string(),
            _ => match name.strip_prefix("ENV_") {
                Some(variable) => (self.around.variable)(variable)
                    .ok_or_else(|| format!("there is no variable {variable} in the environment"))?,
                None => {
                    let key = name.to_lowercase();
                    let entry = self.section.entries.iter().find(|entry| entry.key == key);
                    let entry = entry.ok_or_else(|| format!("%({name})s names nothing"))?;
                    if depth == DEPTH {
                        return Err(format!("%({name})s comes back to itself"));
                    }
                    self.at(&entry.value, depth + 1)?
                }
            },
        };
        Ok((value, behind))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::supervisord::ini;

    fn expand(text: &str, value: &str) -> Result<String, String> {
        let ini = ini::read(&format!("[program:web]\n{text}"));
        let variable = |name: &str| (name == "LANG").then(|| "C".to_owned());
        let around = Surroundings { here: Path::new("/etc"), variable: &variable };
        let section = &ini.sections[0];
        Names { program: "web", section, around: &around }.expand(value)
    }

    #[test]
    fn names_are_those_of_supervisord_variables_and_other_keys() {
        for (value, want) in [
            ("%(program_name)s.log", "web.log"),
            ("%(here)s/%(group_name)s", "/etc/web"),
            ("%(ENV_LANG)s", "C"),
            ("%(process_num)02d%(process_num)d", "000"),
            ("100%%", "100%"),
            ("%(base)s/x", "/srv/web/x"),
        ] {
            assert_eq!(expand("base = /srv/%(program_name)s\n", value).as_deref(), Ok(want));
        }
    }

    #[test]
    fn what_names_nothing_is_an_error() {
        for value in ["%", "50%", "%(x)s", "%(here)", "%(ENV_X)s", "%(process_num)x", "%(a"] {
            assert!(expand("", value).is_err(), "{value}");
        }
    }

    #[test]
    fn values_that_name_each_other_come_to_an_end() {
        assert!(expand("a = %(b)s\nb = %(a)s\n", "%(a)s").unwrap_err().contains("itself"));
        let laughs: String =
            (0..9).map(|n| format!("k{n} = {}\n", format!("%(k{})s", n + 1).repeat(20))).collect();
        let laughs = format!("{laughs}k9 = ha\n");
        assert!(expand(&laughs, "%(k0)s").unwrap_err().contains("too long"));
    }
}
