//! The query parameters of lists, and pages of what is listed.

use std::ops::RangeInclusive;

use axum::extract::Query;
use protocol::ApiError;
use protocol::openai::metadata::Metadata;

use crate::store::{Order, Page, Paged};

/// Query parameters as they came. Names may come several times.
pub(super) type Parameters = Query<Vec<(String, String)>>;

/// Entries of a page, if the caller names no number; and how many it may name.
const LIMIT: usize = 20;
const LIMITS: RangeInclusive<usize> = 1..=100;

/// The value of the first parameter of this name.
pub(super) fn parameter<'a>(parameters: &'a Parameters, name: &str) -> Option<&'a str> {
    parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// The values of a parameter that may come several times, as SDKs write lists.
pub(super) fn list(parameters: &Parameters, name: &str) -> Vec<String> {
    let is_named = |key: &str| key == name || key.strip_suffix("[]") == Some(name);
    parameters.iter().filter(|(key, _)| is_named(key)).map(|(_, value)| value.clone()).collect()
}

/// The pairs that are written as `metadata[key]=value`.
pub(super) fn metadata(parameters: &Parameters) -> Metadata {
    let pair = |(key, value): &(String, String)| {
        let key = key.strip_prefix("metadata[")?.strip_suffix(']')?;
        Some((key.to_owned(), value.clone()))
    };
    parameters.iter().filter_map(pair).collect()
}

/// Which page is asked for.
pub(super) fn page(parameters: &Parameters, order: Order) -> Result<Page, ApiError> {
    let limit = match parameter(parameters, "limit") {
        None => LIMIT,
        Some(limit) => limit.parse().ok().filter(|limit| LIMITS.contains(limit)).ok_or_else(|| {
            let message = format!("'limit' must be from {} to {}.", LIMITS.start(), LIMITS.end());
            ApiError::invalid("limit", message)
        })?,
    };
    let order = match parameter(parameters, "order") {
        None => order,
        Some("asc") => Order::OldestFirst,
        Some("desc") => Order::NewestFirst,
        Some(_) => return Err(ApiError::invalid("order", "'order' must be asc or desc.")),
    };
    let after = parameter(parameters, "after").filter(|after| !after.is_empty()).map(str::to_owned);
    Ok(Page { limit, order, after })
}

/// The page of these entries, which come oldest first.
pub(super) fn cut<T>(
    mut entries: Vec<T>,
    page: &Page,
    id: impl Fn(&T) -> &str,
) -> Result<Paged<T>, ApiError> {
    if page.order == Order::NewestFirst {
        entries.reverse();
    }
    if let Some(after) = &page.after {
        // Of several entries with one id the last, or the pages would never come to an end.
        let place = entries.iter().rposition(|entry| id(entry) == after).ok_or_else(no_such_beginning)?;
        entries.drain(..=place);
    }
    Ok(Paged::of(entries, page.limit))
}

/// A page that begins after what is not there.
pub(super) fn no_such_beginning() -> ApiError {
    ApiError::invalid("after", "'after' is the id of nothing in this list.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> Parameters {
        Query(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn what_is_no_page_is_refused_by_name() {
        for (name, value) in [("limit", "0"), ("limit", "101"), ("limit", "x"), ("order", "up")] {
            let error = page(&parameters(&[(name, value)]), Order::OldestFirst).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(name));
        }
        let entries = ["a", "b"].map(str::to_owned).to_vec();
        let after = page(&parameters(&[("after", "z")]), Order::OldestFirst).unwrap();
        assert_eq!(cut(entries, &after, String::as_str).unwrap_err().param.as_deref(), Some("after"));
    }

    #[test]
    fn entries_are_cut_to_pages_in_both_orders() {
        let cut = |pairs: &[(&str, &str)]| {
            let entries = ["a", "b", "c"].map(str::to_owned).to_vec();
            let page = page(&parameters(pairs), Order::NewestFirst).unwrap();
            let paged = cut(entries, &page, String::as_str).unwrap();
            (paged.entries.concat(), paged.has_more)
        };
        assert_eq!(cut(&[]), ("cba".to_owned(), false));
        assert_eq!(cut(&[("limit", "2")]), ("cb".to_owned(), true));
        assert_eq!(cut(&[("limit", "2"), ("after", "b")]), ("a".to_owned(), false));
        assert_eq!(cut(&[("order", "asc"), ("after", "a"), ("limit", "1")]), ("b".to_owned(), true));
    }

    #[test]
    fn lists_and_pairs_are_read_as_sdks_write_them() {
        let sent =
            parameters(&[("include[]", "a"), ("include", "b"), ("metadata[k.1]", "v"), ("metadata", "x")]);
        assert_eq!(list(&sent, "include"), ["a", "b"]);
        assert_eq!(metadata(&sent), Metadata::from([("k.1".to_owned(), "v".to_owned())]));
    }
}
