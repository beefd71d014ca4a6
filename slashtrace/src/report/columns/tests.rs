use anstream::adapter::strip_str;
use proptest::prelude::*;

use super::*;
use crate::report::style::{GREEN, YELLOW};

const NAME: Column = Column::left("NAME").breaks(4);
const TEXT: Column = Column::left("TEXT").breaks(6);

fn written<const N: usize>(table: &Columns<N>, gap: usize, width: Option<usize>) -> String {
    let mut out = Vec::new();
    table.write(gap, width, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn words_are_to_the_left_and_numbers_to_the_right() {
    let mut table = Columns::new([Column::left("NAME"), Column::right("N").least(3), NAME]);
    table.row(["a".into(), "1".into(), "x".into()]);
    table.row(["long".into(), "1000".into(), "".into()]);
    let text = strip_str(&written(&table, 2, None)).to_string();
    assert_eq!(text, "NAME     N  NAME\na        1  x\nlong  1000\n");
}

#[test]
fn styles_have_no_width_and_end_with_their_part() {
    let mut cell = Cell::styled("red", YELLOW);
    cell.push(" and ", PLAIN);
    cell.push("green", GREEN);
    let mut table = Columns::new([NAME, Column::left("")]);
    table.row([cell, "x".into()]);
    table.styled_row(["all of it".into(), "x".into()], YELLOW);
    let text = written(&table, 1, None);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "\x1b[1mNAME\x1b[0m");
    assert_eq!(lines[1], "\x1b[33mred\x1b[0m and \x1b[32mgreen\x1b[0m x");
    assert_eq!(lines[2], "\x1b[33mall of it     x\x1b[0m");
}

#[test]
fn a_style_goes_on_in_the_next_line() {
    let mut cell = Cell::from("a ");
    cell.push("bcdef ghijkl", GREEN);
    let mut table = Columns::new([TEXT]);
    table.row([cell]);
    let text = written(&table, 1, Some(8));
    assert!(text.ends_with("a \x1b[32mbcdef\x1b[0m\n\x1b[32mghijkl\x1b[0m\n"), "{text:?}");
}

#[test]
fn a_newline_begins_a_line_in_its_column() {
    let mut table = Columns::new([Column::left(""), Column::left("")]);
    table.row(["name".into(), "first\nsecond".into()]);
    assert_eq!(written(&table, 2, None), "name  first\n      second\n");
}

#[test]
fn wide_characters_count_twice() {
    let mut table = Columns::new([Column::left("AB"), Column::left("C")]);
    table.row(["東京".into(), "x".into()]);
    assert!(written(&table, 1, None).ends_with("AB   C\x1b[0m\n東京 x\n"));
    let lines: Vec<&str> = broken("東京都", 3).into_iter().map(|at| &"東京都"[at]).collect();
    assert_eq!(lines, ["東", "京", "都"]);
}

proptest! {
    #[test]
    fn nothing_is_lost_and_what_can_be_broken_fits(
        text in "[a-z東 ]{0,40}", name in "[a-z]{1,12}", width in 14..60_usize,
    ) {
        let mut table = Columns::new([NAME, Column::right("N"), TEXT]);
        table.row([name.as_str().into(), "12".into(), text.as_str().into()]);
        let shown = strip_str(&written(&table, 1, Some(width))).to_string();
        prop_assert!(shown.lines().all(|line| line.width() <= width), "{width}: {shown}");
        let count = |of: &str, c: char| of.matches(c).count();
        for c in ('a'..='z').chain(['東']) {
            prop_assert_eq!(count(&shown, c), count(&name, c) + count(&text, c));
        }
    }
}
