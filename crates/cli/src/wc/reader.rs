//! The reader's half of `gimmal wc`: what there is to read, and how it gets into the queue.

use anyhow::Result;
use gimmal::{SendSliceError, Sender};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::errno::Errno;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _, Write};
use std::os::unix::ffi::OsStrExt;
use std::slice;
use std::time::{Duration, Instant};

use crate::standard;

use super::Block;
use crate::count::in_word_after;
use crate::rows::quote;

/// One thing to read.
pub struct Input {
    /// `None` for standard input that was not asked for by name.
    pub name: Option<OsString>,
    pub metadata: Option<Metadata>,
}

impl Input {
    /// The files, or standard input if there are none.
    pub fn all(files: Vec<OsString>) -> Vec<Self> {
        let names = match files.is_empty() {
            true => vec![None],
            false => files.into_iter().map(Some).collect(),
        };
        let with_metadata = |name: Option<OsString>| {
            let metadata = match &name {
                Some(path) if path != "-" => fs::metadata(path),
                _ => standard::input().and_then(|input| input.metadata()),
            };
            Self { name, metadata: metadata.ok() }
        };
        names.into_iter().map(with_metadata).collect()
    }

    fn open(&self) -> Result<File, Trouble> {
        match &self.name {
            Some(name) if name.is_empty() => Err(Trouble::NoName),
            Some(name) if name != "-" => File::open(name).map_err(Trouble::Opening),
            _ => standard::input().map_err(Trouble::Opening),
        }
    }

    /// How much there is to read, if that is known.
    fn size(&self) -> Option<u64> {
        match &self.metadata {
            Some(metadata) => metadata.is_file().then_some(metadata.len()),
            None => Some(0),
        }
    }
}

/// Why an input could not be read, or not to its end.
pub enum Trouble {
    NoName,
    Opening(io::Error),
    Reading(io::Error),
}

impl Trouble {
    pub fn is_in_reading(&self) -> bool {
        matches!(self, Self::Reading(_))
    }

    /// What the C library would call it.
    pub fn reason(&self) -> String {
        match self {
            Self::NoName => "invalid zero-length file name".to_owned(),
            Self::Opening(error) | Self::Reading(error) => match error.raw_os_error() {
                Some(code) => Errno::from_raw(code).desc().to_owned(),
                None => error.to_string(),
            },
        }
    }

    fn message(&self, input: &Input) -> Vec<u8> {
        let name = match (self, &input.name) {
            (Self::NoName, _) => Vec::new(),
            (_, Some(name)) => [&quote(name.as_bytes())[..], b": "].concat(),
            (_, None) => b"'standard input': ".to_vec(),
        };
        [b"gimmal wc: ", &name[..], self.reason().as_bytes(), b"\n"].concat()
    }
}

/// What came of an input.
pub struct Read {
    pub input: Input,
    /// Bytes that were sent.
    pub bytes: u64,
    pub trouble: Option<Trouble>,
}

/// Reads the inputs, one after the other, and sends them in blocks.
pub struct Reader {
    sender: Sender<Block>,
    inputs: Vec<Input>,
    /// The block being filled; on the heap, for it is large.
    block: Box<Block>,
    progress: Progress,
}

impl Reader {
    pub fn new(sender: Sender<Block>, inputs: Vec<Input>) -> Self {
        let progress = Progress::new(inputs.iter().map(Input::size).sum());
        let block = bytemuck::zeroed_box();
        Self { sender, inputs, block, progress }
    }

    /// Reads all there is, complains about what it cannot read, and closes the queue, whatever happens.
    ///
    /// # Errors
    ///
    /// If a block cannot be sent.
    pub fn read_all(mut self) -> Result<Vec<Read>> {
        let inputs = std::mem::take(&mut self.inputs);
        let read = (0..).zip(inputs).map(|(index, input)| self.read_input(index, input)).collect();
        self.progress.bar.finish_and_clear();
        self.sender.close();
        read
    }

    fn read_input(&mut self, index: u32, input: Input) -> Result<Read> {
        self.block.input = index;
        let (bytes, trouble) = match input.open() {
            Ok(file) => self.read_file(file)?,
            Err(trouble) => (0, Some(trouble)),
        };
        if let Some(trouble) = &trouble {
            // Without stderr there is still the exit code.
            let complain = || io::stderr().write_all(&trouble.message(&input));
            let _ = self.progress.bar.suspend(complain);
        }
        Ok(Read { input, bytes, trouble })
    }

    fn read_file(&mut self, mut file: File) -> Result<(u64, Option<Trouble>), SendSliceError> {
        let mut bytes = 0;
        let mut in_word = false;
        loop {
            let (len, end) = fill(&mut file, &mut self.block.data);
            if len > 0 {
                self.block.len = len as u32;
                self.block.in_word = u32::from(in_word);
                in_word = in_word_after(&self.block.data[..len], in_word);
                self.sender.send_slice(slice::from_ref(&*self.block))?;
                bytes += len as u64;
                self.progress.advance(len as u64);
            }
            match end {
                None => {}
                Some(Ok(())) => return Ok((bytes, None)),
                Some(Err(error)) => return Ok((bytes, Some(Trouble::Reading(error)))),
            }
        }
    }
}

/// Reads until the buffer is full, or until an end or an error, which is then told.
fn fill(file: &mut File, buffer: &mut [u8]) -> (usize, Option<io::Result<()>>) {
    let mut len = 0;
    while len < buffer.len() {
        match file.read(&mut buffer[len..]) {
            Ok(0) => return (len, Some(Ok(()))),
            Ok(n) => len += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (len, Some(Err(error))),
        }
    }
    (len, None)
}

/// A bar on stderr, if that is a terminal and the counting takes long enough for one to wonder.
struct Progress {
    bar: ProgressBar,
    started: Instant,
    shown: bool,
}

impl Progress {
    const SHOWN_AFTER: Duration = Duration::from_millis(500);

    /// The total is not known where something other than a file is among the inputs.
    fn new(total: Option<u64>) -> Self {
        let template = match total {
            Some(_) => "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
            None => "{spinner} {bytes}, {bytes_per_sec}",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        Self {
            bar: ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden()).with_style(style),
            started: Instant::now(),
            shown: false,
        }
    }

    fn advance(&mut self, bytes: u64) {
        self.bar.inc(bytes);
        if !self.shown && self.started.elapsed() > Self::SHOWN_AFTER {
            self.shown = true;
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}
