//! Connections: hyper on a small tokio runtime, with a limit of their number and of the time for a request's headers.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;

/// Connections at once; others wait.
const CONNECTIONS: usize = 256;
/// The time for the headers of a request, and between requests of a connection.
const HEADERS: Duration = Duration::from_secs(15);
/// The pause after a connection that the system could not give, such as for lack of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Starts to answer requests, on threads of their own, until the runtime is dropped.
pub fn start(listener: TcpListener, router: Router) -> std::io::Result<Runtime> {
    listener.set_nonblocking(true)?;
    let runtime = Builder::new_multi_thread().worker_threads(2).thread_name("studio").enable_all().build()?;
    let listener = {
        let _inside = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    runtime.spawn(accept(listener, router));
    Ok(runtime)
}

async fn accept(listener: tokio::net::TcpListener, router: Router) -> Infallible {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = permits.clone().acquire_owned().await else { continue };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let _permit = permit;
            // A client that goes away is no error of ours.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADERS)
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
