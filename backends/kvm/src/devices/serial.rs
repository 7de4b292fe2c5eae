//! The 16550 at COM1: registers by vm-superio, an interrupt by irqfd.

use std::io::Write;
use std::sync::Arc;

use bincode::{Decode, Encode};
use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial, SerialState};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;

/// An edge on an interrupt line of KVM's.
#[derive(Clone, Debug)]
pub struct Edge(pub Arc<EventFd>);

impl Trigger for Edge {
    type E = std::io::Error;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.write(1)
    }
}

/// The host's side of the line; it stays the same over resets. No call may wait: a processor makes
/// it, with the device locked.
pub trait Host: Send + Sync {
    /// The guest has written this.
    fn output(&self, bytes: &[u8]);

    /// There is room for input again, as [`Com1::tell_of_room`] asked to be told.
    fn room(&self) {}
}

struct Wire(Arc<dyn Host>);

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.output(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Bytes of input that fit.
const FIFO: usize = 64;

/// The registers and what has not been read yet, as they are saved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct State {
    /// Divisor latch, low and high; interrupt enable and identification; line control and status;
    /// modem control and status; scratch.
    pub registers: [u8; 9],
    /// Input that the guest has not read.
    pub input: Vec<u8>,
}

/// The device.
pub struct Com1 {
    uart: Serial<Edge, NoEvents, Wire>,
    interrupt: Edge,
    host: Arc<dyn Host>,
    /// Input waits for room.
    starved: bool,
    /// The machine stands still, and what comes in waits outside: a state is all of it.
    stands: bool,
}

impl std::fmt::Debug for Com1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Com1").finish_non_exhaustive()
    }
}

impl Com1 {
    /// As after a reset. It stands still.
    #[must_use]
    pub fn new(interrupt: Edge, host: Arc<dyn Host>) -> Self {
        let uart = Serial::new(interrupt.clone(), Wire(Arc::clone(&host)));
        Self { uart, interrupt, host, starved: false, stands: true }
    }

    /// As after a reset, standing still. What was not read is lost.
    pub fn reset(&mut self) {
        let starved = self.starved;
        *self = Self::new(self.interrupt.clone(), Arc::clone(&self.host));
        self.starved = starved;
    }

    /// Takes no input from now on.
    pub const fn stand(&mut self) {
        self.stands = true;
    }

    /// Takes input again.
    pub fn go(&mut self) {
        self.stands = false;
        self.look_for_room();
    }

    fn look_for_room(&mut self) {
        // When all of it was read, so that input comes in pieces of the queue's length.
        if self.starved && self.room() == FIFO {
            self.starved = false;
            self.host.room();
        }
    }

    /// Takes as much of the input as there is room for; how many bytes it was.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        // In loopback the line is cut.
        self.uart.enqueue_raw_bytes(bytes).unwrap_or(bytes.len())
    }

    /// Has the host told when there is room again.
    pub const fn tell_of_room(&mut self) {
        self.starved = true;
    }

    /// Bytes of input there is room for.
    #[must_use]
    pub fn room(&self) -> usize {
        if self.stands { 0 } else { self.uart.fifo_capacity() }
    }

    /// What is saved.
    #[must_use]
    pub fn state(&self) -> State {
        let state = self.uart.state();
        State {
            registers: [
                state.baud_divisor_low,
                state.baud_divisor_high,
                state.interrupt_enable,
                state.interrupt_identification,
                state.line_control,
                state.line_status,
                state.modem_control,
                state.modem_status,
                state.scratch,
            ],
            input: state.in_buffer,
        }
    }

    /// Puts it back. An interrupt that is pending is raised again. What came in before the state
    /// did is input like any other, as far as it fits.
    ///
    /// # Errors
    /// More input than fits.
    pub fn restore(&mut self, state: &State) -> Result<(), String> {
        let [low, high, enable, identification, control, line, modem, status, scratch] =
            state.registers;
        let registers = SerialState {
            baud_divisor_low: low,
            baud_divisor_high: high,
            interrupt_enable: enable,
            interrupt_identification: identification,
            line_control: control,
            line_status: line,
            modem_control: modem,
            modem_status: status,
            scratch,
            in_buffer: state.input.clone(),
        };
        let early = self.uart.state().in_buffer;
        let line = Wire(Arc::clone(&self.host));
        self.uart = Serial::from_state(&registers, self.interrupt.clone(), NoEvents, line)
            .map_err(|error| format!("the serial line's state cannot be taken: {error:?}"))?;
        let _what_fits = self.receive(&early);
        Ok(())
    }
}

impl BusDevice for Com1 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let Ok(offset) = u8::try_from(offset) else { return };
        // Several bytes are one register several times, by a string instruction.
        for byte in data {
            *byte = self.uart.read(offset);
            self.look_for_room();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let Ok(offset) = u8::try_from(offset) else { return };
        for byte in data {
            // What cannot be written is lost, as on a line that nobody listens to.
            let _lost = self.uart.write(offset, *byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Counts how often it was told of room.
    #[derive(Default)]
    struct Nobody(AtomicU32);

    impl Host for Nobody {
        fn output(&self, _bytes: &[u8]) {}

        fn room(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn com1() -> (Com1, Arc<EventFd>) {
        let event = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        let mut com1 = Com1::new(Edge(Arc::clone(&event)), Arc::new(Nobody::default()));
        com1.go();
        (com1, event)
    }

    #[test]
    fn input_waits_for_the_guest_also_over_a_save() {
        let (mut com1, event) = com1();
        com1.write(1, &[1]);
        assert_eq!(com1.receive(b"ls\n"), 3);
        assert_eq!(event.read().unwrap(), 1);
        let state = com1.state();
        let (mut other, event) = self::com1();
        other.restore(&state).unwrap();
        assert_eq!(other.state(), state);
        assert_ne!(event.read().unwrap(), 0);
        let mut data = [0];
        other.read(0, &mut data);
        assert_eq!(&data, b"l");
    }

    #[test]
    fn what_is_typed_before_a_state_comes_in_is_read_behind_it() {
        let (mut com1, _) = com1();
        assert_eq!(com1.receive(b"ls"), 2);
        let (mut other, _) = self::com1();
        assert_eq!(other.receive(b"\n"), 1);
        other.restore(&com1.state()).unwrap();
        assert_eq!(other.state().input, b"ls\n");
    }

    #[test]
    fn no_more_is_taken_than_fits() {
        let (mut com1, _) = com1();
        let taken = com1.receive(&[b'x'; 1000]);
        assert!(taken < 1000 && com1.room() == 0, "{taken}");
    }

    #[test]
    fn a_machine_that_stands_still_has_no_room_and_says_so_when_it_goes_on() {
        let event = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        let host = Arc::new(Nobody::default());
        let mut com1 = Com1::new(Edge(event), Arc::clone(&host) as Arc<dyn Host>);
        assert_eq!(com1.room(), 0);
        com1.tell_of_room();
        com1.go();
        assert_eq!((com1.room(), host.0.load(Ordering::Relaxed)), (FIFO, 1));
        com1.stand();
        com1.tell_of_room();
        com1.reset();
        assert_eq!(com1.room(), 0);
        com1.go();
        assert_eq!(host.0.load(Ordering::Relaxed), 2);
    }
}
