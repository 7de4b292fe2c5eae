//! Numbers as C's `strtol` with base 0 reads them, which is what xl does with every number.

/// Why a text is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NumberError {
    /// Something stands there that belongs to no number, or nothing at all.
    Invalid,
    /// Does not fit into 64 bits.
    TooLarge,
}

/// The value of a text: blanks in front, a sign, `0x` for hexadecimal, a leading `0` for octal.
pub(crate) fn parse(text: &str) -> Result<i64, NumberError> {
    let rest = text.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    let (negative, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest.strip_prefix('+').unwrap_or(rest)),
    };
    let hex = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X"));
    let (digits, radix) = match hex {
        Some(digits) => (digits, 16),
        None if rest.len() > 1 && rest.starts_with('0') => (&rest[1..], 8),
        None => (rest, 10),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(NumberError::Invalid);
    }
    let magnitude = i128::from_str_radix(digits, radix).map_err(|_| NumberError::TooLarge)?;
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| NumberError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_the_way_c_reads_them() {
        let rows: &[(&str, Result<i64, NumberError>)] = &[
            ("0", Ok(0)),
            ("512", Ok(512)),
            ("010", Ok(8)),
            ("0x1f", Ok(31)),
            ("-5", Ok(-5)),
            (" +7", Ok(7)),
            ("-0x10", Ok(-16)),
            ("9223372036854775807", Ok(i64::MAX)),
            ("-9223372036854775808", Ok(i64::MIN)),
            ("9223372036854775808", Err(NumberError::TooLarge)),
            ("", Err(NumberError::Invalid)),
            ("0x", Err(NumberError::Invalid)),
            ("09", Err(NumberError::Invalid)),
            ("5 ", Err(NumberError::Invalid)),
            ("512MB", Err(NumberError::Invalid)),
            ("--5", Err(NumberError::Invalid)),
            ("- 5", Err(NumberError::Invalid)),
        ];
        for (text, want) in rows {
            assert_eq!(parse(text), *want, "{text:?}");
        }
    }

    #[test]
    fn a_number_of_any_length_is_refused_not_wrapped() {
        assert_eq!(parse(&"9".repeat(500)), Err(NumberError::TooLarge));
    }
}
