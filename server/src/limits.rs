//! What clients may take of a server: limits as settings, and who is connected from where.
//!
//! | limit | outcome | code |
//! |---|---|---|
//! | connections, in all, from one address and of one user | the session is told and ends; native, when the user comes with a token: the document is refused | 4529 |
//! | sockets that have not said their first message | the one that has waited longest is cut for a new one | - |
//! | messages and bytes a second, of a connection, of an address and of a user | reading pauses, TCP pushes back; who would have to wait longer than [`MAX_PAUSE`] is closed | 4529 |
//! | bytes of messages that are not complete or not yet handled, in all | the session that goes over is closed | 4529 |
//! | bytes of messages that came before their token, with those above and 64 KiB in a session | the message is dropped | - |
//! | documents of one connection | the document is refused | 4529 |
//! | bytes and clients of a document | what would make it grow is refused, reading goes on | 4414 |
//! | awareness states that one connection shows in one document | the state is dropped, its client leaves for the others | - |
//! | time to the first document of a Hocuspocus connection | the session is closed | 4504 |
//! | documents a second that one connection opens, and all of them | reading pauses | - |
//! | open documents, and their memory | the least recently used leave or drop what can be made again; when none can, a document more is not opened | 4529 |
//!
//! What an honest client never meets is limited by default. What depends on where a server stands is not: behind a proxy
//! all clients have one address. Who a user is, a token says (`auth.rs`) or a proxy (`--user-header`).

mod admission;
mod machine;
mod quota;

use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use syncline_protocol::limits::{DEFAULT_MAX_DOCUMENT_BYTES, MAX_CLIENTS};

pub use self::admission::{Gate, Meter, Seat, Unfinished, UserSeat};
use self::quota::Allowance;

/// The longest that a connection is made to wait for its rate. More is a flood, and its session ends.
pub const MAX_PAUSE: Duration = Duration::from_secs(10);

/// The longest time limit: a day.
const MAX_SECONDS: u64 = 24 * 3600;

/// Limits as given: flags, environment, and the table `[limits]` of the file. 0 means no limit.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case", default)]
pub struct RawLimits {
    /// Most connections in all; 0: no limit [default: 50000]
    #[arg(long, env = "SYNCLINE_MAX_CONNECTIONS", value_name = "COUNT", help_heading = "Limits")]
    pub max_connections: Option<usize>,

    /// Most connections from one IP address; set it where no proxy stands before the server [default: 0, no limit]
    #[arg(long, env = "SYNCLINE_MAX_CONNECTIONS_PER_ADDRESS", value_name = "COUNT", help_heading = "Limits")]
    pub max_connections_per_address: Option<usize>,

    /// Most connections of one user, where a token or a proxy says who that is [default: 0, no limit]
    #[arg(long, env = "SYNCLINE_MAX_CONNECTIONS_PER_USER", value_name = "COUNT", help_heading = "Limits")]
    pub max_connections_per_user: Option<usize>,

    /// Most sockets that have not sent a first message; beyond it the oldest is cut [default: 4096]
    #[arg(long, env = "SYNCLINE_MAX_UNFINISHED", value_name = "COUNT", help_heading = "Limits")]
    pub max_unfinished: Option<usize>,

    /// Messages one connection may send in a second on average; 0: no limit [default: 20000]
    #[arg(long, env = "SYNCLINE_MESSAGES_PER_SECOND", value_name = "COUNT", help_heading = "Limits")]
    pub messages_per_second: Option<u64>,

    /// Bytes one connection may send in a second on average; 0: no limit [default: 16777216]
    #[arg(long, env = "SYNCLINE_BYTES_PER_SECOND", value_name = "BYTES", help_heading = "Limits")]
    pub bytes_per_second: Option<u64>,

    /// Messages all connections of one address may send in a second [default: 0, no limit]
    #[arg(long, env = "SYNCLINE_MESSAGES_PER_SECOND_PER_ADDRESS", value_name = "COUNT", help_heading = "Limits")]
    pub messages_per_second_per_address: Option<u64>,

    /// Bytes all connections of one address may send in a second [default: 0, no limit]
    #[arg(long, env = "SYNCLINE_BYTES_PER_SECOND_PER_ADDRESS", value_name = "BYTES", help_heading = "Limits")]
    pub bytes_per_second_per_address: Option<u64>,

    /// Messages all connections of one user may send in a second [default: 0, no limit]
    #[arg(long, env = "SYNCLINE_MESSAGES_PER_SECOND_PER_USER", value_name = "COUNT", help_heading = "Limits")]
    pub messages_per_second_per_user: Option<u64>,

    /// Bytes all connections of one user may send in a second [default: 0, no limit]
    #[arg(long, env = "SYNCLINE_BYTES_PER_SECOND_PER_USER", value_name = "BYTES", help_heading = "Limits")]
    pub bytes_per_second_per_user: Option<u64>,

    /// Bytes of messages in all that have not come to their end [default: 268435456]
    #[arg(long, env = "SYNCLINE_MAX_PARTIAL_BYTES", value_name = "BYTES", help_heading = "Limits")]
    pub max_partial_bytes: Option<usize>,

    /// Documents that one Hocuspocus or native connection may have open; 0: no limit [default: 1000]
    #[arg(long, env = "SYNCLINE_MAX_DOCUMENTS_PER_CONNECTION", value_name = "COUNT", help_heading = "Limits")]
    pub max_documents_per_connection: Option<usize>,

    /// Seconds a Hocuspocus connection may take to open its first document [default: 60]
    #[arg(long, env = "SYNCLINE_AUTHENTICATION_SECONDS", value_name = "SECONDS", help_heading = "Limits")]
    pub authentication_seconds: Option<u64>,

    /// Bytes of awareness states that one connection may show in one document; with n documents open 1/n of it in the next one, at least 4096 [default: 2097152]
    #[arg(long, env = "SYNCLINE_MAX_PRESENCE_BYTES", value_name = "BYTES", help_heading = "Limits")]
    pub max_presence_bytes: Option<usize>,

    /// Largest document, in bytes as stored; it can be read and deleted from, not added to [default: 67108864]
    #[arg(long, env = "SYNCLINE_MAX_DOCUMENT_BYTES", value_name = "BYTES", help_heading = "Limits")]
    pub max_document_bytes: Option<usize>,

    /// Most CRDT clients that may ever write to one document; each page load is one [default: 200000]
    #[arg(long, env = "SYNCLINE_MAX_DOCUMENT_CLIENTS", value_name = "COUNT", help_heading = "Limits")]
    pub max_document_clients: Option<usize>,

    /// Documents one connection may open in a second on average, 30 times as many together; 0: no limit [default: 100]
    #[arg(long, env = "SYNCLINE_OPENS_PER_SECOND", value_name = "COUNT", help_heading = "Limits")]
    pub opens_per_second: Option<u64>,

    /// Documents all connections together may open in a second [default: 5000]
    #[arg(long, env = "SYNCLINE_OPENS_PER_SECOND_IN_ALL", value_name = "COUNT", help_heading = "Limits")]
    pub opens_per_second_in_all: Option<u64>,

    /// Most documents open at a time [default: 200000]
    #[arg(long, env = "SYNCLINE_MAX_OPEN_DOCUMENTS", value_name = "COUNT", help_heading = "Limits")]
    pub max_open_documents: Option<usize>,

    /// Bytes of memory of all open documents, as estimated; 0: no limit [default: half of the machine's memory]
    #[arg(long, env = "SYNCLINE_MAX_OPEN_BYTES", value_name = "BYTES", help_heading = "Limits")]
    pub max_open_bytes: Option<usize>,

    /// Bytes that may wait for all slow readers together; beyond it one that has more than 64 KiB waiting is resynced, or cut if it takes next to nothing; 0: no limit [default: an eighth of the machine's memory]
    #[arg(long, env = "SYNCLINE_MAX_OUTBOX_BYTES_IN_ALL", value_name = "BYTES", help_heading = "Limits")]
    pub max_outbox_bytes_in_all: Option<usize>,
}

/// Limits in force. What is not limited is at its maximum.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Sessions in all.
    pub connections: usize,
    /// Sessions from one address.
    pub connections_per_address: usize,
    /// Sessions of one user.
    pub connections_per_user: usize,
    /// Sockets that have not said their first message.
    pub unfinished: usize,
    /// What one connection may send.
    pub rate: Rate,
    /// What all connections of an address may send together.
    pub rate_per_address: Rate,
    /// What all connections of a user may send together.
    pub rate_per_user: Rate,
    /// Bytes of messages that have not come to their end, in all.
    pub partial_bytes: usize,
    /// Documents that one connection may have open.
    pub documents_per_connection: usize,
    /// How long a Hocuspocus connection may take to open its first document.
    pub authentication: Duration,
    /// Bytes of awareness states of one lease.
    pub presence_bytes: usize,
    /// Bytes of a document's state.
    pub document_bytes: usize,
    /// Clients of a document's whole life.
    pub document_clients: usize,
    /// Documents a second that one connection may open.
    pub opens_per_second: u64,
    /// Documents a second that all connections may open.
    pub opens_per_second_in_all: u64,
    /// Documents in memory.
    pub open_documents: usize,
    /// Bytes of memory of all of them.
    pub open_bytes: usize,
    /// Bytes that wait for all sockets together.
    pub outbox_bytes_in_all: usize,
}

/// Averages, in a second. 0: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Messages.
    pub messages: u64,
    /// Bytes on the wire.
    pub bytes: u64,
}

impl Rate {
    /// Nothing is limited.
    pub fn is_unlimited(self) -> bool {
        self == Self { messages: 0, bytes: 0 }
    }
}

impl Limits {
    fn of_address(&self) -> Allowance {
        Allowance { sessions: self.connections_per_address, rate: self.rate_per_address }
    }

    fn of_user(&self) -> Allowance {
        Allowance { sessions: self.connections_per_user, rate: self.rate_per_user }
    }
}

impl Default for Limits {
    fn default() -> Self {
        RawLimits::default().or(RawLimits::default()).into()
    }
}

impl RawLimits {
    /// These, and the others where these say nothing.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            max_connections: self.max_connections.or(other.max_connections),
            max_connections_per_address: self.max_connections_per_address.or(other.max_connections_per_address),
            max_connections_per_user: self.max_connections_per_user.or(other.max_connections_per_user),
            max_unfinished: self.max_unfinished.or(other.max_unfinished),
            messages_per_second: self.messages_per_second.or(other.messages_per_second),
            bytes_per_second: self.bytes_per_second.or(other.bytes_per_second),
            messages_per_second_per_address: self
                .messages_per_second_per_address
                .or(other.messages_per_second_per_address),
            bytes_per_second_per_address: self.bytes_per_second_per_address.or(other.bytes_per_second_per_address),
            messages_per_second_per_user: self.messages_per_second_per_user.or(other.messages_per_second_per_user),
            bytes_per_second_per_user: self.bytes_per_second_per_user.or(other.bytes_per_second_per_user),
            max_partial_bytes: self.max_partial_bytes.or(other.max_partial_bytes),
            max_documents_per_connection: self.max_documents_per_connection.or(other.max_documents_per_connection),
            authentication_seconds: self.authentication_seconds.or(other.authentication_seconds),
            max_presence_bytes: self.max_presence_bytes.or(other.max_presence_bytes),
            max_document_bytes: self.max_document_bytes.or(other.max_document_bytes),
            max_document_clients: self.max_document_clients.or(other.max_document_clients),
            opens_per_second: self.opens_per_second.or(other.opens_per_second),
            opens_per_second_in_all: self.opens_per_second_in_all.or(other.opens_per_second_in_all),
            max_open_documents: self.max_open_documents.or(other.max_open_documents),
            max_open_bytes: self.max_open_bytes.or(other.max_open_bytes),
            max_outbox_bytes_in_all: self.max_outbox_bytes_in_all.or(other.max_outbox_bytes_in_all),
        }
    }
}

impl From<RawLimits> for Limits {
    fn from(raw: RawLimits) -> Self {
        let count = |given: Option<usize>, default| match given.unwrap_or(default) {
            0 => usize::MAX,
            count => count,
        };
        Self {
            connections: count(raw.max_connections, 50_000),
            connections_per_address: count(raw.max_connections_per_address, 0),
            connections_per_user: count(raw.max_connections_per_user, 0),
            unfinished: count(raw.max_unfinished, 4_096),
            rate: Rate {
                messages: raw.messages_per_second.unwrap_or(20_000),
                bytes: raw.bytes_per_second.unwrap_or(16 * 1024 * 1024),
            },
            rate_per_address: Rate {
                messages: raw.messages_per_second_per_address.unwrap_or(0),
                bytes: raw.bytes_per_second_per_address.unwrap_or(0),
            },
            rate_per_user: Rate {
                messages: raw.messages_per_second_per_user.unwrap_or(0),
                bytes: raw.bytes_per_second_per_user.unwrap_or(0),
            },
            partial_bytes: count(raw.max_partial_bytes, 256 * 1024 * 1024),
            documents_per_connection: count(raw.max_documents_per_connection, 1_000),
            authentication: Duration::from_secs(raw.authentication_seconds.unwrap_or(60).clamp(1, MAX_SECONDS)),
            presence_bytes: count(raw.max_presence_bytes, 2 * 1024 * 1024),
            // Places in a document are counted in 32 bits.
            document_bytes: count(raw.max_document_bytes, DEFAULT_MAX_DOCUMENT_BYTES).min(u32::MAX as usize / 2),
            document_clients: count(raw.max_document_clients, MAX_CLIENTS as usize),
            opens_per_second: raw.opens_per_second.unwrap_or(100),
            opens_per_second_in_all: raw.opens_per_second_in_all.unwrap_or(5_000),
            open_documents: count(raw.max_open_documents, 200_000),
            open_bytes: count(raw.max_open_bytes, machine::memory_bytes() / 2),
            outbox_bytes_in_all: count(raw.max_outbox_bytes_in_all, machine::memory_bytes() / 8),
        }
    }
}
