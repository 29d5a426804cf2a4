//! Circles in a graph of names.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// From each name to those that it uses.
pub(super) type Graph<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// One circle, as short as can be, for each set of names that all lead to each other. The first
/// name of a circle is not repeated at its end.
pub(super) fn circles<'a>(graph: &Graph<'a>) -> Vec<Vec<&'a str>> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for start in graph.keys().copied() {
        if seen.contains(start) {
            continue;
        }
        let Some(circle) = shortest(graph, start) else { continue };
        let there = reachable(graph, start);
        seen.extend(there.into_iter().filter(|name| reachable(graph, name).contains(start)));
        found.push(circle);
    }
    found
}

/// The shortest way from a name back to itself.
fn shortest<'a>(graph: &Graph<'a>, start: &'a str) -> Option<Vec<&'a str>> {
    let mut before: BTreeMap<&str, &str> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(name) = queue.pop_front() {
        for next in graph.get(name).into_iter().flatten().copied() {
            if next == start {
                let mut way = vec![name];
                while let Some(previous) = way.last().and_then(|last| before.get(last)) {
                    way.push(previous);
                }
                way.reverse();
                return Some(way);
            }
            if !before.contains_key(next) {
                before.insert(next, name);
                queue.push_back(next);
            }
        }
    }
    None
}

fn reachable<'a>(graph: &Graph<'a>, start: &'a str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut left = vec![start];
    while let Some(name) = left.pop() {
        for next in graph.get(name).into_iter().flatten().copied() {
            if found.insert(next) {
                left.push(next);
            }
        }
    }
    found
}
