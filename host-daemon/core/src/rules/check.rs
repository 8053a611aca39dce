//! What can be wrong with a condition before it is ever asked: names that do not exist, and types that do not fit, found by
//! evaluating each part of it on an example in which every field has a value.

use std::ops::Range;

use cel::common::ast::{Expr, SourceInfo, operators};
use cel::common::value::CowVal;
use cel::context::VariableResolver;
use cel::{Context, ExecutionError, IdedExpr, Value};

use super::condition::{ConditionError, context, explain};
use super::fields::{Datum, Kind, field, fields, groups};
use super::nearest;

/// The parts of an expression.
pub(super) fn children(expression: &IdedExpr) -> Vec<&IdedExpr> {
    match &expression.expr {
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Comprehension(all) => {
            vec![&all.iter_range, &all.accu_init, &all.loop_cond, &all.loop_step, &all.result]
        }
        _ => Vec::new(),
    }
}

/// The dotted path that an expression spells, and whether it is inside `has()`.
pub(super) fn path(expr: &Expr) -> Option<(String, bool)> {
    match expr {
        Expr::Ident(name) => Some((name.clone(), false)),
        Expr::Select(select) => {
            let (operand, false) = path(&select.operand.expr)? else { return None };
            Some((format!("{operand}.{}", select.field), select.test))
        }
        _ => None,
    }
}

/// Finds names that do not exist, and forms that conditions do not have.
pub(super) fn names(expression: &IdedExpr, source: &SourceInfo, text: &str) -> Vec<ConditionError> {
    let mut names = Names { source, text, wrong: Vec::new() };
    names.walk(expression, &mut Vec::new());
    names.wrong
}

struct Names<'a> {
    source: &'a SourceInfo,
    text: &'a str,
    wrong: Vec<ConditionError>,
}

impl Names<'_> {
    fn walk<'e>(&mut self, expression: &'e IdedExpr, bound: &mut Vec<&'e str>) {
        match &expression.expr {
            Expr::Map(_) | Expr::Struct(_) => {
                self.fault(expression, 1, "a condition has no use for maps", "compare fields with values");
            }
            Expr::Comprehension(all) => {
                if !bound.is_empty() {
                    let help = "all(), exists(), map() and filter() cannot be inside each other";
                    self.fault(expression, 1, "this would take too long for many vcpus", help);
                    return;
                }
                if groups().any(|group| group == all.iter_var) {
                    let message = format!("{} is a variable already", all.iter_var);
                    self.fault(expression, 1, &message, "take another name, like v");
                    return;
                }
                self.walk(&all.iter_range, bound);
                bound.push(&all.iter_var);
                for part in [&all.accu_init, &all.loop_cond, &all.loop_step, &all.result] {
                    self.walk(part, bound);
                }
                bound.clear();
            }
            expr => {
                let Some((path, _)) = path(expr) else {
                    children(expression).into_iter().for_each(|child| self.walk(child, bound));
                    return;
                };
                let root = path.split('.').next().unwrap_or_default();
                if field(&path).is_none() && !root.starts_with('@') && !bound.contains(&root) {
                    let (message, help) = unknown(&path);
                    self.fault(leftmost(expression), path.len(), &message, &help);
                }
            }
        }
    }

    fn fault(&mut self, at: &IdedExpr, width: usize, message: &str, help: &str) {
        let start = offset(at, self.source, self.text);
        let span = start..(start + width).min(self.text.len());
        if !self.wrong.iter().any(|wrong| wrong.span == span) {
            self.wrong.push(ConditionError { span, message: message.to_owned(), help: help.to_owned() });
        }
    }
}

/// The identifier that a path begins with.
pub(super) fn leftmost(expression: &IdedExpr) -> &IdedExpr {
    match &expression.expr {
        Expr::Select(select) => leftmost(&select.operand),
        _ => expression,
    }
}

/// What is wrong with a path that is no field, and what could be meant.
fn unknown(path: &str) -> (String, String) {
    let root = path.split('.').next().unwrap_or_default();
    if let Some(field) =
        fields().iter().find(|field| path.strip_prefix(field.path).is_some_and(|rest| rest.starts_with('.')))
    {
        return (format!("{} has no parts", field.path), format!("it is {}", field.kind));
    }
    let inside: Vec<&str> = fields()
        .iter()
        .map(|field| field.path)
        .filter(|other| other.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
        .collect();
    if !inside.is_empty() {
        return (format!("{path} is a group of fields"), format!("write one of {}", inside.join(", ")));
    }
    let near = nearest(path, fields().iter().map(|field| field.path));
    if groups().any(|group| group == root) {
        let fields: Vec<&str> = fields()
            .iter()
            .map(|field| field.path)
            .filter(|path| path.split('.').next() == Some(root))
            .collect();
        let help = near.map_or_else(
            || format!("there are {}", fields.join(", ")),
            |near| format!("did you mean {near}?"),
        );
        return (format!("there is no field {path}"), help);
    }
    let near = near.or_else(|| nearest(root, groups()));
    let all = || format!("the variables are {}", groups().collect::<Vec<_>>().join(", "));
    (format!("there is no variable {root}"), near.map_or_else(all, |near| format!("did you mean {near}?")))
}

/// Evaluates each part on the example.
pub(super) fn types(
    expression: &IdedExpr,
    source: &SourceInfo,
    text: &str,
) -> Result<(), Vec<ConditionError>> {
    let example = Example;
    let mut context = context(true);
    context.set_variable_resolver(&example);
    let checker = Types { source, text };
    checker.walk(expression, &context).map_err(|error| vec![error])?;
    match Value::resolve(expression, &context) {
        Ok(Value::Bool(_)) => Ok(()),
        Ok(other) => Err(vec![ConditionError {
            span: 0..text.len(),
            message: format!("the condition gives a {} and no yes or no", other.type_of()),
            help: "compare it with something".to_owned(),
        }]),
        Err(error) if depends_on_values(&error) => Ok(()),
        Err(error) => Err(vec![checker.fault(expression, &error)]),
    }
}

/// Gives each field a value.
struct Example;

impl VariableResolver for Example {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let datum = match field(variable)?.kind {
            Kind::Number => Datum::Number(1.0),
            Kind::Truth => Datum::Truth(true),
            Kind::Text => Datum::Text("text".into()),
            Kind::Records(columns) => {
                Datum::Records(vec![columns.iter().map(|(name, _)| (*name, Some(1.0))).collect()])
            }
        };
        Some(datum.into_value())
    }
}

struct Types<'a> {
    source: &'a SourceInfo,
    text: &'a str,
}

impl Types<'_> {
    fn walk(&self, expression: &IdedExpr, context: &Context<'_, '_>) -> Result<(), ConditionError> {
        if let Expr::Comprehension(all) = &expression.expr {
            self.walk(&all.iter_range, context)?;
            let Ok(Value::List(list)) = Value::resolve(&all.iter_range, context) else { return Ok(()) };
            let (Some(first), Ok(accumulated)) = (list.first(), Value::resolve(&all.accu_init, context))
            else {
                return Ok(());
            };
            let mut inner = context.new_inner_scope();
            inner.add_variable_from_value(all.iter_var.as_str(), first.clone());
            inner.add_variable_from_value(all.accu_var.as_str(), accumulated);
            return self.walk(&all.loop_step, &inner);
        }
        for child in children(expression) {
            self.walk(child, context)?;
        }
        match Value::resolve(expression, context) {
            Err(error) if !depends_on_values(&error) => return Err(self.fault(expression, &error)),
            _ => {}
        }
        let Expr::Call(call) = &expression.expr else { return Ok(()) };
        let logical = match call.func_name.as_str() {
            operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT => call.args.as_slice(),
            operators::CONDITIONAL => call.args.get(..1).unwrap_or_default(),
            _ => &[],
        };
        for part in logical {
            if let Ok(other) = Value::resolve(part, context)
                && !matches!(other, Value::Bool(_))
            {
                let at = offset(leftmost(part), self.source, self.text);
                return Err(ConditionError {
                    span: at..at,
                    message: format!("this is a {} and no yes or no", other.type_of()),
                    help: "compare it with something".to_owned(),
                });
            }
        }
        Ok(())
    }

    fn fault(&self, expression: &IdedExpr, error: &ExecutionError) -> ConditionError {
        let start = offset(leftmost(expression), self.source, self.text);
        let (message, help) = match error {
            ExecutionError::NoSuchKey(name) => {
                let columns = fields().iter().filter_map(|field| match field.kind {
                    Kind::Records(columns) => Some(columns.iter().map(|(name, _)| *name)),
                    _ => None,
                });
                let columns: Vec<&str> = columns.flatten().collect();
                let help = nearest(name, columns.iter().copied()).map_or_else(
                    || format!("there are {}", columns.join(", ")),
                    |near| format!("did you mean {near}?"),
                );
                (format!("there is no field {name}"), help)
            }
            ExecutionError::UndeclaredReference(name) => {
                const FUNCTIONS: [&str; 11] = [
                    "size",
                    "startsWith",
                    "endsWith",
                    "contains",
                    "like",
                    "exists",
                    "exists_one",
                    "all",
                    "map",
                    "filter",
                    "has",
                ];
                let help = nearest(name, FUNCTIONS).map_or_else(
                    || format!("there are {}", FUNCTIONS.join(", ")),
                    |near| format!("did you mean {near}?"),
                );
                (format!("there is no function {name}"), help)
            }
            other => (explain(other), "both sides must be of one type; all numbers are doubles".to_owned()),
        };
        ConditionError { span: start..start, message, help }
    }
}

/// Errors that the example's values make, and others may not.
pub(super) const fn depends_on_values(error: &ExecutionError) -> bool {
    matches!(
        error,
        ExecutionError::IndexOutOfBounds(_)
            | ExecutionError::DivisionByZero(_)
            | ExecutionError::RemainderByZero(_)
            | ExecutionError::Overflow(..)
            | ExecutionError::FunctionError { .. }
    )
}

/// Where an expression stands, in bytes.
fn offset(expression: &IdedExpr, source: &SourceInfo, text: &str) -> usize {
    let start = source.offset_for(expression.id).map_or(0, |(start, _)| start);
    text.floor_char_boundary(usize::try_from(start).map_or(text.len(), |start| start.min(text.len())))
}

/// A span of one place, wide enough to be shown.
#[must_use]
pub(super) fn wide(span: Range<usize>, text: &str) -> Range<usize> {
    let start = span.start.min(text.len());
    start..span.end.clamp(start, text.len())
}
