//! The registers, and what a driver may do wrong with them and with its rings.

mod chains;
mod hostile;
mod registers;
