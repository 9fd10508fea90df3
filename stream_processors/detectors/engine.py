"""PURE. One pane into the detectors of every key: everything that is compiled. What it means is said elsewhere.

`detector` says when a key fires and has returned, `scan`, `confseq` and `material` hold the formulas of the functions named
after them. All of it stands in one file because the compiler's cache looks at the file of a function, not at those it calls.

R_j of the bank is kept as itself up to e**30 and beyond that as minus its logarithm (there + 1 is lost in it), so one
exponential a pane and alternative is enough and evidence may grow without bound.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# columns of a pack's `at`: where a key's arrays begin, how large they are
CELL, CELLS, GROUPS, ALT, ALTS, SLOTS, LAW, SCORE, SLACK, ROWS, LEVEL, WEEK, WEEKS, WIDE, KIND, CONFSEQ = range(16)
BANK, SCAN, MATERIAL, TOLERANCE, TAIL, KOLMOGOROV = range(6)  # columns of its `real`
STEPS, PANES, FIRED, RETURNED, BEST, SCALE, OVER, FIRES = range(8)  # columns of a state's counters
LOG_M, VALUE, LOWER = range(3)  # columns of its values
COUNTERS, VALUES = 8, 3
NOTHING, BY_BANK, BY_SCAN = range(3)  # OVER
DISTANCE, SHARE, WASSERSTEIN = range(3)  # KIND of a tolerance

LEVELS = 8
SCALES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # panes; from the third on 4 << level
REFERENCE_ERROR = 1.3581  # sqrt(log(2 / 0.05) / 2): of D, in 95 % of references
REFERENCE_LEVEL = 3.6889  # log(2 / 0.05)
LARGEST_SHARE = 0.1  # of the reference's rows that a scale of the scan may hold
CONFSEQ_FACTOR, CONFSEQ_SHARE, CONFSEQ_CONSTANT = 0.85, 0.8, np.log(1612.0)
RETURN_ODDS = 20.0  # against each alternative, before the bank's size
RETURN_SIZE = 0.005  # KL of an alternative that must be rejected in any case: a shift of 0.1 sd
RETURN_SCALE = 2  # index of the first scale that proves a return, four panes: a change may pulse
WEEK_MS, MONDAY_MS = 7 * 86_400_000, 4 * 86_400_000  # the first Monday after the epoch
_LINEAR = 30.0
_TOP = np.exp(_LINEAR)
_SCALES = np.array(SCALES)


@njit(cache=True, nogil=True)
def step_panes(pack, state, panes, starts, until_fired):
    """Step panes[P, cells] one after the other; how many were stepped, the first in which a key fires anew included."""
    for i in range(panes.shape[0]):
        if _step(pack, state, panes[i], starts[i]) and until_fired:
            return i + 1
    return panes.shape[0]


@njit(cache=True, nogil=True)
def _step(pack, state, pane, start):
    counters, anew = state.counters, False
    for k in range(counters.shape[0]):
        at, mine = pack.at[k], counters[k]
        groups, alts, slots = at[GROUPS], at[ALTS], at[SLOTS]
        mine[STEPS] += 1
        mine[FIRES] = 0
        counts, n = np.zeros(groups + slots, np.int64), 0
        held, group = 0, 0
        for c in range(at[CELL], at[CELL] + at[CELLS]):
            if pack.groups[c] != group:  # neighbours share a group: one write for them all
                counts[group] += held
                n, held, group = n + held, 0, pack.groups[c]
            held += pane[c]
        counts[group] += held
        n += held
        alt = slice(at[ALT], at[ALT] + alts)
        rise, run = state.rise[alt], state.run[alt]
        if n == 0:
            for j in range(alts):
                if rise[j] > 0:
                    run[j] += 1
            continue
        slot = 0
        if slots:
            slot = pack.week[at[WEEK] + (start - MONDAY_MS) % WEEK_MS * at[WEEKS] // WEEK_MS]
            counts[groups + slot] = n
        mine[PANES] += 1
        gain = _gained(pack, at, slot, counts)
        _raise(pack, at, state.r[alt], rise, run, gain, mine, state.values[k])
        width = groups + slots
        levels = state.levels[at[LEVEL] : at[LEVEL] + 4 * LEVELS * width].reshape((LEVELS, 4, width))
        push(levels, mine[PANES], counts)
        if mine[FIRED] >= 0:
            back = state.back[4 * LEVELS * at[ALT] : 4 * LEVELS * (at[ALT] + alts)]
            for j in range(alts):  # without the slack, which would reject alternatives too easily
                gain[j] += pack.eta[at[ALT] + j] * n * pack.slack[at[SLACK] + slot * alts + j]
            push(back.reshape((LEVELS, 4, alts)), mine[PANES], gain)
        _look(pack, k, state, levels)
        if mine[FIRES] and mine[FIRED] < 0:
            mine[FIRED], anew = mine[PANES], True
    return anew


@njit(cache=True, nogil=True)
def _gained(pack, at, slot, counts):
    """eta * counts . scores; exact before the product with eta."""
    groups, alts = at[GROUPS], at[ALTS]
    total = np.zeros(alts)
    first = at[SCORE] + slot * groups * alts
    for g in range(groups):
        if counts[g]:
            here, scores = np.float64(counts[g]), pack.scores[first + g * alts : first + (g + 1) * alts]
            for j in range(alts):
                total[j] += here * scores[j]
    for j in range(alts):
        total[j] *= pack.eta[at[ALT] + j]
    return total


@njit(cache=True, nogil=True)
def _raise(pack, at, r, rise, run, gain, mine, values):
    """The sums after one more pane, log M, and the alternative with most evidence."""
    best, top, total = -1, -np.inf, 0.0
    for j in range(r.size):
        g = gain[j]
        if r[j] < 0:
            x = g - r[j]
        elif g > 500.0:
            x = np.log(r[j] + 1.0) + g
        else:
            r[j] = (r[j] + 1.0) * np.exp(g)
            x = -np.inf
            if r[j] > _TOP:
                x = np.log(r[j])
        if x > -np.inf:
            r[j] = -x if x > _LINEAR else np.exp(x)
        rise[j] = max(0.0, rise[j] + g)
        run[j] = run[j] + 1 if rise[j] > 0 else 0
        place = (
            -r[j] if r[j] < 0 else min(r[j], _TOP) / _TOP
        )  # orders both forms: logarithms are above 30, the others below 1
        if place > top:
            best, top = j, place
    mine[BEST] = best
    if best < 0:
        return
    if r[best] >= 0:
        for j in range(r.size):
            total += pack.weights[at[ALT] + j] * r[j]
        values[LOG_M] = np.log(total) if total > 0 else -np.inf
        return
    for j in range(r.size):
        x = -r[j] if r[j] < 0 else (np.log(r[j]) if r[j] > 0 else -np.inf)
        total += pack.weights[at[ALT] + j] * np.exp(x - top)
    values[LOG_M] = top + np.log(total)


@njit(cache=True, nogil=True)
def _look(pack, k, state, levels):
    """The scan's value, the lower bound of the effect, whether the key fires, whether it returned."""
    at, real, mine, values = pack.at[k], pack.real[k], state.counters[k], state.values[k]
    groups, slots = at[GROUPS], at[SLOTS]
    laws = pack.laws[at[LAW] : at[LAW] + max(1, slots) * groups].reshape((max(1, slots), groups))
    rows = pack.rows[at[ROWS] : at[ROWS] + max(1, slots)]
    counts, law = np.empty(groups + slots, np.int64), np.empty(groups)
    values[VALUE], values[LOWER], mine[SCALE], mine[RETURNED] = 0.0, -np.inf, 0, 0
    best, moved = -np.inf, False
    for which in range(_SCALES.size):
        if not stretch(levels, mine[PANES], which, counts):
            continue
        n, behind = expected(counts, groups, laws, rows, law)
        if n == 0:
            continue
        scale, tail, unlike = _SCALES[which], real[TAIL], slots > 0
        error = REFERENCE_ERROR / np.sqrt(behind)
        distance = largest_difference(counts, groups, n, law)
        if at[CONFSEQ]:
            value = confseq_value(n / tail, distance - error - (real[TOLERANCE] if at[KIND] == DISTANCE else 0.0))
        elif n <= LARGEST_SHARE * behind or real[TOLERANCE] > 0:  # then `material` keeps the reference's error out
            value = scan_value(n, max(0.0, distance - error), scale, tail, unlike)
        else:
            value = -np.inf
        if value > best:
            best, values[VALUE], mine[SCALE] = value, value, scale
        level = real[MATERIAL] - np.log(scale) + (1.0 if unlike else 0.0)
        if at[KIND] == SHARE:
            lower = share_moved(counts, 0, groups, n, law, behind, level, tail)
        elif at[KIND] == DISTANCE:
            radius = confseq_radius(n / tail, real[SCAN]) if at[CONFSEQ] else band(n, level, tail)
            lower = distance - error - radius
        elif real[TOLERANCE] > 0:
            wide = slice(at[WIDE], at[WIDE] + groups - 2)
            lower = carried(counts, groups, law, pack.wide[wide], pack.place[wide], slots == 0, error, level, tail)
            moved = moved or share_moved(counts, groups - 2, groups, n, law, behind, level, tail) > 0
        else:
            lower = -np.inf
        values[LOWER] = max(values[LOWER], lower)
        since = mine[PANES] - mine[FIRED] if mine[FIRED] >= 0 else 0
        if which >= RETURN_SCALE and scale <= since and _is_back(pack, k, state, which, n, behind, distance, error):
            mine[RETURNED] = 1
    mine[OVER] = NOTHING
    if values[LOG_M] >= real[BANK]:
        mine[OVER] = BY_BANK
    elif values[VALUE] >= real[SCAN] and mine[SCALE] > 0:
        mine[OVER] = BY_SCAN
    is_material = real[TOLERANCE] == 0 or moved or values[LOWER] > real[TOLERANCE]
    mine[FIRES] = 1 if mine[OVER] != NOTHING and is_material else 0


@njit(cache=True, nogil=True)
def _is_back(pack, k, state, which, n, behind, distance, error):
    """Whether this stretch, wholly after the alarm, proves that rows follow the reference, or lie within tolerance of it."""
    at, real = pack.at[k], pack.real[k]
    alts, mine = at[ALTS], state.counters[k]
    needed = np.log(RETURN_ODDS * max(1, alts))
    if at[KIND] == DISTANCE and distance + error + band(n, needed, real[TAIL]) <= real[TOLERANCE]:
        return True
    if distance > real[KOLMOGOROV] * np.sqrt(real[TAIL] * (1 / n + 1 / behind)):
        return False
    back = state.back[4 * LEVELS * at[ALT] : 4 * LEVELS * (at[ALT] + alts)].reshape((LEVELS, 4, alts))
    against = np.empty(alts)
    stretch(back, mine[PANES], which, against)
    for j in range(alts):
        asked = j == mine[BEST] or pack.sizes[at[ALT] + j] >= RETURN_SIZE
        if against[j] > needed or (asked and against[j] > -needed):
            return False
    return True


@njit(cache=True, nogil=True)
def push(levels, panes, pane):
    """Take the `panes`-th pane (from 1) into levels[LEVELS, 4, width], in place."""
    for level in range(levels.shape[0]):
        if panes % (1 << level):
            break
        for i in range(levels.shape[2]):
            levels[level, 0, i] = levels[level, 1, i]
            levels[level, 1, i] = levels[level, 2, i]
            levels[level, 2, i] = levels[level, 3, i]
            # the level below has moved on already: its last two sums are the block of this one
            levels[level, 3, i] = levels[level - 1, 2, i] + levels[level - 1, 3, i] if level else pane[i]


@njit(cache=True, nogil=True)
def stretch(levels, panes, which, out):
    """The sum of the last SCALES[which] panes into `out`; False if that scale is not looked at after pane `panes`."""
    if which < 2:
        if panes < which + 1:
            return False
        for i in range(out.size):
            out[i] = levels[0, 3, i] + (levels[0, 2, i] if which else 0)
        return True
    level = which - 2
    if panes < (4 << level) or panes % (1 << level):
        return False
    for i in range(out.size):
        out[i] = levels[level, 0, i] + levels[level, 1, i] + levels[level, 2, i] + levels[level, 3, i]
    return True


@njit(cache=True, nogil=True)
def expected(counts, groups, laws, rows, out):
    """(rows of the stretch, reference rows that stand behind it); the expected share of each group into `out`.

    `counts` holds the groups, then, with a rhythm, the rows by slot.
    """
    n = 0.0
    for g in range(groups):
        n += counts[g]
    if n == 0:
        return n, 0.0
    if counts.size == groups:
        for g in range(groups):
            out[g] = laws[0, g]
        return n, rows[0]
    error = 0.0
    out[:groups] = 0.0
    for s in range(rows.size):
        share = counts[groups + s] / n
        if share > 0:
            error += share * share / max(1.0, rows[s])
            for g in range(groups):
                out[g] += share * laws[s, g]
    return n, 1.0 / error


@njit(cache=True, nogil=True)
def largest_difference(counts, groups, n, law):
    """Largest difference of the cumulative shares."""
    above, reference, largest = 0.0, 0.0, 0.0
    for g in range(groups):
        above += counts[g]
        reference += law[g]
        largest = max(largest, abs(above / n - reference))
    return largest


@njit(cache=True, nogil=True)
def scan_value(n, excess, scale, tail, unlike):
    """V of one stretch: `excess` = what D_L exceeds the reference's error by; `unlike` = rows of several laws."""
    return 2 * n * excess * excess / tail + np.log(scale) - (1.0 if unlike else 0.0)


@njit(cache=True, nogil=True)
def confseq_radius(n, log_odds):
    """Half the width of the band at n rows; alpha = exp(-log_odds).

    >>> round(confseq_radius(1000.0, np.log(20)), 4)
    0.0866
    """
    return CONFSEQ_FACTOR * np.sqrt((np.log(1 + np.log(n)) + CONFSEQ_SHARE * (CONFSEQ_CONSTANT + log_odds)) / n)


@njit(cache=True, nogil=True)
def confseq_value(n, excess):
    """log(1 / alpha) of the narrowest sequence that still excludes the reference; negative without an excess."""
    x = max(0.0, excess) / CONFSEQ_FACTOR
    return (n * x * x - np.log(1 + np.log(n))) / CONFSEQ_SHARE - CONFSEQ_CONSTANT


@njit(cache=True, nogil=True)
def band(n, level, tail):
    return np.sqrt(max(0.0, level) * tail / (2 * n))


@njit(cache=True, nogil=True)
def share_moved(counts, first, groups, n, law, rows, level, tail):
    """Lower bound of the largest move of a group's share, from group `first` on; 0 if none is proved."""
    best = 0.0
    needed = (level + np.log(groups)) * tail / n
    sure = REFERENCE_LEVEL + np.log(groups)
    for g in range(first, groups):
        share, p = counts[g] / n, law[g]
        error = np.sqrt(2 * p * (1 - p) * sure / rows) + sure / (3 * rows)
        up = share > p
        edge = p + error + best if up else p - error - best
        if not 0.0 < edge < 1.0 or (share <= edge) == up or _kl(share, edge) < needed:
            continue
        inner, outer = edge, share  # kl(share, inner) >= needed: the bound lies between
        for _ in range(30):
            middle = (inner + outer) / 2
            if _kl(share, middle) >= needed:
                inner = middle
            else:
                outer = middle
        best = abs(inner - p) - error
    return best


@njit(cache=True, nogil=True)
def carried(counts, groups, law, wide, place, one_law, error, level, tail):
    """Lower bound of Wasserstein-1 of the rows with a value; a slot's own law is known at the edges only."""
    rows, valued = 0.0, 0.0
    for g in range(groups - 1):
        rows += counts[g]
    for g in range(groups - 2):
        valued += law[g]
    if rows == 0 or valued == 0:
        return 0.0
    eps, new = error + band(rows, level, tail), counts[groups - 2] / rows
    low, reference, total = 0.0, 0.0, 0.0
    for g in range(groups - 2):
        high, share = low + counts[g] / rows, law[g] / valued
        above = reference + (place[g] if one_law else 1.0) * share
        below = reference + (place[g] if one_law else 0.0) * share
        total += wide[g] * max(0.0, max(low - above, below - high - new) - eps)
        low, reference = high, reference + share
    return total


@njit(cache=True, nogil=True)
def _kl(a, b):
    """Of two coins."""
    made = 0.0
    if a > 0:
        made += a * np.log(a / b)
    if a < 1:
        made += (1 - a) * np.log((1 - a) / (1 - b))
    return made
