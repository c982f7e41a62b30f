//! Help texts, exit codes and what a wrong call is told.

use std::collections::VecDeque;

use crate::kit::{root, run};

fn recipe(text: &str) -> (tempfile::TempDir, String) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("recipe.toml");
    fs_err::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (place, path)
}

const TINY: &str = "name = \"tiny\"\nseed = 1\n[world]\nn_proteins = 97\n";

/// Every help text in one file, so that a change of the command line is seen in review.
#[test]
fn help_is_what_the_documents_say() {
    let help = |args: &[&str]| {
        let (code, out, _) = run(&[args, &["--help"]].concat());
        assert_eq!(code, 0);
        out
    };
    let mut all = "# The command line\n".to_owned();
    let mut commands: VecDeque<Vec<String>> = VecDeque::from([vec![]]);
    while let Some(command) = commands.pop_front() {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let text = help(&words);
        let called: String = words.iter().map(|word| format!("{word} ")).collect();
        all += &format!("\n```\n$ peptalk {called}--help\n{text}```\n");
        let listed = text.lines().skip_while(|line| *line != "Commands:").skip(1);
        let names =
            listed.take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
        let below =
            names.filter(|name| *name != "help").map(|name| [&command[..], &[name.to_owned()]].concat());
        commands.extend(below);
    }
    let path = root().join("docs/cli.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs_err::write(&path, &all).unwrap();
    }
    let want = fs_err::read_to_string(&path).unwrap_or_default();
    assert_eq!(all, want, "docs/cli.md is old; UPDATE_GOLDEN=1 writes it");
}

#[test]
fn a_call_that_cannot_be_begun_ends_with_2_and_a_failed_one_with_1() {
    let (place, path) = recipe(TINY);
    let out = place.path().join("out");
    let out = out.to_str().unwrap();
    for (args, code, say) in [
        (vec!["runn"], 2, "unrecognized subcommand 'runn'"),
        (vec!["run", "no.toml"], 2, "no.toml"),
        (vec!["run", &path, "--out", out, "--set", "world.n=3"], 2, "unknown field `n`"),
        (vec!["run", &path, "--out", out, "--set", "sed=3"], 2, "there is no \"sed\""),
        (vec!["run", &path, "--out", out, "--data", "."], 2, "hint: leave out --data"),
        (
            vec!["train", "sft", "--config", &path, "--tables", out, "--out", out, "--tf32"],
            2,
            "hint: add --device cuda",
        ),
        (vec!["world", "--out", out, "--proteins", "3"], 1, "hint: choose 97"),
    ] {
        let (got, _, err) = run(&args);
        assert_eq!(got, code, "{args:?}: {err}");
        assert!(err.contains(say), "{args:?}: {err}");
        assert!(!err.contains("panicked"), "{err}");
    }
}

#[test]
fn what_is_wrong_in_a_recipe_is_named_with_the_names_that_are_right() {
    for (text, says) in [
        ("name = \"x\"\nseed = 1\n", vec!["no section [world]", "hint: give their folder with --data DIR"]),
        ("name = \"x\"\nseed = 1\n[wurld]\n", vec!["wurld", "world", "ingest"]),
        ("name = \"x\"\nseed = 1\n[world]\nproteins = 1\n", vec!["proteins", "n_proteins"]),
        (
            "name = \"x\"\nseed = 1\n[world]\n[eval]\ntasks = [\"ss\"]\n[eval.asking]\nseed = 1\nper_task = 1\n\
             max_new_tokens = 1\nsamples = 1\n[eval.data]\ntasks = []\nmax_residues = 1\nmax_answer_chars = 1\ngo_terms = 1\n",
            vec!["\"ss\"", "needs the section [ss]"],
        ),
        ("name = \"x\"\n", vec!["seed"]),
        ("name = \"x/y\"\nseed = 1\n", vec!["no name for a folder"]),
        ("name = ", vec!["recipe.toml", "line 1"]),
    ] {
        let (_place, path) = recipe(text);
        let (code, _, err) = run(&["run", &path]);
        assert_eq!(code, 2, "{text}: {err}");
        for say in says {
            assert!(err.contains(say), "{text}: {err}");
        }
    }
}

#[test]
fn the_seed_of_the_recipe_is_that_of_its_sections() {
    let (_place, path) = recipe(TINY);
    let world = |set: &[&str]| {
        let args = [&["run", &path, "--dry-run"], set].concat();
        let table: toml::Table = run(&args).1.parse().unwrap();
        (table["seed"].as_integer().unwrap(), table["world"]["seed"].as_integer().unwrap())
    };
    assert_eq!(world(&[]), (1, 1));
    assert_eq!(world(&["--set", "seed=5"]), (5, 5));
    assert_eq!(world(&["--set", "world.seed=3"]), (1, 3));
}

#[test]
fn the_quickstart_goes_over_real_files_where_there_are_some() {
    let place = tempfile::tempdir().unwrap();
    let name = |set: &[&str]| {
        let table: toml::Table = run(&[&["quickstart", "--dry-run"], set].concat()).1.parse().unwrap();
        (table["name"].as_str().unwrap().to_owned(), table.contains_key("world"))
    };
    assert_eq!(name(&[]), ("quickstart".to_owned(), true));
    assert_eq!(name(&["--data", place.path().to_str().unwrap()]), ("real-small".to_owned(), false));
}

#[test]
fn files_of_others_are_not_replaced() {
    let (place, path) = recipe(TINY);
    let out = place.path().to_str().unwrap();
    let (code, _, err) = run(&["run", &path, "--out", out]);
    assert_eq!(code, 1);
    assert!(err.contains("no earlier run") && err.contains("hint:"), "{err}");
    assert!(place.path().join("recipe.toml").exists());
}

#[test]
fn chat_and_export_say_what_they_lack() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let (model, fasta, there) = (at("model"), at("empty.fasta"), at("there"));
    fs_err::write(&fasta, ">one\n>two\nMKT\n").unwrap();
    fs_err::create_dir(&there).unwrap();
    for (args, say) in [
        (vec!["chat", "What?", "--model", &model, "--protein", "MK1T"], "--protein number 1"),
        (vec!["chat", "What?", "--model", &model, "--protein", "MKT", "--protein", ""], "--protein number 2"),
        (vec!["chat", "What?", "--model", &model, "--fasta", &fasta], "line 1: one has no residues"),
        (vec!["chat", "What?", "--model", &model, "--protein", "MKT"], "opening the policy"),
        (vec!["export", "--model", &model, "--out", &there], "hint: give a new folder as --out"),
        (vec!["export", "--model", &model, "--out", &at("new")], "opening the policy"),
    ] {
        let (code, _, err) = run(&args);
        assert_eq!(code, 1, "{args:?}: {err}");
        assert!(err.contains(say) && !err.contains("panicked"), "{args:?}: {err}");
    }
}
