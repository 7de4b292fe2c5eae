//! In which order the domains of a host start; stopping is the same, backwards.

use kxl_domain::DomainName;
use thiserror::Error;

/// What a domain's place depends on.
#[derive(Clone, Copy, Debug)]
pub struct Rank<'a> {
    /// Its name.
    pub name: &'a DomainName,
    /// `priority=`: lower ones start first.
    pub priority: u32,
    /// `after=`: what starts before it. Names that are not among the ranks count for nothing.
    pub after: &'a [DomainName],
}

/// Domains that wait for each other.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("after= runs in a circle: {}", told(.names))]
pub struct Circle {
    /// Each comes after the next, and the last after the first.
    pub names: Vec<DomainName>,
}

fn told(names: &[DomainName]) -> String {
    let mut words: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
    words.extend(words.first().cloned());
    words.join(" after ")
}

/// Sorts domains into waves, by their places in `ranks`: all of a wave may start at once, and a
/// wave starts when the one before it is up.
///
/// Whatever a domain comes after is in an earlier wave, even where its priority says otherwise:
/// the domain then waits for it and counts as having its priority. Otherwise each priority is a
/// wave (or several) of its own. Inside a wave the order is that of the names.
///
/// # Errors
/// [`Circle`] when domains wait for each other, naming them.
pub fn waves(ranks: &[Rank<'_>]) -> Result<Vec<Vec<usize>>, Circle> {
    let at = |name: &DomainName| ranks.iter().position(|rank| rank.name == name);
    let before: Vec<Vec<usize>> =
        ranks.iter().map(|rank| rank.after.iter().filter_map(at).collect()).collect();
    let mut places: Vec<Option<Place>> = vec![None; ranks.len()];
    for index in 0..ranks.len() {
        place(index, ranks, &before, &mut places, &mut Vec::new())?;
    }
    let mut sorted: Vec<(Place, &DomainName, usize)> = places
        .into_iter()
        .enumerate()
        .filter_map(|(index, place)| Some((place?, ranks[index].name, index)))
        .collect();
    sorted.sort();
    let mut waves: Vec<Vec<usize>> = Vec::new();
    let mut last = None;
    for (place, _, index) in sorted {
        if last != Some(place) {
            waves.push(Vec::new());
            last = Some(place);
        }
        if let Some(wave) = waves.last_mut() {
            wave.push(index);
        }
    }
    Ok(waves)
}

/// Priority as it counts, and how many domains of the same one have to be up before.
type Place = (u32, usize);

/// Finds the place of one domain, and first those of what it comes after. `path` is the way that
/// led here; meeting it again is a circle.
fn place(
    index: usize,
    ranks: &[Rank<'_>],
    before: &[Vec<usize>],
    places: &mut [Option<Place>],
    path: &mut Vec<usize>,
) -> Result<Place, Circle> {
    if let Some(place) = places[index] {
        return Ok(place);
    }
    if let Some(start) = path.iter().position(|one| *one == index) {
        let names = path[start..].iter().map(|one| ranks[*one].name.clone()).collect();
        return Err(Circle { names });
    }
    path.push(index);
    let mut found = (ranks[index].priority, 0);
    for one in &before[index] {
        let (priority, depth) = place(*one, ranks, before, places, path)?;
        found = found.max((priority, depth + 1));
    }
    path.pop();
    places[index] = Some(found);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> DomainName {
        text.parse().unwrap()
    }

    /// Waves of names; each domain is `(name, priority, after)`.
    fn sorted(domains: &[(&str, u32, &[&str])]) -> Result<Vec<Vec<String>>, Circle> {
        let names: Vec<_> = domains.iter().map(|(text, ..)| name(text)).collect();
        let after: Vec<Vec<_>> = domains
            .iter()
            .map(|(.., after)| after.iter().map(|text| name(text)).collect())
            .collect();
        let ranks: Vec<_> = (0..domains.len())
            .map(|i| Rank { name: &names[i], priority: domains[i].1, after: &after[i] })
            .collect();
        let waves = waves(&ranks)?;
        Ok(waves.iter().map(|wave| wave.iter().map(|i| names[*i].to_string()).collect()).collect())
    }

    #[test]
    fn equal_domains_are_one_wave_in_the_order_of_their_names() {
        assert_eq!(sorted(&[("b", 5, &[]), ("a", 5, &[])]).unwrap(), [["a", "b"]]);
        assert!(sorted(&[]).unwrap().is_empty());
    }

    #[test]
    fn a_lower_priority_is_a_wave_before() {
        let waves = sorted(&[("web", 500, &[]), ("db", 10, &[]), ("log", 500, &[])]).unwrap();
        assert_eq!(waves, [vec!["db"], vec!["log", "web"]]);
    }

    #[test]
    fn what_a_domain_comes_after_is_up_before_it_whatever_the_priorities_say() {
        let waves = sorted(&[
            ("web", 10, &["db", "not-here"]),
            ("db", 900, &["disk"]),
            ("disk", 900, &[]),
            ("other", 500, &[]),
        ])
        .unwrap();
        assert_eq!(waves, [["other"], ["disk"], ["db"], ["web"]]);
    }

    #[test]
    fn a_circle_is_named_and_what_only_leads_to_it_is_not() {
        let circle =
            sorted(&[("x", 1, &["a"]), ("a", 1, &["b"]), ("b", 1, &["c"]), ("c", 1, &["a"])])
                .unwrap_err();
        assert_eq!(
            circle.to_string(),
            r#"after= runs in a circle: "a" after "b" after "c" after "a""#
        );
    }

    proptest! {
        /// Any set of domains without a circle: everyone is in exactly one wave, behind all that
        /// it comes after.
        #[test]
        fn every_domain_has_one_place_behind_what_it_comes_after(
            domains in proptest::collection::vec((0u32..4, proptest::collection::vec(0usize..12, 0..3)), 1..12),
        ) {
            let names: Vec<_> = (0..domains.len()).map(|i| name(&format!("d{i}"))).collect();
            let after: Vec<Vec<_>> = domains
                .iter()
                .enumerate()
                .map(|(i, (_, after))| after.iter().filter(|j| **j < i).map(|j| names[*j].clone()).collect())
                .collect();
            let ranks: Vec<_> = (0..domains.len())
                .map(|i| Rank { name: &names[i], priority: domains[i].0, after: &after[i] })
                .collect();
            let waves = waves(&ranks).unwrap();
            let wave_of = |i: usize| waves.iter().position(|wave| wave.contains(&i)).unwrap();
            prop_assert_eq!(waves.iter().map(Vec::len).sum::<usize>(), domains.len());
            for (i, after) in after.iter().enumerate() {
                for one in after {
                    let j = names.iter().position(|name| name == one).unwrap();
                    prop_assert!(wave_of(j) < wave_of(i));
                }
            }
        }
    }
}
