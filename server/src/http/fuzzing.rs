//! Fuzz target for the operators' routes: a request for a document never breaks the server, and every refusal is a
//! problem. Requests for backups are left out: they would write to any directory.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::service::TowerToHyperService;
use syncline_log::Log;
use syncline_log::memory::MemoryStore;
use syncline_protocol::update::{ScanLimits, scan_update};
use tokio::runtime::Builder;

use super::operator::Operator;
use super::problem::Problem;
use super::routes;
use crate::document::DocumentOptions;
use crate::registry::Registry;

/// The first line is the rest of the path of a document, with its query; the other bytes are the file that is
/// imported into it. Then the document is exported.
pub fn operator(bytes: &[u8]) {
    let end = bytes.iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len());
    let (target, file) = (&bytes[..end], bytes.get(end + 1..).unwrap_or_default());
    let target = [b"/admin/documents/", target].concat();
    let Ok(uri) = Uri::from_maybe_shared(Bytes::from(target)) else { return };
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let log = Log::start(Arc::new(MemoryStore::new()));
        let registry = Registry::new(log.clone(), DocumentOptions::new(Duration::from_secs(1)), Arc::default());
        let operator = Arc::new(Operator::new(log.clone(), Arc::clone(&registry)));
        let router = TowerToHyperService::new(routes::operator(operator));
        let ask = async |method: &Method, body: Bytes| {
            let mut request = Request::new(Body::from(body));
            (*request.method_mut(), *request.uri_mut()) = (method.clone(), uri.clone());
            let Ok(response) = router.call(request).await;
            let status = response.status();
            let body = response.into_body().collect().await.expect("a body").to_bytes();
            if status != StatusCode::OK {
                let problem: Problem = serde_json::from_slice(&body).expect("a problem");
                assert!(status.is_client_error() && problem.status == status.as_u16(), "{problem:?}");
            }
            (status, body)
        };
        let (imported, _) = ask(&Method::POST, Bytes::copy_from_slice(file)).await;
        let (exported, update) = ask(&Method::GET, Bytes::new()).await;
        if exported == StatusCode::OK {
            assert_eq!(imported, StatusCode::OK);
            scan_update(&update, &ScanLimits::default()).expect("an export is a valid update");
        }
        log.close().await;
    });
}
