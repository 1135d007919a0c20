use super::super::list::{Function, Place, Span};
use super::*;

/// Makes a mutant at the first `§` of the text, and removes the sign.
fn mutant(text: &mut String, number: u32, genre: Genre, replacement: &str) -> Mutant {
    let byte = text.find('§').unwrap();
    let before = &text[..byte];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
    text.replace_range(byte..byte + '§'.len_utf8(), "");
    let function = Some(Function { return_type: String::new() });
    let span = Span { start: Place { line, column } };
    let replacement = replacement.to_owned();
    Mutant { number, file: "src/a.rs".into(), name: number.to_string(), function, genre, replacement, span }
}

/// Rewrites a text with mutants at its signs `§`, in their order, and returns what became of it.
fn rewritten(text: &str, changes: &[(Genre, &[&str])]) -> (String, Rewritten) {
    let mut text = text.to_owned();
    let mut mutants = Vec::new();
    for (genre, replacements) in changes {
        let first = mutant(&mut text, 0, *genre, "");
        for replacement in *replacements {
            let number = u32::try_from(mutants.len()).unwrap() + 1;
            mutants.push(Mutant { number, replacement: (*replacement).to_owned(), ..first.clone() });
        }
    }
    let rewritten = rewrite(&text, &mutants.iter().collect::<Vec<_>>()).unwrap();
    (rewritten.text.replace("crate::mutant::", ""), rewritten)
}

#[track_caller]
fn becomes(text: &str, changes: &[(Genre, &[&str])], expected: &str) {
    let (short, rewritten) = rewritten(text, changes);
    assert_eq!(short, expected);
    let count: usize = changes.iter().map(|(_, replacements)| replacements.len()).sum();
    assert_eq!(rewritten.numbers.len(), count);
}

#[track_caller]
fn stays(text: &str, changes: &[(Genre, &[&str])]) -> Rewritten {
    let (short, rewritten) = rewritten(text, changes);
    assert_eq!(short, text.replace('§', ""));
    assert!(rewritten.numbers.is_empty());
    rewritten
}

#[test]
fn a_body_returns_another_value() {
    becomes(
        "fn f() -> u8 {\n    §g()\n}",
        &[(Genre::FnValue, &["0", "1"])],
        "fn f() -> u8 {\n    if is(1) { return 0; } if is(2) { return 1; } g()\n}",
    );
    becomes(
        "impl A { async fn f(&self) { §self.g().await; } }",
        &[(Genre::FnValue, &["()"])],
        "impl A { async fn f(&self) { if is(1) { return (); } self.g().await; } }",
    );
}

#[test]
fn what_the_compiler_computes_stays() {
    stays("const fn f() -> u8 { §1 }", &[(Genre::FnValue, &["0"])]);
    stays("const A: u8 = 1 §+ 2;", &[(Genre::BinaryOperator, &["-"])]);
    stays("static A: [u8; 1 §+ 2] = [0; 3];", &[(Genre::BinaryOperator, &["-"])]);
    stays("fn f() { g([0; 1 §+ 2]); }", &[(Genre::BinaryOperator, &["-"])]);
    stays("fn f() { g!(1 §+ 2); }", &[(Genre::BinaryOperator, &["-"])]);
}

#[test]
fn operands_are_computed_once() {
    becomes(
        "fn f() -> bool { a() §< b }",
        &[(Genre::BinaryOperator, &["==", ">"])],
        "fn f() -> bool { (match (&(a()), &(b)) { (l, r) => if !(is(1) | is(2)) { *l < *r } else if is(1) { *l == *r } \
         else { *l > *r } }) }",
    );
    becomes(
        "fn f() -> bool { g(a §== b) }",
        &[(Genre::BinaryOperator, &["!="])],
        "fn f() -> bool { g((((a) == (b)) ^ is(1))) }",
    );
    becomes(
        "fn f() -> bool { a §&& b }",
        &[(Genre::BinaryOperator, &["||"])],
        "fn f() -> bool { (if (a) == is(1) { is(1) } else { b }) }",
    );
    becomes(
        "fn f() -> bool { a §|| b }",
        &[(Genre::BinaryOperator, &["&&"])],
        "fn f() -> bool { (if (a) != is(1) { !is(1) } else { b }) }",
    );
    becomes(
        "fn f() { a.b §+= c(); }",
        &[(Genre::BinaryOperator, &["-="])],
        "fn f() { (match (c()) { r => if !(is(1)) { a.b += r } else { a.b -= r } }); }",
    );
}

/// The logic of `&&` and `||`, as `forms::logic` writes it.
#[test]
fn a_switch_turns_and_into_or() {
    for (a, b) in [(false, false), (false, true), (true, false), (true, true)] {
        for is in [false, true] {
            let and = if a == is { is } else { b };
            assert_eq!(and, if is { a || b } else { a && b });
            let or = if a != is { !is } else { b };
            assert_eq!(or, if is { a && b } else { a || b });
        }
    }
}

#[test]
fn changes_stand_in_each_other() {
    becomes(
        "fn f() -> bool { §!a §&& 1 §+ x\n < 2 }",
        &[(Genre::UnaryOperator, &[""]), (Genre::BinaryOperator, &["||"]), (Genre::BinaryOperator, &["-"])],
        "fn f() -> bool { (if ((match (a) { v => if !(is(1)) { !v } else { v } })) == is(2) { is(2) } else { \
         (match ((1), (x)) { (l, r) => if !(is(3)) { l + r } else { l - r } })\n < 2 }) }",
    );
}

#[test]
fn a_let_is_joined_by_and_alone() {
    let refused = stays("fn f() { if let Some(a) = b §&& c {} }", &[(Genre::BinaryOperator, &["||"])]);
    assert_eq!(refused.wrong, BTreeSet::from([1]));
    becomes(
        "fn f() { if let Some(a) = b && a §== c {} }",
        &[(Genre::BinaryOperator, &["!="])],
        "fn f() { if let Some(a) = b && (((a) == (c)) ^ is(1)) {} }",
    );
}

#[test]
fn arms_and_guards_can_be_switched_off() {
    becomes(
        "fn f() { match a { §A | B => b, C if §c => d, _ => e } }",
        &[(Genre::MatchArm, &[""]), (Genre::MatchArmGuard, &["true", "false"])],
        "fn f() { match a { A | B if !(is(1)) => b, C if is(2) || !is(3) && (c) => d, _ => e } }",
    );
}

#[test]
fn a_field_comes_from_the_base() {
    becomes(
        "fn f() -> A { A { §a: 1, §b, ..self } }",
        &[(Genre::StructField, &[""]), (Genre::StructField, &[""])],
        "fn f() -> A { A { a: if is(1) { (self).a } else { 1 }, b: if is(2) { (self).b } else { b }, ..self } }",
    );
    becomes(
        "fn f() -> A { A { §a: 1, ..Default::default() } }",
        &[(Genre::StructField, &[""])],
        "fn f() -> A { A { a: if is(1) { <A as Default>::default().a } else { 1 }, ..Default::default() } }",
    );
}

#[test]
fn futures_between_operands_keep_no_reference() {
    becomes(
        "async fn f() -> bool { a §< b.await }",
        &[(Genre::BinaryOperator, &[">"])],
        "async fn f() -> bool { (match ((a), (b.await)) { (l, r) => if !(is(1)) { l < r } else { l > r } }) }",
    );
}

#[test]
fn an_error_is_blamed_on_the_change_or_on_what_stands_around_it() {
    let (_, rewritten) = rewritten("fn f() { g(a §+ b) }", &[(Genre::BinaryOperator, &["-", "*"])]);
    let at = |piece: &str| {
        let start = rewritten.text.find(piece).unwrap();
        rewritten.blamed(&(start..start + piece.len()))
    };
    assert_eq!(at("l - r"), Some((Obstacle::DoesNotCompile, vec![1])));
    assert_eq!(at("l * r"), Some((Obstacle::DoesNotCompile, vec![2])));
    assert_eq!(at("l + r"), Some((Obstacle::NotExpressible, vec![1, 2])));
    assert_eq!(at("fn f"), None);
}

#[test]
fn values_without_an_arm_are_blamed_on_all_arms() {
    let arms = [(Genre::MatchArm, &[""][..]), (Genre::MatchArm, &[""])];
    let (_, rewritten) = rewritten("fn f() { match a.b { §A => c, §B => d } }", &arms);
    let start = rewritten.text.find("a.b").unwrap();
    assert_eq!(rewritten.blamed(&(start..start + 3)), Some((Obstacle::NotExpressible, vec![1, 2])));
}

#[test]
fn both_values_of_an_opaque_type_would_need_one_type() {
    let mut text = "fn f() -> impl Iterator<Item = u8> { §g() }".to_owned();
    let mut mutant = mutant(&mut text, 1, Genre::FnValue, "::std::iter::empty()");
    mutant.function = Some(Function { return_type: "-> impl Iterator<Item = u8>".into() });
    assert!(rewrite(&text, &[&mutant]).unwrap().numbers.is_empty());
}
