//! Random histories, against a model of plain maps.
//!
//! [`rules`] says what is right; it knows no staging, no seals and no disk. After every step of
//! several processes the engine is asked what each process finds under each name and what each
//! handle has before it; that, every result, every lock, the names in the directory, the
//! number of links of each file and what is in salvage have to be what the rules say.
//!
//! Left out, because what happens then depends on the clock: an opener that closes a new,
//! written file while others have it open (watchers are made to wait for it).

mod game;
mod rules;
mod steps;

use proptest::prelude::*;

use crate::rounds;
use game::Game;
use steps::step;

proptest! {
    #![proptest_config(rounds(1000))]

    #[test]
    fn every_process_finds_what_the_rules_say(
        pause in 1..4_usize,
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut game = Game::new(pause);
        for step in steps {
            game.play(step)?;
        }
        game.end()?;
    }
}
