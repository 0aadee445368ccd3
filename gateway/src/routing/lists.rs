//! Lists of workers and of providers, as scripts have them. What is done over all of a list is done here, and not by the
//! interpreter.

#![expect(
    clippy::needless_pass_by_value,
    clippy::unnecessary_box_returns,
    reason = "the interpreter hands over values and wants its errors boxed"
)]

use std::cmp::Ordering;
use std::sync::Arc;

use protocol::routing::RoutingStep;
use rhai::{Array, Dynamic, Engine, EvalAltResult, FnPtr, ImmutableString, Map, NativeCallContext};

use super::call;
use super::facts::{Facts, Load, Task, Value, Workers};
use super::rules::{Bound, Rules};

type Outcome<T> = Result<T, Box<EvalAltResult>>;

/// Some of all that there are, in an order.
#[derive(Debug)]
pub(super) struct List<C> {
    pub(super) all: Arc<C>,
    /// Places in `all`.
    pub(super) kept: Arc<[u32]>,
}

/// One of a list. It knows which others it was chosen from.
#[derive(Debug)]
pub(super) struct Item<C> {
    pub(super) list: List<C>,
    /// Its place in `all`.
    pub(super) at: u32,
}

impl<C> Clone for List<C> {
    fn clone(&self) -> Self {
        Self { all: self.all.clone(), kept: self.kept.clone() }
    }
}

impl<C> Clone for Item<C> {
    fn clone(&self) -> Self {
        Self { list: self.list.clone(), at: self.at }
    }
}

impl<C: Facts> List<C> {
    pub(super) fn of_all(all: Arc<C>) -> Self {
        let kept = (0..all.count() as u32).collect();
        Self { all, kept }
    }

    fn with(&self, kept: impl Into<Arc<[u32]>>) -> Self {
        Self { all: self.all.clone(), kept: kept.into() }
    }

    fn item(&self, at: u32) -> Dynamic {
        Dynamic::from(Item { list: self.clone(), at })
    }

    fn item_or_unit(&self, at: Option<u32>) -> Dynamic {
        at.map_or(Dynamic::UNIT, |at| self.item(at))
    }

    fn load(&self, at: u32) -> Load {
        self.all.load(at as usize)
    }

    /// Those that come before the others whatever they have to do: a worker that serves before one that must be started.
    fn foremost(&self) -> Vec<u32> {
        let foremost = self.kept.iter().map(|at| self.load(*at).stage).min();
        self.kept.iter().copied().filter(|at| Some(self.load(*at).stage) == foremost).collect()
    }
}

impl<C: Facts> IntoIterator for List<C> {
    type Item = Item<C>;
    type IntoIter = Box<dyn Iterator<Item = Item<C>>>;

    fn into_iter(self) -> Self::IntoIter {
        let kept = self.kept.clone();
        Box::new((0..kept.len()).map(move |index| Item { list: self.clone(), at: kept[index] }))
    }
}

/// A closure over a list.
struct Closure<'a, C> {
    context: &'a NativeCallContext<'a>,
    function: &'a FnPtr,
    list: &'a List<C>,
    rule: Option<Bound>,
    wants: usize,
}

impl<'a, C: Facts> Closure<'a, C> {
    fn new(context: &'a NativeCallContext<'a>, list: &'a List<C>, closure: &'a FnPtr) -> Outcome<Self> {
        in_time(context)?;
        let (rule, wants) =
            call::with_rules(|rules: &Rules| (rules.bound::<C>(closure), rules.wants(closure)))
                .unwrap_or((None, 1));
        Ok(Self { context, function: closure, list, rule, wants })
    }

    fn holds(&self, at: u32) -> Outcome<bool> {
        let known = self.rule.as_ref().and_then(|rule| rule.holds(&*self.list.all, &[at as usize]));
        match known {
            Some(holds) => Ok(holds),
            None => self.truth(&self.call(at)?),
        }
    }

    fn call(&self, at: u32) -> Outcome<Dynamic> {
        self.function.call_within_context(self.context, (self.list.item(at),))
    }

    fn truth(&self, value: &Dynamic) -> Outcome<bool> {
        let kind = value.type_name();
        value.as_bool().map_err(|_| {
            fault(
                self.context,
                format!("the closure must return true or false; it returned a value of the type {kind}"),
            )
        })
    }

    fn key(&self, at: u32) -> Outcome<Key> {
        let known = self.rule.as_ref().and_then(|rule| Key::of(rule.value(&*self.list.all, &[at as usize])?));
        if let Some(key) = known {
            return Ok(key);
        }
        let value = self.call(at)?;
        let kind = value.type_name();
        Key::of_dynamic(&value).ok_or_else(|| {
            let message =
                format!("the closure must return a number or a text; it returned a value of the type {kind}");
            fault(self.context, message)
        })
    }

    /// Whether one comes before the other by a closure that compares two: by true, or by a number below zero.
    fn comes_before(&self, one: u32, other: u32) -> Outcome<bool> {
        in_time(self.context)?;
        let arguments = [one as usize, other as usize];
        if let Some(holds) = self.rule.as_ref().and_then(|rule| rule.holds(&*self.list.all, &arguments)) {
            return Ok(holds);
        }
        let pair = (self.list.item(one), self.list.item(other));
        let value: Dynamic = self.function.call_within_context(self.context, pair)?;
        if let Ok(number) = value.as_int() {
            return Ok(number < 0);
        }
        self.truth(&value)
    }
}

/// What a list can be put in order by.
#[derive(Debug, Clone, PartialEq)]
enum Key {
    Number(f64),
    Text(String),
    /// Comes last, whatever the order.
    Unknown,
}

impl Key {
    fn of(value: Value<'_>) -> Option<Self> {
        Some(match value {
            Value::Unknown => Self::Unknown,
            Value::Bool(value) => Self::Number(f64::from(u8::from(value))),
            Value::Int(value) => Self::Number(value as f64),
            Value::Float(value) => Self::Number(value),
            Value::Text(text) => Self::Text(text.to_owned()),
            Value::Texts(_) => return None,
        })
    }

    fn of_dynamic(value: &Dynamic) -> Option<Self> {
        if value.is_unit() {
            return Some(Self::Unknown);
        }
        if let Ok(value) = value.as_bool() {
            return Some(Self::Number(f64::from(u8::from(value))));
        }
        if let Ok(value) = value.as_int() {
            return Some(Self::Number(value as f64));
        }
        if let Ok(value) = value.as_float() {
            return Some(Self::Number(value));
        }
        value.clone().into_string().ok().map(Self::Text)
    }

    fn cmp(&self, other: &Self, is_descending: bool) -> Ordering {
        let turned = |order: Ordering| if is_descending { order.reverse() } else { order };
        match (self, other) {
            (Self::Number(one), Self::Number(other)) => turned(one.total_cmp(other)),
            (Self::Text(one), Self::Text(other)) => turned(one.cmp(other)),
            _ => self.rank().cmp(&other.rank()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Number(_) => 0,
            Self::Text(_) => 1,
            Self::Unknown => 2,
        }
    }
}

fn fault(context: &NativeCallContext<'_>, message: String) -> Box<EvalAltResult> {
    Box::new(EvalAltResult::ErrorRuntime(message.into(), context.call_position()))
}

/// The interpreter does not look at the time while a list is worked on.
fn in_time(context: &NativeCallContext<'_>) -> Outcome<()> {
    if call::is_over() {
        return Err(Box::new(EvalAltResult::ErrorTerminated(Dynamic::UNIT, context.call_position())));
    }
    Ok(())
}

/// Notes what was done with a list.
fn note(context: &NativeCallContext<'_>, step: &str, from: usize, to: impl FnOnce() -> String) {
    call::step(|| RoutingStep {
        step: step.to_owned(),
        line: context.call_position().line().map(|line| line as u32),
        from: from as u32,
        to: to(),
    });
}

fn note_choice<C: Facts>(
    context: &NativeCallContext<'_>,
    step: &str,
    list: &List<C>,
    at: Option<u32>,
) -> Dynamic {
    note(context, step, list.kept.len(), || at.map_or("none", |at| list.all.id(at as usize)).to_owned());
    list.item_or_unit(at)
}

fn filter<C: Facts>(context: NativeCallContext<'_>, list: &mut List<C>, closure: FnPtr) -> Outcome<List<C>> {
    let test = Closure::new(&context, list, &closure)?;
    let mut kept = Vec::with_capacity(list.kept.len());
    for at in &*list.kept {
        if test.holds(*at)? {
            kept.push(*at);
        }
    }
    note(&context, "filter", list.kept.len(), || kept.len().to_string());
    Ok(list.with(kept))
}

fn map<C: Facts>(context: NativeCallContext<'_>, list: &mut List<C>, closure: FnPtr) -> Outcome<Array> {
    let of = Closure::new(&context, list, &closure)?;
    list.kept.iter().map(|at| of.call(*at)).collect()
}

fn any<C: Facts>(context: NativeCallContext<'_>, list: &mut List<C>, closure: FnPtr) -> Outcome<bool> {
    let test = Closure::new(&context, list, &closure)?;
    for at in &*list.kept {
        if test.holds(*at)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn all<C: Facts>(context: NativeCallContext<'_>, list: &mut List<C>, closure: FnPtr) -> Outcome<bool> {
    let test = Closure::new(&context, list, &closure)?;
    for at in &*list.kept {
        if !test.holds(*at)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn least_loaded<C: Facts>(context: NativeCallContext<'_>, list: &mut List<C>) -> Outcome<Dynamic> {
    in_time(&context)?;
    let least = list.kept.iter().copied().min_by_key(|at| list.load(*at));
    Ok(note_choice(&context, "least_loaded", list, least))
}

fn round_robin<C: Facts>(context: NativeCallContext<'_>, list: &mut List<C>) -> Outcome<Dynamic> {
    in_time(&context)?;
    let foremost = list.foremost();
    let turn = call::turn(context.call_position());
    let next = (!foremost.is_empty()).then(|| foremost[turn % foremost.len()]);
    Ok(note_choice(&context, "round_robin", list, next))
}

fn random<C: Facts>(context: NativeCallContext<'_>, list: &mut List<C>) -> Outcome<Dynamic> {
    in_time(&context)?;
    let foremost = list.foremost();
    let any = (!foremost.is_empty()).then(|| foremost[rand::random_range(0..foremost.len())]);
    Ok(note_choice(&context, "random", list, any))
}

/// By a closure of one, which tells what to go by, or of two, which tells whether the first one comes first.
fn sort_by<C: Facts>(context: NativeCallContext<'_>, list: &mut List<C>, closure: FnPtr) -> Outcome<List<C>> {
    let by = Closure::new(&context, list, &closure)?;
    note(&context, "sort_by", list.kept.len(), || list.kept.len().to_string());
    let fact = by.rule.as_ref().filter(|_| by.wants == 2).and_then(Bound::order);
    if let Some((field, is_descending)) = fact {
        let keys = |at: &u32| Key::of(list.all.fact(*at as usize, field)).map(|key| (key, *at));
        if let Some(keyed) = list.kept.iter().map(keys).collect() {
            return Ok(list.with(sorted(keyed, is_descending)));
        }
    }
    if by.wants == 2 {
        return Ok(list.with(merge_sorted(&list.kept, &|one, other| by.comes_before(one, other))?));
    }
    let keyed = list.kept.iter().map(|at| Ok((by.key(*at)?, *at))).collect::<Outcome<Vec<_>>>()?;
    Ok(list.with(sorted(keyed, false)))
}

fn sorted(mut keyed: Vec<(Key, u32)>, is_descending: bool) -> Vec<u32> {
    keyed.sort_by(|(one, _), (other, _)| one.cmp(other, is_descending));
    keyed.into_iter().map(|(_, at)| at).collect()
}

/// The standard library's sort wants an order that is one, which a script's may not be.
fn merge_sorted(kept: &[u32], comes_before: &dyn Fn(u32, u32) -> Outcome<bool>) -> Outcome<Vec<u32>> {
    if kept.len() < 2 {
        return Ok(kept.to_vec());
    }
    let (left, right) = kept.split_at(kept.len() / 2);
    let (left, right) = (merge_sorted(left, comes_before)?, merge_sorted(right, comes_before)?);
    let mut merged = Vec::with_capacity(kept.len());
    let (mut left, mut right) = (left.as_slice(), right.as_slice());
    while let ([one, lefts @ ..], [other, rights @ ..]) = (left, right) {
        // Equals stay in their order.
        if comes_before(*other, *one)? {
            merged.push(*other);
            right = rights;
        } else {
            merged.push(*one);
            left = lefts;
        }
    }
    merged.extend_from_slice(left);
    merged.extend_from_slice(right);
    Ok(merged)
}

fn min_by<C: Facts>(context: NativeCallContext<'_>, list: &mut List<C>, closure: FnPtr) -> Outcome<Dynamic> {
    extreme(&context, "min_by", list, &closure, false)
}

fn max_by<C: Facts>(context: NativeCallContext<'_>, list: &mut List<C>, closure: FnPtr) -> Outcome<Dynamic> {
    extreme(&context, "max_by", list, &closure, true)
}

/// The first of those that have the least, or the most.
fn extreme<C: Facts>(
    context: &NativeCallContext<'_>,
    step: &str,
    list: &List<C>,
    closure: &FnPtr,
    is_descending: bool,
) -> Outcome<Dynamic> {
    let by = Closure::new(context, list, closure)?;
    let mut best: Option<(Key, u32)> = None;
    for at in &*list.kept {
        let key = by.key(*at)?;
        if best.as_ref().is_none_or(|(known, _)| key.cmp(known, is_descending) == Ordering::Less) {
            best = Some((key, *at));
        }
    }
    Ok(note_choice(context, step, list, best.map(|(_, at)| at)))
}

fn take<C: Facts>(context: NativeCallContext<'_>, list: &mut List<C>, count: i64) -> List<C> {
    let count = usize::try_from(count).unwrap_or(0).min(list.kept.len());
    note(&context, "take", list.kept.len(), || count.to_string());
    list.with(&list.kept[..count])
}

fn nth<C: Facts>(context: NativeCallContext<'_>, list: &mut List<C>, index: i64) -> Outcome<Dynamic> {
    // A place below zero is counted from the end, as in arrays.
    let place = if index < 0 { index + list.kept.len() as i64 } else { index };
    let at = usize::try_from(place).ok().and_then(|place| list.kept.get(place));
    let count = list.kept.len();
    at.map(|at| list.item(*at))
        .ok_or_else(|| Box::new(EvalAltResult::ErrorArrayBounds(count, index, context.call_position())))
}

/// What a script is given for a fact.
pub(super) fn dynamic(value: Value<'_>) -> Dynamic {
    match value {
        Value::Unknown => Dynamic::UNIT,
        Value::Bool(value) => value.into(),
        Value::Int(value) => value.into(),
        Value::Float(value) => value.into(),
        Value::Text(text) => text.into(),
        Value::Texts(texts) => {
            texts.iter().map(|text| Dynamic::from(ImmutableString::from(text))).collect::<Array>().into()
        }
    }
}

/// All facts of a group.
fn group<C: Facts>(item: &Item<C>, name: &str) -> Map {
    let fields =
        C::FIELDS.iter().filter_map(|field| Some((field, field.strip_prefix(name)?.strip_prefix('.')?)));
    fields
        .map(|(field, short)| (short.into(), dynamic(item.list.all.fact(item.at as usize, field))))
        .collect()
}

/// Makes lists of one kind known to scripts.
pub(super) fn register<C: Facts>(engine: &mut Engine) {
    engine
        .register_type_with_name::<List<C>>(C::LIST)
        .register_type_with_name::<Item<C>>(C::NAME)
        .register_iterator::<List<C>>()
        .register_fn("filter", filter::<C>)
        .register_fn("map", map::<C>)
        .register_fn("any", any::<C>)
        .register_fn("all", all::<C>)
        .register_fn("first", |context: NativeCallContext<'_>, list: &mut List<C>| {
            note_choice(&context, "first", list, list.kept.first().copied())
        })
        .register_fn("last", |context: NativeCallContext<'_>, list: &mut List<C>| {
            note_choice(&context, "last", list, list.kept.last().copied())
        })
        .register_fn("len", |list: &mut List<C>| list.kept.len() as i64)
        .register_get("len", |list: &mut List<C>| list.kept.len() as i64)
        .register_fn("is_empty", |list: &mut List<C>| list.kept.is_empty())
        .register_get("is_empty", |list: &mut List<C>| list.kept.is_empty())
        .register_fn("least_loaded", least_loaded::<C>)
        .register_fn("round_robin", round_robin::<C>)
        .register_fn("random", random::<C>)
        .register_fn("sort_by", sort_by::<C>)
        .register_fn("min_by", min_by::<C>)
        .register_fn("max_by", max_by::<C>)
        .register_fn("take", take::<C>)
        .register_indexer_get(nth::<C>)
        .register_fn("to_string", |item: &mut Item<C>| item.list.all.id(item.at as usize).to_owned())
        .register_fn("to_string", |list: &mut List<C>| {
            format!("{} of {}", list.kept.len(), list.all.count())
        });
    let mut groups = Vec::new();
    for field in C::FIELDS {
        match field.split_once('.') {
            None => {
                engine.register_get(*field, move |item: &mut Item<C>| {
                    dynamic(item.list.all.fact(item.at as usize, field))
                });
            }
            Some((name, _)) if !groups.contains(&name) => {
                groups.push(name);
                engine.register_get(name, move |item: &mut Item<C>| group(item, name));
            }
            Some(_) => {}
        }
    }
}

/// What only workers have.
pub(super) fn register_workers(engine: &mut Engine) {
    engine.register_fn("prefix_hit", |item: &mut Item<Workers>, task: Task| {
        item.list.all.prefix_hit(item.at as usize, &task.readers)
    });
}
