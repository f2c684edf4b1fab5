//! `gimmal doctor`: looks at what gimmal needs of this machine, and says what each finding means.

mod checks;

use anyhow::Result;
use serde_json::{Value, json};
use std::process::ExitCode;

use crate::table::Column::Left;
use crate::table::Table;

/// What was found, and what it means.
struct Check {
    name: &'static str,
    found: String,
    status: Status,
    meaning: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// As it should be.
    Ok,
    /// Works, but slower, or not everywhere, or not for long.
    Warn,
    /// Something of gimmal does not work.
    Fail,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

impl Check {
    fn new(name: &'static str, found: impl ToString, status: Status, meaning: impl Into<String>) -> Self {
        Self { name, found: found.to_string(), status, meaning: meaning.into() }
    }

    /// A check of something that is there or not: what it means in either case.
    fn of<T, E: ToString>(
        name: &'static str,
        tried: Result<T, E>,
        meaning: impl Into<String>,
        otherwise: impl Into<String>,
    ) -> Self {
        match tried {
            Ok(_) => Self::new(name, "works", Status::Ok, meaning),
            Err(error) => Self::new(name, error.to_string(), Status::Fail, otherwise),
        }
    }
}

/// Checks everything; the exit code says whether something failed.
pub fn run(as_json: bool) -> Result<ExitCode> {
    let checks = checks::all();
    let healthy = checks.iter().all(|check| check.status != Status::Fail);
    if as_json {
        let checks = checks.iter().map(|check| {
            json!({
                "name": check.name,
                "found": check.found,
                "status": check.status.as_str().to_lowercase(),
                "meaning": check.meaning,
            })
        });
        let report = json!({"ok": healthy, "checks": checks.collect::<Value>()});
        crate::print(format!("{report:#}\n"))?;
    } else {
        let mut table = Table::new(&[Left("STATUS"), Left("WHAT"), Left("FOUND"), Left("WHAT IT MEANS")]);
        for check in &checks {
            table.row([&check.status.as_str(), &check.name, &check.found, &check.meaning]);
        }
        crate::print(table.to_string())?;
    }
    Ok(match healthy {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
