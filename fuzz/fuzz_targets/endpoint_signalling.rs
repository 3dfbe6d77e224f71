#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis_endpoints::signalling::fuzz_signalling(data));
