//! Text in columns: every table for people is laid out here. Styles have no width, and what does
//! not fit is broken between words.

use std::{
    io::{self, Write},
    ops::Range,
};

use anstyle::Style;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::style::{BOLD, PLAIN};

#[cfg(test)]
mod tests;

/// No column is wider: a longer text of a recording by somebody else goes over several lines, and
/// does not push every other row apart.
const WIDEST: usize = 1_024;
/// Text that is much wider than it may be is not measured to its end: how much that is, in columns.
const MUCH: usize = 16;

/// A column that needs this much less than its share gives the rest to the others.
const WORTH_GIVING: usize = 3;

/// One column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    head: &'static str,
    right: bool,
    /// It is at least so wide.
    least: usize,
    /// Its text may be broken into lines where the table is too wide.
    breaks: bool,
}

impl Column {
    /// Words: to the left.
    pub(crate) const fn left(head: &'static str) -> Self {
        Self { head, right: false, least: 0, breaks: false }
    }

    /// Numbers: to the right.
    pub(crate) const fn right(head: &'static str) -> Self {
        Self { head, right: true, least: 0, breaks: false }
    }

    /// The same, at least so wide.
    pub(crate) const fn least(self, width: usize) -> Self {
        Self { least: width, ..self }
    }

    /// The same, broken into lines of at least `least` columns where the table is too wide.
    pub(crate) const fn breaks(self, least: usize) -> Self {
        Self { breaks: true, least, ..self }
    }
}

/// Text of which parts may have styles. A newline begins a new line in its column.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cell {
    text: String,
    /// Where each part ends, and its style; behind the last one there is none.
    styles: Vec<(usize, Style)>,
}

impl Cell {
    /// Adds text in a style.
    pub(crate) fn push(&mut self, text: &str, style: Style) {
        if self.styles.last().map_or(0, |(end, _)| *end) < self.text.len() {
            self.styles.push((self.text.len(), PLAIN));
        }
        self.text.push_str(text);
        self.styles.push((self.text.len(), style));
    }

    /// Text in one style.
    pub(crate) fn styled(text: &str, style: Style) -> Self {
        let mut cell = Self::default();
        cell.push(text, style);
        cell
    }

    fn width(&self) -> usize {
        self.text.split('\n').map(str::width).max().unwrap_or(0)
    }

    /// The parts of a stretch of the text, each with its style.
    fn parts(&self, stretch: Range<usize>) -> impl Iterator<Item = (&str, Style)> {
        let mut from = 0;
        let ends = self.styles.iter().copied().chain([(self.text.len(), PLAIN)]);
        ends.filter_map(move |(end, style)| {
            let part = from.max(stretch.start)..end.min(stretch.end);
            from = end;
            (part.start < part.end).then(|| (&self.text[part], style))
        })
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, styles: Vec::new() }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// A table.
#[derive(Debug)]
pub(crate) struct Columns<const N: usize> {
    spec: [Column; N],
    rows: Vec<([Cell; N], Style)>,
    /// Columns of the widest cells.
    content: [usize; N],
}

impl<const N: usize> Columns<N> {
    /// An empty table. It has a line of heads if a column has one.
    pub(crate) fn new(spec: [Column; N]) -> Self {
        let content = spec.map(|column| column.head.width());
        Self { spec, rows: Vec::new(), content }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: [Cell; N]) {
        self.styled_row(cells, PLAIN);
    }

    /// Adds a row that has a style where its cells have none.
    pub(crate) fn styled_row(&mut self, cells: [Cell; N], style: Style) {
        for (content, cell) in self.content.iter_mut().zip(&cells) {
            *content = cell.width().min(WIDEST).max(*content);
        }
        self.rows.push((cells, style));
    }

    /// Writes it, `gap` columns between its columns, into `width` columns; none for as wide as it
    /// needs to be.
    ///
    /// # Errors
    /// Those of `out`.
    pub(crate) fn write(
        &self,
        gap: usize,
        width: Option<usize>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let widths = self.widths(gap, width);
        if self.spec.iter().any(|column| !column.head.is_empty()) {
            let heads = self.spec.map(|column| column.head.into());
            self.write_row(&heads, BOLD, gap, &widths, out)?;
        }
        for (cells, style) in &self.rows {
            self.write_row(cells, *style, gap, &widths, out)?;
        }
        Ok(())
    }

    fn write_row(
        &self,
        cells: &[Cell; N],
        style: Style,
        gap: usize,
        widths: &[usize; N],
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let lines: [Vec<Range<usize>>; N] =
            std::array::from_fn(|at| broken(&cells[at].text, widths[at]));
        let height = lines.iter().map(Vec::len).max().unwrap_or(0);
        for nth in 0..height {
            let mut line = Line::new(style);
            for (at, cell) in cells.iter().enumerate() {
                let stretch = lines[at].get(nth).cloned().unwrap_or(0..0);
                let free = widths[at].saturating_sub(cell.text[stretch.clone()].width());
                let right = self.spec[at].right;
                line.space(if right { free } else { 0 });
                for (text, style) in cell.parts(stretch) {
                    line.push(text, style);
                }
                line.space(gap + if right { 0 } else { free });
            }
            line.write(out)?;
        }
        Ok(())
    }

    /// How wide each column is to be.
    fn widths(&self, gap: usize, width: Option<usize>) -> [usize; N] {
        let mut widths: [usize; N] =
            std::array::from_fn(|at| self.content[at].max(self.spec[at].least));
        let Some(width) = width else { return widths };
        let (mut undecided, fixed): (Vec<usize>, Vec<usize>) =
            (0..N).partition(|&at| self.spec[at].breaks);
        let taken = fixed.into_iter().map(|at| widths[at]).sum::<usize>();
        let mut room = width.saturating_sub(taken + gap * N.saturating_sub(1));
        // What needs less than its share leaves more to the others.
        while let Some(share) = room.checked_div(undecided.len()) {
            let Some((at, columns)) = self.decide(&undecided, share) else {
                for (nth, &at) in undecided.iter().enumerate() {
                    widths[at] = (share + usize::from(nth < room % undecided.len())).max(1);
                }
                break;
            };
            undecided.retain(|&other| other != at);
            widths[at] = columns;
            room = room.saturating_sub(columns);
        }
        widths
    }

    /// One of these columns that needs more than this share, or does with less; and its width.
    fn decide(&self, among: &[usize], share: usize) -> Option<(usize, usize)> {
        let find = |rule: &dyn Fn(usize) -> Option<usize>| {
            among.iter().find_map(|&at| Some((at, rule(at)?)))
        };
        let least = |at: usize| self.spec[at].least;
        let content = |at: usize| self.content[at];
        find(&|at| Some(least(at)).filter(|&least| least > share))
            .or_else(|| find(&|at| (content(at) <= share).then(|| content(at).max(least(at)))))
            .or_else(|| {
                find(&|at| {
                    let longest = self.longest(at, share);
                    (longest + WORTH_GIVING <= share).then(|| longest.max(least(at)))
                })
            })
    }

    /// The longest line of a column whose text is broken.
    fn longest(&self, at: usize, width: usize) -> usize {
        let lines =
            self.rows.iter().map(|(cells, _)| cells[at].text.as_str()).flat_map(|text| {
                broken(text, width).into_iter().map(|stretch| text[stretch].width())
            });
        lines.chain([self.spec[at].head.width()]).max().unwrap_or(0)
    }
}

/// Breaks text into lines of at most so many columns, between words where that can be done.
fn broken(text: &str, width: usize) -> Vec<Range<usize>> {
    let mut lines = Vec::new();
    let mut from = 0;
    for line in text.split('\n') {
        let mut start = from;
        let mut end = from;
        let mut word_at = from;
        for word in line.split(' ') {
            let word_end = word_at + word.len();
            if is_wider(&text[start..word_end], width) {
                if end > start {
                    lines.push(start..end);
                    start = word_at;
                }
                while is_wider(&text[start..word_end], width) {
                    let cut = start + head(&text[start..word_end], width);
                    lines.push(start..cut);
                    start = cut;
                }
            }
            end = word_end;
            word_at = word_end + 1;
        }
        lines.push(start..end);
        from += line.len() + 1;
    }
    lines
}

/// Whether text is wider than so many columns.
fn is_wider(text: &str, width: usize) -> bool {
    let beginning = text.char_indices().nth(4 * (width + MUCH)).map(|(at, _)| &text[..at]);
    beginning.is_some_and(|beginning| beginning.width() > width + MUCH) || text.width() > width
}

/// Bytes of as much as fits into so many columns; at least those of one character.
fn head(word: &str, width: usize) -> usize {
    let mut columns = 0;
    let ends = word.char_indices().map(|(at, c)| at + c.len_utf8());
    let fitting = word.chars().take_while(|c| {
        columns += c.width().unwrap_or(1);
        columns <= width
    });
    let mut ends: Vec<usize> = ends.take(fitting.count().max(1)).collect();
    // Some characters are wider together than each for itself.
    while ends.len() > 1 && ends.last().is_some_and(|&end| word[..end].width() > width) {
        ends.pop();
    }
    ends.last().copied().unwrap_or(word.len())
}

/// A line of output. What ends it is no space.
struct Line {
    style: Style,
    parts: Vec<(String, Style)>,
    /// Spaces that are written if something follows.
    spaces: usize,
}

impl Line {
    fn new(style: Style) -> Self {
        Self { style, parts: Vec::new(), spaces: 0 }
    }

    fn space(&mut self, columns: usize) {
        self.spaces += columns;
    }

    fn push(&mut self, text: &str, style: Style) {
        let kept = text.trim_end_matches(' ');
        if !kept.is_empty() {
            let spaces = std::mem::take(&mut self.spaces);
            self.append(&" ".repeat(spaces), self.style);
            self.append(kept, if style == PLAIN { self.style } else { style });
        }
        self.spaces += text.len() - kept.len();
    }

    /// Parts of one style are one.
    fn append(&mut self, text: &str, style: Style) {
        match self.parts.last_mut() {
            Some((last, same)) if *same == style => last.push_str(text),
            _ if text.is_empty() => {}
            _ => self.parts.push((text.to_owned(), style)),
        }
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        for (text, style) in &self.parts {
            write!(out, "{style}{text}{style:#}")?;
        }
        writeln!(out)
    }
}
