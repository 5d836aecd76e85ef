//! Against a plain list: one account, no dues, all priorities alike. Whoever starts is the first in line whose group has room.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{claim, grouped};
use proptest::prelude::*;
use proptest::sample::Index;
use torpor_scheduler::{Action, Budget, Claim, Event, Kind, Order, Scheduler, Time};

#[derive(Debug, Clone)]
enum Move {
    Submit {
        bytes: u64,
        group: Option<usize>,
        resume: bool,
    },
    Release(Index),
    Withdraw(Index),
    /// One that held and failed has its next attempt: it stands where a new one would.
    Retry(Index),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let submit = (1u64..40, prop::option::of(0usize..3), any::<bool>());
    let one = prop_oneof![
        5 => submit.prop_map(|(bytes, group, resume)| Move::Submit { bytes, group, resume }),
        4 => any::<Index>().prop_map(Move::Release),
        1 => any::<Index>().prop_map(Move::Withdraw),
        2 => any::<Index>().prop_map(Move::Retry),
    ];
    prop::collection::vec(one, 0..200)
}

#[derive(Debug, Clone, Copy)]
struct Listed {
    key: u64,
    bytes: u64,
    group: Option<usize>,
    resume: bool,
}

fn submission(limits: &[u32; 3], Listed { key, bytes, group, resume }: Listed) -> Event<u64> {
    let claim = group.map_or_else(|| claim(bytes), |group| grouped(bytes, &group.to_string(), limits[group]));
    Event::Submit(key, Claim { kind: if resume { Kind::Resume } else { Kind::New }, ..claim })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn one_account_without_dues_is_a_plain_queue(
        moves in moves(),
        limits in prop::array::uniform3(1u32..4),
        budget in 40u64..120,
        vms in prop::option::of(1usize..6),
        fifo in any::<bool>(),
    ) {
        let order = if fifo { Order::Fifo } else { Order::LeastSlack };
        let mut scheduler = Scheduler::with_order(Budget { bytes: budget, vms, cpu: None }, order);
        let mut waiting: Vec<Listed> = Vec::new();
        let mut holding: Vec<Listed> = Vec::new();
        let mut released: Vec<Listed> = Vec::new();
        for (key, step) in (0u64..).zip(moves) {
            let event = match step {
                Move::Submit { bytes, group, resume } => {
                    let place = if resume { waiting.partition_point(|listed| listed.resume) } else { waiting.len() };
                    waiting.insert(place, Listed { key, bytes, group, resume });
                    submission(&limits, waiting[place])
                }
                Move::Release(which) if !holding.is_empty() => {
                    released.push(holding.remove(which.index(holding.len())));
                    Event::Release(released[released.len() - 1].key)
                }
                Move::Retry(which) if !released.is_empty() => {
                    waiting.push(Listed { resume: false, ..released.remove(which.index(released.len())) });
                    submission(&limits, waiting[waiting.len() - 1])
                }
                Move::Withdraw(which) if !waiting.is_empty() => Event::Withdraw(waiting.remove(which.index(waiting.len())).key),
                _ => continue,
            };
            let mut expected = Vec::new();
            let mut at = 0;
            while let Some(&next) = waiting.get(at) {
                let held = holding.iter().filter(|listed| next.group.is_some() && listed.group == next.group).count();
                let used: u64 = holding.iter().map(|listed| listed.bytes).sum();
                if next.group.is_some_and(|group| held >= usize::try_from(limits[group]).unwrap()) {
                    at += 1;
                } else if used + next.bytes <= budget && vms.is_none_or(|most| holding.len() < most) {
                    holding.push(waiting.remove(at));
                    expected.push(Action::Start(next.key));
                } else {
                    break;
                }
            }
            prop_assert_eq!(scheduler.step(Time(0), event), expected);
        }
    }
}
