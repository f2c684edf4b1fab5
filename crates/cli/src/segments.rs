//! `gimmal ls`, `stat`, `clean` and `rm`.

use anyhow::{Context, Result, bail};
use gimmal::{ObjectInfo, ParticipantInfo, Segment, Snapshot};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::table::Column::{Left, Right};
use crate::table::{Table, bytes};

/// Lists the segments. One that cannot be read is listed with the reason; that is no failure.
pub fn ls(as_json: bool) -> Result<ExitCode> {
    let listed = Segment::list()?;
    if as_json {
        let segments = listed.iter().map(|listed| match &listed.snapshot {
            Ok(snapshot) => snapshot_json(&listed.name, snapshot),
            Err(error) => json!({"name": listed.name, "error": error.to_string()}),
        });
        return success(&format!("{:#}\n", segments.collect::<Value>()));
    }
    let mut table = Table::new(&[
        Left("NAME"),
        Right("SIZE"),
        Right("USED"),
        Right("OBJECTS"),
        Right("PROCESSES"),
        Right("AGE"),
        Left("NOTE"),
    ]);
    for listed in &listed {
        match &listed.snapshot {
            Ok(s) => {
                let alive = alive(s).count();
                let note = match s.persist {
                    true => "persistent".to_owned(),
                    false if listed.abandoned => abandoned(listed.owner),
                    false => String::new(),
                };
                table.row([
                    &listed.name,
                    &bytes(s.memory),
                    &bytes(s.used as u64),
                    &s.objects.len(),
                    &alive,
                    &age(s.created),
                    &note,
                ]);
            }
            Err(_) if listed.abandoned => {
                table.row([&listed.name, &"-", &"-", &"-", &"-", &"-", &abandoned(listed.owner)]);
            }
            Err(error) => table.row([&listed.name, &"-", &"-", &"-", &"-", &"-", error]),
        }
    }
    match table.is_empty() {
        true => success("no segments\n"),
        false => success(&table.to_string()),
    }
}

/// What becomes of a segment whose processes were all killed.
fn abandoned(owner: u32) -> String {
    match removable_by(owner) {
        None => "abandoned; gimmal clean removes it".to_owned(),
        Some(owner) => format!("abandoned; {owner} may remove it, and open_or_create with its mode takes it over"),
    }
}

/// Who may remove what belongs to `owner`, if we may not, in a directory like /dev/shm.
fn removable_by(owner: u32) -> Option<String> {
    let us = nix::unistd::geteuid();
    (!us.is_root() && us.as_raw() != owner).then(|| format!("user {owner} or root"))
}

/// Shows one segment.
pub fn stat(name: &str, as_json: bool) -> Result<ExitCode> {
    let s = Segment::inspect(name)?;
    if as_json {
        return success(&format!("{:#}\n", snapshot_json(name, &s)));
    }

    let mut text = format!(
        "segment {name}: {} of {} used, {} of memory, created {} ago, {}\n\n",
        bytes(s.used as u64),
        bytes(s.size as u64),
        bytes(s.memory),
        age(s.created),
        match s.persist {
            true => "stays until it is removed",
            false => "goes away with its last process",
        },
    );
    let mut participants = Table::new(&[Right("ID"), Right("PID"), Right("JOINED"), Left("STATE"), Left("SENTINEL")]);
    for p in &s.participants {
        let state = match p.alive {
            true => "alive",
            false => "dead; the next one to look repairs what it left behind",
        };
        let sentinel = if p.sentinel { "yes" } else { "no" };
        participants.row([&p.id, &p.pid, &format!("{} ago", age(p.joined)), &state, &sentinel]);
    }
    let mut objects = Table::new(&[
        Left("OBJECT"),
        Left("KIND"),
        Left("ELEMENT"),
        Right("CAPACITY"),
        Right("DEPTH"),
        Right("SIZE"),
        Left("STATE"),
    ]);
    for o in &s.objects {
        let state = match o.closed {
            Some(true) => "closed",
            Some(false) => "open",
            None => "",
        };
        let depth = o.depth.iter().map(u64::to_string).collect::<Vec<_>>().join(" + ");
        objects.row([
            &o.name,
            &o.kind,
            // Whoever may write to the segment may write anything there.
            &o.element.escape_debug(),
            &o.capacity,
            &depth,
            &bytes(o.memory),
            &state,
        ]);
    }
    let counted = |n: usize, most: u64, what: &str| match n {
        0 => format!("no {what} (room for {most})\n"),
        _ => format!("{what} ({n} of {most}):\n"),
    };
    text += &counted(s.participants.len(), s.max_participants.into(), "processes");
    if !participants.is_empty() {
        text += &participants.to_string();
    }
    text += "\n";
    text += &counted(s.objects.len(), s.max_objects.into(), "objects");
    if !objects.is_empty() {
        text += &objects.to_string();
    }
    success(&text)
}

/// Removes the segments that nobody is attached to.
pub fn clean(as_json: bool) -> Result<ExitCode> {
    let removed = Segment::clean()?;
    if as_json {
        return success(&format!("{:#}\n", json!({"removed": removed})));
    }
    let mut text: String = removed.iter().map(|name| format!("removed {name}\n")).collect();
    // What only others may remove.
    for listed in Segment::list()?.iter().filter(|listed| listed.abandoned) {
        text += &format!("{} stays: {}\n", listed.name, abandoned(listed.owner));
    }
    match text.is_empty() {
        true => success("nothing to remove\n"),
        false => success(&text),
    }
}

/// Removes one segment, if nobody uses it or `force` is given.
pub fn rm(name: &str, force: bool, as_json: bool) -> Result<ExitCode> {
    let listed = Segment::list()?.into_iter().find(|listed| listed.name == name);
    if let Some(listed) = listed.filter(|listed| listed.used && !force) {
        let users: Vec<String> = listed.snapshot.iter().flat_map(alive).map(|p| p.pid.to_string()).collect();
        match users.is_empty() {
            // One of another version, say.
            true => bail!("{name} is in use; remove it with --force"),
            false => bail!("{name} is in use by process {}; remove it with --force", users.join(", ")),
        }
    }
    Segment::unlink(name).with_context(|| format!("cannot remove {name}"))?;
    match as_json {
        true => success(&format!("{:#}\n", json!({"removed": [name]}))),
        false => success(&format!("removed {name}\n")),
    }
}

fn success(text: &str) -> Result<ExitCode> {
    crate::print(text)?;
    Ok(ExitCode::SUCCESS)
}

fn alive(snapshot: &Snapshot) -> impl Iterator<Item = &ParticipantInfo> {
    snapshot.participants.iter().filter(|p| p.alive)
}

fn snapshot_json(name: &str, s: &Snapshot) -> Value {
    let participant = |p: &ParticipantInfo| json!({"id": p.id, "pid": p.pid, "joined": unix_time(p.joined), "alive": p.alive, "sentinel": p.sentinel});
    let object = |o: &ObjectInfo| {
        json!({
            "name": o.name,
            "kind": o.kind.to_string(),
            "element": o.element,
            "element_size": o.element_size,
            "capacity": o.capacity,
            "depth": o.depth,
            "bytes": o.bytes,
            "memory": o.memory,
            "closed": o.closed,
        })
    };
    json!({
        "name": name,
        "size": s.size,
        "memory": s.memory,
        "used": s.used,
        "persist": s.persist,
        "asymmetric_fences": s.asymmetric_fences,
        "created": unix_time(s.created),
        "max_participants": s.max_participants,
        "max_objects": s.max_objects,
        "participants": s.participants.iter().map(participant).collect::<Value>(),
        "objects": s.objects.iter().map(object).collect::<Value>(),
    })
}

/// Seconds since 1970.
fn unix_time(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The time since then, in one unit.
fn age(then: SystemTime) -> String {
    let age = then.elapsed().unwrap_or(Duration::ZERO).as_secs();
    match age {
        0..120 => format!("{age} s"),
        120..7_200 => format!("{} min", age / 60),
        7_200..172_800 => format!("{} h", age / 3_600),
        _ => format!("{} days", age / 86_400),
    }
}
