//! The console page at `/`: the built files of `console/dist`, embedded in the binary. They are compressed once
//! and sent with an ETag, so that a browser does not download an unchanged file again.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Write;
use std::sync::LazyLock;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use hyper::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use rust_embed::{EmbeddedFile, RustEmbed};

/// The file served at `/`.
const INDEX: &str = "index.html";
/// For the page and its service worker, which change with the binary: a browser revalidates them each time.
const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");
/// For files whose names contain the hash of their content, which never change.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

#[derive(RustEmbed)]
#[folder = "../console/dist"]
struct Console;

struct File {
    content_type: HeaderValue,
    cache_control: HeaderValue,
    etag: HeaderValue,
    plain: Bytes,
    gzip: Bytes,
}

/// Files by path without the first slash. Compressed on the first request, which takes tens of milliseconds once.
static FILES: LazyLock<HashMap<Cow<'static, str>, File>> = LazyLock::new(|| {
    let file = |path: Cow<'static, str>| Some((path.clone(), File::new(&path, Console::get(&path)?)));
    Console::iter().filter_map(file).collect()
});

/// Answers a request for a file of the page, by its path relative to the page. `None`: the page has no such file.
pub(super) fn answer(path: &str, headers: &HeaderMap) -> Option<Response<Full<Bytes>>> {
    let file = FILES.get(if path.is_empty() { INDEX } else { path })?;
    let is_known = headers.get_all(IF_NONE_MATCH).iter().any(|tags| contains(tags, &file.etag));
    let mut response = Response::new(Full::default());
    let fields = response.headers_mut();
    fields.insert(CACHE_CONTROL, file.cache_control.clone());
    fields.insert(ETAG, file.etag.clone());
    fields.insert(VARY, HeaderValue::from_static("accept-encoding"));
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Some(response);
    }
    fields.insert(CONTENT_TYPE, file.content_type.clone());
    let body = if accepts_gzip(headers) {
        fields.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        &file.gzip
    } else {
        &file.plain
    };
    *response.body_mut() = Full::new(body.clone());
    Some(response)
}

impl File {
    fn new(path: &str, embedded: EmbeddedFile) -> Self {
        let content_type = match path.rsplit_once('.').map(|(_, extension)| extension) {
            Some("html") => "text/html; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("md") => "text/plain; charset=utf-8",
            _ => "application/octet-stream",
        };
        let is_named_by_content = path.starts_with("assets/app-");
        // A weak tag, because it is the same for every encoding of the file.
        let hash = embedded.metadata.sha256_hash()[..12].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let plain = Bytes::from(embedded.data.into_owned());
        File {
            content_type: HeaderValue::from_static(content_type),
            cache_control: if is_named_by_content { IMMUTABLE } else { REVALIDATE },
            etag: HeaderValue::from_str(&format!("W/\"{hash}\"")).unwrap_or(HeaderValue::from_static("W/\"\"")),
            gzip: gzip(&plain),
            plain,
        }
    }
}

fn gzip(plain: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // Writing to memory does not fail.
    let written = encoder.write_all(plain).and_then(|()| encoder.finish());
    written.expect("writing to a Vec does not fail").into()
}

fn contains(tags: &HeaderValue, etag: &HeaderValue) -> bool {
    let (Ok(tags), Ok(etag)) = (tags.to_str(), etag.to_str()) else { return false };
    tags.split(',').any(|tag| tag.trim() == etag)
}

/// Parses Accept-Encoding (RFC 9110 section 12.5.3) for gzip, the only encoding offered.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepts = |coding: &str| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let quality = weight.trim().strip_prefix("q=").unwrap_or("1");
        name.trim().eq_ignore_ascii_case("gzip") && quality.trim().parse::<f32>().is_ok_and(|quality| quality > 0.0)
    };
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(accepts)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use http_body_util::BodyExt;

    use super::*;

    fn request(path: &str, fields: &[(hyper::header::HeaderName, &'static str)]) -> Response<Full<Bytes>> {
        let headers = fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        answer(path, &headers).unwrap()
    }

    async fn body(response: Response<Full<Bytes>>) -> Bytes {
        response.into_body().collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn file_is_compressed_when_client_accepts_it() {
        let plain = body(request("", &[])).await;
        for accept in ["gzip", "br;q=1.0, GZIP;q=0.5", "deflate, gzip"] {
            let response = request("", &[(ACCEPT_ENCODING, accept)]);
            assert_eq!(response.headers()[CONTENT_ENCODING], "gzip", "{accept}");
            let mut unpacked = Vec::new();
            GzDecoder::new(&body(response).await[..]).read_to_end(&mut unpacked).unwrap();
            assert_eq!(unpacked, plain);
        }
        for refuse in ["identity", "br", "gzip;q=0", "gzip;q=x", ""] {
            let response = request("", &[(ACCEPT_ENCODING, refuse)]);
            assert!(!response.headers().contains_key(CONTENT_ENCODING), "{refuse}");
            assert_eq!(body(response).await, plain, "{refuse}");
        }
    }

    #[tokio::test]
    async fn unchanged_file_is_not_sent_again() {
        let etag = request("", &[]).headers()[ETAG].to_str().unwrap().to_owned();
        let known = [(IF_NONE_MATCH, &*format!("\"other\", {etag}").leak())];
        let response = request("", &known);
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
        assert!(body(response).await.is_empty());
        let response = request("service-worker.js", &known);
        assert_eq!(response.status(), StatusCode::OK);
    }

    #[test]
    fn only_files_named_by_content_hash_are_immutable() {
        let mut immutable = 0;
        for path in FILES.keys() {
            let is_immutable = request(path, &[]).headers()[CACHE_CONTROL] == IMMUTABLE;
            assert_eq!(is_immutable, path.ends_with(".css") || path.starts_with("assets/app-"), "{path}");
            immutable += usize::from(is_immutable);
        }
        assert_eq!(immutable, 2, "the script and the style sheet");
    }
}
