//! The Hocuspocus dialect: one session, many documents, each authorised before it is opened.

mod encoder;

pub use self::encoder::HocuspocusEncoder;
