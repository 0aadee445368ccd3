//! The names that callers give to models: those of the catalogs, aliases of them, or none.

use protocol::ApiError;

/// Which model a name means. Aliases win over catalogs, exact ones over patterns, earlier ones over later ones.
#[derive(Debug, Clone)]
pub struct ModelNames {
    default: Option<String>,
    /// Pairs of alias and model.
    exact: Vec<(String, String)>,
    /// Pairs of what a name begins with and model.
    prefixes: Vec<(String, String)>,
}

impl ModelNames {
    /// An alias that ends with `*` stands for all names that begin so.
    pub fn new(default: Option<String>, aliases: impl Iterator<Item = (String, String)>) -> Self {
        let (mut exact, mut prefixes) = (Vec::new(), Vec::new());
        for (alias, model) in aliases {
            match alias.strip_suffix('*') {
                Some(prefix) => prefixes.push((prefix.to_owned(), model)),
                None => exact.push((alias, model)),
            }
        }
        Self { default: default.filter(|name| !name.is_empty()), exact, prefixes }
    }

    /// The name in the catalogs of what a caller asks for; an empty name asks for the default.
    pub fn resolve<'a>(&'a self, asked: &'a str) -> Result<&'a str, ApiError> {
        if asked.is_empty() {
            return self.default_model().ok_or_else(|| ApiError::invalid("model", "'model' is required."));
        }
        let exact = || self.exact.iter().find(|(alias, _)| alias == asked);
        let pattern = || self.prefixes.iter().find(|(prefix, _)| asked.starts_with(prefix.as_str()));
        Ok(exact().or_else(pattern).map_or(asked, |(_, model)| model))
    }

    /// The model of requests that name none.
    pub fn default_model(&self) -> Option<&str> {
        let name = self.default.as_deref()?;
        // It may be an alias itself.
        Some(self.resolve(name).unwrap_or(name))
    }

    /// The name that an answer bears: the caller's own, if there is one.
    pub fn shown(&self, asked: &str) -> String {
        if asked.is_empty() { self.default_model().unwrap_or_default() } else { asked }.to_owned()
    }

    /// Each alias that is a whole name, with its model.
    pub fn aliases(&self) -> impl Iterator<Item = (&str, &str)> {
        self.exact.iter().map(|(alias, model)| (alias.as_str(), model.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> ModelNames {
        let pairs = [("gpt-*", "b"), ("gpt-4o", "a"), ("gpt-4*", "c")];
        let aliases = pairs.map(|(alias, model)| (alias.to_owned(), model.to_owned()));
        ModelNames::new(Some("gpt-4o".to_owned()), aliases.into_iter())
    }

    #[test]
    fn a_whole_name_wins_over_a_pattern_and_an_earlier_pattern_over_a_later_one() {
        for (asked, model) in
            [("gpt-4o", "a"), ("gpt-4o-mini", "b"), ("gpt-5", "b"), ("other", "other"), ("", "a")]
        {
            assert_eq!(names().resolve(asked).unwrap(), model, "{asked}");
        }
    }

    #[test]
    fn without_a_default_a_name_is_required() {
        assert_eq!(
            ModelNames::new(None, std::iter::empty()).resolve("").unwrap_err().param.as_deref(),
            Some("model")
        );
    }
}
