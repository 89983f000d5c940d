//! The command's end of the admin socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, bail};

use super::message::{Answer, Request};
use super::socket::SOCKET_FILE;

/// A running server, asked over its socket. One connection a request.
#[derive(Debug)]
pub struct Running {
    path: std::path::PathBuf,
}

impl Running {
    /// The server that has this data directory open, if one answers there.
    pub fn find(data_dir: &Path) -> io::Result<Option<Self>> {
        let path = data_dir.join(SOCKET_FILE);
        match UnixStream::connect(&path) {
            Ok(_) => Ok(Some(Self { path })),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            // A path too long for a socket, or a file system without them: then there is none.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks, sends `file` behind the request, and returns the answer that ends it with the bytes behind that. `progress`
    /// gets the answers before.
    ///
    /// Errors: the server says why it was not done, or goes away.
    pub fn ask(
        &self,
        request: &Request,
        file: &[u8],
        mut progress: impl FnMut(&Answer),
    ) -> anyhow::Result<(Answer, Vec<u8>)> {
        let gone = "the server went away before it answered; whether it was done is not known";
        let mut stream = UnixStream::connect(&self.path).context("the server does not answer on its admin socket")?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        // A server that refuses before it has read all answers nevertheless.
        let sent = stream.write_all(&line).and_then(|()| stream.write_all(file));
        let mut answers = BufReader::new(stream);
        loop {
            let mut line = String::new();
            if answers.read_line(&mut line).context(gone)? == 0 {
                sent.context(gone)?;
                bail!(gone);
            }
            match serde_json::from_str(&line)
                .context("the server's answer is not understood: is it another version?")?
            {
                Answer::Failed { reason } => bail!(reason),
                answer @ Answer::Progress { .. } => progress(&answer),
                Answer::Exported { bytes, waiting } => {
                    let mut file = Vec::new();
                    answers.take(bytes).read_to_end(&mut file).context(gone)?;
                    if file.len() as u64 != bytes {
                        bail!(gone);
                    }
                    return Ok((Answer::Exported { bytes, waiting }, file));
                }
                answer => return Ok((answer, Vec::new())),
            }
        }
    }
}
