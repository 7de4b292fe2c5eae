//! Supervision through the real programs: each row of its table, what a death of kxl costs it, and
//! the verbs that go with it.

mod any;
mod crash;
mod guests;
mod stopping;
mod verbs;

use serde_json::Value;

use crate::support::{Host, wait};

/// The domain as `kxl status` shows it. Looking at it brings no monitor back.
fn status(host: &Host, name: &str) -> Value {
    let output = host.kxl(["status", "--json", name]);
    let all: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output}"));
    all["domains"][0].clone()
}

/// Waits until the domain is in `state`, in Supervisor's words.
fn comes_to(host: &Host, name: &str, state: &str) -> Value {
    wait::until(&format!("{name} becomes {state}"), wait::BOOT, || {
        Some(status(host, name)).filter(|now| now["state"] == state)
    })
}

/// A program on profile `any`: a script of the shell, with the keys of its supervision.
fn script(name: &str, text: &str, lines: &str) -> String {
    format!(
        "name = \"{name}\"\nbackend = \"any\"\nexec = \"/bin/sh\"\n\
         device_model_args = [\"-c\", \"{text}\"]\nmemory = 8\n{lines}\n"
    )
}

/// One that goes on until it is ended.
fn sleeper(name: &str, lines: &str) -> String {
    script(name, "exec sleep 100000", lines)
}

/// The events of this kind.
fn events(host: &Host, name: &str, what: &str) -> Vec<Value> {
    host.events(name).into_iter().filter(|event| event["what"] == what).collect()
}

/// The number of a status's field.
fn number(status: &Value, field: &str) -> i64 {
    status[field].as_i64().unwrap_or_else(|| panic!("no {field}: {status}"))
}
