// Reproducible random numbers: every test prints its seed, and SYNCLINE_SEED replays it.

/** A generator for this run. Prints the seed with the result of test `t`. */
export function seededRandom(t) {
  const seed = process.env.SYNCLINE_SEED ? Number(process.env.SYNCLINE_SEED) : Math.floor(Math.random() * 2 ** 32)
  t.diagnostic(`seed: SYNCLINE_SEED=${seed}`)
  return generator(seed)
}

/** mulberry32 (public domain, Tommy Ettinger): numbers in [0, 1). `below(n)` returns integers, `pick` elements. */
export function generator(seed) {
  let state = seed >>> 0
  const random = () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
  random.below = (n) => Math.floor(random() * n)
  random.pick = (list) => list[random.below(list.length)]
  return random
}
