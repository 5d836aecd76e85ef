//! A hostile driver of the disk; the body is tested with every run of the workspace's tests too.
#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| torpor_vmm::virtio::fuzz::blk(script));
