//! Chats as text: the template of a model folder, rendered as transformers renders it.
//!
//! Two shims make minijinja agree with Python's Jinja2 on the templates of the Qwen family: `tojson` writes the
//! separators that `json.dumps` writes, and the `generation` tags of training templates become blocks without effect.

use std::path::Path;

use fs_err as fs;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::tokenizer::{PROTEIN_EMBED, Tokenizer};

/// The template of models that are trained here: ChatML, without thinking.
pub const CHATML: &str = "{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
";

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sets the scene.
    System,
    /// Asks.
    User,
    /// Answers.
    Assistant,
}

/// One turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A turn of the user.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: Role::User, content: content.into() }
    }

    /// A turn of the model.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self { role: Role::Assistant, content: content.into() }
    }
}

/// Token ids of a prompt and of the answer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Prompt, then answer; the last id is the end of the turn.
    pub ids: Vec<u32>,
    /// How many of `ids` are prompt. The rest carries loss.
    pub n_prompt: usize,
}

/// A chat template.
pub struct Chat {
    environment: Environment<'static>,
    source: String,
}

impl Chat {
    /// The template of a model folder: `chat_template.jinja`, or the one inside `tokenizer_config.json`.
    ///
    /// # Errors
    /// When there is none, or it cannot be compiled.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let file = folder.join("chat_template.jinja");
        if file.exists() {
            return Self::new(&fs::read_to_string(&file)?);
        }
        let path = folder.join("tokenizer_config.json");
        let config: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)
            .map_err(|e| Error::Text(format!("cannot read {}: {e}", path.display())))?;
        match config["chat_template"].as_str() {
            Some(template) => Self::new(template),
            None => Err(Error::Text(format!(
                "there is no chat template in {}\nhint: put chat_template.jinja beside tokenizer.json",
                folder.display()
            ))),
        }
    }

    /// Compiles a template.
    ///
    /// # Errors
    /// What the template engine says.
    pub fn new(source: &str) -> Result<Self, Error> {
        let generation = regex::Regex::new(r"(\{%-?\s*)(end)?generation(\s*-?%\})").expect("a fixed pattern");
        let plain = generation.replace_all(source, |found: &regex::Captures<'_>| {
            let tag = if found.get(2).is_some() { "endif" } else { "if true" };
            format!("{}{tag}{}", &found[1], &found[3])
        });
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| Error::Text(format!("template syntax: {e:#}")))?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", python_json);
        environment
            .add_template_owned("chat", plain.into_owned())
            .map_err(|e| Error::Text(format!("cannot compile the chat template: {e:#}")))?;
        Ok(Self { environment, source: source.to_owned() })
    }

    /// The template of models that are trained here.
    pub fn chatml() -> Self {
        Self::new(CHATML).expect("a fixed template compiles")
    }

    /// The template's own text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The chat as text; with `open` it ends where the assistant begins to speak. Templates that know thinking are
    /// told to leave it out.
    ///
    /// # Errors
    /// What the template raises.
    pub fn render(&self, messages: &[Message], open: bool) -> Result<String, Error> {
        let messages = Value::from(Serde(messages));
        self.render_context(context! { messages, add_generation_prompt => open, enable_thinking => false })
    }

    fn render_context(&self, context: Value) -> Result<String, Error> {
        let template = self.environment.get_template("chat");
        template
            .and_then(|t| t.render(context))
            .map_err(|e| Error::Text(format!("cannot render the chat template: {e:#}")))
    }

    /// Token ids of a prompt that waits for an answer. Each [`PROTEIN_EMBED`] becomes `n_embed` ids in a row, one for
    /// each vector of the protein.
    ///
    /// # Errors
    /// As [`Chat::render`] and [`Tokenizer::encode`].
    pub fn encode_prompt(
        &self,
        tokenizer: &Tokenizer,
        prompt: &[Message],
        n_embed: usize,
    ) -> Result<Vec<u32>, Error> {
        let text = self.render(prompt, true)?;
        tokenizer.encode(&text.replace(PROTEIN_EMBED, &PROTEIN_EMBED.repeat(n_embed)))
    }

    /// Token ids of a prompt and its answer, up to the end of the assistant's turn. Both are tokenized apart, so the
    /// prompt has the ids with which the sampler meets it.
    ///
    /// # Errors
    /// When the prompt is no prefix of the whole chat, or the turn does not end with the end-of-turn token: with such
    /// a template the loss would fall on the wrong tokens.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        prompt: &[Message],
        answer: &str,
        n_embed: usize,
    ) -> Result<Encoded, Error> {
        let open = self.render(prompt, true)?;
        let whole = self.render(&[prompt, &[Message::assistant(answer)]].concat(), false)?;
        let Some(rest) = whole.strip_prefix(&open) else {
            return Err(Error::Text(format!(
                "the chat template writes a prompt that is no prefix of the whole chat:\n{open:?}\n{whole:?}"
            )));
        };
        let mut ids = self.encode_prompt(tokenizer, prompt, n_embed)?;
        let n_prompt = ids.len();
        ids.extend(tokenizer.encode(rest)?);
        let turn_end = tokenizer.special().turn_end;
        match ids[n_prompt..].iter().position(|&id| id == turn_end) {
            Some(at) => ids.truncate(n_prompt + at + 1),
            None => {
                return Err(Error::Text(format!(
                    "the chat template does not end the assistant's turn with <|im_end|>: {whole:?}"
                )));
            }
        }
        Ok(Encoded { ids, n_prompt })
    }
}

/// JSON as Python's `json.dumps(value, ensure_ascii=False)` writes it.
fn python_json(value: Value) -> Result<Value, minijinja::Error> {
    struct Python;
    impl serde_json::ser::Formatter for Python {
        fn begin_array_value<W: ?Sized + std::io::Write>(
            &mut self,
            w: &mut W,
            first: bool,
        ) -> std::io::Result<()> {
            w.write_all(if first { b"" } else { b", " })
        }

        fn begin_object_key<W: ?Sized + std::io::Write>(
            &mut self,
            w: &mut W,
            first: bool,
        ) -> std::io::Result<()> {
            w.write_all(if first { b"" } else { b", " })
        }

        fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W) -> std::io::Result<()> {
            w.write_all(b": ")
        }
    }
    let failed = |e: &dyn std::fmt::Display| {
        minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, format!("tojson: {e}"))
    };
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, Python);
    value.serialize(&mut serializer).map_err(|e| failed(&e))?;
    Ok(Value::from_safe_string(String::from_utf8(out).map_err(|e| failed(&e))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{shared, tokenizer};

    #[test]
    fn renderings_equal_those_of_transformers() {
        let Some(path) = shared("fixtures/tokenizer_and_template.json") else { return };
        let fixture: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let cases = fixture["renderings"].as_array().unwrap();
        assert_eq!(cases.len(), 126);
        for case in cases {
            let name = case["template"].as_str().unwrap();
            let file = path.with_file_name("templates").join(name).with_extension("jinja");
            let chat = Chat::new(&fs::read_to_string(file).unwrap()).unwrap();
            let messages = &fixture["conversations"][case["conversation"].as_str().unwrap()];
            let mut context = serde_json::json!({
                "messages": messages,
                "add_generation_prompt": case["add_generation_prompt"],
                "tools": if case["tools"] == true { fixture["tools"].clone() } else { serde_json::Value::Null },
            });
            if !case["enable_thinking"].is_null() {
                context["enable_thinking"] = case["enable_thinking"].clone();
            }
            assert_eq!(chat.render_context(Value::from(Serde(context))).unwrap(), case["text"], "{case}");
        }
    }

    #[test]
    fn the_mask_begins_with_the_answer_and_ends_with_the_turn() {
        let tokenizer = tokenizer::tests::small();
        let prompt = [Message::user("What? <|protein_start|><|protein_embed|><|protein_end|>")];
        let mut templates = vec![Chat::chatml()];
        if let Some(folder) = shared("fixtures/templates") {
            for name in ["qwen3.jinja", "qwen3_instruct_2507.jinja"] {
                templates.push(Chat::new(&fs::read_to_string(folder.join(name)).unwrap()).unwrap());
            }
        }
        for chat in templates {
            let encoded = chat.encode(&tokenizer, &prompt, "binds", 5).unwrap();
            assert_eq!(tokenizer.decode(&encoded.ids[encoded.n_prompt..], false).unwrap(), "binds<|im_end|>");
            let special = tokenizer.special();
            let embeds = encoded.ids.iter().filter(|&&id| id == special.protein_embed).count();
            assert_eq!((embeds, *encoded.ids.last().unwrap()), (5, special.turn_end));
            assert_eq!(encoded.ids[..encoded.n_prompt], chat.encode_prompt(&tokenizer, &prompt, 5).unwrap());
        }
    }

    #[test]
    fn templates_that_would_mask_wrongly_are_refused() {
        let tokenizer = tokenizer::tests::small();
        let prompt = [Message::user("What?")];
        let refused = |source: &str| {
            Chat::new(source).unwrap().encode(&tokenizer, &prompt, "binds", 1).unwrap_err().to_string()
        };
        let other =
            "{{ messages[0].content }}{% if add_generation_prompt %}|{% endif %}{{ messages|length }}";
        assert!(refused(other).contains("no prefix"));
        let endless = "{% for m in messages %}{{ m.content }}\n{% endfor %}";
        assert!(refused(endless).contains("<|im_end|>"));
        assert!(Chat::new("{% for %}").is_err());
    }
}
