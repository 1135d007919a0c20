//! Finds the code that mutants change, in the order of the text.

use std::ops::Range;

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Arm, BinOp, Block, Expr, ExprBinary, ExprStruct, ExprUnary, Member, Pat, Signature, UnOp};

use super::forms::{self, Around};
use super::writer::Writer;
use super::{Genre, Mutant, Rewritten, Sites};

/// Walks through a file and writes it with its mutants.
pub(super) struct Rewriter<'a> {
    source: &'a str,
    sites: Sites<'a>,
    writer: Writer<'a>,
}

fn bytes(node: &impl Spanned) -> Range<usize> {
    node.span().byte_range()
}

fn numbers(mutants: &[&Mutant]) -> Vec<u32> {
    mutants.iter().map(|mutant| mutant.number).collect()
}

/// Returns whether a chain of conditions has a `let`, which no operator but `&&` may join.
fn has_let(expr: &Expr) -> bool {
    match expr {
        Expr::Let(_) => true,
        Expr::Binary(binary) if matches!(binary.op, BinOp::And(_)) => has_let(&binary.left) || has_let(&binary.right),
        _ => false,
    }
}

impl<'a> Rewriter<'a> {
    pub(super) fn new(source: &'a str, sites: Sites<'a>) -> Self {
        Rewriter { source, sites, writer: Writer::new(source) }
    }

    pub(super) fn finish(self) -> Rewritten {
        self.writer.finish()
    }

    fn text(&self, range: Range<usize>) -> &'a str {
        self.source.get(range).unwrap_or_default()
    }

    /// Takes the mutants that begin at a byte.
    fn take(&mut self, byte: usize, genre: Genre) -> Vec<&'a Mutant> {
        self.sites.remove(&(byte, genre)).unwrap_or_default()
    }

    /// Writes both operands of an operator with texts around them.
    fn write(&mut self, node: &ExprBinary, around: &Around, mutants: &[&Mutant]) {
        let (left, right) = (bytes(&node.left), bytes(&node.right));
        self.writer.copy_to(left.start);
        let begin = self.writer.begin();
        self.writer.push(around.before);
        if !around.between.is_empty() {
            self.visit_expr(&node.left);
            self.writer.copy_to(left.end);
            self.writer.push(&around.between);
        }
        self.writer.skip_to(right.start);
        self.visit_expr(&node.right);
        self.writer.copy_to(right.end);
        self.writer.push_pieces(&around.behind);
        self.writer.end(begin, numbers(mutants));
    }

    /// Returns the texts that express the mutants of an operator.
    fn around(&self, node: &ExprBinary, mutants: &[&'a Mutant]) -> Option<Around> {
        let operator = self.text(bytes(&node.op));
        let first = mutants.first()?;
        let whole = self.text(bytes(node));
        Some(match node.op {
            BinOp::And(_) | BinOp::Or(_) if mutants.len() == 1 => forms::logic(operator == "&&", first.number),
            BinOp::Eq(_) | BinOp::Ne(_) if mutants.len() == 1 => forms::equality(operator, first.number),
            // A reference to the left operand would be kept while the right one waits.
            BinOp::Lt(_) | BinOp::Le(_) | BinOp::Gt(_) | BinOp::Ge(_) if !whole.contains(".await") => {
                forms::comparison(operator, mutants)
            }
            BinOp::Lt(_) | BinOp::Le(_) | BinOp::Gt(_) | BinOp::Ge(_) => forms::calculation(operator, mutants),
            _ if operator.ends_with('=') => forms::assignment(self.text(bytes(&node.left)), operator, mutants),
            BinOp::And(_) | BinOp::Or(_) | BinOp::Eq(_) | BinOp::Ne(_) => return None,
            _ => forms::calculation(operator, mutants),
        })
    }

    /// Writes a body that can return other values.
    fn visit_body(&mut self, signature: &Signature, block: &Block) {
        // A constant function cannot ask for a switch.
        if signature.constness.is_some() {
            return;
        }
        let start = block.stmts.first().map(|statement| bytes(statement).start);
        let mutants = start.map(|start| self.take(start, Genre::FnValue)).unwrap_or_default();
        // Both values of `impl Trait` would need the same type.
        let is_opaque =
            |mutant: &&Mutant| mutant.function.as_ref().is_some_and(|function| function.return_type.contains("impl "));
        if let Some(start) = start
            && !mutants.is_empty()
            && !mutants.iter().any(is_opaque)
        {
            self.writer.copy_to(start);
            let begin = self.writer.begin();
            self.writer.push_pieces(&forms::value(&mutants));
            self.writer.end(begin, numbers(&mutants));
        }
        self.visit_block(block);
    }

    /// Writes a pattern with its guard.
    fn visit_arm_pattern(&mut self, arm: &Arm) {
        if let Pat::Guard(pattern) = &arm.pat {
            let guard = bytes(&pattern.guard);
            let mut mutants = self.take(guard.start, Genre::MatchArmGuard);
            if mutants.is_empty() || has_let(&pattern.guard) {
                return self.visit_expr(&pattern.guard);
            }
            // `true` first: it decides alone.
            mutants.sort_by_key(|mutant| mutant.replacement != "true");
            self.writer.copy_to(guard.start);
            let begin = self.writer.begin();
            self.writer.push(&forms::before_guard(&mutants));
            self.writer.push("(");
            self.visit_expr(&pattern.guard);
            self.writer.copy_to(guard.end);
            self.writer.push(")");
            self.writer.end(begin, numbers(&mutants));
            return;
        }
        let mutants = self.take(bytes(arm).start, Genre::MatchArm);
        if !mutants.is_empty() {
            self.writer.copy_to(bytes(&arm.pat).end);
            let begin = self.writer.begin();
            self.writer.push(&format!(" if !({})", forms::is_any(&numbers(&mutants))));
            self.writer.end(begin, numbers(&mutants));
        }
    }

    /// Returns the text of a field of the base of an expression.
    fn field_of_base(&self, node: &ExprStruct, base: &Expr, name: &str) -> String {
        let text = self.text(bytes(base));
        match text {
            "Default::default()" => format!("<{} as Default>::default().{name}", self.text(bytes(&node.path))),
            _ => format!("({text}).{name}"),
        }
    }
}

impl<'ast> Visit<'ast> for Rewriter<'_> {
    fn visit_item_fn(&mut self, node: &'ast syn::ItemFn) {
        self.visit_body(&node.sig, &node.block);
    }

    fn visit_impl_item_fn(&mut self, node: &'ast syn::ImplItemFn) {
        self.visit_body(&node.sig, &node.block);
    }

    fn visit_trait_item_fn(&mut self, node: &'ast syn::TraitItemFn) {
        if let Some(block) = &node.default {
            self.visit_body(&node.sig, block);
        }
    }

    fn visit_expr_binary(&mut self, node: &'ast ExprBinary) {
        let operator = bytes(&node.op).start;
        let mutants = self.take(operator, Genre::BinaryOperator);
        if matches!(node.op, BinOp::And(_)) && (has_let(&node.left) || has_let(&node.right)) {
            self.writer.refuse(numbers(&mutants));
        } else if let Some(around) = self.around(node, &mutants) {
            return self.write(node, &around, &mutants);
        }
        visit::visit_expr_binary(self, node);
    }

    fn visit_expr_unary(&mut self, node: &'ast ExprUnary) {
        let operator = bytes(&node.op);
        let mutants = self.take(operator.start, Genre::UnaryOperator);
        if mutants.is_empty() || !matches!(node.op, UnOp::Not(_) | UnOp::Neg(_)) {
            return visit::visit_expr_unary(self, node);
        }
        self.writer.copy_to(operator.start);
        let begin = self.writer.begin();
        self.writer.push("(match (");
        self.writer.skip_to(bytes(&node.expr).start);
        self.visit_expr(&node.expr);
        self.writer.copy_to(bytes(&node.expr).end);
        self.writer.push_pieces(&forms::unary(self.text(operator), &mutants));
        self.writer.end(begin, numbers(&mutants));
    }

    fn visit_expr_match(&mut self, node: &'ast syn::ExprMatch) {
        let is_free = |arm: &&Arm| !matches!(arm.pat, Pat::Guard(_));
        let of_arm = |arm: &Arm| self.sites.get(&(bytes(arm).start, Genre::MatchArm));
        let of_arms: Vec<u32> =
            node.arms.iter().filter(is_free).filter_map(of_arm).flat_map(|mutants| numbers(mutants)).collect();
        let (start, end) = (bytes(node).start, bytes(&node.expr).end);
        self.writer.copy_to(start);
        let begin = self.writer.begin();
        self.visit_expr(&node.expr);
        self.writer.copy_to(end);
        // Values that no arm takes any more are an error of the head.
        if !of_arms.is_empty() {
            self.writer.end(begin, of_arms);
        }
        node.arms.iter().for_each(|arm| self.visit_arm(arm));
    }

    fn visit_arm(&mut self, node: &'ast Arm) {
        self.visit_arm_pattern(node);
        self.visit_expr(&node.body);
    }

    fn visit_expr_struct(&mut self, node: &'ast ExprStruct) {
        for field in &node.fields {
            let mutants = self.take(bytes(field).start, Genre::StructField);
            let (Some(mutant), Some(base), Member::Named(name)) = (mutants.first(), &node.rest, &field.member) else {
                self.visit_expr(&field.expr);
                continue;
            };
            let value = bytes(&field.expr);
            let of_base = self.field_of_base(node, base, &name.to_string());
            self.writer.copy_to(value.start);
            if field.colon_token.is_none() {
                self.writer.push(&format!("{name}: "));
            }
            let begin = self.writer.begin();
            self.writer.push_pieces(&forms::before_field(&of_base, mutant.number));
            self.visit_expr(&field.expr);
            self.writer.copy_to(value.end);
            self.writer.push(" }");
            self.writer.end(begin, numbers(&mutants));
        }
        if let Some(base) = &node.rest {
            self.visit_expr(base);
        }
    }

    // The compiler computes the following; no switch can be asked there.

    fn visit_item_const(&mut self, _: &'ast syn::ItemConst) {}

    fn visit_item_static(&mut self, _: &'ast syn::ItemStatic) {}

    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}

    fn visit_trait_item_const(&mut self, _: &'ast syn::TraitItemConst) {}

    fn visit_expr_const(&mut self, _: &'ast syn::ExprConst) {}

    fn visit_expr_repeat(&mut self, node: &'ast syn::ExprRepeat) {
        self.visit_expr(&node.expr);
    }

    fn visit_type(&mut self, _: &'ast syn::Type) {}

    fn visit_generic_argument(&mut self, _: &'ast syn::GenericArgument) {}

    fn visit_pat(&mut self, _: &'ast Pat) {}

    fn visit_item_enum(&mut self, _: &'ast syn::ItemEnum) {}

    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}
}
