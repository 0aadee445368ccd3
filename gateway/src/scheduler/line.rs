//! Who waits for one model, in the order of service: by band, then whoever's key has had the least, then by deadline and
//! arrival.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use protocol::task::Priority;
use tokio::time::Instant;

use super::TicketId;
use super::fairness::Service;

/// Who waits so long below the interactive band rises a band, and again after as long.
pub(super) const RISES_AFTER: Duration = Duration::from_mins(5);
/// Nobody rises above this band: what a person waits for is first.
const HIGHEST_BY_AGE: u8 = Priority::Interactive.band();

/// Where one waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) band: u8,
    /// Before others of the same key: the earlier deadline, then the earlier arrival.
    turn: Turn,
}

/// Who has no deadline comes after those who have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    deadline: (bool, Option<Instant>),
    arrival: TicketId,
}

impl Place {
    pub(super) fn new(band: u8, deadline: Option<Instant>, arrival: TicketId) -> Self {
        Self { band, turn: Turn { deadline: (deadline.is_none(), deadline), arrival } }
    }
}

/// The band of who has waited for this long.
pub(super) fn risen(priority: Priority, waited: Duration) -> u8 {
    let steps = waited.as_secs() / RISES_AFTER.as_secs();
    let band = priority.band();
    if band <= HIGHEST_BY_AGE {
        return band;
    }
    band.saturating_sub(u8::try_from(steps).unwrap_or(u8::MAX)).max(HIGHEST_BY_AGE)
}

/// Keys that wait in one band, each with its own in their order.
type Band = HashMap<Arc<str>, BTreeMap<Turn, TicketId>>;

#[derive(Debug, Default)]
pub(super) struct Line {
    bands: [Band; Priority::BANDS],
    length: u32,
}

impl Line {
    pub(super) fn len(&self) -> u32 {
        self.length
    }

    pub(super) fn insert(&mut self, key: &Arc<str>, place: Place) {
        let band = &mut self.bands[usize::from(place.band)];
        band.entry(key.clone()).or_default().insert(place.turn, place.turn.arrival);
        self.length += 1;
    }

    pub(super) fn remove(&mut self, key: &Arc<str>, place: Place) {
        let band = &mut self.bands[usize::from(place.band)];
        let Some(own) = band.get_mut(key) else { return };
        if own.remove(&place.turn).is_some() {
            self.length -= 1;
        }
        if own.is_empty() {
            band.remove(key);
        }
    }

    /// The first in the order of service that `can` be served.
    pub(super) fn first(&self, service: &Service, can: impl Fn(TicketId) -> bool) -> Option<TicketId> {
        self.bands.iter().find_map(|band| first_of(band, service, &can))
    }

    /// How many are before one who comes now with this key and band, if each is given as much as the others.
    pub(super) fn ahead(&self, key: &str, band: u8, service: &Service) -> u32 {
        let bands = &self.bands[..usize::from(band)];
        let above: usize = bands.iter().flat_map(HashMap::values).map(BTreeMap::len).sum();
        let band = &self.bands[usize::from(band)];
        let own = band.get(key).map_or(0, BTreeMap::len);
        let had = service.weighed(key);
        // Of each other key, as many turns come first as this one has before its own.
        let beside = band.iter().filter(|(other, _)| ***other != *key).map(|(other, waiting)| {
            let turns = own + usize::from(service.weighed(other) <= had);
            turns.min(waiting.len())
        });
        (above + own + beside.sum::<usize>()) as u32
    }

    /// All in the order in which they will be served, if each costs about as much as `cost` tells.
    pub(super) fn order(&self, service: &Service, cost: impl Fn(TicketId) -> f64) -> Vec<TicketId> {
        let mut order = Vec::with_capacity(self.length as usize);
        for band in &self.bands {
            let mut turns: Vec<_> = band.values().map(BTreeMap::iter).collect();
            let mut next: BinaryHeap<Reverse<Next>> = BinaryHeap::with_capacity(band.len());
            for (index, key) in band.keys().enumerate() {
                let had = service.weighed(key);
                next.extend(turns[index].next().map(|(turn, _)| Reverse(Next { had, turn: *turn, index })));
            }
            while let Some(Reverse(Next { had, turn, index })) = next.pop() {
                order.push(turn.arrival);
                let had = had + cost(turn.arrival);
                next.extend(turns[index].next().map(|(turn, _)| Reverse(Next { had, turn: *turn, index })));
            }
        }
        order
    }

    /// The last one to come in this band.
    pub(super) fn newest(&self, band: u8) -> Option<TicketId> {
        self.bands[usize::from(band)].values().flat_map(BTreeMap::values).max().copied()
    }
}

fn first_of(band: &Band, service: &Service, can: impl Fn(TicketId) -> bool) -> Option<TicketId> {
    // As a rule whoever is first can be served, and nothing need be sorted.
    let had = |key: &Arc<str>, waiting: &BTreeMap<Turn, TicketId>| {
        (service.weighed(key), waiting.first_key_value().map(|(turn, _)| *turn))
    };
    let least = band.iter().min_by(|one, other| compare(&had(one.0, one.1), &had(other.0, other.1)))?;
    if let Some(ticket) = least.1.values().find(|ticket| can(**ticket)) {
        return Some(*ticket);
    }
    let mut keys: Vec<_> = band.iter().collect();
    keys.sort_by(|one, other| compare(&had(one.0, one.1), &had(other.0, other.1)));
    keys.into_iter().flat_map(|(_, waiting)| waiting.values()).find(|ticket| can(**ticket)).copied()
}

fn compare(one: &(f64, Option<Turn>), other: &(f64, Option<Turn>)) -> Ordering {
    one.0.total_cmp(&other.0).then_with(|| one.1.cmp(&other.1))
}

/// A key's next turn: the less it has had, the sooner.
#[derive(Debug, PartialEq)]
struct Next {
    had: f64,
    turn: Turn,
    index: usize,
}

impl Eq for Next {}

impl Ord for Next {
    fn cmp(&self, other: &Self) -> Ordering {
        self.had.total_cmp(&other.had).then_with(|| self.turn.cmp(&other.turn))
    }
}

impl PartialOrd for Next {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
