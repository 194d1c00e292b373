//! Layer name templates such as `past_key_values.%d.key`.

/// A name with one slot for the layer number. The peer hands the text to a printf-style formatter unread, so that `%s`
/// crashes it and a missing slot loses the cache in silence; here anything but exactly one `%d` (or `%i`) is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    before: String,
    after: String,
}

impl Template {
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split('%');
        let (before, slot) = (parts.next().unwrap_or_default(), parts.next());
        let after = slot.and_then(|slot| slot.strip_prefix(['d', 'i']));
        match (after, parts.next()) {
            (Some(after), None) => Ok(Self { before: before.to_owned(), after: after.to_owned() }),
            _ => Err(format!("is {text:?}, expected exactly one %d for the layer number")),
        }
    }

    pub fn name(&self, layer: usize) -> String {
        format!("{}{layer}{}", self.before, self.after)
    }

    /// The same up to its last point, and then another ending; none without a point behind the slot.
    pub fn with_ending(&self, ending: &str) -> Option<Self> {
        let (kept, _) = self.after.rsplit_once('.')?;
        Some(Self { before: self.before.clone(), after: format!("{kept}.{ending}") })
    }

    /// The layer number in `name`, if it is an instance of this template.
    pub fn layer(&self, name: &str) -> Option<usize> {
        let digits = name.strip_prefix(self.before.as_str())?.strip_suffix(self.after.as_str())?;
        let layer = digits.parse().ok()?;
        // `+1` and `01` parse as 1, but are not what the template writes.
        (self.name(layer) == name).then_some(layer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_reads_layer_numbers() {
        let template = Template::parse("past_key_values.%d.key").unwrap();
        assert_eq!(template.name(12), "past_key_values.12.key");
        assert_eq!(template.layer("past_key_values.12.key"), Some(12));
        let others =
            ["past_key_values.12.value", "past_key_values..key", "past_key_values.012.key", "past_key_values.+1.key"];
        for name in others {
            assert_eq!(template.layer(name), None, "{name}");
        }
        assert_eq!(Template::parse("%ik").unwrap().name(3), "3k");
    }

    #[test]
    fn refuses_what_printf_would_stumble_over() {
        for text in ["past.key", "past.%s.key", "past.%02d", "%d.%d", "100%", "%%d", "%n%d", ""] {
            let problem = Template::parse(text).unwrap_err();
            assert!(problem.contains("exactly one %d"), "{text}: {problem}");
        }
    }
}
