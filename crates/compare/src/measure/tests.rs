use super::*;

fn received(numbers: &[u64]) -> Numbers {
    Numbers { count: numbers.len() as u64, sum: numbers.iter().sum(), ..Numbers::default() }
}

#[test]
fn a_lost_a_doubled_and_a_changed_message_are_noticed() {
    assert_eq!(account(4, &[received(&[1, 3]), received(&[2, 4])]), Ok(()));
    for wrong in [&[1, 2, 3][..], &[1, 2, 3, 4, 4], &[1, 2, 3, 5], &[1, 1, 3, 4]] {
        assert!(account(4, &[received(wrong)]).is_err(), "{wrong:?}");
    }
}

/// Loses the message with the number 3.
struct Leaky<'a>(&'a mut Vec<u64>);

impl Tx<1> for Leaky<'_> {
    fn send(&mut self, message: &[u64; 1]) {
        if message[0] != 3 {
            self.0.push(message[0]);
        }
    }
}

impl Rx<1> for std::vec::IntoIter<u64> {
    fn recv(&mut self) -> [u64; 1] {
        [self.next().expect("a message")]
    }
    fn try_recv(&mut self) -> Option<[u64; 1]> {
        self.next().map(|number| [number])
    }
}

#[test]
fn a_queue_that_loses_a_message_fails() {
    let mut queue = Vec::new();
    (1..=5).for_each(|number| Leaky(&mut queue).send(&message(number)));
    queue.push(PILL);
    let (count, sum) = receive_until_pill(&mut queue.into_iter());
    let ended = account(5, &[Numbers { count, sum, ..Numbers::default() }]);
    assert_eq!(ended, Err(Failure::Failed("4 of 5 messages came, and they add up to 12 instead of 15".into())));
}

#[test]
fn small_runs_of_every_case_of_gimmal_of_its_bare_rings_and_of_bytes_come_out() {
    let temporary = Temporary::new("measure-test").expect("a directory");
    let of_bytes = |measure| matches!(measure, Measure::Bytes | Measure::BytesTrip | Measure::Serialized);
    let wanted = |case: &Case| case.way.is_gimmal() || case.way.is_bare() || of_bytes(case.measure);
    let some = crate::case::all().into_iter().filter(|case| wanted(case) && case.pinned && case.idle < 100);
    let some = some.filter(|case| case.way != Way::Python || python_is_there());
    for (serial, case) in some.enumerate() {
        let run = Run { temporary: &temporary, serial: 10 * serial as u64, count: 5, limit: Duration::from_secs(20) };
        let sample = measure(&case, run);
        assert!(sample.as_ref().is_ok_and(|sample| sample.value > 0.0), "{case}: {sample:?}");
    }
}

fn python_is_there() -> bool {
    std::process::Command::new("python3").arg("--version").output().is_ok()
}

#[test]
fn without_a_python_its_case_is_left_out_and_says_so() {
    let temporary = Temporary::new("python-test").expect("a directory");
    let case = Case::new(Measure::Serialized, Way::Python, crate::ways::objects::BYTES);
    let run = Run { temporary: &temporary, serial: 0, count: 5, limit: Duration::from_secs(20) };
    let ended = super::serialized::python(std::path::Path::new("no such program"), &case, run);
    assert_eq!(ended, Err(Failure::Failed("left out: there is no python3 on this machine".into())));
}
