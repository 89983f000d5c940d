//! The errors and panics of sled as sentences for operators. sled formats a system error by `Debug` when it copies it, and
//! its panics contain such copies.

use std::any::Any;
use std::io;

use super::store::StoreError;

/// The text of an error about damaged data.
pub(super) const DAMAGED: &str = "sled's files are damaged";

/// How a system error begins in a text that was made by `Debug`; its number follows.
const SYSTEM_ERROR: &str = "Os { code: ";

/// Converts sled's error.
pub(super) fn failed(error: sled::Error) -> StoreError {
    StoreError::Io(explain(&error))
}

/// What sled's error means.
pub(super) fn explain(error: &sled::Error) -> String {
    match error {
        sled::Error::Corruption { .. } => DAMAGED.to_owned(),

        sled::Error::Io(error) => explain_text(&error.to_string()),
        sled::Error::Unsupported(what) => format!("sled does not support this: {what}"),
        sled::Error::ReportableBug(what) => format!("sled reports a bug: {what}"),
        other => other.to_string(),
    }
}

/// What a panic of the engine means: the system error that it names, else its message.
pub(super) fn explain_panic(panic: &(dyn Any + Send)) -> String {
    explain_text(panic_message(panic))
}

/// The message of a panic.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(message), _) => message,
        (_, Some(message)) => message,
        _ => "no message",
    }
}

/// The system error that a text contains in `Debug` form, else the text.
fn explain_text(text: &str) -> String {
    let code = text.split_once(SYSTEM_ERROR).and_then(|(_, rest)| rest.split(',').next()?.parse().ok());
    code.map_or_else(|| text.to_owned(), |code| io::Error::from_raw_os_error(code).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_error_is_readable_however_often_sled_copied_it() {
        const NO_SPACE: i32 = 28;
        let expected = io::Error::from_raw_os_error(NO_SPACE).to_string();
        let mut error = sled::Error::Io(io::Error::from_raw_os_error(NO_SPACE));
        for _ in 0..3 {
            assert_eq!(explain(&error), expected);
            let panic: Box<dyn Any + Send> =
                Box::new(format!("called `Result::unwrap()` on an `Err` value: {error:?}"));
            assert_eq!(explain_panic(panic.as_ref()), expected);
            error = error.clone();
        }
    }

    #[test]
    fn damage_is_explained_without_the_engines_internals() {
        assert_eq!(explain(&sled::Error::Corruption { at: None, bt: () }), DAMAGED);
        let panic: Box<dyn Any + Send> = Box::new("assertion failed");
        assert_eq!(explain_panic(panic.as_ref()), "assertion failed");
    }
}
