//! Which events go when there are more than are to be kept.
//!
//! Not simply the oldest: a guest that talks all day, or a program that crashes all night, would
//! push the history of everybody else out. What guests say is counted apart from what their hosts
//! say of them, and has half of the room where the other half is needed. In each half those go
//! first of which one domain has most, the oldest of them first.

use rusqlite::{Connection, OptionalExtension, params};

use crate::alerts::OPEN;
use crate::clock::now_ms;
use crate::error::Fault;

/// How many events are kept where nobody has said otherwise.
pub(crate) const KEPT: i64 = 100_000;

/// Of open alerts, which are kept as long as they are open, only the newest so many are.
const OPEN_KEPT: i64 = 10_000;

/// So many events of a domain never go for their number alone; of many domains that have no more
/// the oldest go.
const LITTLE: i64 = 100;

/// How many events are kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// So many; beside them open alerts.
    pub count: i64,
    /// Those that are not older than so many days; `None`: age does not matter.
    pub days: Option<u32>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { count: KEPT, days: None }
    }
}

/// The events of a domain, or of the host, that its guest has said, or that it has not.
struct Share {
    uuid: Option<String>,
    by_guest: bool,
    count: i64,
}

/// Removes what is beyond the retention; how many events that were. Open alerts stay, as long as
/// there are not too many of them.
pub(crate) fn trim(db: &Connection, retention: Retention) -> Result<usize, Fault> {
    let protected: Option<i64> = db
        .query_row(
            &format!("SELECT id FROM event WHERE {OPEN} ORDER BY id DESC LIMIT 1 OFFSET ?1"),
            [OPEN_KEPT - 1],
            |row| row.get(0),
        )
        .optional()?;
    let done = format!("NOT (id >= {} AND {OPEN})", protected.unwrap_or(0));
    let mut gone = 0;
    if let Some(days) = retention.days {
        let bound = now_ms() - i64::from(days) * 86_400_000;
        gone += db.execute(&format!("DELETE FROM event WHERE time_ms < ?1 AND {done}"), [bound])?;
    }
    // Both are counted in an index: this is looked at far more often than anything has to go.
    let count = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0));
    let open = count(&format!("SELECT count(*) FROM event WHERE {OPEN}"))?;
    let all = count("SELECT count(*) FROM event")?;
    if all - open.min(OPEN_KEPT) > retention.count {
        gone += thin(db, retention.count, &done)?;
    }
    Ok(gone)
}

/// Leaves so many of the events that are done with.
fn thin(db: &Connection, count: i64, done: &str) -> Result<usize, Fault> {
    let sql = format!(
        // In the order of the table: in that of the index every row would have to be looked for.
        "SELECT uuid, what GLOB 'guest-*' AS by_guest, count(*) FROM event NOT INDEXED WHERE {done}
         GROUP BY uuid, by_guest"
    );
    let mut statement = db.prepare(&sql)?;
    let rows = statement.query_map([], |row| {
        Ok(Share { uuid: row.get(0)?, by_guest: row.get(1)?, count: row.get(2)? })
    })?;
    let shares = rows.collect::<Result<Vec<_>, _>>()?;
    let sum = |by_guest| -> i64 {
        shares.iter().filter(|share| share.by_guest == by_guest).map(|share| share.count).sum()
    };
    let room_of_guests = (count - sum(false)).max(count / 2);
    let room_of_others = count - sum(true).min(room_of_guests);
    let mut gone = 0;
    for (by_guest, room) in [(true, room_of_guests), (false, room_of_others)] {
        let excess = sum(by_guest) - room;
        if excess <= 0 {
            continue;
        }
        let mine = || shares.iter().filter(|share| share.by_guest == by_guest);
        let level = level(mine().map(|share| share.count).collect(), room).max(LITTLE.min(count));
        let oldest = format!("what GLOB 'guest-*' = ?1 AND {done} ORDER BY id LIMIT ?2");
        let mut left = excess;
        for share in mine().filter(|share| share.count > level) {
            let sql = format!(
                "DELETE FROM event WHERE id IN (SELECT id FROM event WHERE uuid IS ?3 AND {oldest})"
            );
            let more = db.execute(&sql, params![by_guest, share.count - level, share.uuid])?;
            left -= i64::try_from(more).unwrap_or(i64::MAX);
            gone += more;
        }
        if left > 0 {
            let sql =
                format!("DELETE FROM event WHERE id IN (SELECT id FROM event WHERE {oldest})");
            gone += db.execute(&sql, params![by_guest, left])?;
        }
    }
    Ok(gone)
}

/// The number to which the largest counts are to be cut for their sum to be no more than `room`.
fn level(mut counts: Vec<i64>, mut room: i64) -> i64 {
    counts.sort_unstable();
    let mut left = i64::try_from(counts.len()).unwrap_or(i64::MAX);
    for count in counts {
        let share = room / left;
        if count > share {
            return share;
        }
        (room, left) = (room - count, left - 1);
    }
    i64::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_cut_and_no_others() {
        assert_eq!(level(vec![5, 100, 7], 50), 38);
        assert_eq!(level(vec![90, 5, 100], 50), 22);
        assert_eq!(level(vec![1, 2, 3], 6), i64::MAX);
        assert_eq!(level(vec![3, 3, 3], 2), 0);
        assert_eq!(level(vec![], 0), i64::MAX);
    }
}
