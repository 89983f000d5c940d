//! Limits on what clients may use: the settings, and the counts that enforce them.
//!
//! | limit | outcome | code |
//! |---|---|---|
//! | connections in total, per address, per user | the session is closed (the document, if its native token names the user) | 4529 |
//! | sockets that have not sent a first message | the oldest is cut for a new one | - |
//! | messages and bytes a second, per connection, address, user | reading pauses; beyond [`MAX_PAUSE`] the session is closed | 4529 |
//! | bytes of messages that are incomplete or not yet handled, in total | the session whose incomplete message is largest and longest without growth is closed | 4529 |
//! | bytes of messages before their token: counted above, and 64 KiB per session | the message is dropped | - |
//! | open documents per connection | the document is refused | 4529 |
//! | bytes and clients of a document | updates that would make it grow are refused, readers stay connected | 4414 |
//! | awareness states of one connection in one document | the state is dropped, and its client is removed for the others | - |
//! | time until a Hocuspocus connection sends a token or opens a document | the session is closed | 4504 |
//! | documents opened a second, per connection and in total | reading pauses | - |
//! | open documents and their memory | the least recently used leave or shrink; if none can, another document is refused, and open ones may not grow | 4529 |
//!
//! While reading pauses, TCP's backpressure slows the client. Limits that an honest client never reaches have a
//! default. Limits per address have none: behind a proxy all clients share one address. A user is named by a
//! token (`auth.rs`) or by a proxy (`--user-header`).

mod admission;
mod machine;
mod partial_memory;
mod quota;
mod session_users;

use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use syncline_protocol::limits::{DEFAULT_MAX_DOCUMENT_BYTES, MAX_CLIENTS};

pub use self::admission::Gate;
pub(crate) use self::admission::{Meter, Seat, Unfinished, UserSeat};
use self::quota::Allowance;
pub(crate) use self::session_users::SessionUsers;

/// The longest pause that a rate limit imposes on a connection. Beyond it, the session is closed as a flood.
pub(crate) const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Largest value of a time limit: a day.
const MAX_SECONDS: u64 = 24 * 3600;

/// Limits as configured: flags, environment, and the table `[limits]` of the file. 0 means no limit.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case", default)]
pub struct RawLimits {
    /// Maximum number of connections; 0: no limit [default: 50000]
    #[arg(long, env = "SYNCLINE_MAX_CONNECTIONS", value_name = "COUNT", help_heading = "Limits")]
    pub max_connections: Option<usize>,

    /// Maximum number of connections from one IP address; use it when the server is not behind a proxy
    /// [default: 0, no limit]
    #[arg(long, env = "SYNCLINE_MAX_CONNECTIONS_PER_ADDRESS", value_name = "COUNT", help_heading = "Limits")]
    pub max_connections_per_address: Option<usize>,

    /// Maximum number of connections of one user, as named by a token or a proxy [default: 0, no limit]
    #[arg(long, env = "SYNCLINE_MAX_CONNECTIONS_PER_USER", value_name = "COUNT", help_heading = "Limits")]
    pub max_connections_per_user: Option<usize>,

    /// Maximum number of sockets that have not sent a first message; beyond it the oldest is cut [default: 4096]
    #[arg(long, env = "SYNCLINE_MAX_UNFINISHED", value_name = "COUNT", help_heading = "Limits")]
    pub max_unfinished: Option<usize>,

    /// Messages per second that one connection may send on average; 0: no limit [default: 20000]
    #[arg(long, env = "SYNCLINE_MESSAGES_PER_SECOND", value_name = "COUNT", help_heading = "Limits")]
    pub messages_per_second: Option<u64>,

    /// Bytes per second that one connection may send on average; 0: no limit [default: 16777216]
    #[arg(long, env = "SYNCLINE_BYTES_PER_SECOND", value_name = "BYTES", help_heading = "Limits")]
    pub bytes_per_second: Option<u64>,

    /// Messages per second that all connections of one address may send together [default: 0, no limit]
    #[arg(long, env = "SYNCLINE_MESSAGES_PER_SECOND_PER_ADDRESS", value_name = "COUNT", help_heading = "Limits")]
    pub messages_per_second_per_address: Option<u64>,

    /// Bytes per second that all connections of one address may send together [default: 0, no limit]
    #[arg(long, env = "SYNCLINE_BYTES_PER_SECOND_PER_ADDRESS", value_name = "BYTES", help_heading = "Limits")]
    pub bytes_per_second_per_address: Option<u64>,

    /// Messages per second that all connections of one user may send together [default: 0, no limit]
    #[arg(long, env = "SYNCLINE_MESSAGES_PER_SECOND_PER_USER", value_name = "COUNT", help_heading = "Limits")]
    pub messages_per_second_per_user: Option<u64>,

    /// Bytes per second that all connections of one user may send together [default: 0, no limit]
    #[arg(long, env = "SYNCLINE_BYTES_PER_SECOND_PER_USER", value_name = "BYTES", help_heading = "Limits")]
    pub bytes_per_second_per_user: Option<u64>,

    /// Bytes of incomplete messages, of all connections together; 0: no limit [default: 268435456]
    #[arg(long, env = "SYNCLINE_MAX_PARTIAL_BYTES", value_name = "BYTES", help_heading = "Limits")]
    pub max_partial_bytes: Option<usize>,

    /// Documents that one Hocuspocus or native connection may have open; 0: no limit [default: 1000]
    #[arg(long, env = "SYNCLINE_MAX_DOCUMENTS_PER_CONNECTION", value_name = "COUNT", help_heading = "Limits")]
    pub max_documents_per_connection: Option<usize>,

    /// Seconds a Hocuspocus connection may take to send a token or open a document [default: 60]
    #[arg(long, env = "SYNCLINE_AUTHENTICATION_SECONDS", value_name = "SECONDS", help_heading = "Limits")]
    pub authentication_seconds: Option<u64>,

    /// Bytes of presence that one connection may publish in its first document. In the nth one it may publish an
    /// nth of that, but at least 4096 [default: 2097152]
    #[arg(long, env = "SYNCLINE_MAX_PRESENCE_BYTES", value_name = "BYTES", help_heading = "Limits")]
    pub max_presence_bytes: Option<usize>,

    /// Maximum size of a document, in stored bytes; at the limit it can still be read and shortened [default:
    /// 67108864]
    #[arg(long, env = "SYNCLINE_MAX_DOCUMENT_BYTES", value_name = "BYTES", help_heading = "Limits")]
    pub max_document_bytes: Option<usize>,

    /// Maximum number of CRDT clients that ever write to one document; each page load is one [default: 200000]
    #[arg(long, env = "SYNCLINE_MAX_DOCUMENT_CLIENTS", value_name = "COUNT", help_heading = "Limits")]
    pub max_document_clients: Option<usize>,

    /// Documents per second that one connection may open on average, in bursts of up to 30 times that number;
    /// 0: no limit [default: 100]
    #[arg(long, env = "SYNCLINE_OPENS_PER_SECOND", value_name = "COUNT", help_heading = "Limits")]
    pub opens_per_second: Option<u64>,

    /// Documents per second that all connections may open together; 0: no limit [default: 5000]
    #[arg(long, env = "SYNCLINE_OPENS_PER_SECOND_IN_ALL", value_name = "COUNT", help_heading = "Limits")]
    pub opens_per_second_in_all: Option<u64>,

    /// Maximum number of documents open at the same time; 0: no limit [default: 200000]
    #[arg(long, env = "SYNCLINE_MAX_OPEN_DOCUMENTS", value_name = "COUNT", help_heading = "Limits")]
    pub max_open_documents: Option<usize>,

    /// Estimated bytes of memory of all open documents; 0: no limit [default: half of the machine's memory]
    #[arg(long, env = "SYNCLINE_MAX_OPEN_BYTES", value_name = "BYTES", help_heading = "Limits")]
    pub max_open_bytes: Option<usize>,

    /// Bytes queued for all slow readers together; beyond it a reader with more than 64 KiB queued is resynced,
    /// or cut if it reads almost nothing; 0: no limit [default: an eighth of the machine's memory]
    #[arg(long, env = "SYNCLINE_MAX_OUTBOX_BYTES_IN_ALL", value_name = "BYTES", help_heading = "Limits")]
    pub max_outbox_bytes_in_all: Option<usize>,
}

/// Limits in force. `usize::MAX` stands for no limit, in rates 0.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Sessions in total.
    pub connections: usize,
    /// Sessions from one address.
    pub connections_per_address: usize,
    /// Sessions of one user.
    pub connections_per_user: usize,
    /// Sockets that have not sent a first message.
    pub unfinished: usize,
    /// Rate of one connection.
    pub rate: Rate,
    /// Rate of all connections of an address together.
    pub rate_per_address: Rate,
    /// Rate of all connections of a user together.
    pub rate_per_user: Rate,
    /// Bytes of incomplete messages, of all connections.
    pub partial_bytes: usize,
    /// Documents that one connection may have open.
    pub documents_per_connection: usize,
    /// How long a Hocuspocus connection may take to send a token or open a document.
    pub authentication: Duration,
    /// Bytes of awareness states per lease.
    pub presence_bytes: usize,
    /// Bytes of a document's stored state.
    pub document_bytes: usize,
    /// CRDT clients that ever write to a document.
    pub document_clients: usize,
    /// Documents a second that one connection may open; 0: no limit.
    pub opens_per_second: u64,
    /// Documents a second that all connections may open together; 0: no limit.
    pub opens_per_second_in_all: u64,
    /// Documents in memory.
    pub open_documents: usize,
    /// Estimated bytes of memory of all open documents.
    pub open_bytes: usize,
    /// Bytes queued for all sockets together.
    pub outbox_bytes_in_all: usize,
}

/// Average rates per second. 0: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Messages a second.
    pub messages: u64,
    /// Bytes on the wire a second.
    pub bytes: u64,
}

impl Rate {
    /// True if neither messages nor bytes are limited.
    pub fn is_unlimited(self) -> bool {
        self == Self { messages: 0, bytes: 0 }
    }
}

impl Limits {
    fn per_address(&self) -> Allowance {
        Allowance { sessions: self.connections_per_address, rate: self.rate_per_address }
    }

    fn per_user(&self) -> Allowance {
        Allowance { sessions: self.connections_per_user, rate: self.rate_per_user }
    }
}

impl Default for Limits {
    fn default() -> Self {
        RawLimits::default().or(RawLimits::default()).into()
    }
}

impl RawLimits {
    /// These limits; those that are not set are taken from `other`.
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
            // Positions in a document are 32-bit numbers.
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
