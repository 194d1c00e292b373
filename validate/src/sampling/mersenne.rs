//! MT19937, the generator behind the peer's seeded sampling: M. Matsumoto and T. Nishimura, "Mersenne Twister: A
//! 623-dimensionally equidistributed uniform pseudorandom number generator", ACM TOMACS 8(1), 1998.

const LENGTH: usize = 624;
const MIDDLE: usize = 397;

pub(super) struct MersenneTwister {
    state: [u32; LENGTH],
    next: usize,
}

impl MersenneTwister {
    pub(super) fn new(seed: u32) -> Self {
        let mut state = [0; LENGTH];
        let mut word = seed;
        for (index, slot) in (0u32..).zip(&mut state) {
            if index > 0 {
                word = 1_812_433_253u32.wrapping_mul(word ^ (word >> 30)).wrapping_add(index);
            }
            *slot = word;
        }
        Self { state, next: LENGTH }
    }

    /// The words that the next ones come from, and how many of them are used up.
    pub(super) fn state(&self) -> (&[u32], usize) {
        (&self.state, self.next)
    }

    /// None unless these are what [`Self::state`] may be.
    pub(super) fn of_state(words: &[u32], next: usize) -> Option<Self> {
        let state = words.try_into().ok()?;
        (next <= LENGTH).then_some(Self { state, next })
    }

    pub(super) fn next_word(&mut self) -> u32 {
        if self.next == LENGTH {
            self.renew();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn renew(&mut self) {
        for index in 0..LENGTH {
            let joined = (self.state[index] & 0x8000_0000) | (self.state[(index + 1) % LENGTH] & 0x7fff_ffff);
            let twist = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[index] = self.state[(index + MIDDLE) % LENGTH] ^ (joined >> 1) ^ twist;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_published_words() {
        // The reference implementation's default seed, and the 10000th word that the C++ standard demands of it.
        let mut twister = MersenneTwister::new(5489);
        let first: Vec<u32> = (0..5).map(|_| twister.next_word()).collect();
        assert_eq!(first, [3_499_211_612, 581_869_302, 3_890_346_734, 3_586_334_585, 545_404_204]);
        let last = (5..10_000).map(|_| twister.next_word()).last();
        assert_eq!(last, Some(4_123_659_995));
    }
}
