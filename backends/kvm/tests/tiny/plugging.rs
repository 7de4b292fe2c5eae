//! Files and taps that a confined machine is asked for.

use serde_json::json;

use crate::vmm::Place;
use crate::{no_kvm, standing};

#[test]
fn what_a_confined_machine_cannot_open_is_refused_with_the_way_around() {
    if no_kvm("what_a_confined_machine_cannot_open_is_refused_with_the_way_around") {
        return;
    }
    let (place, elsewhere) = (Place::new(), Place::new());
    let vmm = standing(&place, "closed", &["-S", "-hotplug", "nics=1,disks=1"]);
    let mut qmp = vmm.qmp();
    let outside = elsewhere.file("disk", &[0; 4096]);
    qmp.ok("blockdev-add", &json!({"node-name": "disk", "file": {"filename": outside}}));
    let disk = json!({"driver": "virtio-blk-mmio", "id": "disk"});
    let refused = qmp.ask("device_add", &disk)["error"]["desc"].to_string();
    assert!(refused.contains("-hotplug-dir") && refused.contains("add-fd"), "{refused}");
    qmp.ok("netdev_add", &json!({"id": "nic", "ifname": "kxl-no-tap"}));
    let nic = json!({"driver": "virtio-net-mmio", "id": "nic"});
    let refused = qmp.ask("device_add", &nic)["error"]["desc"].to_string();
    assert!(refused.contains("getfd"), "{refused}");
    // What it may open is opened, once.
    qmp.ok("blockdev-del", &json!({"node-name": "disk"}));
    let inside = place.file("disk", &[0; 4096]);
    qmp.ok("blockdev-add", &json!({"node-name": "disk", "file": {"filename": inside}}));
    qmp.ok("device_add", &disk);
    assert_eq!(qmp.ok("query-block", &json!({}))[0]["device"], "disk");
    let again = qmp.ask("device_add", &disk)["error"]["desc"].to_string();
    assert!(again.contains("uses"), "{again}");
    qmp.ok("device_del", &json!({"id": "disk"}));
    assert_eq!(qmp.event("DEVICE_DELETED")["device"], "disk");
    qmp.ok("device_add", &disk);
}
