//! What people see: live lines, tables. One file a format.
//! May touch: `model`, and the writer it is handed.
