//! What guests tell of themselves: from the program inside, or a line on a console, to the events
//! of the host and to supervision.

mod console;
mod hostile;
mod port;
mod simh;
mod wrapper;
