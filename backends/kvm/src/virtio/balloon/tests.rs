use vm_memory::Bytes;

use super::*;
use crate::virtio::driver::Buffer::{In, Out};
use crate::virtio::driver::{DATA, Driver, driven};
use crate::virtio::state::State;

fn touch(driver: &Driver<Balloon>, page: u64) {
    driver.put(page * PAGE as u64, &[7; PAGE]);
}

fn is_empty(driver: &Driver<Balloon>, page: u64) -> bool {
    driver.get(page * PAGE as u64, PAGE) == [0; PAGE]
}

#[test]
fn pages_in_the_balloon_are_given_back_and_no_others() {
    let mut driver = driven(Balloon::default(), 0);
    for page in 500..510 {
        touch(&driver, page);
    }
    let numbers = [505u32, 503, 504, 508, u32::MAX, 1 << 20];
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    driver.put(DATA, &bytes);
    let length = u32::try_from(bytes.len()).unwrap();
    assert_eq!(driver.request(0, &[In(DATA, length)]), 0);
    let empty: Vec<_> = (500..510).filter(|page| is_empty(&driver, *page)).collect();
    assert_eq!(empty, [503, 504, 505, 508]);
    touch(&driver, 503);
    driver.put(DATA, &503u32.to_le_bytes());
    driver.request(1, &[In(DATA, 4)]);
    assert!(!is_empty(&driver, 503), "a page that has come back is the guest's");
}

#[test]
fn free_pages_that_are_reported_are_given_back() {
    let mut driver = driven(Balloon::default(), 0);
    for page in 500..510 {
        touch(&driver, page);
    }
    let page = PAGE as u64;
    let length = u32::try_from(PAGE).unwrap();
    let buffers =
        [Out(501 * page, 2 * length), Out(505 * page + 1, length), Out(508 * page, length - 1)];
    driver.request(3, &buffers);
    let empty: Vec<_> = (500..510).filter(|page| is_empty(&driver, *page)).collect();
    assert_eq!(empty, [501, 502], "only whole pages");
}

#[test]
fn orders_are_looked_for_after_so_many_pages_however_few_requests_name_them() {
    let mut driver = driven(Balloon::default(), 0);
    // Pages apart from each other.
    let numbers: Vec<u8> = (0u32..16 << 10).flat_map(|number| (2 * number).to_le_bytes()).collect();
    driver.put(2 * DATA, &numbers);
    let length = u32::try_from(numbers.len()).unwrap();
    for _ in 0..4 {
        driver.offer(1, &[In(2 * DATA, length)]);
        driver.offer(0, &[In(2 * DATA + 0x2000, length - 0x2000)]);
    }
    let count = |driver: &Driver<Balloon>, queue: usize| {
        let count = driver.handle.call(move |balloon, env| {
            balloon.serve(queue, env).unwrap();
            env.queues[queue].as_ref().unwrap().state().next_used
        });
        count.unwrap()
    };
    assert_eq!(count(&driver, 0), 2, "of 4, each of 14 Ki pages");
    assert_eq!(count(&driver, 1), 4, "what comes back costs nothing");
    for _ in 0..4 {
        driver.wait(0);
    }
}

#[test]
fn a_report_of_more_than_anybody_has_is_not_heard_to_its_end() {
    let mut driver = driven(Balloon::default(), 0);
    let page = u32::try_from(PAGE).unwrap();
    for (less, heard) in [(page, true), (0, false)] {
        touch(&driver, 400);
        let mut buffers = vec![Out(2 * DATA, 2 << 20); 511];
        buffers.extend([Out(2 * DATA, (2 << 20) - less), Out(400 * PAGE as u64, page)]);
        driver.offer_indirect(3, DATA, &buffers);
        driver.ring(3);
        driver.wait(3);
        assert_eq!(is_empty(&driver, 400), heard, "the last page of 1 GiB, or one more");
    }
}

#[test]
fn reporting_takes_the_place_of_statistics_that_are_not_in_use() {
    let mut driver = driven(Balloon::default(), STATISTICS);
    touch(&driver, 600);
    driver.request(2, &[Out(600 * PAGE as u64, u32::try_from(PAGE).unwrap())]);
    assert!(is_empty(&driver, 600));
}

#[test]
fn the_target_is_seen_and_the_answer_heard() {
    let mut driver = driven(Balloon::default(), 0);
    driver.handle.set_target(5 << 20).unwrap();
    driver.wait_changed();
    assert_eq!(u32::from_le_bytes(driver.config(0)), 1280);
    driver.write(0x100, 99);
    driver.write(0x104, 1280);
    assert_eq!(driver.handle.given().unwrap(), 5 << 20);
    assert_eq!(driver.told.recv().unwrap(), Told::Given(5 << 20));
    assert_eq!(u32::from_le_bytes(driver.config(0)), 1280, "the driver cannot change it");
    let mut driver = driver.moved(Balloon::default());
    assert_eq!(driver.handle.given().unwrap(), 5 << 20);
    assert_eq!(u32::from_le_bytes(driver.config(0)), 1280);
}

#[test]
fn of_a_flood_of_answers_the_first_and_the_last_are_told() {
    let mut driver = driven(Balloon::default(), 0);
    let began = Instant::now();
    let flood = driver.handle.call(|balloon, env| {
        for pages in 1..=5000u32 {
            env.space.write(4, &pages.to_le_bytes());
            balloon.written(env);
        }
    });
    flood.unwrap();
    let mut told = vec![driver.told.recv().unwrap()];
    while told.last() != Some(&Told::Given(5000 << 12)) {
        told.push(driver.told.recv_timeout(Duration::from_secs(20)).unwrap());
    }
    let most = 2 + began.elapsed().as_secs();
    assert!(told.len() as u64 <= most, "{} in {most} seconds", told.len());
    driver.write(0x104, 5000);
    driver.write(0x104, 6000);
    driver.write(0x104, 7000);
    // Whoever stands still has told everything.
    driver.transport.pause().unwrap();
    assert_eq!(driver.told.try_iter().last(), Some(Told::Given(7000 << 12)));
    let mut driver = driver.moved(Balloon::default());
    driver.handle.call(|_, _| ()).unwrap();
    driver.transport.pause().unwrap();
    assert!(driver.told.try_recv().is_err(), "it was told before the move");
    driver.transport.resume().unwrap();
    driver.write(0x104, 0);
    assert_eq!(driver.told.recv_timeout(Duration::from_secs(20)), Ok(Told::Given(0)));
}

fn statistic(tag: u16, value: u64) -> Vec<u8> {
    [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat()
}

#[test]
fn statistics_come_when_they_are_asked_for_and_survive_a_move() {
    let mut driver = driven(Balloon::default(), 0);
    driver.put(DATA, &[statistic(4, 100), statistic(5, 200)].concat());
    driver.offer(2, &[In(DATA, 20)]);
    driver.ring(2);
    while driver.handle.statistics().unwrap().is_empty() {
        std::thread::yield_now();
    }
    // That has given the request back.
    driver.wait(2);
    driver.put(DATA, &statistic(4, 90));
    driver.offer(2, &[In(DATA, 10)]);
    driver.ring(2);
    driver.handle.call(|_, _| ()).unwrap();
    let mut driver = driver.moved(Balloon::default());
    // The first answers may come out of the state, before the request is taken here again.
    loop {
        let told = driver.handle.statistics().unwrap();
        if driver.used(2).is_some() {
            assert_eq!(told, [(4, 90)]);
            break;
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_driver_that_sends_statistics_unasked_gets_its_requests_back() {
    let mut driver = driven(Balloon::default(), 0);
    driver.put(DATA, &statistic(0, 1));
    for _ in 0..5 {
        driver.offer(2, &[In(DATA, 10)]);
    }
    driver.ring(2);
    for _ in 0..4 {
        driver.wait(2);
    }
    assert_eq!(driver.used(2), None);
    let state: State = {
        driver.transport.pause().unwrap();
        driver.transport.state().unwrap()
    };
    assert_eq!((state.queues[2].next_available, state.queues[2].next_used), (4, 4));
    assert_eq!(driver.memory.read_obj::<u8>(GuestAddress(DATA + 2)).unwrap(), 1);
}
