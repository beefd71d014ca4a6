//! Live lines and tables for people; one file a format.
//! May touch: `model`, and the writer it is handed.

pub mod live;
pub mod ps;
pub mod table;
