//! Fuzz targets for the decoders of stores and backups, one function for each. None may panic, and decoded values must
//! encode to the same bytes.

use bytes::Bytes;
use syncline_protocol::ids::Seq;

use super::layout::{
    CHUNK_BYTES, Head, Meta, decode_entry, encode_entry, entry_chunks, id_of, part_key, part_of, seal, unseal,
};
use super::store_lock::StoreInfo;

/// Keys and values of a store: parts, the store's metadata, heads, entries, checksums.
pub fn layout(bytes: &[u8]) {
    if let Some(part) = part_of(bytes) {
        let id = bytes[1..9].try_into().map_or(0, u64::from_be_bytes);
        assert_eq!(part_of(&part_key(id, part)), Some(part));
    }
    _ = id_of(bytes);
    if let Some(meta) = Meta::decode(bytes) {
        assert_eq!(Meta::decode(&meta.encode()), Some(meta));
    }
    if let Some(head) = Head::decode(bytes) {
        assert_eq!(Head::decode(&head.encode()), Some(head));
    }
    if let Some(records) = decode_entry(Seq(1), Bytes::copy_from_slice(bytes)) {
        assert_eq!(encode_entry(&records), bytes);
        assert_eq!(entry_chunks(bytes), Some(bytes.len().div_ceil(CHUNK_BYTES) as u32));
    }
    let (key, payload) = bytes.split_at(bytes.len() / 3);
    let mut value = seal(key, payload);
    assert_eq!(unseal(key, &value), Some(payload));
    let at = payload.len() % value.len();
    value[at] ^= 1;
    assert_eq!(unseal(key, &value), None, "a damaged value passes its checksum");
}

/// The text files: a store's info file, and a backup manifest with a valid checksum.
pub fn texts(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    _ = StoreInfo::parse(text);
    super::backup::fuzz_manifest(text);
}
