#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis_protocol::agent::fuzz(data));
