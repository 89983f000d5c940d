//! Client of the admin socket, used by commands.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, bail};

use super::message::{Answer, Request};
use super::socket::SOCKET_FILE;

/// A running server, reached over its admin socket. Each request opens a connection.
#[derive(Debug)]
pub struct Running {
    path: std::path::PathBuf,
}

impl Running {
    /// The server that has this data directory open; `None` if no server listens on its socket.
    pub fn find(data_dir: &Path) -> io::Result<Option<Self>> {
        let path = data_dir.join(SOCKET_FILE);
        match UnixStream::connect(&path) {
            Ok(_) => Ok(Some(Self { path })),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            // The path is too long for a socket: no server could have created one.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a request followed by `file`. Returns the final answer and the bytes that follow it; calls
    /// `progress` for each answer before it.
    ///
    /// Errors: the server refuses the request, or the connection is lost.
    pub fn ask(
        &self,
        request: &Request,
        file: &[u8],
        mut progress: impl FnMut(&Answer),
    ) -> anyhow::Result<(Answer, Vec<u8>)> {
        let lost = "lost the connection to the server before it answered; the outcome is unknown";
        let mut stream = UnixStream::connect(&self.path).context("cannot connect to the server's admin socket")?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        // An error is reported only if there is no answer: a server may refuse a request before it has read all
        // of it.
        let sent = stream.write_all(&line).and_then(|()| stream.write_all(file));
        let mut answers = BufReader::new(stream);
        loop {
            let mut line = String::new();
            if answers.read_line(&mut line).context(lost)? == 0 {
                sent.context(lost)?;
                bail!(lost);
            }
            match serde_json::from_str(&line)
                .context("cannot parse the server's answer; command and server must be the same version")?
            {
                Answer::Failed { reason } => bail!(reason),
                answer @ Answer::Progress { .. } => progress(&answer),
                Answer::Exported { bytes, waiting } => {
                    let mut file = Vec::new();
                    answers.take(bytes).read_to_end(&mut file).context(lost)?;
                    if file.len() as u64 != bytes {
                        bail!(lost);
                    }
                    return Ok((Answer::Exported { bytes, waiting }, file));
                }
                answer => return Ok((answer, Vec::new())),
            }
        }
    }
}
