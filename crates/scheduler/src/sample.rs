//! Looking at places in an order that a seed decides, each once, without a list of them.

/// The places `0..length`, each once, from a place and by a step that the seed decides.
pub(crate) fn walk(length: usize, seed: u64) -> impl Iterator<Item = usize> {
    let step = coprime(length, mix(seed.wrapping_add(1)));
    let mut place = index(mix(seed), length);
    (0..length).map(move |_| {
        let here = place;
        place = (place + step) % length;
        here
    })
}

/// The finalizer of `splitmix64`: near seeds give far numbers.
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn index(number: u64, length: usize) -> usize {
    let length = u64::try_from(length).unwrap_or(u64::MAX).max(1);
    usize::try_from(number % length).unwrap_or(0)
}

/// A step by which every place is come to: one without a divisor in common with the length.
fn coprime(length: usize, number: u64) -> usize {
    if length < 3 {
        return 1;
    }
    let first = index(number, length - 1) + 1;
    let fits = |step: &usize| divisor(*step, length) == 1;
    (first..length).chain(1..first).find(fits).unwrap_or(1)
}

fn divisor(a: usize, b: usize) -> usize {
    match b {
        0 => a,
        _ => divisor(b, a % b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_come_to_once() {
        for length in (0..40).chain([997, 1000, 1024]) {
            for seed in 0..20 {
                let mut places: Vec<usize> = walk(length, seed).collect();
                places.sort_unstable();
                let all: Vec<usize> = (0..length).collect();
                assert_eq!(places, all, "{length} places, seed {seed}");
            }
        }
    }

    #[test]
    fn seeds_begin_at_different_places() {
        let firsts: std::collections::HashSet<usize> = (0..1000)
            .filter_map(|seed| walk(1000, seed).next())
            .collect();
        assert!(firsts.len() > 500, "{}", firsts.len());
    }
}
