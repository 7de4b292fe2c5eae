//! The machine: processors, memory and devices, and what can be done to them as a whole.
