//! Colours of text for people. They are always written; the stream that the text goes to strips
//! them where they are not wanted (`cli::Color`).

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

use crate::model::Confidence;

pub(crate) const PLAIN: Style = Style::new();
pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const RED: Style = AnsiColor::Red.on_default();
pub(crate) const BOLD_RED: Style = RED.bold();
pub(crate) const GREEN: Style = AnsiColor::Green.on_default();
pub(crate) const YELLOW: Style = AnsiColor::Yellow.on_default();
pub(crate) const BOLD_YELLOW: Style = YELLOW.bold();

/// Text in a style.
pub(crate) fn paint(text: &str, style: Style) -> String {
    let mut out = String::with_capacity(text.len() + 12);
    let _ = write!(out, "{style}{text}{style:#}");
    out
}

/// The style of a finding.
pub(super) fn style_of(confidence: Confidence) -> Style {
    match confidence {
        Confidence::Proven => BOLD_RED,
        Confidence::Strong => RED,
        Confidence::Weak => YELLOW,
    }
}
