//! Updates that pass the scanner but are expensive for a CRDT to integrate.

use syncline_protocol::varint::{write_var_bytes, write_var_uint};

/// The id of an item: client and clock.
pub type Id = (u64, u64);

/// One letter: client, clock, left origin and right origin.
pub type Letter = (u64, u64, Option<Id>, Option<Id>);

/// Encodes `items` as an update of the root text "text". The items of each client are consecutive.
pub fn letters(items: &[Letter]) -> Vec<u8> {
    let sections: Vec<_> = items.chunk_by(|one, other| one.0 == other.0).collect();
    let mut update = Vec::new();
    write_var_uint(&mut update, sections.len() as u64);
    for section in sections {
        for number in [section.len() as u64, section[0].0, section[0].1] {
            write_var_uint(&mut update, number);
        }
        for (_, _, left, right) in section {
            update.push(4 | u8::from(left.is_some()) << 7 | u8::from(right.is_some()) << 6);
            for (client, clock) in left.iter().chain(right) {
                write_var_uint(&mut update, *client);
                write_var_uint(&mut update, *clock);
            }
            if left.is_none() && right.is_none() {
                update.push(1);
                write_var_bytes(&mut update, b"text");
            }
            update.extend([1, b'x']);
        }
    }
    update.push(0);
    update
}

/// `client` types `count` letters into the empty text, as one item.
pub fn line(client: u64, count: u64) -> Vec<u8> {
    let text = "y".repeat(count as usize);
    let mut update = vec![1, 1];
    write_var_uint(&mut update, client);
    update.extend([0, 4, 1]);
    write_var_bytes(&mut update, b"text");
    write_var_bytes(&mut update, text.as_bytes());
    update.push(0);
    update
}

/// `count` letters typed alternately by two clients: each letter is its own item.
pub fn by_turns(clients: (u64, u64), count: u64) -> Vec<u8> {
    let (one, other) = clients;
    let first = (0..count / 2).map(|clock| (one, clock, clock.checked_sub(1).map(|before| (other, before)), None));
    let second = (0..count / 2).map(|clock| (other, clock, Some((one, clock)), None));
    letters(&first.chain(second).collect::<Vec<_>>())
}

/// `count` letters of `client`, each with another letter of `line`'s client as its left origin and no right origin:
/// integrating each one scans everything after its origin.
pub fn passing(client: u64, count: u64, line: u64) -> Vec<u8> {
    letters(&(0..count).map(|clock| (client, clock, Some((line, clock)), None)).collect::<Vec<_>>())
}

/// Deletes `count` single letters of `client`'s line: each deletion splits the remaining item.
pub fn holes(client: u64, count: u64) -> Vec<u8> {
    let mut update = vec![0, 1];
    write_var_uint(&mut update, client);
    write_var_uint(&mut update, count);
    for number in 0..count {
        write_var_uint(&mut update, 2 * number + 1);
        update.push(1);
    }
    update
}

/// `count` letters of `client` after the first letter of `line`'s client, each with another right origin in the line:
/// every Yjs implementation compares each of them with the earlier ones and with the letters in between.
pub fn spread(client: u64, first: u64, count: u64, line: u64) -> Vec<u8> {
    let items: Vec<_> =
        (first..first + count).map(|clock| (client, clock, Some((line, 0)), Some((line, clock + 1)))).collect();
    letters(&items)
}
