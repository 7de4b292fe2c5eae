//! The grammar against what the parser of xl was seen to do with the same texts.

use proptest::prelude::*;

use crate::config::{Rules, parse, parse_by};

/// xl's lines for a text, without the one it always ends with.
fn xl_errors(text: &str) -> String {
    let errors = parse_by(Rules::Xl, "f", text, &[]).map(|_| ()).expect_err(text);
    let lines = errors.xl_text();
    let own = lines.strip_suffix("Failed to parse config: Invalid argument\n");
    own.unwrap_or_else(|| panic!("{text:?} was readable: {lines}")).to_owned()
}

/// The values of two keys that are only kept, in the notation of a file.
fn values(text: &str) -> (Option<String>, Option<String>) {
    let head = "name='n'\nkernel='k'\n";
    let parsed = parse(&format!("{text:?}"), &format!("{head}{text}"), &[]);
    let mut kept = parsed.unwrap_or_else(|e| panic!("{text:?}: {e}")).config.kept;
    (kept.remove("tee"), kept.remove("slice"))
}

#[test]
fn what_xl_reads_is_read_and_means_the_same() {
    let rows: &[(&str, Option<&str>, Option<&str>)] = &[
        ("tee=1", Some("1"), None),
        ("tee = 1 ;;slice\t=\t2\n;\n", Some("1"), Some("2")),
        ("tee=1 #x\n#y\n slice=2#z\n", Some("1"), Some("2")),
        ("tee=0x1f\nslice=010\n", Some("\"0x1f\""), Some("010")),
        ("tee=1\ntee=2\n", Some("2"), None),
        ("tee='x'\ntee+=\"y\"\nslice+=1\n", Some("\"xy\""), Some("1")),
        ("tee=1\ntee+='2'\n", Some("12"), None),
        ("tee=[1]\ntee+=['a',[2]]\n", Some("[1, \"a\", [2]]"), None),
        ("tee=[\n1 # x\n,2\n,\n]\nslice=[]", Some("[1, 2]"), Some("[]")),
        ("tee=[[1,'b'],2]\n", Some("[[1, \"b\"], 2]"), None),
        ("tee='it\\'s'\nslice=\"x'y\"\n", Some("\"it's\""), Some("\"x'y\"")),
        ("tee='\\\"\\\\'\n", Some("\"\\\"\\\\\""), None),
        ("tee='\\a\\b\\f\\r\\t\\v'\n", Some("\"\x07\x08\x0c\r\t\x0b\""), None),
        ("tee='\\n'\nslice='#'\n", Some("\"\\n\""), Some("\"#\"")),
        ("tee='\\101z'\nslice='\\0010x'", Some("\"z\""), Some("\"0x\"")),
        ("tee=''\nslice=''#c\n", Some("\"\""), Some("\"\"")),
        ("tee=\"é\"\n", Some("\"é\""), None),
        ("tee=1\n#", Some("1"), None),
        ("tee=1 @", Some("1"), None),
        ("tee=1\r", Some("1"), None),
    ];
    for (text, tee, slice) in rows {
        let want = (tee.map(str::to_owned), slice.map(str::to_owned));
        assert_eq!(values(text), want, "{text:?}");
    }
}

#[test]
fn what_xl_refuses_is_refused_in_its_words() {
    const STATEMENT: &str = "expecting $end or IDENT or NEWLINE or ';'";
    const VALUE: &str = "expecting STRING or NUMBER or '['";
    const OPERATOR: &str = "expecting += or '='";
    let lexical = |near: &str| format!("f:1: config parsing error near `{near}': lexical error\n");
    let syntax = |line: u32, near: &str, found: &str, expecting: &str| {
        let near = if near == "\n" { "<newline>".into() } else { format!("`{near}'") };
        format!(
            "f:{line}: config parsing error near {near}: syntax error, unexpected {found}, {expecting}\n"
        )
    };
    let rows: &[(&str, String)] = &[
        ("a=1 # c", lexical("#")),
        ("a=1#c", lexical("#c")),
        ("A=1\n", lexical("A=1")),
        ("_a=1\n", lexical("_a=1")),
        ("a=1\r\n", lexical("\r")),
        ("a=True\n", lexical("True")),
        ("a=512MB\n", lexical("MB")),
        ("a=0x1F\n", lexical("F")),
        ("a='x\n", lexical("'x")),
        ("a='x", lexical("'x")),
        ("a=1 @ b $\n", lexical("@")),
        ("é=1\n", lexical("é=1")),
        ("a='x' 'y'\n", syntax(1, "'y'", "STRING", "expecting $end")),
        ("a=1 b=2\nc==3\n", syntax(1, "b", "IDENT", "expecting $end")),
        ("a=12gb\n", syntax(1, "gb", "IDENT", "expecting $end")),
        ("a=[,]\n", syntax(1, ",", "','", "expecting ']'")),
        ("a=[1 2]\n", syntax(1, "2", "NUMBER", "expecting ']'")),
        ("a=[1,,2]\n", syntax(1, ",", "','", "expecting ']'")),
        ("a=[1;2]\n", syntax(1, ";", "';'", "expecting ']'")),
        ("a=[1,\n", syntax(1, "", "$end", "expecting ']'")),
        ("x=1\na=[1,\n\n2", syntax(4, "", "$end", "expecting ']'")),
        ("a=\n1\n", syntax(0, "\n", "NEWLINE", VALUE)),
        ("\n\na\n=1\n", syntax(2, "\n", "NEWLINE", OPERATOR)),
        ("a=# x\n1\n", syntax(0, "# x", "NEWLINE", VALUE)),
        ("a=hvm\n", syntax(1, "hvm", "IDENT", VALUE)),
        ("a", syntax(1, "", "$end", OPERATOR)),
        ("=1\n", syntax(1, "=", "'='", STATEMENT)),
        ("'x'=1\n", syntax(1, "'x'", "STRING", STATEMENT)),
        ("a==1\n=2\nb==3\n", syntax(1, "=", "'='", VALUE) + &syntax(3, "=", "'='", VALUE)),
        ("a==\"\n", syntax(1, "=", "'='", VALUE) + &lexical("\"")),
        ("_\n@b\n", lexical("_")),
    ];
    for (text, want) in rows {
        assert_eq!(&xl_errors(text), want, "{text:?}");
    }
}

#[test]
fn characters_of_python_add_the_advice_about_it() {
    for (text, near) in [("a=-5\n", "-5"), ("a=1.5\n", ".5"), ("a=(1)\n", "(1)"), ("a:b\n", ":b")] {
        let lines = xl_errors(text);
        assert!(lines.starts_with(&format!("f:1: config parsing error near `{near}'")), "{lines}");
        assert_eq!(lines.lines().count(), 4, "{lines}");
        assert!(lines.contains("Arbitrary Python is no longer supported"));
    }
}

#[test]
fn escapes_that_mean_nothing_are_refused_in_the_words_of_xl() {
    for (string, message) in [
        ("'\\x41'", "invalid digit after backslash hexnumerical character escape in quoted string"),
        (
            "'\\10'",
            "invalid digit after backslash octalnumerical character escape in quoted string",
        ),
        ("'\\q'", "invalid character after backlash in quoted string"),
    ] {
        let want = format!("f:1: config parsing error near `{string}': {message}\n");
        assert_eq!(xl_errors(&format!("a={string}\nb={string}\n")), want);
    }
}

#[test]
fn a_list_added_to_a_string_fails_the_whole_file() {
    let message = "can't add [list] to \"string\" or vice versa\n";
    let want = |line, near| format!("f:{line}: config parsing error near `{near}': {message}");
    assert_eq!(xl_errors("a='x'\na+=['y']\n"), want(2, "]"));
    assert_eq!(xl_errors("a=['x']\nb=1\na+='y'\n"), want(3, "'y'"));
}

#[test]
fn kxl_goes_on_where_xl_stops_and_shows_each_place() {
    let text = "memory = 512 MB\nvcpus = 2 2\ntype = hvm\n";
    let errors = parse("web.cfg", text, &[]).unwrap_err();
    assert_eq!(
        errors.render(),
        "web.cfg:1:14: cannot read \"MB\"\n\
         \x20 1 | memory = 512 MB\n    |              ^^\n\
         \x20 hint: numbers have no unit; the unit is that of the key\n\
         web.cfg:2:11: a number does not belong here\n\
         \x20 2 | vcpus = 2 2\n    |           ^\n\
         \x20 expected: the end of the line or \";\"\n\
         web.cfg:3:8: a name does not belong here\n\
         \x20 3 | type = hvm\n    |        ^^^\n\
         \x20 expected: a string in quotes, a number or a list in brackets\n\
         \x20 hint: strings need quotes: \"hvm\"\n"
    );
    // xl gives the rest up at the second statement of line 2.
    assert_eq!(errors.xl_text().lines().count(), 3, "{}", errors.xl_text());
}

#[test]
fn words_of_the_command_line_are_lines_behind_the_file() {
    let words = ["memory=64;vcpus=2".to_owned(), "name=x".to_owned()];
    let errors = parse("web.cfg", "name='web'\n", &words).unwrap_err();
    assert!(
        errors.render().starts_with("command line:2:6: a name does not belong here\n"),
        "{errors}"
    );
    assert!(errors.xl_text().starts_with("web.cfg:4: config parsing error near `x'"));
    let good = parse("web.cfg", "name='web'\nkernel='k'\nmemory=32 #", &words[..1]).unwrap();
    assert_eq!((good.config.memory_mib, good.config.vcpus), (64, 2));
}

#[test]
fn very_deep_lists_are_refused_and_do_not_exhaust_the_stack() {
    let text = format!("a={}", "[".repeat(100_000));
    assert!(!parse("f", &text, &[]).unwrap_err().errors.is_empty());
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,80}") {
        drop(parse("f", &text, &[]).map_err(|e| (e.render(), e.xl_text())));
    }

    #[test]
    fn nothing_near_a_real_file_makes_it_panic(
        pieces in proptest::collection::vec(
            "(name|disk|vif|memory|=|\\+=|\\[|\\]|,|;|\n|#|'a'|\"|'|\\\\|1|0x|é|\r| |\u{fffd})", 0..24)
    ) {
        let text = pieces.concat();
        drop(parse("f", &text, std::slice::from_ref(&text)).map_err(|e| (e.render(), e.xl_text())));
    }
}
