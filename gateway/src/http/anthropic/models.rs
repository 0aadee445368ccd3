//! Models as Anthropic's SDKs list them.

use std::collections::HashMap;

use protocol::ApiError;
use protocol::anthropic::{ModelInfo, ModelPage};
use protocol::openai::models::Model;

/// Models of one page at most, and if the caller does not say how many.
const LIMIT_MAX: usize = 1000;
const LIMIT: usize = 20;

/// The page that a query asks for: the first models, or those next to one of them.
pub(in crate::http) fn page(
    models: &[Model],
    query: &HashMap<String, String>,
) -> Result<ModelPage, ApiError> {
    let limit = query.get("limit").map_or(Ok(LIMIT), |limit| limit.parse()).ok();
    let Some(limit) = limit.filter(|limit| (1..=LIMIT_MAX).contains(limit)) else {
        let message = format!("'limit' must be a whole number from 1 to {LIMIT_MAX}.");
        return Err(ApiError::invalid("limit", message));
    };
    let place = |param: &str| {
        let id = query.get(param)?;
        let unknown = || ApiError::invalid(param, format!("'{param}' names no model of this server."));
        Some(models.iter().position(|model| model.id == *id).ok_or_else(unknown))
    };
    let (begin, end, has_more) = if let Some(before) = place("before_id").transpose()? {
        let begin = before.saturating_sub(limit);
        (begin, before, begin > 0)
    } else {
        let begin = place("after_id").transpose()?.map_or(0, |after| after + 1);
        let end = models.len().min(begin + limit);
        (begin, end, end < models.len())
    };
    let data: Vec<ModelInfo> = models[begin..end].iter().map(info).collect();
    let id_of = |model: Option<&ModelInfo>| model.map(|model| model.id.clone());
    Ok(ModelPage { has_more, first_id: id_of(data.first()), last_id: id_of(data.last()), data })
}

/// One model.
pub(in crate::http) fn info(model: &Model) -> ModelInfo {
    ModelInfo {
        id: model.id.clone(),
        kind: "model",
        display_name: model.id.clone(),
        created_at: jiff::Timestamp::from_second(model.created).unwrap_or_default().to_string(),
        lifecycle: "active",
        max_input_tokens: model.context_length,
        max_tokens: model.context_length,
    }
}

#[cfg(test)]
mod tests {
    use protocol::hive::ModelKind;
    use protocol::openai::models::ModelState;

    use super::*;

    fn models() -> Vec<Model> {
        let model = |id: &str| Model {
            id: id.to_owned(),
            object: "model".to_owned(),
            created: 1_700_000_000,
            owned_by: "rbee".to_owned(),
            state: ModelState::Running,
            kind: ModelKind::TextGen,
            root: id.to_owned(),
            context_length: Some(8192),
        };
        ["a", "b", "c", "d"].map(model).to_vec()
    }

    fn asked(query: &[(&str, &str)]) -> Result<ModelPage, ApiError> {
        let query = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        page(&models(), &query)
    }

    #[test]
    fn pages_go_both_ways() {
        for (query, ids, has_more) in [
            (&[][..], "abcd", false),
            (&[("limit", "3")], "abc", true),
            (&[("limit", "3"), ("after_id", "c")], "d", false),
            (&[("after_id", "d")], "", false),
            (&[("limit", "2"), ("before_id", "d")], "bc", true),
            (&[("limit", "2"), ("before_id", "b")], "a", false),
        ] {
            let page = asked(query).unwrap();
            let told: String = page.data.iter().map(|model| model.id.as_str()).collect();
            assert_eq!((told.as_str(), page.has_more), (ids, has_more), "{query:?}");
            assert_eq!(page.last_id.as_deref(), page.data.last().map(|model| model.id.as_str()));
        }
        for (name, value) in [("limit", "0"), ("limit", "many"), ("after_id", "z"), ("before_id", "")] {
            assert_eq!(asked(&[(name, value)]).unwrap_err().param.as_deref(), Some(name));
        }
    }

    #[test]
    fn times_are_written_as_rfc_3339_has_them() {
        assert_eq!(info(&models()[0]).created_at, "2023-11-14T22:13:20Z");
    }
}
