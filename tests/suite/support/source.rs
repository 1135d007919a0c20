//! The source as data, for tests that check the rules of the code or try every SQL statement.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

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
    // A parse of all files takes a second, and many tests want a few statements each.
    static FOUND: [OnceLock<Vec<Statement>>; 2] = [const { OnceLock::new() }; 2];
    FOUND[usize::from(engine == "sqlite")].get_or_init(|| parsed(engine)).clone()
}

fn parsed(engine: &str) -> Vec<Statement> {
    let files = source_files();
    let macros = macros_of(&files, engine);
    let of_other_engine = if engine == "sqlite" { "store/postgres/" } else { "store/sqlite/" };
    let mut found = Vec::new();
    for file in &files {
        if !file.path.starts_with("store/") || file.path.starts_with(of_other_engine) {
            continue;
        }
        every_run(&without_macros(&file.code), &mut |run| {
            for at in 0..run.len() {
                let Some((sql, line)) = text_at(run, at, &macros) else { continue };
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

/// A macro of the store whose value is a text.
struct Macro {
    parameters: Vec<String>,
    body: Vec<TokenTree>,
}

type Macros = HashMap<String, Macro>;

/// Returns the text that begins at a token: a literal, or the value of a `concat!` or of a macro of the store.
fn text_at(run: &[TokenTree], at: usize, macros: &Macros) -> Option<(String, usize)> {
    match &run[at] {
        TokenTree::Literal(literal) => Some((string_of(literal)?, literal.span().start().line)),
        TokenTree::Ident(name) if run.get(at + 1).is_some_and(is_bang) => {
            let TokenTree::Group(arguments) = run.get(at + 2)? else { return None };
            let arguments: Vec<TokenTree> = arguments.stream().into_iter().collect();
            let is_text = name == "concat" || macros.contains_key(&name.to_string());
            is_text.then(|| (expanded(&name.to_string(), &arguments, macros), name.span().start().line))
        }
        _ => None,
    }
}

/// Returns the value of a `concat!` or of a macro of the store.
fn expanded(name: &str, arguments: &[TokenTree], macros: &Macros) -> String {
    if name == "concat" {
        return concatenated(arguments, macros);
    }
    let found = macros.get(name).unwrap_or_else(|| panic!("no text of {name}!() is known"));
    let given: Vec<String> = arguments.iter().filter_map(literal_of).collect();
    let values: HashMap<_, _> = found.parameters.iter().cloned().zip(given).collect();
    let body = substituted(&found.body, &values);
    match body.as_slice() {
        [TokenTree::Ident(inner), _, TokenTree::Group(arguments)] => {
            expanded(&inner.to_string(), &arguments.stream().into_iter().collect::<Vec<_>>(), macros)
        }
        other => concatenated(other, macros),
    }
}

/// Puts values in the places of parameters.
fn substituted(body: &[TokenTree], values: &HashMap<String, String>) -> Vec<TokenTree> {
    let mut kept = Vec::new();
    let mut tokens = body.iter();
    while let Some(token) = tokens.next() {
        kept.push(match token {
            TokenTree::Punct(punct) if punct.as_char() == '$' => {
                let name = tokens.next().map(TokenTree::to_string).unwrap_or_default();
                let value = values.get(&name).unwrap_or_else(|| panic!("no value of ${name} was given"));
                TokenTree::Literal(Literal::string(value))
            }
            TokenTree::Group(group) => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                let inner = substituted(&inner, values).into_iter().collect();
                TokenTree::Group(proc_macro2::Group::new(group.delimiter(), inner))
            }
            other => other.clone(),
        });
    }
    kept
}

fn literal_of(token: &TokenTree) -> Option<String> {
    match token {
        TokenTree::Literal(literal) => string_of(literal),
        _ => None,
    }
}

fn concatenated(parts: &[TokenTree], macros: &Macros) -> String {
    let mut text = String::new();
    for (at, part) in parts.iter().enumerate() {
        match part {
            TokenTree::Literal(literal) => text += &string_of(literal).unwrap(),
            TokenTree::Ident(name) => {
                let arguments: Vec<TokenTree> = match parts.get(at + 2) {
                    Some(TokenTree::Group(group)) => group.stream().into_iter().collect(),
                    _ => Vec::new(),
                };
                text += &expanded(&name.to_string(), &arguments, macros);
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
        TokenTree::Group(group) => group.stream().into_iter().all(|token| literal_of(&token).is_some()),
    };
    matches!(run[at], TokenTree::Literal(_) | TokenTree::Ident(_))
        && run.len() > 1
        && run.iter().all(is_part)
        && run.iter().any(is_bang)
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

/// Returns the macros of the store that an engine can use: `macro_rules! now_us { () => { "…" } }`.
fn macros_of(files: &[SourceFile], engine: &str) -> Macros {
    let mut macros = HashMap::new();
    let of_other_engine = if engine == "sqlite" { "store/postgres/" } else { "store/sqlite/" };
    let usable = |file: &&SourceFile| file.path.starts_with("store/") && !file.path.starts_with(of_other_engine);
    for file in files.iter().filter(usable) {
        every_run(&file.code, &mut |run| {
            for window in run.windows(4) {
                let [TokenTree::Ident(keyword), _, TokenTree::Ident(name), TokenTree::Group(rules)] = window else {
                    continue;
                };
                if keyword == "macro_rules"
                    && let Some(found) = only_rule(rules.stream())
                {
                    macros.insert(name.to_string(), found);
                }
            }
        });
    }
    macros
}

/// Returns the only rule of a macro, `($a:literal) => { … }`, if its value is a text.
fn only_rule(rules: TokenStream) -> Option<Macro> {
    let rules: Vec<TokenTree> = rules.into_iter().collect();
    let [TokenTree::Group(pattern), _, _, TokenTree::Group(body), ..] = rules.as_slice() else { return None };
    let pattern: Vec<TokenTree> = pattern.stream().into_iter().collect();
    let names = pattern.windows(2).filter_map(|window| match window {
        [TokenTree::Punct(punct), TokenTree::Ident(name)] if punct.as_char() == '$' => Some(name.to_string()),
        _ => None,
    });
    let body: Vec<TokenTree> = body.stream().into_iter().collect();
    let is_text = matches!(body.first(), Some(TokenTree::Literal(_))) || is_ident(body.first(), "concat");
    is_text.then(|| Macro { parameters: names.collect(), body })
}

/// Removes the definitions of macros, whose texts are not complete.
fn without_macros(code: &[TokenTree]) -> Vec<TokenTree> {
    let mut kept = Vec::new();
    let mut tokens = code.iter();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(keyword) if keyword == "macro_rules" => {
                tokens.by_ref().take(3).for_each(drop);
            }
            TokenTree::Group(group) => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                let inner = without_macros(&inner).into_iter().collect();
                kept.push(TokenTree::Group(proc_macro2::Group::new(group.delimiter(), inner)));
            }
            other => kept.push(other.clone()),
        }
    }
    kept
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
