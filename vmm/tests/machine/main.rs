//! Real VMs with kernels of a few bytes: how a machine ends, the door, save and restore, park and resume, and what a guest may not do.
//! They need /dev/kvm and fail without.
#![allow(clippy::unwrap_used, clippy::panic)]

mod park;
mod tiny;

use std::os::fd::AsFd;
use std::time::Duration;
use tiny::{Code, WINDOW, boot, booted, counter, prepared, reason, restored, said, snapshot};
use torpor_protocol::door;
use torpor_protocol::monitor::{Command, Event, StopReason};

#[test]
fn each_end_of_a_machine_is_told_apart() {
    assert_eq!(reason(&booted(&Code::default().power_off())), StopReason::PowerOff);
    assert_eq!(reason(&booted(&Code::default().store(door::KERNEL_REGS + door::REG_STOP, 2))), StopReason::Panic);
    // mov al, 0xfe; out 0x64, al
    assert_eq!(reason(&booted(&Code::default().raw(&[0xb0, 0xfe, 0xe6, 0x64]))), StopReason::Reboot);
    // ud2 without an interrupt table
    assert_eq!(reason(&booted(&Code::default().raw(&[0x0f, 0x0b]))), StopReason::TripleFault);
    let unknown = reason(&booted(&Code::default().store(door::KERNEL_REGS + door::REG_STOP, 9)));
    assert!(matches!(unknown, StopReason::GuestFault { .. }), "{unknown}");
}

#[test]
fn machines_that_boot_at_once_share_one_open_kernel() {
    let (kernel, root) = (Code::default().power_off().kernel(), tempfile::tempfile().unwrap());
    for _ in 0..10 {
        let clients: Vec<_> = (0..4).map(|_| prepared()).collect();
        for client in &clients {
            client.send(&Command::Boot { extra_cmdline: String::new() }, &[kernel.as_fd(), root.as_fd()]).unwrap();
        }
        for client in &clients {
            assert!(matches!(client.receive().unwrap(), Event::Running { .. }));
            assert_eq!(reason(client), StopReason::PowerOff);
        }
    }
}

#[test]
fn an_outbox_beyond_its_box_drops_the_guest() {
    let code = Code::default().store_wide(WINDOW + door::USER + door::OUTBOX_LEN, u64::MAX).ring();
    assert!(matches!(reason(&booted(&code)), StopReason::GuestFault { device, .. } if device == "the door"));
}

#[test]
fn reads_and_writes_all_over_the_address_space_do_no_harm() {
    let mut code = Code::default();
    for address in [0xd000_0000u64, 0xd000_0100, 0xd000_1000, 0xd000_2ffc, 0xd000_3000, 0xd001_0018, 0xd001_1ff8, 0xe000_0000, 0xfff0_0000]
    {
        // mov al, [rbx]; mov rax, [rbx]; mov [rbx], al (with 0)
        code = code.point(address).raw(&[0x8a, 0x03, 0x48, 0x8b, 0x03, 0x30, 0xc0, 0x88, 0x03]);
    }
    for port in [0x60u8, 0x64, 0x70, 0x80, 0xf0] {
        // in al, port; out port, al (with 0, which resets nothing)
        code = code.raw(&[0xe4, port, 0x30, 0xc0, 0xe6, port]);
    }
    assert_eq!(reason(&booted(&code.power_off())), StopReason::PowerOff);
}

#[test]
fn a_machine_goes_on_where_its_snapshot_was_taken_as_often_as_one_likes() {
    let client = booted(&counter());
    assert_eq!(client.receive().unwrap(), Event::AtDoor);
    client.send(&Command::Inbox { frame: vec![1] }, &[]).unwrap();
    assert_eq!(said(&client), 1);
    assert_eq!(client.receive().unwrap(), Event::AtDoor);
    let (state, memory) = snapshot(&client);
    torpor_snapshot::verify(&state, &memory).unwrap();
    client.send(&Command::Inbox { frame: vec![1] }, &[]).unwrap();
    assert_eq!(said(&client), 2, "the saved machine itself goes on");
    for _ in 0..3 {
        let again = restored(&state, &memory, Some(vec![2]));
        assert!(matches!(again.receive().unwrap(), Event::Running { .. }));
        assert_eq!(said(&again), 2, "registers are those of the snapshot");
        assert_eq!(again.receive().unwrap(), Event::AtDoor);
    }
}

#[test]
fn the_time_stamp_counter_of_a_restored_machine_does_not_go_back() {
    // rdtsc; shl rdx, 32; or rax, rdx
    let read = [0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0];
    // mov r8, rax; ... cmp rax, r8; setb dl
    let code = Code::default().raw(&read).raw(&[0x49, 0x89, 0xc0]).wait().raw(&read).raw(&[0x4c, 0x39, 0xc0, 0x0f, 0x92, 0xc2]);
    let client = prepared();
    // So that the counter is less than a second, but well above that of the VM that it is restored into.
    std::thread::sleep(Duration::from_millis(400));
    let client = boot(client, &code.say_dl().power_off());
    assert_eq!(client.receive().unwrap(), Event::AtDoor);
    let (state, memory) = snapshot(&client);
    let again = restored(&state, &memory, Some(vec![1]));
    assert!(matches!(again.receive().unwrap(), Event::Running { .. }));
    assert_eq!(said(&again), 0, "it went back");
}

#[test]
fn damaged_and_foreign_snapshots_are_refused() {
    use std::os::unix::fs::FileExt;
    let client = booted(&counter());
    assert_eq!(client.receive().unwrap(), Event::AtDoor);
    let (state, memory) = snapshot(&client);
    let mut byte = [0];
    state.read_exact_at(&mut byte, 300).unwrap();
    state.write_all_at(&[byte[0] ^ 1], 300).unwrap();
    assert!(matches!(reason(&restored(&state, &memory, None)), StopReason::Failed(why) if why.contains("damaged")));
    state.write_all_at(&byte, 300).unwrap();
    memory.set_len(4096).unwrap();
    assert!(matches!(reason(&restored(&state, &memory, None)), StopReason::Failed(why) if why.contains("memory file")));
}

#[test]
fn commands_out_of_turn_are_errors() {
    let client = prepared();
    client.send(&Command::Inbox { frame: vec![] }, &[]).unwrap();
    assert!(matches!(reason(&client), StopReason::Failed(why) if why.contains("does not run")));
    let client = prepared();
    client.send(&Command::Save, &[]).unwrap();
    assert!(matches!(reason(&client), StopReason::Failed(why) if why.contains("descriptors")));
    let client = booted(&counter());
    assert_eq!(client.receive().unwrap(), Event::AtDoor);
    client.send(&Command::Prepare { memory_mib: 64 }, &[tempfile::tempfile().unwrap().as_fd()]).unwrap();
    assert!(matches!(reason(&client), StopReason::Failed(why) if why.contains("already")));
}
