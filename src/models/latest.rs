//! The last value: what is read is whole, is what was stored as that version, and never goes back.

use super::*;
use crate::buffers::{Buffers, Header, Stamp};

/// Three words of the value are in two cells and a half.
type Value = [u32; 5];

struct Latest {
    header: Header,
    cells: Vec<AtomicU64>,
    count: usize,
}

impl Latest {
    /// Version 0 is 0.
    fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { header: Header::new(), cells: (0..3 * count).map(|_| AtomicU64::new(0)).collect(), count })
    }

    fn buffers(&self) -> Buffers<'_> {
        Buffers { header: &self.header, cells: &self.cells, count: self.count }
    }

    /// Looks once.
    fn look(&self) -> Option<(Stamp, u32)> {
        let mut value: Value = [99; 5];
        let stamp = self.buffers().read(bytemuck::bytes_of_mut(&mut value))?;
        assert_eq!(value, [value[0]; 5], "torn");
        Some((stamp, value[0]))
    }

    /// The same when nobody writes.
    fn last(&self) -> (u64, u32) {
        let (stamp, value) = self.look().expect("nobody writes");
        (stamp.version(), value)
    }

    /// Stores, and says as which version; `None` if all buffers are taken.
    fn store(&self, owner: u16, value: u32) -> Option<u64> {
        let claim = self.buffers().write(owner, bytemuck::bytes_of(&[value; 5]))?;
        self.buffers().publish(claim, None).map(Stamp::version)
    }
}

/// Which value each version is, as writers were told.
#[derive(Clone, Default)]
struct Versions(Arc<Mutex<Vec<(u64, u32)>>>);

impl Versions {
    fn add(&self, version: Option<u64>, value: u32) {
        self.0.lock().unwrap().extend(version.map(|version| (version, value)));
    }

    /// In order, with version 0; each number has been given once.
    fn all(&self) -> Vec<(u64, u32)> {
        let mut all = self.0.lock().unwrap().clone();
        all.push((0, 0));
        all.sort_unstable();
        assert!(all.iter().map(|&(version, _)| version).eq(0..all.len() as u64), "{all:?}");
        all
    }
}

type Looks = Arc<Mutex<Vec<Option<(u64, u32)>>>>;

fn writer(latest: &Arc<Latest>, versions: &Versions, owner: u16, values: &'static [u32]) -> Job {
    let (latest, versions) = (Arc::clone(latest), versions.clone());
    Box::new(move || values.iter().for_each(|&value| versions.add(latest.store(owner, value), value)))
}

fn reader(latest: &Arc<Latest>, looks: &Looks, count: usize) -> Job {
    let (latest, looks) = (Arc::clone(latest), Arc::clone(looks));
    Box::new(move || {
        for _ in 0..count {
            looks.lock().unwrap().push(latest.look().map(|(stamp, value)| (stamp.version(), value)));
        }
    })
}

/// What was seen is what was stored, in order; in the end the last version is there, and every buffer can be had.
fn account(latest: &Latest, versions: &Versions, looks: &Looks) -> Vec<Option<u64>> {
    let (all, looks) = (versions.all(), looks.lock().unwrap().clone());
    let seen: Vec<_> = looks.iter().flatten().collect();
    assert!(seen.iter().all(|seen| all.contains(seen)), "{seen:?} of {all:?}");
    assert!(seen.iter().map(|(version, _)| version).is_sorted(), "{seen:?}");
    assert_eq!(Some(&latest.last()), all.last());
    let claims: Vec<_> = (1..latest.count).map(|_| latest.buffers().write(3, &[0; 20])).collect();
    assert!(claims.iter().all(Option::is_some), "a buffer has leaked");
    looks.iter().map(|look| look.map(|(version, _)| version)).collect()
}

/// One writer that comes to the same buffer again, and a reader.
#[test]
fn latest_is_whole_when_its_buffer_is_used_again() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(3), move || {
        let (latest, versions, looks) = (Latest::new(2), Versions::default(), Looks::default());
        let jobs = vec![writer(&latest, &versions, 1, &[10, 20, 30]), reader(&latest, &looks, 1)];
        let seen = add.clone();
        (jobs, Box::new(move || seen.add(account(&latest, &versions, &looks)[0])))
    });
    seen.must_have([None, Some(0), Some(1), Some(2), Some(3)]);
}

/// Two writers and a reader that looks twice.
#[test]
fn latest_never_goes_back() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(2), move || {
        let (latest, versions, looks) = (Latest::new(3), Versions::default(), Looks::default());
        let jobs = vec![
            writer(&latest, &versions, 1, &[10]),
            writer(&latest, &versions, 2, &[20]),
            reader(&latest, &looks, 2),
        ];
        let seen = add.clone();
        (jobs, Box::new(move || seen.add(account(&latest, &versions, &looks))))
    });
    seen.must_have([[0, 0], [0, 2], [1, 2], [2, 2]].map(|versions| versions.map(Some).to_vec()));
}

/// One who comes to a buffer that has just been published gives it back, or finds that it is no longer current.
#[test]
fn latest_is_not_written_while_it_is_current() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(2), move || {
        let (latest, versions, looks) = (Latest::new(3), Versions::default(), Looks::default());
        // Into the second buffer.
        versions.add(latest.store(1, 10), 10);
        let (late, of_late) = (Arc::clone(&latest), versions.clone());
        let late = move || {
            if let Some(claim) = late.buffers().claim(1, 2) {
                late.buffers().fill(&claim, bytemuck::bytes_of(&[20_u32; 5]));
                of_late.add(late.buffers().publish(claim, None).map(Stamp::version), 20);
            }
        };
        let jobs = vec![Box::new(late), writer(&latest, &versions, 1, &[30]), reader(&latest, &looks, 1)];
        let seen = add.clone();
        let check = move || {
            let look = account(&latest, &versions, &looks)[0];
            seen.add((latest.last().0, look));
        };
        (jobs, Box::new(check))
    });
    seen.must_have([(2, Some(1)), (2, Some(2)), (3, None), (3, Some(1)), (3, Some(3))]);
}

/// Two who change what they have read: nobody's change is lost, and what is given up is never seen.
#[test]
fn latest_loses_no_update() {
    let seen = Seen::new();
    let add = seen.clone();
    explore(Some(2), move || {
        let (latest, versions, looks) = (Latest::new(3), Versions::default(), Looks::default());
        let lost = Arc::new(Mutex::new(0));
        let updater = |owner: u16, by: u32| -> Job {
            let (latest, versions, lost) = (Arc::clone(&latest), versions.clone(), Arc::clone(&lost));
            Box::new(move || {
                let Some((stamp, value)) = latest.look() else { return };
                let value = value + by;
                let Some(claim) = latest.buffers().write(owner, bytemuck::bytes_of(&[value; 5])) else { return };
                match latest.buffers().publish(claim, Some(stamp)) {
                    Some(stamp) => versions.add(Some(stamp.version()), value),
                    None => *lost.lock().unwrap() += 1,
                }
            })
        };
        let jobs = vec![updater(1, 10), updater(2, 20), reader(&latest, &looks, 1)];
        let (seen, lost) = (add.clone(), Arc::clone(&lost));
        let check = move || {
            account(&latest, &versions, &looks);
            let (version, value) = latest.last();
            let lost = *lost.lock().unwrap();
            assert!(lost == 0 || version == 1, "one of two wins");
            assert!(version < 2 || value == 30, "an update was lost");
            seen.add((version, lost));
        };
        (jobs, Box::new(check))
    });
    seen.must_have([(1, 1), (2, 0)]);
}

/// A writer has died in the middle of a store, or behind its publication, and somebody repairs, twice: beside a writer and a
/// reader nothing is torn, and its buffer can be had again.
#[test]
fn latest_outlives_its_writer() {
    for published in [false, true] {
        let seen = Seen::new();
        let add = seen.clone();
        explore(Some(2), move || {
            let (latest, versions, looks) = (Latest::new(2), Versions::default(), Looks::default());
            let value = if published { 10 } else { 77 };
            let claim = latest.buffers().write(1, bytemuck::bytes_of(&[value; 5])).expect("a free one");
            if published {
                versions.add(latest.buffers().publish_and_die(claim).map(Stamp::version), value);
            } else {
                core::mem::forget(claim);
            }
            let repairing = Arc::clone(&latest);
            let repair = move || {
                repairing.header.abandon(&Ids::from_iter([1]));
                repairing.header.abandon(&Ids::from_iter([1]));
            };
            let jobs = vec![Box::new(repair), writer(&latest, &versions, 2, &[20]), reader(&latest, &looks, 1)];
            let seen = add.clone();
            (jobs, Box::new(move || seen.add(account(&latest, &versions, &looks)[0])))
        });
        let first = u64::from(published);
        seen.must_have([Some(first), Some(first + 1)]);
    }
}
