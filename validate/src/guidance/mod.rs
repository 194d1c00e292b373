//! Texts that must match a JSON schema, a regular expression or a grammar, by llguidance.
//!
//! ```text
//!  Tokenizer ──► GrammarCompiler ── compile(Guidance) ──► Grammar: what may come next, token by token
//! ```
//!
//! A grammar is checked when it is compiled: what llguidance would leave out in silence, such as an unknown keyword of a
//! schema, is an error here.

mod schema;
mod vocabulary;

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{InferenceCapabilities, SimpleVob, TokEnv};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use serde_json::Value;

use crate::generator::Constraint;
use crate::{Error, Result, Tokenizer};

/// What a text has to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Guidance {
    /// JSON that the schema allows. Whatever keyword of it is not understood is an error.
    JsonSchema { schema: Value, spacing: Spacing },
    /// A whole match of a regular expression, without look-around and back-references.
    Regex(String),
    /// A grammar in llguidance's dialect of Lark.
    Lark(String),
}

/// White space in JSON. Models that hesitate fill pages with it, so that it is bounded unless asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spacing {
    /// None.
    Compact,
    /// At most one blank behind a comma or a colon.
    #[default]
    Single,
    /// As much as JSON allows.
    Free,
}

/// The types by which onnxruntime-genai calls them.
const TYPES: &str = "json_schema, regex, lark_grammar";

impl Guidance {
    /// By onnxruntime-genai's name of its type, with what belongs to it as a text.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another type; [`Error::Guidance`] for a schema that is no JSON.
    pub fn parse(kind: &str, data: &str) -> Result<Self> {
        match kind {
            "json_schema" => {
                let schema = serde_json::from_str(data).map_err(|error| wrong("json_schema", error))?;
                Ok(Self::json_schema(schema))
            }
            "regex" => Ok(Self::Regex(data.to_owned())),
            "lark_grammar" => Ok(Self::Lark(data.to_owned())),
            _ => Err(Error::unsupported(format!("guidance of type {kind}"), TYPES)),
        }
    }

    pub fn json_schema(schema: Value) -> Self {
        Self::JsonSchema { schema, spacing: Spacing::default() }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::JsonSchema { .. } => "json_schema",
            Self::Regex(_) => "regex",
            Self::Lark(_) => "lark_grammar",
        }
    }

    fn grammar(&self) -> Result<TopLevelGrammar> {
        match self {
            Self::Regex(expression) => Ok(TopLevelGrammar::from_regex(expression)),
            Self::Lark(grammar) => Ok(TopLevelGrammar::from_lark(grammar.clone())),
            Self::JsonSchema { schema, spacing } => {
                schema::check(schema)?;
                let (comma, colon) = match spacing {
                    Spacing::Single => (", ?", ": ?"),
                    Spacing::Compact | Spacing::Free => (",", ":"),
                };
                let options = JsonCompileOptions {
                    item_separator: comma.to_owned(),
                    key_separator: colon.to_owned(),
                    whitespace_flexible: *spacing == Spacing::Free,
                    ..JsonCompileOptions::default()
                };
                let mut schema = match schema {
                    // `true` and `{}` allow the same.
                    Value::Bool(true) => Value::Object(serde_json::Map::new()),
                    Value::Bool(false) => return Err(wrong("json_schema", "false allows nothing")),
                    schema => schema.clone(),
                };
                options.apply_to(&mut schema);
                Ok(TopLevelGrammar::from_json_schema(schema))
            }
        }
    }
}

fn wrong(kind: &'static str, problem: impl ToString) -> Error {
    let problem = problem.to_string();
    // llguidance says where it was in its own code when it fails there.
    let problem = problem.split("\n<backtrace>").next().unwrap_or_default();
    Error::Guidance { kind, problem: problem.trim_end().to_owned() }
}

/// Compiles grammars for one tokenizer and one model. Made once, and shared by clones.
#[derive(Clone)]
pub struct GrammarCompiler {
    factory: Arc<ParserFactory>,
    environment: TokEnv,
    eos: Arc<[u32]>,
    vocab_size: usize,
}

impl GrammarCompiler {
    /// For a model that gives `vocab_size` logits, and ends a text by any of `eos_token_ids`. Logits of ids that the
    /// tokenizer does not know never come; neither do tokens that the model has no logits for.
    ///
    /// # Errors
    /// [`Error::Argument`] if an end token has no logits; [`Error::Unsupported`] for a tokenizer whose tokens cannot be
    /// taken for bytes.
    pub fn new(tokenizer: &Tokenizer, vocab_size: usize, eos_token_ids: &[u32]) -> Result<Self> {
        let environment = vocabulary::environment(tokenizer, vocab_size, eos_token_ids)?;
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
            .map_err(|error| wrong("guidance", error))?;
        // Errors come back as values; whatever else it would print belongs to nobody.
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Self { factory: Arc::new(factory), environment, eos: eos_token_ids.into(), vocab_size })
    }

    /// # Errors
    /// [`Error::Guidance`] and [`Error::Unsupported`] say what of the grammar is wrong or not understood.
    pub fn compile(&self, guidance: &Guidance) -> Result<Grammar> {
        let kind = guidance.kind();
        let grammar = guidance.grammar()?;
        // Grammars come from anywhere; where llguidance has overlooked one, it is no more than wrong.
        let create = std::panic::AssertUnwindSafe(|| self.factory.create_parser(grammar));
        let parser = llguidance::panic_utils::catch_unwind(create).map_err(|error| wrong(kind, error))?;
        let mut matcher = Matcher::new(Ok(parser));
        if let Some(problem) = matcher.get_error() {
            return Err(wrong(kind, problem));
        }
        if let Some(warning) = matcher.grammar_warnings().first() {
            return Err(wrong(kind, warning));
        }
        Ok(Grammar { matcher, kind, eos: self.eos.clone(), vocab_size: self.vocab_size })
    }

    /// The bytes that a token stands for; none for a special one.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        let trie = self.environment.tok_trie();
        let known = (id as usize) < trie.vocab_size() && !trie.is_special_token(id);
        if known { trie.token(id) } else { &[] }
    }
}

/// A compiled grammar, at some place in a text.
#[derive(Clone)]
pub struct Grammar {
    matcher: Matcher,
    kind: &'static str,
    eos: Arc<[u32]>,
    vocab_size: usize,
}

impl Grammar {
    /// Which tokens may come next, one bit for each, lowest first, of as many as the model has logits.
    ///
    /// # Errors
    /// [`Error::Guidance`] where no token can go on, or the grammar takes too long to follow.
    pub fn allowed(&mut self) -> Result<Allowed> {
        let mask = self.matcher.compute_mask_or_eos().map_err(|error| wrong(self.kind, error))?;
        if mask.is_zero() {
            return Err(wrong(self.kind, "no token of the vocabulary can go on"));
        }
        Ok(Allowed(mask))
    }

    /// Whether the text may end here.
    pub fn may_end(&mut self) -> Result<bool> {
        if self.has_ended() {
            return Ok(true);
        }
        self.matcher.is_accepting().map_err(|error| wrong(self.kind, error))
    }

    /// Whether nothing but an end token can come.
    pub fn has_ended(&self) -> bool {
        self.matcher.is_stopped()
    }
}

/// A set of tokens.
pub struct Allowed(SimpleVob);

impl Allowed {
    pub fn contains(&self, id: u32) -> bool {
        (id as usize) < self.0.len() && self.0.is_allowed(id)
    }

    pub fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter()
    }
}

impl Constraint for Grammar {
    fn mask(&mut self, scores: &mut [f32]) -> Result<()> {
        if scores.len() != self.vocab_size {
            let expected = format!("{}, for which the grammar was compiled", self.vocab_size);
            return Err(Error::argument("the number of scores", scores.len(), expected));
        }
        let allowed = self.allowed()?;
        for (id, score) in (0u32..).zip(scores) {
            if !allowed.contains(id) {
                *score = f32::MIN;
            }
        }
        Ok(())
    }

    fn commit(&mut self, id: u32) -> Result<()> {
        if self.has_ended() && self.eos.contains(&id) {
            return Ok(());
        }
        self.matcher.consume_token(id).map_err(|error| wrong(self.kind, error))
    }

    /// Only of tokenizers that cut a text in the same way wherever it stands, which are the byte-level ones.
    fn forced(&mut self) -> Result<Vec<u32>> {
        if self.has_ended() {
            return Ok(Vec::new());
        }
        let forced = self.matcher.compute_ff_tokens();
        self.matcher.consume_tokens(&forced).map_err(|error| wrong(self.kind, error))?;
        Ok(forced)
    }

    fn reset(&mut self) -> Result<()> {
        self.matcher.reset().map_err(|error| wrong(self.kind, error))
    }
}

#[cfg(test)]
mod tests;
