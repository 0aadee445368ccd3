//! /v1/files: what batches are made from, and what they leave.

use axum::Extension;
use axum::body::Body;
use axum::extract::Multipart;
use axum::extract::multipart::{Field, MultipartError};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use daemon::auth::Caller;
use daemon::http::{Failure, Json, Path};
use futures::stream;
use protocol::openai::files::{FileDeleted, FileForm, FileList, FileObject};
use protocol::{ApiError, ErrorCode, ErrorEnvelope};
use uuid::Uuid;

use super::super::State;
use crate::clock::unix_seconds;
use crate::http::page::{self, Parameters, parameter};
use crate::store::{FILE_SECONDS, File, FileStatus, Order};

/// What callers may upload files for.
const PURPOSES: [&str; 2] = ["batch", "user_data"];
/// A file's name has so many bytes at most; so has each other field.
const FIELD_BYTES_MAX: usize = 512;

/// Upload a file.
#[utoipa::path(
    post, path = "/v1/files", operation_id = "create_file", tag = "files",
    request_body(content = FileForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The file", body = FileObject),
        (status = 400, description = "The form is not valid", body = ErrorEnvelope),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
        (status = 413, description = "The file is too large", body = ErrorEnvelope),
        (status = 429, description = "There are too many bytes in files", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn create(
    queen: State,
    Extension(caller): Extension<Caller>,
    form: Result<Multipart, axum::extract::multipart::MultipartRejection>,
) -> Result<Json<FileObject>, Failure> {
    let mut form = form.map_err(|rejection| {
        let message = format!("The body must be a multipart form: {}.", rejection.body_text());
        ApiError::new(ErrorCode::InvalidRequest, message)
    })?;
    let (mut file, mut purpose, mut anchor, mut seconds) = (None, None, None, None);
    while let Some(field) = form.next_field().await.map_err(broken)? {
        match field.name().unwrap_or_default() {
            "file" => {
                let name = field.file_name().unwrap_or("file").to_owned();
                if name.len() > FIELD_BYTES_MAX {
                    return Err(ApiError::invalid("file", "The file's name is too long.").into());
                }
                file = Some((name, field.bytes().await.map_err(broken)?));
            }
            "purpose" => purpose = Some(text(field, "purpose").await?),
            "expires_after[anchor]" => anchor = Some(text(field, "expires_after[anchor]").await?),
            "expires_after[seconds]" => seconds = Some(text(field, "expires_after[seconds]").await?),
            other => {
                let message = format!("'{other}' is not known.");
                return Err(ApiError::invalid(other, message).into());
            }
        }
    }
    let (filename, content) = file.ok_or_else(|| ApiError::invalid("file", "'file' is required."))?;
    let purpose = purpose.ok_or_else(|| ApiError::invalid("purpose", "'purpose' is required."))?;
    if !PURPOSES.contains(&&*purpose) {
        let message = format!("'purpose' must be one of {}.", PURPOSES.join(", "));
        return Err(ApiError::invalid("purpose", message).into());
    }
    let created_at = unix_seconds();
    let file = File {
        id: format!("file-{}", Uuid::new_v4().simple()),
        owner: caller.as_str().to_owned(),
        created_at,
        expires_at: expiry(anchor.as_deref(), seconds.as_deref())?.map(|seconds| created_at + seconds),
        filename,
        purpose,
        bytes: 0,
        status: FileStatus::Uploading,
    };
    let mut upload = queen.store.begin_file(file).await.map_err(ApiError::from)?;
    upload.append(&content).await.map_err(ApiError::from)?;
    Ok(Json(object(upload.finish().await.map_err(ApiError::from)?)))
}

async fn text(field: Field<'_>, name: &str) -> Result<String, ApiError> {
    let text = field.text().await.map_err(broken)?;
    if text.len() > FIELD_BYTES_MAX {
        return Err(ApiError::invalid(name, format!("'{name}' is too long.")));
    }
    Ok(text)
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err wants it")]
fn broken(error: MultipartError) -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, format!("The form is not valid: {}.", error.body_text()))
}

fn expiry(anchor: Option<&str>, seconds: Option<&str>) -> Result<Option<i64>, ApiError> {
    match (anchor, seconds) {
        (None, None) => Ok(None),
        (Some("created_at"), Some(seconds)) => {
            let seconds = seconds.parse().ok().filter(|seconds| FILE_SECONDS.contains(seconds));
            seconds.map(Some).ok_or_else(|| {
                let message = format!("It must be from {} to {}.", FILE_SECONDS.start(), FILE_SECONDS.end());
                ApiError::invalid("expires_after[seconds]", message)
            })
        }
        _ => {
            let message = "It must be created_at, and 'expires_after[seconds]' must be there as well.";
            Err(ApiError::invalid("expires_after[anchor]", message))
        }
    }
}

/// The caller's files, the newest first.
#[utoipa::path(
    get, path = "/v1/files", operation_id = "list_files", tag = "files",
    params(
        ("purpose" = Option<String>, Query, description = "Only files for this"),
        ("limit" = Option<usize>, Query, description = "1 to 100; 20 if absent"),
        ("order" = Option<String>, Query, description = "desc or asc; desc if absent"),
        ("after" = Option<String>, Query, description = "The id after which the page begins"),
    ),
    responses(
        (status = 200, description = "A page of them", body = FileList),
        (status = 400, description = "The page is none", body = ErrorEnvelope),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn list(
    queen: State,
    Extension(caller): Extension<Caller>,
    parameters: Parameters,
) -> Result<Json<FileList>, Failure> {
    let page = page::page(&parameters, Order::NewestFirst)?;
    let purpose = parameter(&parameters, "purpose");
    let files = queen.store.files(caller.as_str(), purpose, &page).await.map_err(ApiError::from)?;
    let files = files.ok_or_else(page::no_such_beginning)?;
    let data: Vec<_> = files.entries.into_iter().map(object).collect();
    let id = |file: &FileObject| file.id.clone();
    Ok(Json(FileList {
        object: "list".to_owned(),
        first_id: data.first().map(id),
        last_id: data.last().map(id),
        data,
        has_more: files.has_more,
    }))
}

/// What is known of a file.
#[utoipa::path(
    get, path = "/v1/files/{file_id}", operation_id = "retrieve_file", tag = "files",
    params(("file_id" = String, Path)),
    responses(
        (status = 200, description = "The file", body = FileObject),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn retrieve(
    queen: State,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<FileObject>, Failure> {
    Ok(Json(object(find(&queen, &caller, &id).await?)))
}

/// Delete a file. Batches go on that have read its lines; one that is `validating` fails.
#[utoipa::path(
    delete, path = "/v1/files/{file_id}", operation_id = "delete_file", tag = "files",
    params(("file_id" = String, Path)),
    responses(
        (status = 200, description = "It is gone", body = FileDeleted),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn delete(
    queen: State,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<FileDeleted>, Failure> {
    if !queen.store.delete_file(caller.as_str(), &id).await.map_err(ApiError::from)? {
        return Err(missing().into());
    }
    Ok(Json(FileDeleted { id, object: "file".to_owned(), deleted: true }))
}

/// The bytes of a file.
#[utoipa::path(
    get, path = "/v1/files/{file_id}/content", operation_id = "download_file", tag = "files",
    params(("file_id" = String, Path)),
    responses(
        (status = 200, description = "The file's bytes", content_type = "application/octet-stream"),
        (status = 401, description = "No valid credential", body = ErrorEnvelope),
        (status = 404, description = "There is no such thing", body = ErrorEnvelope),
    )
)]
pub(in crate::http) async fn content(
    queen: State,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let file = find(&queen, &caller, &id).await?;
    let state = (queen.store.clone(), file.owner, file.id, 0);
    // Piece by piece: a file may be larger than memory.
    let pieces = stream::unfold(state, async |(store, owner, id, number)| {
        match store.file_chunk(&owner, &id, number).await {
            Ok(piece) => piece.map(|piece| (Ok(piece), (store, owner, id, number + 1))),
            Err(error) => Some((Err(error), (store, owner, id, u32::MAX))),
        }
    });
    let mut response = Body::from_stream(pieces).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, file.bytes.into());
    Ok(response)
}

async fn find(queen: &State, caller: &Caller, id: &str) -> Result<File, ApiError> {
    queen.store.file(caller.as_str(), id).await?.ok_or_else(missing)
}

fn missing() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "There is no file with this id.").with_param("file_id")
}

fn object(file: File) -> FileObject {
    FileObject {
        id: file.id,
        object: "file".to_owned(),
        bytes: file.bytes,
        created_at: file.created_at,
        expires_at: file.expires_at,
        filename: file.filename,
        purpose: file.purpose,
        status: "processed".to_owned(),
    }
}
