//! Closures that are simple enough to need no interpreter: comparisons of facts with constants, with what the closure
//! captures and with each other. A script over ten thousand workers is cheap by these. Whatever cannot be told here is
//! left to the closure itself, so that there is one meaning.

use std::collections::HashMap;

use rhai::{AST, ASTFlags, ASTNode, Dynamic, Expr, FnCallExpr, FnPtr, ScriptFnMetadata, Stmt};

use super::facts::{Facts, Value};

/// The closures of one script by name.
#[derive(Debug, Default)]
pub(super) struct Rules(HashMap<String, Rule>);

#[derive(Debug)]
struct Rule {
    /// With those for what is captured, which come first.
    parameters: usize,
    body: Option<Node>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    fn parse(sign: &str) -> Option<Self> {
        Some(match sign {
            "==" => Self::Equal,
            "!=" => Self::Unequal,
            "<" => Self::Less,
            "<=" => Self::LessOrEqual,
            ">" => Self::Greater,
            ">=" => Self::GreaterOrEqual,
            _ => return None,
        })
    }

    fn of<T: PartialOrd>(self, left: &T, right: &T) -> bool {
        match self {
            Self::Equal => left == right,
            Self::Unequal => left != right,
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Constant {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

#[derive(Debug)]
enum Node {
    Constant(Constant),
    Parameter(usize),
    Fact { parameter: usize, field: String },
    Compare(Comparison, Box<Node>, Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
}

impl Rules {
    pub(super) fn of(ast: &AST) -> Self {
        let rule = |function: ScriptFnMetadata<'_>| {
            let rule = Rule { parameters: function.params.len(), body: body(ast, &function) };
            (function.name.to_owned(), rule)
        };
        Self(ast.iter_functions().map(rule).collect())
    }

    /// How many values a closure is to be called with; 1 if that is not known.
    pub(super) fn wants(&self, closure: &FnPtr) -> usize {
        let rule = self.0.get(closure.fn_name());
        rule.map_or(1, |rule| rule.parameters.saturating_sub(closure.curry().len()))
    }

    /// The rule that stands for a closure over these, if there is one.
    pub(super) fn bound<C: Facts>(&self, closure: &FnPtr) -> Option<Bound> {
        let rule = self.0.get(closure.fn_name())?;
        bind::<C>(rule.body.as_ref()?, closure.curry())
    }
}

#[cfg(test)]
impl Rules {
    pub(super) fn is_simple(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|rule| rule.body.is_some())
    }
}

/// The rule that a function of one statement is.
fn body(ast: &AST, function: &ScriptFnMetadata<'_>) -> Option<Node> {
    let mut alone = ast.clone_functions_only();
    alone.retain_functions(|_, _, name, parameters| {
        name == function.name && parameters == function.params.len()
    });
    let (mut statements, mut body) = (0, None);
    alone.walk(&mut |path| {
        if let [ASTNode::Stmt(statement)] = path {
            statements += 1;
            body = of_statement(statement, &function.params);
        }
        true
    });
    body.filter(|_| statements == 1)
}

fn of_statement(statement: &Stmt, parameters: &[&str]) -> Option<Node> {
    match statement {
        Stmt::Expr(expression) => of(expression, parameters),
        Stmt::FnCall(call, _) => of_call(call, parameters),
        _ => None,
    }
}

fn of(expression: &Expr, parameters: &[&str]) -> Option<Node> {
    Some(match expression {
        Expr::BoolConstant(value, _) => Node::Constant(Constant::Bool(*value)),
        Expr::IntegerConstant(value, _) => Node::Constant(Constant::Int(*value)),
        Expr::FloatConstant(value, _) => Node::Constant(Constant::Float(**value)),
        Expr::StringConstant(value, _) => Node::Constant(Constant::Text(value.to_string())),
        Expr::Variable(..) => Node::Parameter(parameter(expression, parameters)?),
        Expr::Dot(parts, flags, _) if !flags.contains(ASTFlags::NEGATED) => {
            let parameter = parameter(&parts.lhs, parameters)?;
            let mut field = String::new();
            path(&parts.rhs, &mut field)?;
            Node::Fact { parameter, field }
        }
        Expr::And(parts, _) => Node::And(all(parts, parameters)?),
        Expr::Or(parts, _) => Node::Or(all(parts, parameters)?),
        Expr::FnCall(call, _) => of_call(call, parameters)?,
        Expr::Stmt(block) => match block.statements() {
            [statement] => of_statement(statement, parameters)?,
            _ => return None,
        },
        _ => return None,
    })
}

fn all(parts: &[Expr], parameters: &[&str]) -> Option<Vec<Node>> {
    parts.iter().map(|part| of(part, parameters)).collect()
}

fn of_call(call: &FnCallExpr, parameters: &[&str]) -> Option<Node> {
    call.op_token.as_ref()?;
    match (&*call.name, &*call.args) {
        ("!", [negated]) => Some(Node::Not(Box::new(of(negated, parameters)?))),
        (sign, [left, right]) => {
            let comparison = Comparison::parse(sign)?;
            let (left, right) = (of(left, parameters)?, of(right, parameters)?);
            Some(Node::Compare(comparison, Box::new(left), Box::new(right)))
        }
        _ => None,
    }
}

fn parameter(expression: &Expr, parameters: &[&str]) -> Option<usize> {
    let Expr::Variable(variable, ..) = expression else { return None };
    parameters.iter().position(|name| *name == &*variable.1)
}

fn path(expression: &Expr, field: &mut String) -> Option<()> {
    match expression {
        Expr::Property(property, _) => field.push_str(&property.2),
        Expr::Dot(parts, flags, _) if !flags.contains(ASTFlags::NEGATED) => {
            path(&parts.lhs, field)?;
            field.push('.');
            path(&parts.rhs, field)?;
        }
        _ => return None,
    }
    Some(())
}

/// A rule with what its closure has captured, for lists of one kind.
#[derive(Debug)]
pub(super) enum Bound {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// A fact of the value at this place of those that the closure is called with.
    Fact {
        argument: usize,
        field: &'static str,
    },
    Compare(Comparing),
    And(Vec<Bound>),
    Or(Vec<Bound>),
    Not(Box<Bound>),
}

#[derive(Debug)]
pub(super) struct Comparing {
    comparison: Comparison,
    sides: Box<(Bound, Bound)>,
}

fn bind<C: Facts>(node: &Node, captured: &[Dynamic]) -> Option<Bound> {
    let all = |nodes: &[Node]| nodes.iter().map(|node| bind::<C>(node, captured)).collect::<Option<Vec<_>>>();
    Some(match node {
        Node::Constant(constant) => of_constant(constant.clone()),
        Node::Parameter(parameter) => of_constant(constant(captured.get(*parameter)?)?),
        Node::Fact { parameter, field } => {
            let field = C::FIELDS.iter().find(|name| *name == field)?;
            Bound::Fact { argument: parameter.checked_sub(captured.len())?, field }
        }
        Node::Compare(comparison, left, right) => {
            let sides = Box::new((bind::<C>(left, captured)?, bind::<C>(right, captured)?));
            Bound::Compare(Comparing { comparison: *comparison, sides })
        }
        Node::And(nodes) => Bound::And(all(nodes)?),
        Node::Or(nodes) => Bound::Or(all(nodes)?),
        Node::Not(node) => Bound::Not(Box::new(bind::<C>(node, captured)?)),
    })
}

fn of_constant(constant: Constant) -> Bound {
    match constant {
        Constant::Bool(value) => Bound::Bool(value),
        Constant::Int(value) => Bound::Int(value),
        Constant::Float(value) => Bound::Float(value),
        Constant::Text(value) => Bound::Text(value),
    }
}

fn constant(value: &Dynamic) -> Option<Constant> {
    if let Ok(value) = value.as_bool() {
        return Some(Constant::Bool(value));
    }
    if let Ok(value) = value.as_int() {
        return Some(Constant::Int(value));
    }
    if let Ok(value) = value.as_float() {
        return Some(Constant::Float(value));
    }
    value.clone().into_string().ok().map(Constant::Text)
}

impl Bound {
    /// Whether it holds for these; `None` if the closure must tell.
    pub(super) fn holds<C: Facts>(&self, all: &C, arguments: &[usize]) -> Option<bool> {
        match self {
            Self::Compare(Comparing { comparison, sides }) => {
                compare(*comparison, sides.0.value(all, arguments)?, sides.1.value(all, arguments)?)
            }
            Self::And(parts) => {
                for part in parts {
                    if !part.holds(all, arguments)? {
                        return Some(false);
                    }
                }
                Some(true)
            }
            Self::Or(parts) => {
                for part in parts {
                    if part.holds(all, arguments)? {
                        return Some(true);
                    }
                }
                Some(false)
            }
            Self::Not(part) => Some(!part.holds(all, arguments)?),
            Self::Bool(_) | Self::Int(_) | Self::Float(_) | Self::Text(_) | Self::Fact { .. } => {
                match self.value(all, arguments)? {
                    Value::Bool(value) => Some(value),
                    _ => None,
                }
            }
        }
    }

    /// What it is for these; `None` if the closure must tell.
    pub(super) fn value<'a, C: Facts>(&'a self, all: &'a C, arguments: &[usize]) -> Option<Value<'a>> {
        Some(match self {
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(value) => Value::Int(*value),
            Self::Float(value) => Value::Float(*value),
            Self::Text(text) => Value::Text(text),
            Self::Fact { argument, field } => all.fact(*arguments.get(*argument)?, field),
            Self::Compare(_) | Self::And(_) | Self::Or(_) | Self::Not(_) => {
                Value::Bool(self.holds(all, arguments)?)
            }
        })
    }

    /// The fact that two of them are put in order by, and whether the greater comes first; `None` if the closure must tell.
    pub(super) fn order(&self) -> Option<(&'static str, bool)> {
        let Self::Compare(Comparing { comparison, sides }) = self else { return None };
        let (Self::Fact { argument: left, field }, Self::Fact { argument: right, field: same }) = &**sides
        else {
            return None;
        };
        if field != same || left == right {
            return None;
        }
        let is_descending = match comparison {
            Comparison::Less | Comparison::LessOrEqual => false,
            Comparison::Greater | Comparison::GreaterOrEqual => true,
            Comparison::Equal | Comparison::Unequal => return None,
        };
        Some((field, is_descending != (left > right)))
    }
}

/// As the interpreter compares; `None` for what it must tell itself.
fn compare(comparison: Comparison, left: Value<'_>, right: Value<'_>) -> Option<bool> {
    Some(match (left, right) {
        (Value::Int(left), Value::Int(right)) => comparison.of(&left, &right),
        (Value::Float(left), Value::Float(right)) => comparison.of(&left, &right),
        (Value::Int(left), Value::Float(right)) => comparison.of(&(left as f64), &right),
        (Value::Float(left), Value::Int(right)) => comparison.of(&left, &(right as f64)),
        (Value::Text(left), Value::Text(right)) => comparison.of(&left, &right),
        (Value::Bool(left), Value::Bool(right)) => match comparison {
            Comparison::Equal => left == right,
            Comparison::Unequal => left != right,
            _ => return None,
        },
        // Of different kinds: never equal, and neither comes first.
        (Value::Unknown, Value::Int(_) | Value::Float(_) | Value::Text(_))
        | (Value::Int(_) | Value::Float(_) | Value::Text(_), Value::Unknown) => {
            comparison == Comparison::Unequal
        }
        _ => return None,
    })
}
