//! The known word that a mistyped one most likely meant.

/// Longer words are nobody's typing error, and comparing them costs the square of their length.
const MAX_WORD: usize = 64;

/// The nearest of `known`, if it is near enough that a typing error explains the difference.
pub(crate) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    if word.len() > MAX_WORD {
        return None;
    }
    let word = word.to_ascii_lowercase().replace('-', "_");
    known
        .into_iter()
        .filter(|candidate| candidate.len() <= MAX_WORD)
        .map(|candidate| (distance(&word, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, candidate)| {
            let longest = word.chars().count().max(candidate.chars().count());
            *distance <= (longest / 3).max(1) && *distance < longest
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, &x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &y) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && x == b[j - 1] && a[i - 1] == y {
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
    fn typing_errors_are_counted() {
        assert_eq!(distance("priority", "priority"), 0);
        assert_eq!(distance("prioriyt", "priority"), 1);
        assert_eq!(distance("prioity", "priority"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn only_near_words_are_proposed() {
        let known = ["priority", "address", "vrrp_only"];
        assert_eq!(nearest("prority", known), Some("priority"));
        assert_eq!(nearest("adress", known), Some("address"));
        assert_eq!(nearest("vrrp-only", known), Some("vrrp_only"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest("n1", ["n2", "other"]), Some("n2"));
        assert_eq!(nearest(&"x".repeat(10_000), known), None);
    }
}
