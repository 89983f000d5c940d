//! The memory that registers take in a document is proportional to the bytes of their values, and is counted.

use bytes::Bytes;
use syncline_replica::{HubLimits, RegisterWrite};
use syncline_server::internals::{Effect, Event, LeaseId, SessionEvent};
use syncline_tests::document::new_core;
use syncline_tests::process::{alone, memory_bytes};

#[test]
fn register_memory_is_proportional_to_value_bytes_and_counted() {
    const REGISTERS: u128 = 200;
    const NUMBERS: usize = 15_000;
    let _alone = alone();
    // lib0 `Any`: an array of small numbers, which take two bytes each when encoded and far more as values in memory.
    let mut value = vec![117, 0x98, 0x75];
    value.extend([125, 7].repeat(NUMBERS));
    let value = Bytes::from(value);
    let mut core = new_core(HubLimits::default());
    let (before, empty) = (memory_bytes("VmRSS"), core.memory_bytes());
    let mut effects = Vec::new();
    for id in 1..=REGISTERS {
        let (register, value) = (format!("register {id}"), value.clone());
        let write = RegisterWrite { register, id, based_on: None, author: String::new(), at_ms: 0, value };
        core.handle(
            Event::Session(LeaseId(1), SessionEvent::Propose { batch: 1, write: Box::new(write) }),
            &mut effects,
        );
        let records = effects.drain(..).filter(|effect| matches!(effect, Effect::Append { .. })).count();
        assert_eq!(records, 1, "register {id}");
    }
    core.handle(Event::MakeDormant, &mut effects);
    let bytes = REGISTERS as usize * value.len();
    let (took, counted) = (memory_bytes("VmRSS").saturating_sub(before), core.memory_bytes() - empty);
    println!("{bytes} bytes of values: {took} bytes of memory, {counted} counted");
    assert!(took < 8 * bytes, "{took} bytes of memory for {bytes} bytes of values");
    // Each value is counted in the document, in the order of writes, and as a decision.
    assert!(counted * 10 > 29 * bytes, "{counted} bytes counted");
}
