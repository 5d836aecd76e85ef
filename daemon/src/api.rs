//! The control API: HTTP and JSON.
//!
//! - [`serve`]: connections on a Unix socket, and with [`tls`] on TCP
//! - `tasks`, `executions`, `waits`, `transfer`, `events`, `logs`, `policy`, `schedules`, `secrets`, `accounts`, `host`, `load`: one handler a route
//! - [`caller`]: who calls, and what that may do; each handler names a role
//! - [`error`], [`types`]: what is answered
//!
//! Every body has a cap and a deadline, and every answer that is not a success an [`error::ErrorBody`]. `/openapi.json` is made from the
//! same attributes as the routes, so it can't name a route that is not there.

mod accounts;
pub mod caller;
pub mod error;
mod events;
mod executions;
mod host;
mod load;
mod logs;
mod notify;
mod places;
mod policy;
mod rooms;
mod schedules;
mod secrets;
pub mod serve;
mod tasks;
pub mod tls;
mod transfer;
pub mod types;
mod waits;

#[cfg(test)]
mod tests;

use crate::catalog::Catalog;
use crate::code::images::Images;
use crate::config::Config;
use crate::cron::timer::Schedules;
use crate::idempotency::Keys;
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::schedule::dispatch::{Dispatcher, Parts};
use crate::schedule::runner::Runner;
use crate::state::store::Store;
use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::http::StatusCode;
use error::{ApiError, ErrorCode};
use futures_util::StreamExt;
use rooms::Rooms;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Pushes that are taken in at once, once their upload is here, those of one account, and how long more wait.
const PUSHES: usize = 4;
const PUSHES_EACH: usize = 2;
const PUSH_PATIENCE: Duration = Duration::from_secs(60);
/// KiB of inputs that are being received at once, and of those for one account; more wait.
const INPUTS_KIB: usize = 128 << 10;
const INPUTS_EACH: usize = INPUTS_KIB / 4;
/// How long they wait.
const INPUT_PATIENCE: Duration = Duration::from_secs(20);
/// Executions of other hosts that are being received at once, of those for one account, and how long more wait.
const IMPORTS: usize = 4;
const IMPORTS_EACH: usize = 1;
const IMPORT_PATIENCE: Duration = Duration::from_secs(60);
/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Most bytes of a body that is a few settings.
const MAX_INPUT: usize = 64 << 10;

/// Most bytes that are read in vain, and for how long.
const DISCARD: usize = 128 << 20;
const DISCARD_TIME: Duration = Duration::from_millis(500);

/// Everything that handlers use.
#[derive(Debug)]
pub struct App {
    /// The scheduler.
    pub dispatcher: Arc<Dispatcher>,
    /// Tasks.
    pub catalog: Arc<Catalog>,
    /// The database.
    pub store: Store,
    /// Code.
    pub images: Images,
    /// Output of programs.
    pub logs: Logs,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// Settings.
    pub config: Config,
    /// Ends long answers.
    pub stopping: CancellationToken,
    /// Executions at the times of cron expressions.
    pub schedules: Arc<Schedules>,
    /// Submissions that may come twice.
    pub keys: Arc<Keys>,
    pushes: Rooms,
    inputs: Rooms,
    arrivals: Rooms,
    tasks: Mutex<()>,
    imports: Mutex<()>,
}

impl App {
    /// Puts the parts together.
    #[must_use]
    pub fn new(dispatcher: Arc<Dispatcher>, schedules: Arc<Schedules>, parts: Parts, config: Config) -> Arc<Self> {
        let Parts { store, images, logs, catalog, metrics, .. } = parts;
        Arc::new(Self {
            dispatcher,
            catalog,
            store,
            images,
            logs,
            metrics,
            config,
            stopping: CancellationToken::new(),
            schedules,
            keys: Arc::default(),
            pushes: Rooms::new(PUSHES, PUSHES_EACH, PUSH_PATIENCE),
            inputs: Rooms::new(INPUTS_KIB, INPUTS_EACH, INPUT_PATIENCE),
            arrivals: Rooms::new(IMPORTS, IMPORTS_EACH, IMPORT_PATIENCE),
            tasks: Mutex::new(()),
            imports: Mutex::new(()),
        })
    }

    fn runner(&self) -> &dyn Runner {
        self.dispatcher.runner()
    }
}

/// Work that must not stop half-way when the client goes away.
async fn whole<T: Send + 'static>(work: impl Future<Output = Result<T, ApiError>> + Send + 'static) -> Result<T, ApiError> {
    tokio::spawn(work).await.map_err(broken)?
}

/// A fault of this program ended a task.
fn broken(error: tokio::task::JoinError) -> ApiError {
    ApiError::new(ErrorCode::Internal, error.to_string())
}

/// Reads a little of what a client sends in vain, so that a client that writes before it reads sees the answer and not a broken pipe.
async fn discard(mut pieces: BodyDataStream) {
    let read = async {
        let mut size = 0;
        while let Some(Ok(piece)) = pieces.next().await {
            size += piece.len();
            if size > DISCARD {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIME, read).await;
}

/// A body that is one of our shapes in JSON, small.
struct Input<T>(T);

impl<T: serde::de::DeserializeOwned> axum::extract::FromRequest<Arc<App>> for Input<T> {
    type Rejection = ApiError;

    async fn from_request(request: axum::extract::Request, _app: &Arc<App>) -> Result<Self, ApiError> {
        let late = |_| ApiError::request(StatusCode::REQUEST_TIMEOUT, "the body took longer than 60 s");
        let whole = tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(request.into_body(), MAX_INPUT)).await.map_err(late)?;
        let bytes = whole.map_err(|error| ApiError::request(StatusCode::BAD_REQUEST, format!("the body: {error}")))?;
        let read = serde_json::from_slice(if bytes.is_empty() { b"{}" } else { &bytes[..] });
        read.map(Self).map_err(|error| ApiError::request(StatusCode::BAD_REQUEST, format!("the body is not what is wanted here: {error}")))
    }
}

/// How long a client may take.
enum Patience {
    /// For each piece of a body.
    Piece(Duration),
    /// For the whole of it.
    Whole(Duration),
}

/// A body into a file without a name; memory holds a piece of it at a time. `accept` is asked about each piece, and told the size with it.
async fn spool(
    app: &App,
    body: Body,
    patience: Patience,
    late: impl Fn() -> ApiError,
    mut accept: impl FnMut(u64, &[u8]) -> Result<(), ApiError>,
) -> Result<File, ApiError> {
    let fault = |error: std::io::Error| ApiError::io("can't keep the upload", &error);
    let mut file = tokio::fs::File::from_std(app.images.spool().map_err(fault)?);
    let mut pieces = body.into_data_stream();
    let (each, whole) = match patience {
        Patience::Piece(time) => (time, Duration::MAX),
        Patience::Whole(time) => (time, time),
    };
    let receive = async {
        let mut size = 0u64;
        while let Some(piece) = tokio::time::timeout(each, pieces.next()).await.map_err(|_| late())? {
            let piece = piece.map_err(|e| ApiError::request(StatusCode::BAD_REQUEST, format!("the upload broke off: {e}")))?;
            size += piece.len() as u64;
            accept(size, &piece)?;
            file.write_all(&piece).await.map_err(fault)?;
        }
        file.flush().await.map_err(fault)
    };
    let received = tokio::time::timeout(whole, receive).await.unwrap_or_else(|_| Err(late()));
    if let Err(error) = received {
        discard(pieces).await;
        return Err(error);
    }
    Ok(file.into_std().await)
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Torpor control API",
        description = "Tasks, executions and logs of one torpord, over its Unix socket, or over TLS with a token."
    ),
    components(schemas(error::ErrorBody))
)]
struct Doc;

fn documented() -> (Router<Arc<App>>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Doc::openapi())
        .routes(routes!(tasks::push, tasks::list))
        .routes(routes!(tasks::inspect, tasks::remove))
        .routes(routes!(policy::explain))
        .routes(routes!(policy::graph))
        .routes(routes!(executions::submit))
        .routes(routes!(executions::list))
        .routes(routes!(executions::inspect))
        .routes(routes!(executions::cancel))
        .routes(routes!(waits::park))
        .routes(routes!(waits::resume))
        .routes(routes!(waits::signal))
        .routes(routes!(transfer::export))
        .routes(routes!(transfer::import))
        .routes(routes!(events::read))
        .routes(routes!(logs::read))
        .routes(routes!(schedules::list, schedules::add))
        .routes(routes!(schedules::inspect, schedules::remove))
        .routes(routes!(schedules::pause))
        .routes(routes!(schedules::resume))
        .routes(routes!(secrets::list))
        .routes(routes!(secrets::set, secrets::remove))
        .routes(routes!(accounts::list))
        .routes(routes!(accounts::put, accounts::remove))
        .routes(routes!(accounts::allow, accounts::deny))
        .routes(routes!(accounts::create_token, accounts::tokens))
        .routes(routes!(accounts::remove_token))
        .routes(routes!(host::host))
        .routes(routes!(load::load))
        .routes(routes!(host::metrics))
        .routes(routes!(host::health))
        .split_for_parts()
}

/// The document that `/openapi.json` answers with.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    documented().1
}

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    let (router, document) = documented();
    let document = Arc::new(document);
    router
        .route("/openapi.json", axum::routing::get(move || async move { axum::Json(document) }))
        .fallback(async || ApiError::request(StatusCode::NOT_FOUND, "no such path; /openapi.json lists them"))
        .method_not_allowed_fallback(async || {
            ApiError::request(StatusCode::METHOD_NOT_ALLOWED, "this path does not take that method; /openapi.json lists them")
        })
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&app), caller::identify))
        .with_state(app)
}
