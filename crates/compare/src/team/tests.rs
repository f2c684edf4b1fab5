use super::*;

fn team(workers: usize) -> Team {
    Team { workers, idle: 0, threads: false, pinned: false, limit: Duration::from_secs(20) }
}

#[test]
fn workers_meet_and_their_numbers_are_collected_in_order() {
    for threads in [false, true] {
        let numbers = run(&Team { threads, ..team(4) }, |seat| {
            seat.tally().fetch_add(1, Relaxed);
            seat.meet();
            // Everybody was there before anybody went on.
            Numbers { count: seat.tally().load(Relaxed), sum: seat.index as u64, ..Numbers::default() }
        });
        let numbers = numbers.expect("all work");
        assert_eq!(numbers.iter().map(|n| (n.count, n.sum)).collect::<Vec<_>>(), [(4, 0), (4, 1), (4, 2), (4, 3)]);
    }
}

#[test]
fn idle_ones_are_there_while_the_workers_work_and_then_go() {
    let numbers = run(&Team { idle: 5, ..team(2) }, |seat| {
        if seat.index >= 2 {
            seat.tally().fetch_add(1, Relaxed);
            seat.rest();
            return Numbers::default();
        }
        seat.await_idle();
        Numbers { count: seat.tally().load(Relaxed), ..Numbers::default() }
    });
    assert_eq!(numbers.expect("all work").iter().map(|n| n.count).collect::<Vec<_>>(), [5, 5]);
}

#[test]
fn a_hanging_worker_is_killed_and_reported() {
    let hanging = Team { limit: Duration::from_millis(200), ..team(2) };
    let ended = run(&hanging, |seat| {
        if seat.index == 1 {
            loop {
                std::thread::park();
            }
        }
        Numbers::default()
    });
    assert_eq!(ended, Err(Failure::DidNotFinish));
}

#[test]
fn a_panic_is_reported_by_its_first_line_and_ends_those_at_the_barrier() {
    for threads in [false, true] {
        let begin = Instant::now();
        let ended = run(&Team { threads, ..team(3) }, |seat| {
            assert!(seat.index != 1, "no paper\nand no ink");
            seat.meet();
            Numbers::default()
        });
        assert_eq!(ended, Err(Failure::Failed("no paper".into())));
        assert!(begin.elapsed() < Duration::from_secs(10), "waited for the barrier");
    }
}

#[test]
fn a_worker_that_dies_is_reported() {
    let ended = run(&team(2), |seat| {
        if seat.index == 1 {
            std::process::abort();
        }
        seat.meet();
        Numbers::default()
    });
    assert_eq!(ended, Err(Failure::Failed("killed by signal 6".into())));
}

#[test]
fn what_the_first_has_made_is_there_for_the_others() {
    let numbers = run(&team(3), |seat| {
        let made = seat.first(|create| {
            if create {
                seat.tally().store(7, Relaxed);
            }
            seat.tally().load(Relaxed)
        });
        Numbers { count: made, ..Numbers::default() }
    });
    assert_eq!(numbers.expect("all work").iter().map(|n| n.count).collect::<Vec<_>>(), [7, 7, 7]);
}
