//! The word that somebody probably meant.

/// The candidate nearest to `word`, if one is near enough to be worth naming: at most a third of
/// its letters changed, swapped, added or dropped, and never more than two.
#[must_use]
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let limit = (word.chars().count() / 3).clamp(1, 2);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len().abs_diff(word.len()) <= limit)
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edit distance in which a swap of two neighbours counts as one change.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_found_and_a_different_word_is_not() {
        let known = ["memory", "maxmem", "vcpus", "vif", "disk"];
        assert_eq!(nearest("memroy", known), Some("memory"));
        assert_eq!(nearest("vcpu", known), Some("vcpus"));
        assert_eq!(nearest("vfi", known), Some("vif"));
        assert_eq!(nearest("dhcp", known), None);
    }

    #[test]
    fn distances_count_swaps_once() {
        for (a, b, want) in [("", "", 0), ("", "ab", 2), ("ab", "ba", 1), ("kernel", "kernal", 1)] {
            assert_eq!(distance(a, b), want, "{a} {b}");
        }
    }
}
