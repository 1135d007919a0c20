//! The texts that stand around a piece of code, so that a switch changes what it does.

use super::super::list::Mutant;

/// A piece of text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) text: String,
    /// The mutant whose change the piece is.
    pub(super) change: Option<u32>,
}

fn plain(text: impl Into<String>) -> Piece {
    Piece { text: text.into(), change: None }
}

fn change(number: u32, text: impl Into<String>) -> Piece {
    Piece { text: text.into(), change: Some(number) }
}

/// Returns the condition that a mutant is switched on.
pub(super) fn is(number: u32) -> String {
    format!("crate::mutant::is({number})")
}

/// Returns the condition that one of some mutants is switched on. Each is asked, because it notes who was asked.
pub(super) fn is_any(numbers: &[u32]) -> String {
    numbers.iter().map(|number| is(*number)).collect::<Vec<_>>().join(" | ")
}

/// Returns a choice: the code as it is, or one of its changes. The code stands first, because its type is the right
/// one.
fn choice(original: &str, mutants: &[&Mutant], changed: impl Fn(&Mutant) -> String) -> Vec<Piece> {
    let numbers: Vec<_> = mutants.iter().map(|mutant| mutant.number).collect();
    let mut pieces = vec![plain(format!("if !({}) {{ {original} }}", is_any(&numbers)))];
    for (index, mutant) in mutants.iter().enumerate() {
        let is_last = index + 1 == mutants.len();
        let condition = if is_last { String::new() } else { format!("if {} ", is(mutant.number)) };
        pieces.push(plain(format!(" else {condition}{{ ")));
        pieces.push(change(mutant.number, changed(mutant)));
        pieces.push(plain(" }"));
    }
    pieces
}

/// The texts before, between and behind two operands.
pub(super) struct Around {
    pub(super) before: &'static str,
    pub(super) between: String,
    pub(super) behind: Vec<Piece>,
}

/// `a < b` and the like: borrows the operands, as the operator itself does.
pub(super) fn comparison(operator: &str, mutants: &[&Mutant]) -> Around {
    let mut behind = vec![plain(")) { (l, r) => ")];
    behind.extend(choice(&format!("*l {operator} *r"), mutants, |mutant| format!("*l {} *r", mutant.replacement)));
    behind.push(plain(" })"));
    Around { before: "(match (&(", between: "), &(".to_owned(), behind }
}

/// `a + b` and the like, which move the operands, and comparisons between whose operands a future waits.
pub(super) fn calculation(operator: &str, mutants: &[&Mutant]) -> Around {
    let mut behind = vec![plain(")) { (l, r) => ")];
    behind.extend(choice(&format!("l {operator} r"), mutants, |mutant| format!("l {} r", mutant.replacement)));
    behind.push(plain(" })"));
    Around { before: "(match ((", between: "), (".to_owned(), behind }
}

/// `a == b` and `a != b`: the result is turned around.
pub(super) fn equality(operator: &str, number: u32) -> Around {
    let before = "(((";
    Around { before, between: format!(") {operator} ("), behind: vec![plain(format!(")) ^ {})", is(number)))] }
}

/// `a && b` and `a || b`: the value of `a` that decides alone is turned around.
pub(super) fn logic(is_and: bool, number: u32) -> Around {
    let is = is(number);
    let (compare, result) = if is_and { ("==", is.clone()) } else { ("!=", format!("!{is}")) };
    let between = format!(") {compare} {is} {{ {result} }} else {{ ");
    Around { before: "(if (", between, behind: vec![plain(" })")] }
}

/// `a += b` and the like. The text before the right operand replaces the left operand and the operator.
pub(super) fn assignment(left: &str, operator: &str, mutants: &[&Mutant]) -> Around {
    let mut behind = vec![plain(") { r => ")];
    let written = |operator: &str| format!("{left} {operator} r");
    behind.extend(choice(&written(operator), mutants, |mutant| written(&mutant.replacement)));
    behind.push(plain(" })"));
    Around { before: "(match (", between: String::new(), behind }
}

/// Behind `(match (a`: `!a` and `-a`, without the operator under the switch.
pub(super) fn unary(operator: &str, mutants: &[&Mutant]) -> Vec<Piece> {
    let mut pieces = vec![plain(") { v => ")];
    pieces.extend(choice(&format!("{operator}v"), mutants, |_| "v".to_owned()));
    pieces.push(plain(" })"));
    pieces
}

/// At the start of a body: returns another value.
pub(super) fn value(mutants: &[&Mutant]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for mutant in mutants {
        pieces.push(plain(format!("if {} {{ ", is(mutant.number))));
        pieces.push(change(mutant.number, format!("return {};", mutant.replacement)));
        pieces.push(plain(" } "));
    }
    pieces
}

/// Before a guard: makes it true or false.
pub(super) fn before_guard(mutants: &[&Mutant]) -> String {
    let mut text = String::new();
    for mutant in mutants {
        text += &match mutant.replacement.as_str() {
            "true" => format!("{} || ", is(mutant.number)),
            _ => format!("!{} && ", is(mutant.number)),
        };
    }
    text
}

/// Before the value of a field: takes the value of the base instead.
pub(super) fn before_field(base: &str, number: u32) -> Vec<Piece> {
    let mut pieces = vec![plain(format!("if {} {{ ", is(number)))];
    pieces.push(change(number, base));
    pieces.push(plain(" } else { "));
    pieces
}
