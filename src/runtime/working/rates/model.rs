//! Random schedules of events and turns, on a clock that the test moves.

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, VecDeque};
    use std::time::Duration;

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use tokio::time::Instant;

    use crate::recipient::Recipient;
    use crate::runtime::working::rates::{KindRates, Rate, Rates};

    const INTERVAL: Duration = Duration::from_secs(3);
    const SLOTS: usize = 3;
    const BURST: usize = 2;
    /// Time of one turn of the rate of the kind, and of the prefix.
    const TURN: Duration = Duration::from_millis(200);
    const SLOW_TURN: Duration = Duration::from_secs(2);

    const KEYS: [&str; 10] = ["a", "b", "c", "d", "e", "f", "slow-1", "slow-2", "slow-3", "slow-4"];

    fn is_slow(to: &Recipient) -> bool {
        to.key().starts_with("slow-")
    }

    /// A queue of ready recipients, their boxes and their turns.
    struct World {
        rates: Rates,
        /// Recipients with events.
        boxes: BTreeSet<Recipient>,
        ready: VecDeque<Recipient>,
        running: Vec<Recipient>,
        ended: BTreeMap<Recipient, Instant>,
        begun: Vec<(Instant, bool)>,
    }

    impl World {
        fn new() -> Self {
            let rate = |turns: u32, per| Rate::new(turns.try_into().unwrap(), per);
            let of = KindRates::new()
                .min_interval(INTERVAL)
                .max_concurrent(u32::try_from(SLOTS).unwrap().try_into().unwrap())
                .rate(rate(5, Duration::from_secs(1)).burst(u32::try_from(BURST).unwrap().try_into().unwrap()))
                .rate_of("slow-", rate(1, SLOW_TURN));
            World {
                rates: Rates::new(&BTreeMap::from([("cell".to_owned(), of)]), 4, Instant::now()),
                boxes: BTreeSet::new(),
                ready: VecDeque::new(),
                running: Vec::new(),
                ended: BTreeMap::new(),
                begun: Vec::new(),
            }
        }

        /// Makes a recipient ready that a wake-up or a scan names.
        fn named(&mut self, to: &Recipient) {
            let is_known = self.ready.contains(to) || self.running.contains(to);
            if !is_known && !self.rates.waits(to, Instant::now()) {
                self.ready.push_back(to.clone());
            }
        }

        fn scan(&mut self) {
            self.boxes.clone().iter().for_each(|to| self.named(to));
        }

        fn end(&mut self, at: usize) {
            let to = self.running.swap_remove(at);
            self.rates.ended(std::slice::from_ref(&to));
            self.rates.turned(&to);
            self.ended.insert(to.clone(), Instant::now());
            if self.boxes.contains(&to) {
                self.ready.push_back(to);
            }
        }

        /// Does what the loop does before it waits.
        fn start(&mut self) {
            let released = self.rates.release(Instant::now());
            released.recipients.iter().for_each(|to| self.named(to));
            if released.needs_scan {
                self.scan();
            }
            for to in std::mem::take(&mut self.ready) {
                if self.rates.admit(&to, Instant::now()) {
                    let pause = self.ended.get(&to).map(|at| at.elapsed());
                    assert!(pause.is_none_or(|pause| pause >= INTERVAL), "{to}: {pause:?}");
                    self.boxes.remove(&to);
                    self.begun.push((Instant::now(), is_slow(&to)));
                    self.running.push(to);
                }
            }
            assert!(self.running.len() <= SLOTS, "{:?}", self.running);
        }

        /// Checks that no time has more turns than its rate.
        fn is_within(&self, turns: impl Fn(bool) -> bool, turn: Duration, burst: usize) {
            let begun: Vec<_> = self.begun.iter().filter(|(_, slow)| turns(*slow)).map(|(at, _)| *at).collect();
            for first in 0..begun.len() {
                for last in first..begun.len() {
                    let come = (begun[last] - begun[first]).as_nanos() / turn.as_nanos();
                    assert!((last - first + 1) as u128 <= burst as u128 + come, "{first} to {last} of {begun:?}");
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn in_any_schedule_the_rates_hold_and_everybody_has_a_turn() {
        for seed in 0..100 {
            let (mut random, mut world) = (StdRng::seed_from_u64(seed), World::new());
            for _ in 0..300 {
                match random.random_range(0..6_u8) {
                    0..3 => {
                        let key = KEYS[random.random_range(0..KEYS.len())];
                        let to = Recipient::new("cell", key).unwrap();
                        world.boxes.insert(to.clone());
                        world.named(&to);
                    }
                    3 if !world.running.is_empty() => {
                        let at = random.random_range(0..world.running.len());
                        world.end(at);
                    }
                    4 => tokio::time::advance(Duration::from_millis(random.random_range(0..1_500))).await,
                    _ => {}
                }
                world.start();
            }
            // Every recipient with events has a turn, also when the loop sleeps as long as the rates say.
            let mut left = 500;
            while !world.boxes.is_empty() {
                while !world.running.is_empty() {
                    world.end(0);
                }
                world.scan();
                world.start();
                if let Some(next) = world.rates.next(Instant::now()).filter(|_| world.running.is_empty()) {
                    tokio::time::advance(next.saturating_duration_since(Instant::now())).await;
                }
                left -= 1;
                assert!(left > 0, "seed {seed}: {:?} have no turn", world.boxes);
            }
            world.is_within(|_| true, TURN, BURST);
            world.is_within(|slow| slow, SLOW_TURN, 1);
        }
    }
}
