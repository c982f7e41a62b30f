//! Chats as text: the template of a model folder, rendered as transformers renders it.
//!
//! Two shims make minijinja agree with Python's Jinja2 on the templates of the Qwen family: `tojson` writes the
//! separators that `json.dumps` writes, and the `generation` tags of training templates become filter blocks, which say
//! what of the text is the assistant's.

use std::ops::Range;
use std::path::Path;

use fs_err as fs;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::tokenizer::{PROTEIN_EMBED, TURN_END, Tokenizer};

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
    /// whether it says what is the assistant's
    marks: bool,
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
            let tag = if found.get(2).is_some() { "endfilter" } else { "filter assistant" };
            format!("{}{tag}{}", &found[1], &found[3])
        });
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| Error::Text(format!("template syntax: {e:#}")))?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", python_json);
        environment.add_filter("assistant", |said: String| said);
        environment
            .add_template_owned("chat", plain.into_owned())
            .map_err(|e| Error::Text(format!("cannot compile the chat template: {e:#}")))?;
        Ok(Self { environment, source: source.to_owned(), marks: generation.is_match(source) })
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
        render(&self.environment, context)
    }

    /// The chat as text and the bytes of it that are the assistant's, as the template's `generation` tags say; none where
    /// it has no such tags.
    ///
    /// # Errors
    /// What the template raises.
    fn render_marked(&self, context: Value) -> Result<(String, Vec<Range<usize>>), Error> {
        let text = self.render_context(context.clone())?;
        if !self.marks {
            return Ok((text, vec![]));
        }
        // Two characters for private use that the text does not hold.
        let mut free = ('\u{e000}'..'\u{f8ff}').filter(|&c| !text.contains(c));
        let (Some(open), Some(close)) = (free.next(), free.next()) else {
            return Err(Error::Text("a chat with every character for private use in it".into()));
        };
        let mut environment = self.environment.clone();
        environment.add_filter("assistant", move |said: String| format!("{open}{said}{close}"));
        let (mut plain, mut spans, mut start) = (String::with_capacity(text.len()), vec![], 0);
        for c in render(&environment, context)?.chars() {
            match c {
                c if c == open => start = plain.len(),
                c if c == close => spans.push(start..plain.len()),
                c => plain.push(c),
            }
        }
        match plain == text {
            true => Ok((text, spans)),
            false => Err(Error::Text("the chat template looks at what is in its own generation tags".into())),
        }
    }

    /// Token ids of a whole chat, and for each whether the assistant says it, as `apply_chat_template` of transformers
    /// gives `assistant_masks`.
    ///
    /// # Errors
    /// When the template has no `generation` tags, and as [`Chat::render`].
    pub fn assistant_mask(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
    ) -> Result<(Vec<u32>, Vec<bool>), Error> {
        self.mask(tokenizer, context! { messages => Value::from(Serde(messages)), enable_thinking => false })
    }

    fn mask(&self, tokenizer: &Tokenizer, context: Value) -> Result<(Vec<u32>, Vec<bool>), Error> {
        if !self.marks {
            return Err(Error::Text(
                "the chat template does not say what is the assistant's\nhint: put {% generation %} and {% endgeneration %} around it"
                    .into(),
            ));
        }
        let (text, spans) = self.render_marked(context)?;
        let (ids, places) = tokenizer.encode_with_places(&text)?;
        let said = |place: &Range<usize>| spans.iter().any(|s| place.start < s.end && s.start < place.end);
        Ok((ids, places.iter().map(said).collect()))
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
        let messages = Value::from(Serde([prompt, &[Message::assistant(answer)]].concat()));
        let (whole, spans) = self.render_marked(context! { messages, enable_thinking => false })?;
        let Some(rest) = whole.strip_prefix(&open) else {
            return Err(Error::Text(format!(
                "the chat template writes a prompt that is no prefix of the whole chat:\n{open:?}\n{whole:?}"
            )));
        };
        let turn = open.len()..open.len() + rest.find(TURN_END).map_or(rest.len(), |at| at + TURN_END.len());
        if self.marks && !spans.iter().any(|s| s.start <= turn.start && turn.end <= s.end) {
            return Err(Error::Text(format!(
                "the chat template says that {:?} is not the assistant's, but loss would fall on it",
                &whole[turn]
            )));
        }
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

fn render(environment: &Environment<'_>, context: Value) -> Result<String, Error> {
    let template = environment.get_template("chat");
    template
        .and_then(|t| t.render(context))
        .map_err(|e| Error::Text(format!("cannot render the chat template: {e:#}")))
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
    fn assistant_masks_equal_those_of_transformers() {
        let Some(path) = shared("fixtures/tokenizer_and_template.json") else { return };
        let fixture: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let tokenizer = Tokenizer::load(&path.with_file_name("qwen3_tiny_tied")).unwrap();
        let cases = fixture["assistant_masks"].as_array().unwrap();
        assert_eq!(cases.len(), 4);
        for case in cases {
            let name = case["template"].as_str().unwrap();
            let file = path.with_file_name("templates").join(name).with_extension("jinja");
            let chat = Chat::new(&fs::read_to_string(file).unwrap()).unwrap();
            let messages = &fixture["conversations"][case["conversation"].as_str().unwrap()];
            let context = Value::from(Serde(serde_json::json!({"messages": messages})));
            let (ids, mask) = chat.mask(&tokenizer, context).unwrap();
            let mask: Vec<u8> = mask.into_iter().map(u8::from).collect();
            assert_eq!(serde_json::json!(ids), case["input_ids"], "{case}");
            assert_eq!(serde_json::json!(mask), case["assistant_masks"], "{case}");
        }
    }

    #[test]
    fn a_template_of_our_own_marks_the_assistant() {
        let tokenizer = tokenizer::tests::small();
        let marked = "{%- for m in messages %}\n{{- '<|im_start|>' + m.role + '\\n' }}\n\
            {%- if m.role == 'assistant' %}\n{%- generation %}\n{{- m.content + '<|im_end|>' }}\n{%- endgeneration %}\n\
            {{- '\\n' }}\n{%- else %}\n{{- m.content + '<|im_end|>\\n' }}\n{%- endif %}\n{%- endfor %}\n\
            {%- if add_generation_prompt %}\n{{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n";
        let chat = Chat::new(marked).unwrap();
        let turns = |n: &str| {
            [Message::user(format!("What {n}?")), Message::assistant(format!("binds {n} \u{e000}"))]
        };
        let messages = [turns("one"), turns("two")].concat();
        let (ids, mask) = chat.assistant_mask(&tokenizer, &messages).unwrap();
        let said: Vec<u32> = ids.iter().zip(&mask).filter(|(_, said)| **said).map(|(id, _)| *id).collect();
        let text = tokenizer.decode(&said, false).unwrap();
        assert_eq!(text, "binds one \u{e000}<|im_end|>binds two \u{e000}<|im_end|>");
        let plain = Chat::chatml();
        assert_eq!(chat.render(&messages, true).unwrap(), plain.render(&messages, true).unwrap());
        let [question, _] = turns("one");
        let encoded = chat.encode(&tokenizer, std::slice::from_ref(&question), "binds", 1).unwrap();
        assert_eq!(encoded, plain.encode(&tokenizer, std::slice::from_ref(&question), "binds", 1).unwrap());
        let error = plain.assistant_mask(&tokenizer, &messages).unwrap_err().to_string();
        assert!(error.contains("{% generation %}"), "{error}");
        // tags around something else: the loss would not fall where the template says
        let wrong = marked.replace("== 'assistant'", "== 'user'");
        let error =
            Chat::new(&wrong).unwrap().encode(&tokenizer, &[question], "binds", 1).unwrap_err().to_string();
        assert!(error.contains("not the assistant's"), "{error}");
    }

    #[test]
    fn the_mask_begins_with_the_answer_and_ends_with_the_turn() {
        let tokenizer = tokenizer::tests::small();
        let prompt = [Message::user("What? <|protein_start|><|protein_embed|><|protein_end|>")];
        let mut templates = vec![Chat::chatml()];
        if let Some(folder) = shared("fixtures/templates") {
            for name in ["qwen3.jinja", "qwen3_instruct_2507.jinja", "qwen3_training.jinja"] {
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
