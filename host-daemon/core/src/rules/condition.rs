//! [`Condition`]: a CEL expression that says yes or no about a domain or an application.
//!
//! All numbers are doubles, whether written with a point or not: CEL has no arithmetic between integers and doubles, so
//! integer literals become doubles when a condition is compiled. What is not known is `null`; a comparison with it is an
//! error in CEL, which here means that the condition says nothing ([`Outcome::Unknown`]), and not that the rule is wrong.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use cel::common::ast::{CallExpr, Expr, LiteralValue, operators};
use cel::common::types::{CelDouble, CelString};
use cel::common::value::CowVal;
use cel::context::VariableResolver;
use cel::{Context, Env, Value};

use super::check;
use super::fields::{Datum, Field, field};
use crate::policy::matches_pattern;

type Expression = cel::IdedExpr;

/// Longest condition, in bytes.
pub const MAX_TEXT: usize = 1000;
/// Brackets inside brackets.
const MAX_BRACKETS: u32 = 8;
/// Depth of the syntax tree. `&&` and `||` count by their logarithm.
const MAX_DEPTH: u32 = 24;
/// The parser needs about 130 KiB for each bracket in a debug build; this covers what the limits above let through.
const PARSER_STACK: usize = 64 << 20;

/// Whether a text matches a pattern in which `*` stands for any run of characters.
const LIKE: &str = "like";

/// A compiled condition.
#[derive(Clone)]
pub struct Condition {
    text: Arc<str>,
    expression: Arc<Expression>,
    /// Whether it calls a function of ours.
    calls: bool,
}

/// What is wrong with a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionError {
    /// Where, in bytes of the condition.
    pub span: Range<usize>,
    /// What.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

/// What a condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Yes.
    Holds,
    /// No.
    Not,
    /// Something that it needs is not known: the field's path.
    Unknown(&'static str),
    /// It could not be evaluated.
    Failed(String),
}

/// What conditions are asked about.
pub(crate) trait Subject: Send + Sync {
    /// The value of one field.
    fn read(&self, field: &'static Field) -> Datum<'_>;
}

pub(super) static ENVIRONMENT: LazyLock<Arc<Env>> =
    LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(false)));

impl Condition {
    /// Compiles and checks a condition.
    ///
    /// # Errors
    /// What is wrong with it and where; never panics, and takes a bounded time, whatever the text.
    pub fn new(text: &str) -> Result<Self, Vec<ConditionError>> {
        check_bounds(text).map_err(|error| vec![error])?;
        let parsed = with_room(|| {
            let (expression, source) =
                ENVIRONMENT.parser().parse_with_source_info(text).map_err(|errors| {
                    errors.errors.iter().map(|error| syntax_error(text, error)).collect::<Vec<_>>()
                })?;
            if depth(&expression) > MAX_DEPTH {
                let message = "the condition is nested too deeply".to_owned();
                let help = "make two rules of it, or leave parentheses out".to_owned();
                return Err(vec![ConditionError { span: 0..text.len(), message, help }]);
            }
            let wrong = check::names(&expression, &source, text);
            if !wrong.is_empty() {
                return Err(wrong);
            }
            let expression = prepared(expression);
            check::types(&expression, &source, text)?;
            Ok(expression)
        });
        match parsed {
            Some(parsed) => {
                let expression = parsed?;
                let calls = expression.references().has_function(LIKE);
                Ok(Self { text: text.into(), expression: Arc::new(expression), calls })
            }
            None => Err(vec![ConditionError {
                span: 0..text.len(),
                message: "the condition cannot be parsed".to_owned(),
                help: "make it simpler".to_owned(),
            }]),
        }
    }

    /// As written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it reads a field of this group (`process`, `domain`).
    #[must_use]
    pub fn reads(&self, group: &str) -> bool {
        let is_of = |name: &str| name.split('.').next() == Some(group);
        self.expression.references().variables().into_iter().any(is_of)
    }

    /// Asks about a subject.
    pub(crate) fn ask(&self, subject: &dyn Subject) -> Outcome {
        let asking = Asking { subject, unknown: Mutex::new(None) };
        let mut context = context(self.calls);
        context.set_variable_resolver(&asking);
        let outcome = Value::resolve(&self.expression, &context);
        let unknown = *asking.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        match (outcome, unknown) {
            (Ok(Value::Bool(true)), _) => Outcome::Holds,
            (Ok(Value::Bool(false)), _) => Outcome::Not,
            (Err(error), Some(path)) if !check::depends_on_values(&error) => Outcome::Unknown(path),
            (Ok(_), Some(path)) => Outcome::Unknown(path),
            (Err(error), _) => Outcome::Failed(explain(&error)),
            (Ok(other), None) => Outcome::Failed(format!("it gives a {} and no yes or no", other.type_of())),
        }
    }
}

/// A context, with the functions of ours if some are called.
pub(super) fn context<'v>(calls: bool) -> Context<'static, 'v> {
    let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
    if !calls {
        return context;
    }
    let like = |cel::extractors::This(name): cel::extractors::This<Arc<String>>, pattern: Arc<String>| {
        matches_pattern(&pattern, &name)
    };
    // It only fails for names that CEL has itself.
    let _ = context.add_function(LIKE, like);
    context
}

/// An error of the evaluation in words.
pub(super) fn explain(error: &cel::ExecutionError) -> String {
    let text = error.to_string();
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

/// One evaluation: remembers that something was not known.
struct Asking<'a> {
    subject: &'a dyn Subject,
    unknown: Mutex<Option<&'static str>>,
}

impl VariableResolver for Asking<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let field = field(variable)?;
        let value = self.subject.read(field);
        if value.is_incomplete() {
            *self.unknown.lock().unwrap_or_else(PoisonError::into_inner) = Some(field.path);
        }
        Some(value.into_value())
    }
}

/// What can be told without parsing: the parser's stack depends on it.
fn check_bounds(text: &str) -> Result<(), ConditionError> {
    let fault = |span, message: &str, help: &str| {
        Err(ConditionError { span, message: message.to_owned(), help: help.to_owned() })
    };
    if text.len() > MAX_TEXT {
        let help = format!("a condition has {MAX_TEXT} bytes at most; make two rules of it");
        return fault(MAX_TEXT..text.len(), "the condition is too long", &help);
    }
    let mut open = 0_u32;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > MAX_BRACKETS {
            let help = format!("at most {MAX_BRACKETS} brackets inside each other");
            return fault(at..at + 1, "the condition is nested too deeply", &help);
        }
    }
    Ok(())
}

/// Runs where the parser's recursion has room. `None` if that is not to be had.
fn with_room<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(PARSER_STACK).spawn_scoped(scope, work).ok()?;
        thread.join().ok()
    })
}

fn syntax_error(text: &str, error: &cel::ParseError) -> ConditionError {
    let (line, column) = error.pos;
    let line = usize::try_from(line).unwrap_or(1).max(1);
    let start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let rest = text.get(start..).unwrap_or_default();
    let skip = usize::try_from(column).unwrap_or(1).saturating_sub(1);
    let at = start + rest.char_indices().nth(skip).map_or(rest.len(), |(at, _)| at);
    let message = error.msg.split(" expecting ").next().unwrap_or_default().trim();
    let message = message.strip_prefix("Syntax error: ").unwrap_or(message).replace("<EOF>", "the end");
    ConditionError { span: at..at, message, help: "this is not valid CEL".to_owned() }
}

fn depth(expression: &Expression) -> u32 {
    1 + check::children(expression).into_iter().map(depth).max().unwrap_or(0)
}

/// The expression as it is evaluated: paths of fields as one name each, `has()` of a field as a comparison with null, and
/// integers as doubles.
fn prepared(expression: Expression) -> Expression {
    let id = check::leftmost(&expression).id;
    let Expression { id: own_id, expr } = expression;
    if let Some((path, test)) = check::path(&expr)
        && field(&path).is_some()
    {
        let name = Expression { id, expr: Expr::Ident(path) };
        if !test {
            return name;
        }
        let null = Expression { id, expr: Expr::Literal(LiteralValue::Null) };
        let call =
            CallExpr { func_name: operators::NOT_EQUALS.to_owned(), target: None, args: vec![name, null] };
        return Expression { id, expr: Expr::Call(call) };
    }
    let expr = match expr {
        Expr::Literal(LiteralValue::Int(int)) => {
            #[expect(clippy::cast_precision_loss, reason = "documented: all numbers are doubles")]
            let double = *int.inner() as f64;
            Expr::Literal(LiteralValue::Double(CelDouble::from(double)))
        }
        Expr::Call(mut call) => {
            let is_index = call.func_name == operators::INDEX;
            call.target = call.target.map(|target| Box::new(prepared(*target)));
            let mut position = 0;
            call.args = call
                .args
                .into_iter()
                .map(|arg| {
                    position += 1;
                    if is_index && position == 2 { arg } else { prepared(arg) }
                })
                .collect();
            Expr::Call(call)
        }
        Expr::Select(mut select) => {
            select.operand = Box::new(prepared(*select.operand));
            Expr::Select(select)
        }
        Expr::List(mut list) => {
            list.elements = list.elements.into_iter().map(prepared).collect();
            Expr::List(list)
        }
        Expr::Comprehension(mut comprehension) => {
            comprehension.iter_range = prepared(comprehension.iter_range);
            comprehension.accu_init = prepared(comprehension.accu_init);
            comprehension.loop_cond = prepared(comprehension.loop_cond);
            comprehension.loop_step = prepared(comprehension.loop_step);
            comprehension.result = prepared(comprehension.result);
            Expr::Comprehension(comprehension)
        }
        other => other,
    };
    Expression { id: own_id, expr }
}

impl Datum<'_> {
    /// Whether it, or a part of it, is not known.
    fn is_incomplete(&self) -> bool {
        match self {
            Self::Unknown => true,
            Self::Records(records) => records.iter().flatten().any(|(_, number)| number.is_none()),
            _ => false,
        }
    }

    /// As CEL sees it.
    pub(super) fn into_value<'b>(self) -> CowVal<'b, 'b>
    where
        Self: 'b,
    {
        match self {
            Datum::Unknown => CowVal::owned(cel::common::types::CelNull),
            Datum::Number(number) => CowVal::owned(CelDouble::from(number)),
            Datum::Truth(truth) => CowVal::owned(cel::common::types::CelBool::from(truth)),
            Datum::Text(text) => CowVal::owned(CelString::from(text.into_owned())),
            Datum::Records(records) => {
                let record = |record: Vec<(&'static str, Option<f64>)>| {
                    let entries = record
                        .into_iter()
                        .map(|(name, number)| (name.to_owned(), number.map_or(Value::Null, Value::Float)));
                    Value::from(entries.collect::<std::collections::HashMap<_, _>>())
                };
                let list = Value::List(Arc::new(records.into_iter().map(record).collect()));
                list.try_into().map_or_else(|_| CowVal::owned(cel::common::types::CelNull), CowVal::Owned)
            }
        }
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Condition").field(&self.text).finish()
    }
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}
