//! The wire formats of the clients, one file each: how the messages of a document become frames.

mod hocuspocus;
mod native;
#[cfg(test)]
mod tests;
mod ywebsocket;

pub use self::hocuspocus::HocuspocusEncoder;
pub use self::native::NativeEncoder;
pub use self::ywebsocket::YWebsocketEncoder;
