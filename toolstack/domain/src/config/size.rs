//! Sizes in bytes: `4096`, `512K`, `10M`, `2GB`.

/// The number of bytes of a text; K, M, G and T are powers of 1024, a B behind them says nothing.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let upper = text.trim().to_ascii_uppercase();
    let digits = upper.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &upper[digits.len()..] {
        "" | "B" => 0,
        "K" | "KB" => 10,
        "M" | "MB" => 20,
        "G" | "GB" => 30,
        "T" | "TB" => 40,
        _ => return None,
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A size in the largest unit that tells it exactly.
pub(crate) fn text(bytes: u64) -> String {
    [(40, "T"), (30, "G"), (20, "M"), (10, "K")]
        .into_iter()
        .find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift))
        .map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        let rows: &[(&str, Option<u64>)] = &[
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("10M", Some(10 << 20)),
            ("10MB", Some(10 << 20)),
            ("2kb", Some(2048)),
            ("1G", Some(1 << 30)),
            ("17000000T", None),
            ("", None),
            ("M", None),
            ("-1", None),
            ("1.5M", None),
            ("10X", None),
            ("18446744073709551616", None),
        ];
        for (given, want) in rows {
            assert_eq!(parse(given), *want, "{given}");
        }
    }

    #[test]
    fn what_is_printed_reads_back() {
        for bytes in [0, 1, 1023, 1024, 1025, 10 << 20, 3 << 40, u64::MAX] {
            assert_eq!(parse(&text(bytes)), Some(bytes));
        }
        assert_eq!(text(10 << 20), "10M");
    }
}
