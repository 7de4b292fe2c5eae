//! What to do about an alert.

use kxl_store::EventRow;

/// The next step for the one who looks at an alert, in a sentence.
pub(crate) fn next_step(row: &EventRow) -> String {
    let event = &row.event;
    let name = if event.name.is_empty() { "NAME" } else { &event.name };
    match event.what.as_str() {
        "crash" | "watchdog" => format!(
            "kxl why {name} tells how it ended, kxl console --log {name} what its guest said last"
        ),
        "fatal" | "start-failed" => {
            format!("kxl why {name} tells why; set that right, then kxl start {name}")
        }
        "start-hung" => format!("kxl console --log {name} shows what its guest said last"),
        "stop-failed" => {
            format!(
                "kxl status {name} shows whether it is off; if not, kxl destroy {name} tries again; \
                 kxl stop-script check tells about its stop script"
            )
        }
        "policy-failed" => {
            format!("kxl why {name} tells how it stands; kxl start or kxl destroy sets it right")
        }
        "standing-still" => format!("kxl unpause {name} lets its guest go on"),
        "image-damaged" => format!(
            "do not trust what its guest has in memory: kxl destroy {name} and a start from its \
             disks; look at the disk that the image was on"
        ),
        "flood" => format!("kxl events {name} prints them; look at what its guest is at"),
        "guest-alert" => format!("kxl console {name} leads to its guest"),
        "live records lost at host reboot" => {
            "kxl list shows what there is; start what is missing".to_owned()
        }
        _ => format!("kxl why {name} tells more"),
    }
}

#[cfg(test)]
mod tests {
    use kxl_store::{Event, Severity};

    use super::*;

    #[test]
    fn every_alert_has_a_next_step_with_the_name_of_its_domain() {
        for what in ["crash", "fatal", "stop-failed", "policy-failed", "guest-alert", "unheard"] {
            let mut event = Event::new(Severity::Alert, what);
            event.name = "web".into();
            let step = next_step(&EventRow::new(1, event));
            assert!(step.contains("kxl ") && step.contains("web"), "{what}: {step}");
        }
    }
}
