#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis_connection_manager::fuzz_headers(data));
