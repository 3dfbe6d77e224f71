#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis_license_server::fuzz_acquire(data));
