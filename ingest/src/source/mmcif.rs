//! Atoms of an mmCIF file: the loop `_atom_site` of a STAR file (<https://mmcif.wwpdb.org>). Other categories are
//! stepped over, quoted and multi-line values included.

use crate::Error;
use crate::reader::Lines;
use crate::reason::{Fault, Reason};
use crate::source::structure::{Atom, Structure};

/// Columns that are read, with what stands in where a file lacks one.
const COLUMNS: [&str; 14] = [
    "group_PDB",
    "label_atom_id",
    "label_comp_id",
    "auth_asym_id",
    "auth_seq_id",
    "pdbx_PDB_ins_code",
    "Cartn_x",
    "Cartn_y",
    "Cartn_z",
    "occupancy",
    "B_iso_or_equiv",
    "pdbx_PDB_model_num",
    "label_asym_id",
    "label_seq_id",
];

/// Reads the first model.
pub(crate) fn read(lines: &mut Lines<'_>) -> Result<Structure, Error> {
    let mut structure = Structure::default();
    let mut tokens = Tokens { lines, waiting: vec![], number: 0, fault: None };
    let (mut tags, mut in_loop, mut begun) = (Vec::<String>::new(), false, false);
    let (mut values, mut table, mut begin) = (Vec::<String>::new(), None::<Table>, 0);
    while let Some(token) = tokens.next()? {
        let is_atoms = in_loop && tags.first().is_some_and(|tag| tag.starts_with("_atom_site."));
        match token {
            Token::Word(word) if word.eq_ignore_ascii_case("loop_") || word.starts_with('_') => {
                if is_atoms && begun {
                    break;
                }
                let is_tag = word.starts_with('_');
                if !is_tag || !in_loop || begun {
                    tags.clear();
                    (in_loop, begun) = (!is_tag, false);
                }
                tags.extend(Some(word).filter(|_| is_tag));
            }
            Token::Word(word) if is_name(&word) && tags.is_empty() => {
                let id = word[5..].to_ascii_lowercase();
                let is_id = id.len() == 4 && id.starts_with(|c: char| c.is_ascii_digit());
                structure.id = Some(id).filter(|_| is_id);
            }
            Token::Word(_) | Token::Quoted(_) if !is_atoms => begun = true,
            Token::Word(value) | Token::Quoted(value) => {
                begun = true;
                if values.is_empty() {
                    begin = tokens.number;
                }
                values.push(value);
                if values.len() < tags.len() {
                    continue;
                }
                match table.get_or_insert_with(|| Table::new(&tags)).atom(&values, begin) {
                    Ok(Some(atom)) => structure.add(&atom),
                    Ok(None) => return Ok(structure),
                    Err(fault) => {
                        structure.fault = Some((begin, fault));
                        return Ok(structure);
                    }
                }
                values.clear();
            }
        }
    }
    let cut = || (begin, Fault::new(Reason::Malformed, format!("line {begin}: the row of an atom is cut")));
    structure.fault = tokens.fault.take().or_else(|| (!values.is_empty()).then(cut));
    Ok(structure)
}

fn is_name(word: &str) -> bool {
    word.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("data_"))
}

/// Places of [`COLUMNS`] in the loop, and the model that is read.
struct Table {
    places: [Option<usize>; COLUMNS.len()],
    model: Option<String>,
}

impl Table {
    fn new(tags: &[String]) -> Self {
        let place = |name| tags.iter().position(|tag| tag.strip_prefix("_atom_site.") == Some(name));
        Self { places: COLUMNS.map(place), model: None }
    }

    /// One atom, `None` when it is of a later model.
    fn atom(&mut self, values: &[String], line: u64) -> Result<Option<Atom>, Fault> {
        let get = |column: usize| -> &str {
            let value = self.places[column].map_or("", |at| values[at].as_str());
            if matches!(value, "?" | ".") { "" } else { value }
        };
        if self.model.as_ref().is_some_and(|model| model != get(11)) {
            return Ok(None);
        }
        let number = |column: usize| -> Result<f64, Fault> {
            get(column).parse().ok().filter(|x: &f64| x.is_finite()).ok_or_else(|| {
                let detail = format!("line {line}: {} {:?} is no number", COLUMNS[column], get(column));
                Fault::new(Reason::BadCoordinates, detail)
            })
        };
        let first = |a: usize, b: usize| if get(a).is_empty() { get(b) } else { get(a) };
        let atom = Atom {
            line,
            is_hetero: get(0) == "HETATM",
            name: get(1).into(),
            residue: get(2).into(),
            chain: first(3, 12).into(),
            number: format!("{}{}", first(4, 13), get(5)),
            at_ang: [number(6)?, number(7)?, number(8)?],
            occupancy: get(9).parse().unwrap_or(1.0),
            b_factor: get(10).parse().ok(),
        };
        let model = get(11).to_owned();
        self.model.get_or_insert(model);
        Ok(Some(atom))
    }
}

enum Token {
    /// A bare word: a tag, a keyword or a value.
    Word(String),
    /// A value that is a value whatever it begins with.
    Quoted(String),
}

/// Words of a STAR file.
struct Tokens<'l, 'a> {
    lines: &'l mut Lines<'a>,
    /// Of the line at hand, last first.
    waiting: Vec<Token>,
    number: u64,
    fault: Option<(u64, Fault)>,
}

impl Tokens<'_, '_> {
    fn next(&mut self) -> Result<Option<Token>, Error> {
        loop {
            if let Some(token) = self.waiting.pop() {
                return Ok(Some(token));
            }
            let Some(line) = self.lines.next()? else { return Ok(None) };
            self.number = line.number;
            if let Some(fault) = line.fault {
                self.fault = Some((line.number, fault));
                return Ok(None);
            }
            let Some(first) = line.text.strip_prefix(';') else {
                self.waiting = words(&line.text);
                self.waiting.reverse();
                continue;
            };
            // A value of many lines, up to a line that begins with a semicolon.
            let mut value = first.to_owned();
            loop {
                let Some(line) = self.lines.next()? else { return Ok(Some(Token::Quoted(value))) };
                if let Some(rest) = line.text.strip_prefix(';') {
                    self.waiting = words(rest);
                    self.waiting.reverse();
                    return Ok(Some(Token::Quoted(value)));
                }
                if value.len() < crate::reader::LONGEST {
                    value.push('\n');
                    value.push_str(&line.text);
                }
            }
        }
    }
}

fn words(line: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() && !rest.starts_with('#') {
        let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'));
        let (token, after) = match quote {
            Some(quote) => {
                // The closing quote is one that a blank follows: 'C1'' is C1'.
                let end = rest[1..]
                    .match_indices(quote)
                    .map(|(at, _)| at + 1)
                    .find(|&at| rest[at + 1..].chars().next().is_none_or(char::is_whitespace));
                let end = end.unwrap_or(rest.len());
                (Token::Quoted(rest[1..end].to_owned()), rest.get(end + 1..).unwrap_or(""))
            }
            None => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                (Token::Word(rest[..end].to_owned()), &rest[end..])
            }
        };
        tokens.push(token);
        rest = after.trim_start();
    }
    tokens
}
