//! Questions.

use kxl_qmp::server::{ErrorClass, line};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, Nothing, names};
use crate::api::control::{Block, Outcome, Refusal, RunState, Vcpu};
use crate::api::{VERSION, event};

pub(super) fn status(context: &mut Context<'_>, _: Nothing) -> Outcome<Value> {
    let status = context.control.status();
    let mut answer = json!({
        "running": status.state == RunState::Running,
        "singlestep": false,
        "status": status.state.as_str(),
    });
    if let Some(cause) = status.ended {
        answer["reason"] = cause.as_str().into();
    }
    Ok(answer)
}

pub(super) fn version(_: &mut Context<'_>, _: Nothing) -> Outcome<Value> {
    let package = concat!("kxl-vmm ", env!("CARGO_PKG_VERSION"));
    Ok(serde_json::from_str(&line::version(VERSION, package))?)
}

pub(super) fn commands(_: &mut Context<'_>, _: Nothing) -> Outcome<Value> {
    Ok(names().map(|name| json!({"name": name})).collect())
}

pub(super) fn events(_: &mut Context<'_>, _: Nothing) -> Outcome<Value> {
    Ok(event::NAMES.iter().map(|name| json!({"name": name})).collect())
}

pub(super) fn name(context: &mut Context<'_>, _: Nothing) -> Outcome<Value> {
    let name = context.control.identity().name;
    Ok(name.map_or_else(|| json!({}), |name| json!({"name": name})))
}

pub(super) fn uuid(context: &mut Context<'_>, _: Nothing) -> Outcome<Value> {
    let none = || "00000000-0000-0000-0000-000000000000".to_owned();
    Ok(json!({"UUID": context.control.identity().uuid.unwrap_or_else(none)}))
}

pub(super) fn kvm(_: &mut Context<'_>, _: Nothing) -> Outcome<Value> {
    Ok(json!({"enabled": true, "present": true}))
}

pub(super) fn target(_: &mut Context<'_>, _: Nothing) -> Outcome<Value> {
    Ok(json!({"arch": "x86_64"}))
}

pub(super) fn cpus(context: &mut Context<'_>, _: Nothing) -> Outcome<Value> {
    let vcpus = context.control.vcpus();
    let cpu = |(index, vcpu): (usize, &Vcpu)| {
        json!({"cpu-index": index, "qom-path": path(index), "thread-id": vcpu.thread,
            "target": "x86_64", "props": props(index)})
    };
    Ok(vcpus.iter().enumerate().map(cpu).collect())
}

/// All are there from the start; none can be added.
pub(super) fn hotpluggable_cpus(context: &mut Context<'_>, _: Nothing) -> Outcome<Value> {
    let count = context.control.vcpus().len();
    let cpu = |index| {
        json!({"type": "host-x86-cpu", "vcpus-count": 1, "qom-path": path(index),
            "props": props(index)})
    };
    Ok((0..count).map(cpu).collect())
}

fn path(index: usize) -> String {
    format!("/machine/unattached/device[{index}]")
}

fn props(index: usize) -> Value {
    json!({"socket-id": index, "core-id": 0, "thread-id": 0})
}

pub(super) fn memory_size(context: &mut Context<'_>, _: Nothing) -> Outcome<Value> {
    Ok(json!({"base-memory": context.control.memory(), "plugged-memory": 0}))
}

pub(super) fn balloon(context: &mut Context<'_>, _: Nothing) -> Outcome<Value> {
    match context.control.balloon() {
        Some(actual) => Ok(json!({"actual": actual})),
        None => Err(Refusal {
            class: ErrorClass::DeviceNotActive,
            text: "the machine has no balloon".into(),
        }),
    }
}

pub(super) fn block(context: &mut Context<'_>, _: Nothing) -> Outcome<Value> {
    let disk = |block: &Block| {
        let file = block.file.as_ref().map_or_else(String::new, |file| file.display().to_string());
        json!({
            "device": block.id, "qdev": block.id, "type": "unknown", "locked": false,
            "removable": false,
            "inserted": {
                "node-name": block.id, "drv": "raw", "ro": block.readonly, "file": file,
                "image": {"filename": file, "format": "raw", "virtual-size": block.size},
            },
        })
    };
    Ok(context.control.blocks().iter().map(disk).collect())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nodes {
    /// There is nothing below a node here.
    #[serde(rename = "flat")]
    _flat: Option<bool>,
}

pub(super) fn block_nodes(context: &mut Context<'_>, _: Nodes) -> Outcome<Value> {
    let node = |block: &Block| {
        let mut node = json!({"node-name": block.id, "drv": "file", "ro": block.readonly});
        if let Some(file) = &block.file {
            node["file"] = file.display().to_string().into();
        }
        node
    };
    Ok(context.control.blocks().iter().map(node).collect())
}
