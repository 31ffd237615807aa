"""Orders, ranks and the same order by their definitions in plain Python, and units to try them on."""

import itertools
import math

import torch
from hypothesis import strategies as st

EPSILON = torch.finfo(torch.float32).eps

# Few different values, so that there are ties; some differ by less than the tolerance, some by just more.
STEPS = [0.0, 20 * EPSILON, 50 * EPSILON, 70 * EPSILON, 130 * EPSILON, 0.25, 0.25 + 40 * EPSILON, 0.5, 1.0]
number = st.sampled_from([*STEPS, *(-step for step in STEPS)])
flag = st.booleans()


def layers(units, samples=7):
    """Values ``[units, samples]`` as lists."""
    rows = st.integers(1, samples).flatmap(
        lambda n: st.lists(st.lists(number, min_size=n, max_size=n), min_size=units, max_size=units)
    )
    return rows.map(lambda rows: torch.tensor(rows))


def clipped(row, positive):
    return [max(value, 0.0) if positive else value for value in row.tolist()]


def tolerance_of(row, ties=64):
    return float((row.abs().amax() if len(row) else row.new_zeros(())) * (ties * EPSILON))


def define_order(row, positive=True, ties=64):
    """The samples that count in the order of their values, chains of tied ones in that of their numbers."""
    values, tolerance = clipped(row, positive), tolerance_of(row, ties)
    chains, last = [[]], 0.0 if positive else -math.inf
    for value, sample in sorted(zip(values, range(len(values)), strict=True)):
        if value > last + tolerance:
            chains.append([])
        chains[-1].append(sample)
        last = value
    return [sample for chain in chains[1 if positive else 0 :] for sample in sorted(chain)]


def define_ranks(row, positive, ties=64):
    values, tolerance = clipped(row, positive), tolerance_of(row, ties)
    return [sum((v > w + tolerance) - (w > v + tolerance) for w in values) for v in values]


def define_same(first, second, positive, ties=64):
    a, b = clipped(first, positive), clipped(second, positive)
    a_tolerance, b_tolerance = tolerance_of(first, ties), tolerance_of(second, ties)
    for i, j in itertools.permutations(range(len(a)), 2):
        a_above, b_above = a[i] > a[j] + a_tolerance, b[i] > b[j] + b_tolerance
        if a_above and b[j] > b[i] + b_tolerance:
            return False
        if positive and (a_above and b[i] == b[j] == 0 or b_above and a[i] == a[j] == 0):
            return False
    return True


def define_correlation(a, b, positive):
    """Of the ranks of two units, as an exact fraction of roots."""
    a, b = define_ranks(a, positive), define_ranks(b, positive)
    product, squares = sum(x * y for x, y in zip(a, b, strict=True)), [sum(x * x for x in r) for r in (a, b)]
    return product / math.sqrt(math.prod(squares)) if all(squares) else float(not any(squares))


def define_distinct(row, positive):
    values, tolerance = sorted(clipped(row, positive)), tolerance_of(row)
    count, last = 0, 0.0 if positive else -math.inf
    for value in values:
        if value > last + tolerance:
            count, last = count + 1, value
    return count


def network_values(units=40, samples=300, seed=0, inputs=6, dtype=torch.float32):
    """Pre-activations of a random layer."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(units, inputs, generator=generator, dtype=dtype)
    return weight @ torch.randn(inputs, samples, generator=generator, dtype=dtype)


def with_relatives(values):
    """Values whose last units are others again: scaled, dead, linear, with one positive sample."""
    values = values.clone()
    values[-5:] = torch.stack(
        [1.7 * values[0], values[1] / 3, -values[2].abs(), values[3].abs() + 1, -values[4].abs()]
    )
    values[-1, 7] = 1
    return values
