//! The lab: a host in which KVM works, emulated by QEMU with its SVM, whatever this one can do.
//!
//! A test of the lab is a job. Seen from outside, it looks for what became of the job in the one
//! boot of the lab that all jobs of its group share; inside, where this same program is called
//! again with the name of the test, it does the job. Jobs use `kxl-vmm` and `kxl` as anybody
//! would, with Linux guests that nest in the lab.
//!
//! The group `speed` measures, which takes minutes and is worth nothing on a host with other work or
//! with programs that were built for debugging: it is run where `KXL_LAB_SPEED` is set.
//!
//! `KXL_LAB_ONLY=word` boots the lab for the jobs with this word in their name only, and
//! `KXL_LAB_LOG=file` leaves what the lab said on its console there.

pub(crate) mod archive;
mod boot;
pub(crate) mod contents;
mod emulator;
mod inside;
mod vmlinux;

/// Set for a program inside the lab.
const INSIDE: &str = "KXL_LAB";

/// Makes the tests of a group, which share one boot.
macro_rules! group {
    ($group:ident: $($job:ident),+ $(,)?) => {
        mod $group {
            const JOBS: &[&str] = &[$(stringify!($job)),+];
            $(
                #[test]
                fn $job() {
                    if std::env::var_os(super::INSIDE).is_some() {
                        super::inside::$group::$job();
                    } else {
                        super::boot::expect(module_path!(), JOBS, stringify!($job));
                    }
                }
            )+
        }
    };
}

group!(host: the_lab_has_a_kvm_that_can_be_opened);

group!(
    linux: linux_boots_to_its_shell,
    two_processors_come_up,
    a_disk_is_written_and_read_back,
    ends_are_told_apart,
    the_power_button_is_pressed,
);

group!(net: packets_cross_a_tap_through_the_process, packets_cross_a_tap_through_the_kernel);

group!(states: a_saved_guest_goes_on_in_a_new_process, a_guest_works_while_it_is_saved);

group!(
    plugs: interfaces_come_as_eth0_and_eth1_and_a_third_is_refused,
    a_disk_comes_and_goes,
);

group!(
    toolstack: kxl_runs_linux_from_create_to_shutdown,
    auto_takes_kvm_where_linux_runs_on_it,
    linux_tells_over_its_port_how_it_stands,
);

group!(speed: a_disk_is_as_fast_as_qemus);
