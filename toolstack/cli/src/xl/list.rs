//! `list`, in xl's table, xm's table and JSON.

use kxl_domain::{DomainName, DomainUuid, Reason, State};
use kxl_engine::Seen;
use kxl_store::ListRow;

use super::getopt::{Line, Options};
use super::libxl_json::{self, Now};
use super::names::run;
use super::yajl::{Map, Value};
use super::{FAILURE, Flavour, Session, Target, fail, print, yajl};
use crate::commands;
use crate::facts::{self, HostFacts};
use crate::out;

const OPTIONS: Options = Options {
    short: "lvZcn",
    long: &[
        ("long", false, 'l'),
        ("verbose", false, 'v'),
        ("context", false, 'Z'),
        ("cpupool", false, 'c'),
        ("numa", false, 'n'),
        ("state", true, 's'),
        ("pool", true, 'p'),
        ("label", false, 'Z'),
    ],
};

/// One line of a table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// None for a dormant domain.
    pub(crate) domid: Option<u32>,
    pub(crate) uuid: String,
    pub(crate) memory_mib: u64,
    pub(crate) vcpus: u32,
    /// Six letters, or none for a dormant domain.
    pub(crate) letters: String,
    pub(crate) seconds: f64,
    /// Code of the reason of a guest that has ended.
    pub(crate) reason: Option<u32>,
    state: State,
}

/// Which columns follow the usual ones.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Columns {
    pub(crate) verbose: bool,
    pub(crate) context: bool,
    pub(crate) pool: bool,
    pub(crate) numa: bool,
}

/// Lists domains.
pub(crate) fn list(session: &mut Session, args: &[String]) -> u8 {
    run(|| {
        let line = session.parse(OPTIONS, args, 0)?;
        let xm = session.flavour == Flavour::Xm;
        if line.operands.len() > 1 && !xm {
            session.usage();
            return Err(FAILURE);
        }
        let state = line.value('s');
        if (state.is_some() || line.has('p')) && !line.operands.is_empty() {
            out::complain("xl: --state and --pool list all domains: no domain may be named\n");
            return Err(if xm { FAILURE } else { super::USAGE });
        }
        let (host, seen) = chosen(session, &line, xm || state.is_some())?;
        let host = match host {
            Some(facts) => {
                let live = session.live()?;
                let domains = live.iter().map(|row| row.memory_mib).sum();
                Some(host_row(&facts, domains))
            }
            None => None,
        };
        let mut rows: Vec<Row> = host.into_iter().chain(seen.iter().map(row)).collect();
        if xm {
            rows.sort_by(|a, b| a.name.cmp(&b.name));
        }
        if let Some(state) = state {
            rows.retain(|row| matches_state(row, state));
        }
        if line.has('l') {
            let text = long(session, &seen, &rows)?;
            return Ok(print(&text));
        }
        if xm {
            return Ok(print(&xm_table(&rows)));
        }
        let columns = Columns {
            verbose: line.has('v'),
            context: line.has('Z'),
            pool: line.has('c'),
            numa: line.has('n'),
        };
        Ok(print(&table(&rows, columns)))
    })
}

/// The domains that are wanted: the host (as its facts) and the others.
fn chosen(
    session: &mut Session,
    line: &Line,
    dormant: bool,
) -> Result<(Option<HostFacts>, Vec<Seen>), u8> {
    if line.operands.is_empty() {
        let rows = if dormant { session.rows()? } else { session.live()? };
        return Ok((Some(facts::gather()), session.look(rows)?));
    }
    let mut host = None;
    let mut rows: Vec<ListRow> = Vec::new();
    for arg in &line.operands {
        match one(session, arg, dormant)? {
            Target::Host => host = Some(facts::gather()),
            Target::Live(row) => rows.push(*row),
            Target::Missing(_) => {
                out::complain(&format!("Error: Domain '{arg}' does not exist.\n"));
                return Err(FAILURE);
            }
        }
    }
    Ok((host, session.look(rows)?))
}

/// One domain; for xm a dormant one as well.
fn one(session: &mut Session, arg: &str, dormant: bool) -> Result<Target, u8> {
    if !dormant || arg == DomainName::HOST || arg == "0" {
        return session.target(arg);
    }
    match session.host()?.find(arg) {
        Ok(row) => Ok(Target::Live(Box::new(row))),
        Err(failure) if failure.kind == kxl_domain::Kind::NoSuchDomain => Ok(Target::Missing(0)),
        Err(failure) => Err(fail(&failure)),
    }
}

/// xm's words for states, in any case; an unknown word selects nothing.
fn matches_state(row: &Row, word: &str) -> bool {
    match word.to_ascii_lowercase().as_str() {
        "all" => true,
        "running" => matches!(row.state, State::Running | State::Asleep),
        "paused" => row.state == State::Paused,
        "halted" => {
            matches!(row.state, State::Halted | State::Failed)
                || (row.state == State::Shutdown && row.reason != Some(3))
        }
        "suspended" => row.state == State::Suspended,
        "crashed" => row.state == State::Shutdown && row.reason == Some(3),
        _ => false,
    }
}

/// The memory of domain 0 and what is free, in MiB, so that with the memory of all domains they
/// make up the host's. Guests count in full, as under Xen, touched or not.
pub(crate) fn shares(total: u64, available: u64, domains: u64) -> (u64, u64) {
    let free = available.min(total.saturating_sub(domains));
    (total.saturating_sub(free).saturating_sub(domains), free)
}

/// The row of domain 0, when the live domains have so much memory.
fn host_row(facts: &HostFacts, domains_mib: u64) -> Row {
    Row {
        name: DomainName::HOST.to_owned(),
        domid: Some(0),
        uuid: "00000000-0000-0000-0000-000000000000".to_owned(),
        memory_mib: shares(facts.memory_mib, facts.available_mib, domains_mib).0,
        vcpus: facts.cpus,
        letters: "r-----".to_owned(),
        seconds: facts.busy_seconds,
        reason: None,
        state: State::Running,
    }
}

fn row(seen: &Seen) -> Row {
    let domid = seen.domid.map(|domid| domid.0);
    let ended = seen.status.state == State::Shutdown;
    Row {
        name: seen.row.name.to_string(),
        domid,
        uuid: seen.row.uuid.to_string(),
        memory_mib: seen.memory_mib,
        vcpus: seen.vcpus,
        letters: if domid.is_some() { seen.letters() } else { String::new() },
        seconds: seen.cpu_seconds,
        reason: ended.then(|| seen.reason.map_or(0, Reason::xen_code)),
        state: seen.status.state,
    }
}

/// xl's table.
pub(crate) fn table(rows: &[Row], columns: Columns) -> String {
    let mut out = format!("{:<40}    ID   Mem VCPUs\tState\tTime(s)", "Name");
    if columns.verbose {
        out.push_str("   UUID                            Reason-Code\tSecurity Label");
    }
    if columns.context && !columns.verbose {
        out.push_str("   Security Label");
    }
    if columns.pool {
        out.push_str("         Cpupool");
    }
    if columns.numa {
        out.push_str(" NODE Affinity");
    }
    out.push('\n');
    for row in rows {
        let domid = row.domid.map_or_else(String::new, |domid| domid.to_string());
        out.push_str(&format!(
            "{:<40} {domid:>5} {:>5} {:>5}     {:<6}  {:>8.1}",
            row.name, row.memory_mib, row.vcpus, row.letters, row.seconds
        ));
        if columns.verbose {
            out.push_str(&format!(" {}", row.uuid));
            match row.reason {
                Some(reason) => out.push_str(&format!(" {reason:>8x}")),
                None => out.push_str(&format!(" {:>8}", "-")),
            }
        }
        if columns.verbose || columns.context {
            out.push_str(&format!(" {:>16}", "-"));
        }
        if columns.pool {
            out.push_str(&format!("{:>16}", "Pool-0"));
        }
        if columns.numa {
            out.push_str(" all");
        }
        out.push('\n');
    }
    out
}

/// xm's table.
fn xm_table(rows: &[Row]) -> String {
    let mut out = format!(
        "{:<40} {:>5} {:>5} {:>5} {:>10} {:>9}\n",
        "Name", "ID", "Mem", "VCPUs", "State", "Time(s)"
    );
    for row in rows {
        let domid = row.domid.map_or_else(String::new, |domid| domid.to_string());
        out.push_str(&format!(
            "{:<40} {domid:>5} {:>5} {:>5} {:>10} {:>8.1}\n",
            row.name, row.memory_mib, row.vcpus, row.letters, row.seconds
        ));
    }
    out
}

/// `-l`: JSON and one more newline.
fn long(session: &mut Session, seen: &[Seen], rows: &[Row]) -> Result<String, u8> {
    let mut items = Vec::new();
    if let Some(row) = rows.iter().find(|row| row.domid == Some(0)) {
        items.push(item(Some(0), libxl_json::host(row.memory_mib)));
    }
    for domain in seen.iter().filter(|d| rows.iter().any(|row| row.uuid == d.row.uuid.to_string()))
    {
        let uuid: DomainUuid = domain.row.uuid;
        let config =
            commands::config_of(session.host()?, uuid).map_err(|failure| fail(&failure))?;
        if let Some(config) = config {
            let now = Now { memory_mib: domain.memory_mib, vcpus: domain.vcpus };
            let map = libxl_json::config(&config, uuid, Some(now));
            items.push(item(domain.domid.map(|domid| domid.0), map));
        }
    }
    Ok(yajl::render(&items.into()) + "\n")
}

/// `domid` before `config`: scripts look for it first.
fn item(domid: Option<u32>, config: Map) -> Value {
    let mut map = Map::default();
    map.put("domid", domid.map_or(Value::Null, Value::from)).put("config", config);
    map.into()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::view::table::tests::seen;

    /// Rows as in a list of the real xl.
    pub(crate) fn sample() -> Vec<Row> {
        let host = HostFacts {
            memory_mib: 8192,
            available_mib: 6000,
            cpus: 8,
            busy_seconds: 812.44,
            ..HostFacts::default()
        };
        let mut web = seen("web", 3, State::Running);
        web.memory_mib = 2048;
        web.cpu_seconds = 5.6;
        let mut ended = seen("crashy", 7, State::Shutdown);
        ended.reason = Some(Reason::Crash);
        ended.cpu_seconds = 12_345_678.4;
        let long = seen("a-guest-with-a-name-longer-than-forty-characters", 9, State::Paused);
        let domains = [&web, &ended, &long].iter().map(|domain| domain.memory_mib).sum();
        [host_row(&host, domains), row(&web), row(&ended), row(&long)].to_vec()
    }

    #[test]
    fn the_table_is_that_of_xl_to_the_byte() {
        assert_eq!(
            table(&sample(), Columns::default()),
            "Name                                        ID   Mem VCPUs\tState\tTime(s)\n\
             Domain-0                                     0     0     8     r-----     812.4\n\
             web                                          3  2048     2     -b----       5.6\n\
             crashy                                       7   256     2     ---sc-  12345678.4\n\
             a-guest-with-a-name-longer-than-forty-characters     9   256     2     --p---       7.6\n"
        );
    }

    #[test]
    fn the_verbose_table_adds_uuid_reason_and_label() {
        let columns = Columns { verbose: true, ..Columns::default() };
        let text = table(&sample(), columns);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0]
                .ends_with("Time(s)   UUID                            Reason-Code\tSecurity Label")
        );
        assert!(
            lines[2].ends_with(" 8d5dbf3a-0000-4000-8000-000000000003        -                -")
        );
        assert!(
            lines[3].ends_with(" 8d5dbf3a-0000-4000-8000-000000000007        3                -")
        );
    }

    #[test]
    fn the_other_columns_have_their_headers() {
        let columns = Columns { context: true, pool: true, numa: true, ..Columns::default() };
        let text = table(&sample(), columns);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("Time(s)   Security Label         Cpupool NODE Affinity"));
        assert!(lines[2].ends_with("       5.6                -          Pool-0 all"));
    }

    #[test]
    fn xm_lists_dormant_domains_without_number_and_state() {
        let rows = [row(&seen("web", 3, State::Running)), row(&seen("off", 0, State::Halted))];
        assert_eq!(
            xm_table(&rows),
            "Name                                        ID   Mem VCPUs      State   Time(s)\n\
             web                                          3   256     2     -b----      7.6\n\
             off                                              256     2                 0.0\n"
        );
    }

    #[test]
    fn memory_of_host_domains_and_rest_add_up() {
        for (total, available, domains) in [(8192, 6000, 2560), (8192, 6000, 9000), (100, 90, 0)] {
            let (host, free) = shares(total, available, domains);
            assert!(host + free + domains >= total, "{total} {available} {domains}");
            assert!(domains > total || host + free + domains == total);
        }
    }

    #[test]
    fn states_are_selected_in_the_words_of_xm() {
        let crashed = &sample()[2];
        assert!(matches_state(crashed, "Crashed") && matches_state(crashed, "all"));
        assert!(!matches_state(crashed, "halted") && !matches_state(crashed, "dancing"));
    }
}
