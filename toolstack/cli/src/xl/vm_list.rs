//! `vm-list`.

use super::names::run;
use super::{Session, getopt, print};

/// Lists uuid, number and name of all live domains, the host included.
pub(crate) fn vm_list(session: &mut Session, args: &[String]) -> u8 {
    run(|| {
        session.parse(getopt::NONE, args, 0)?;
        let mut text = String::from("UUID                                  ID    name\n");
        text.push_str(&line("00000000-0000-0000-0000-000000000000", 0, "Domain-0"));
        for row in session.live()? {
            if let Some(domid) = row.domid {
                text.push_str(&line(&row.uuid.to_string(), domid.0, row.name.as_str()));
            }
        }
        Ok(print(&text))
    })
}

fn line(uuid: &str, domid: u32, name: &str) -> String {
    format!("{uuid}  {domid}    {name:<30}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_padded_as_in_xl() {
        let text = line("8d5dbf3a-0000-4000-8000-000000000003", 3, "web");
        assert_eq!(
            text,
            "8d5dbf3a-0000-4000-8000-000000000003  3    web                           \n"
        );
    }
}
