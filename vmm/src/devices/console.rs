//! The serial port: the guest kernel's console. The monitor keeps its last bytes, to be told with a VM's end, and can copy it to a terminal.

use std::collections::VecDeque;
use std::io::{self, Write};
use torpor_protocol::limits::CONSOLE_TAIL;
use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial};

/// Keeps the last [`CONSOLE_TAIL`] bytes.
#[derive(Debug, Default)]
pub struct Tail {
    bytes: VecDeque<u8>,
    copy: bool,
}

impl Write for Tail {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.copy {
            let mut out = io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()?;
        }
        self.bytes.extend(bytes);
        let over = self.bytes.len().saturating_sub(CONSOLE_TAIL);
        self.bytes.drain(..over);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Asks for the port's interrupt; the caller of the port raises it.
#[derive(Debug, Default)]
pub struct Wanted(std::cell::Cell<bool>);

impl Trigger for Wanted {
    type E = std::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.set(true);
        Ok(())
    }
}

/// The port.
#[derive(Debug)]
pub struct Console(Serial<Wanted, NoEvents, Tail>);

impl Console {
    /// `copy`: to standard output as well.
    #[must_use]
    pub fn new(copy: bool) -> Self {
        Self(Serial::new(Wanted::default(), Tail { copy, ..Tail::default() }))
    }

    /// A port read.
    pub fn read(&mut self, offset: u8) -> u8 {
        self.0.read(offset)
    }

    /// A port write. `true`: raise the interrupt.
    pub fn write(&mut self, offset: u8, value: u8) -> bool {
        // Only a failing terminal can fail here; the guest has no part in that.
        let _ = self.0.write(offset, value);
        self.0.interrupt_evt().0.replace(false)
    }

    /// Input from the terminal. `true`: raise the interrupt.
    pub fn input(&mut self, bytes: &[u8]) -> bool {
        let _ = self.0.enqueue_raw_bytes(bytes);
        self.0.interrupt_evt().0.replace(false)
    }

    /// The last output, with what is not UTF-8 replaced.
    #[must_use]
    pub fn tail(&self) -> String {
        let (a, b) = self.0.writer().bytes.as_slices();
        String::from_utf8_lossy(&[a, b].concat()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_tail_is_kept() {
        let mut console = Console::new(false);
        for i in 0..CONSOLE_TAIL * 3 {
            console.write(0, b'a' + u8::try_from(i % 26).unwrap_or(0));
        }
        assert_eq!(console.tail().len(), CONSOLE_TAIL);
    }
}
