//! The source as data, for tests that check the rules of the code or try every SQL statement.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Ident, Literal, TokenStream, TokenTree};

/// One file of the source.
pub(crate) struct SourceFile {
    /// Path below `src`, with slashes; the path of a file of the command line begins with `cli/`.
    pub(crate) path: String,
    /// Text of the file.
    pub(crate) text: String,
    /// Tokens, without comments, documentation and unit tests.
    pub(crate) code: Vec<TokenTree>,
}

/// A statement of the store.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    /// File and line, for messages.
    pub(crate) place: String,
    /// Name of its constant, if it has one.
    pub(crate) name: Option<String>,
    /// Text of the statement.
    pub(crate) sql: String,
}

/// Returns the folder of the project.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Folders of `src` that the library does not have: generated code, and the unit tests that are a folder of their own.
const NOT_THE_LIBRARY: [&str; 2] = ["proto/", "store/twins/"];

/// Returns all files of the library, without the generated ones and without tests.
pub(crate) fn source_files() -> Vec<SourceFile> {
    let mut files = files_below("src", "");
    files.retain(|file| !NOT_THE_LIBRARY.iter().any(|folder| file.path.starts_with(folder)));
    files
}

/// Returns all files of the library and of the command line. The paths of the latter begin with `cli/`.
pub(crate) fn all_files() -> Vec<SourceFile> {
    let mut files = source_files();
    files.extend(files_below("cli/src", "cli/"));
    files
}

fn files_below(folder: &str, prefix: &str) -> Vec<SourceFile> {
    let folder = root().join(folder);
    let mut paths = Vec::new();
    collect(&folder, &mut paths);
    paths.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let below = path.strip_prefix(&folder).unwrap().to_str().unwrap().replace('\\', "/");
        SourceFile { path: format!("{prefix}{below}"), text, code: without_tests(tokens) }
    };
    paths.into_iter().map(read).collect()
}

fn collect(directory: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// Removes attributes, also documentation, and the item after each `#[cfg(test)]`.
fn without_tests(tokens: TokenStream) -> Vec<TokenTree> {
    let mut kept = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    let mut in_test = false;
    while let Some(token) = tokens.next() {
        let is_hash = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == '#');
        if is_hash {
            tokens.next_if(|next| matches!(next, TokenTree::Punct(punct) if punct.as_char() == '!'));
            if let Some(TokenTree::Group(attribute)) = tokens.next() {
                in_test |= attribute.stream().to_string().replace(' ', "") == "cfg(test)";
            }
            continue;
        }
        let ends_item = match &token {
            TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
            TokenTree::Punct(punct) => punct.as_char() == ';',
            _ => false,
        };
        if !in_test {
            kept.push(match token {
                TokenTree::Group(group) => {
                    let inner = without_tests(group.stream()).into_iter().collect();
                    TokenTree::Group(proc_macro2::Group::new(group.delimiter(), inner))
                }
                token => token,
            });
        } else if ends_item {
            in_test = false;
        }
    }
    kept
}

/// Calls `see` with every run of tokens: the run of the file, and the run of every group in it.
pub(crate) fn every_run(code: &[TokenTree], see: &mut impl FnMut(&[TokenTree])) {
    see(code);
    for token in code {
        if let TokenTree::Group(group) = token {
            every_run(&group.stream().into_iter().collect::<Vec<_>>(), see);
        }
    }
}

/// Returns the value of a string literal.
pub(crate) fn string_of(literal: &Literal) -> Option<String> {
    syn::parse_str::<syn::LitStr>(&literal.to_string()).ok().map(|literal| literal.value())
}

/// Returns whether a text is an SQL statement.
pub(crate) fn is_sql(text: &str) -> bool {
    const VERBS: [&str; 14] = [
        "SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "CREATE", "ALTER", "DROP", "TRUNCATE", "BEGIN", "SET",
        "PRAGMA", "LISTEN", "NOTIFY",
    ];
    text.split_whitespace().next().is_some_and(|word| VERBS.contains(&word.trim_end_matches(';')))
}

/// Returns the statements that an engine (`postgres` or `sqlite`) runs: its own and the shared ones.
pub(crate) fn statements(engine: &str) -> Vec<Statement> {
    let files = source_files();
    let texts = texts_of_macros(&files, engine);
    let of_other_engine = if engine == "sqlite" { "store/postgres/" } else { "store/sqlite/" };
    let mut found = Vec::new();
    for file in &files {
        if !file.path.starts_with("store/") || file.path.starts_with(of_other_engine) {
            continue;
        }
        every_run(&file.code, &mut |run| {
            for at in 0..run.len() {
                let Some((sql, line)) = text_at(run, at, &texts) else { continue };
                if is_sql(&sql) && !is_inside_concat(run, at) {
                    found.push(Statement {
                        place: format!("src/{}:{line}", file.path),
                        name: const_name(&run[..at]),
                        sql,
                    });
                }
            }
        });
    }
    found
}

/// Returns the statement of a constant.
pub(crate) fn statement(engine: &str, name: &str) -> String {
    let found = statements(engine).into_iter().find(|statement| statement.name.as_deref() == Some(name));
    found.unwrap_or_else(|| panic!("src/store has no statement {name} for {engine}")).sql
}

/// Returns the text that begins at a token: a literal, or the value of a `concat!`.
fn text_at(run: &[TokenTree], at: usize, texts: &HashMap<String, String>) -> Option<(String, usize)> {
    match &run[at] {
        TokenTree::Literal(literal) => Some((string_of(literal)?, literal.span().start().line)),
        TokenTree::Ident(name) if name == "concat" => match run.get(at + 2)? {
            TokenTree::Group(group) => Some((concatenated(group.stream(), texts), name.span().start().line)),
            _ => None,
        },
        _ => None,
    }
}

fn concatenated(parts: TokenStream, texts: &HashMap<String, String>) -> String {
    let mut text = String::new();
    for part in parts {
        match part {
            TokenTree::Literal(literal) => text += &string_of(&literal).unwrap(),
            TokenTree::Ident(name) => {
                text += texts.get(&name.to_string()).unwrap_or_else(|| panic!("no text of {name}!() is known"));
            }
            _ => {}
        }
    }
    text
}

/// Returns whether a run is the body of a `concat!`: only literals, macros and commas.
fn is_inside_concat(run: &[TokenTree], at: usize) -> bool {
    let is_part = |token: &TokenTree| match token {
        TokenTree::Literal(_) | TokenTree::Ident(_) => true,
        TokenTree::Punct(punct) => matches!(punct.as_char(), ',' | '!'),
        TokenTree::Group(group) => group.stream().is_empty(),
    };
    matches!(run[at], TokenTree::Literal(_)) && run.len() > 1 && run.iter().all(is_part) && run.iter().any(is_bang)
}

fn is_bang(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == '!')
}

/// Returns the `X` of `const X: &str =` if the tokens end with this.
fn const_name(before: &[TokenTree]) -> Option<String> {
    let [.., TokenTree::Ident(keyword), TokenTree::Ident(name), _, _, _, TokenTree::Punct(equals)] = before else {
        return None;
    };
    (keyword == "const" && equals.as_char() == '=').then(|| name.to_string())
}

/// Returns the texts of macros that are only a text: `macro_rules! now_us { () => { "…" } }`.
fn texts_of_macros(files: &[SourceFile], engine: &str) -> HashMap<String, String> {
    let mut texts = HashMap::new();
    let of_engine = format!("store/{engine}/");
    for file in files.iter().filter(|file| file.path.starts_with(&of_engine)) {
        every_run(&file.code, &mut |run| {
            for window in run.windows(4) {
                let [TokenTree::Ident(keyword), _, TokenTree::Ident(name), TokenTree::Group(body)] = window else {
                    continue;
                };
                if keyword == "macro_rules"
                    && let Some(text) = only_literal(body.stream())
                {
                    texts.insert(name.to_string(), text);
                }
            }
        });
    }
    texts
}

/// Returns the only literal in the body of a macro.
fn only_literal(body: TokenStream) -> Option<String> {
    let mut found = Vec::new();
    let body: Vec<TokenTree> = body.into_iter().collect();
    every_run(&body, &mut |run| {
        found.extend(run.iter().filter_map(|token| match token {
            TokenTree::Literal(literal) => string_of(literal),
            _ => None,
        }));
    });
    (found.len() == 1).then(|| found.remove(0))
}

/// Returns the names after `crate::`, or after `super::` up to the root, with their lines.
pub(crate) fn paths_from_root(file: &SourceFile) -> Vec<(String, usize)> {
    let depth = file.path.split('/').filter(|part| *part != "mod.rs").count();
    let mut found = Vec::new();
    every_run(&file.code, &mut |run| {
        let mut at = 0;
        while at < run.len() {
            let supers = (at..run.len()).step_by(3).take_while(|at| is_ident(run.get(*at), "super")).count();
            let root_ends = if is_ident(run.get(at), "crate") { at + 3 } else { at + 3 * supers };
            let from_root = is_ident(run.get(at), "crate") || (supers > 0 && supers >= depth);
            if from_root {
                match run.get(root_ends) {
                    Some(TokenTree::Ident(name)) => found.push(named(name)),
                    Some(TokenTree::Group(group)) => found.extend(first_names(group.stream())),
                    _ => {}
                }
            }
            at = root_ends.max(at + 1);
        }
    });
    found
}

fn named(name: &Ident) -> (String, usize) {
    (name.to_string(), name.span().start().line)
}

/// Returns the first name of each path in `{a::b, c}`.
fn first_names(group: TokenStream) -> Vec<(String, usize)> {
    let mut first = true;
    let mut names = Vec::new();
    for token in group {
        match token {
            TokenTree::Ident(name) if first => {
                names.push(named(&name));
                first = false;
            }
            TokenTree::Punct(punct) if punct.as_char() == ',' => first = true,
            _ => {}
        }
    }
    names
}

/// Returns whether a token is this word.
pub(crate) fn is_ident(token: Option<&TokenTree>, word: &str) -> bool {
    matches!(token, Some(TokenTree::Ident(ident)) if ident == word)
}
