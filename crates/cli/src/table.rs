//! Plain tables of text: aligned columns, two spaces apart.

use std::fmt::{self, Display};

/// A column's title, and on which side its cells are flush.
#[derive(Clone, Copy)]
pub enum Column {
    /// Text.
    Left(&'static str),
    /// Numbers.
    Right(&'static str),
}

/// Rows of cells under titles. On a terminal the last column is wrapped at its edge.
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
    line_width: Option<usize>,
}

const GAP: &str = "  ";

/// Narrower than this, the last column is better off on lines of its own.
const LEAST_WRAPPED: usize = 20;

/// How far in such lines begin.
const INDENT: usize = 4;

impl Table {
    /// An empty table.
    pub fn new(columns: &[Column]) -> Self {
        let terminal = console::Term::stdout();
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
            line_width: terminal.is_term().then(|| usize::from(terminal.size().1)),
        }
    }

    /// Adds a row, with a cell per column.
    pub fn row<const N: usize>(&mut self, cells: [&dyn Display; N]) {
        debug_assert_eq!(N, self.columns.len());
        self.rows.push(cells.iter().map(ToString::to_string).collect());
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn width(&self, column: usize) -> usize {
        let (Column::Left(title) | Column::Right(title)) = self.columns[column];
        let cells = self.rows.iter().map(|row| columns_taken(&row[column]));
        cells.fold(columns_taken(title), usize::max)
    }

    fn write_row(&self, f: &mut fmt::Formatter<'_>, widths: &[usize], cells: &[&str]) -> fmt::Result {
        let mut line = String::new();
        let last = cells.len() - 1;
        for (i, cell) in cells[..last].iter().enumerate() {
            let padding = " ".repeat(widths[i] - columns_taken(cell));
            match self.columns[i] {
                Column::Left(_) => line += &[cell, &*padding, GAP].concat(),
                Column::Right(_) => line += &[&*padding, cell, GAP].concat(),
            }
        }
        let mut indent = columns_taken(&line);
        let cell_lines = match self.line_width {
            _ if cells[last].is_empty() => vec![String::new()],
            None => vec![cells[last].to_owned()],
            Some(width) if width >= indent + LEAST_WRAPPED => wrap(cells[last], width - indent),
            Some(width) => {
                writeln!(f, "{}", line.trim_end())?;
                indent = INDENT;
                line = " ".repeat(indent);
                wrap(cells[last], width.saturating_sub(indent))
            }
        };
        for (i, cell) in cell_lines.iter().enumerate() {
            if i > 0 {
                line = " ".repeat(indent);
            }
            if let Column::Right(_) = self.columns[last] {
                line += &" ".repeat(widths[last].saturating_sub(columns_taken(cell)));
            }
            writeln!(f, "{}", (line.clone() + cell).trim_end())?;
        }
        Ok(())
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<usize> = (0..self.columns.len()).map(|i| self.width(i)).collect();
        let titles: Vec<&str> =
            self.columns.iter().map(|&(Column::Left(title) | Column::Right(title))| title).collect();
        self.write_row(f, &widths, &titles)?;
        for row in &self.rows {
            let cells: Vec<&str> = row.iter().map(String::as_str).collect();
            self.write_row(f, &widths, &cells)?;
        }
        Ok(())
    }
}

fn columns_taken(text: &str) -> usize {
    console::measure_text_width(text)
}

/// Breaks a text into lines between words; a word that is longer than a line has one of its own.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if columns_taken(line) + 1 + columns_taken(word) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A number of bytes, as `4.0 MiB`.
pub fn bytes(n: u64) -> String {
    match n {
        0..1024 => format!("{n} B"),
        _ => indicatif::BinaryBytes(n).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(line_width: Option<usize>) -> Table {
        let mut table = Table::new(&[Column::Left("name"), Column::Right("size"), Column::Left("what it is")]);
        table.line_width = line_width;
        table.row([&"a", &12345, &"words that go on and on, beyond the edge"]);
        table.row([&"longer", &1, &""]);
        table
    }

    #[test]
    fn columns_are_aligned_and_nothing_trails() {
        let expected = "\
name     size  what it is
a       12345  words that go on and on, beyond the edge
longer      1
";
        assert_eq!(sample(None).to_string(), expected);
    }

    #[test]
    fn the_last_column_is_wrapped_at_the_edge_of_a_terminal() {
        let expected = "\
name     size  what it is
a       12345  words that go on and
               on, beyond the edge
longer      1
";
        assert_eq!(sample(Some(36)).to_string(), expected);
    }

    #[test]
    fn on_a_narrow_terminal_the_last_column_has_lines_of_its_own() {
        let expected = "\
name     size
    what it is
a       12345
    words that go on and on,
    beyond the edge
longer      1
";
        assert_eq!(sample(Some(30)).to_string(), expected);
    }

    #[test]
    fn bytes_are_given_in_binary_units() {
        let given = [0, 1023, 1024, 1 << 20, 3 << 29].map(bytes);
        assert_eq!(given, ["0 B", "1023 B", "1.00 KiB", "1.00 MiB", "1.50 GiB"]);
    }
}
