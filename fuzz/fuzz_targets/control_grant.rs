#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis_security_gateway::control::fuzz_grant(data));
