"""PURE. Synthetic sales: who buys what, where, at which price, and how probable it is that the order comes back.

One block of orders is a function of (world, seed, block number, event times) and of nothing else, so a stream has the
same orders however it is cut. Rows of one world are independent and identically distributed: `baseline` is stationary.
Knows no Kafka and no JSON (`sales_json` writes it). This file, its JSON and its defects alone name sales columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

from producers.arrivals import DAY_MS, HOUR_MS, WEEK_MS

CATEGORIES = ("electronics", "fashion", "home", "grocery", "toys", "sports", "books", "beauty")
REGIONS = ("north", "south", "east", "west", "central")
CHANNELS = ("web", "app", "store", "partner")
_VALUES = {"category": CATEGORIES, "region": REGIONS, "channel": CHANNELS}
FIELDS = (
    "order_id",
    "customer_id",
    "product_id",
    "category",
    "region",
    "channel",
    "quantity",
    "price",
    "discount",
    "order_date",
    "event_time",
)
CUSTOMERS, PRODUCTS = 20_000, 2_000
BLOCK_ORDERS = 2_048  # a second of a stream at 2,000 events/s: a cue waits for the next block
SOONEST_LABEL = (
    1 / 6
)  # of the contract's label delay: with 6 h, an order comes back, or is kept for good, after 1 to 6 h
ALL_KINDS = 1_000_000  # `defect` numbers up to this are of all kinds, above it of those that one record shows
_TABLE = 1 << 17  # entries of a weighted-choice table: one random integer, one lookup
_ENTITIES_SEED = 20_261_121  # customers and products are the same people and things in every run

# by category: median price, spread of its products' log prices, share of demand
_MEDIAN_PRICE = np.array([140.0, 45.0, 60.0, 12.0, 25.0, 55.0, 14.0, 22.0])
_PRICE_SPREAD = np.array([0.80, 0.60, 0.70, 0.55, 0.55, 0.65, 0.40, 0.55])
_CATEGORY_SHARE = np.array([0.13, 0.19, 0.13, 0.20, 0.09, 0.08, 0.10, 0.08])
_PRICE_NOISE = 0.10  # of one product's log price from order to order
MAX_QUANTITY, MAX_DISCOUNT_CENTS = 60, 50
_GOLDEN = 0.6180339887498949  # turns a uniform number into others that are nearly independent of it

# by category: log odds of a return, next to an average category
_RETURN_BY_CATEGORY = np.array([0.30, 1.00, 0.05, -1.20, -0.15, 0.20, -0.70, -0.45])
_RETURN_BY_CHANNEL = np.array([0.15, 0.25, -0.50, 0.05])
_CHANNEL_SHARE = np.array(  # by category, over web, app, store, partner
    [
        [0.50, 0.24, 0.16, 0.10],
        [0.38, 0.40, 0.16, 0.06],
        [0.42, 0.20, 0.28, 0.10],
        [0.22, 0.24, 0.48, 0.06],
        [0.44, 0.26, 0.20, 0.10],
        [0.42, 0.26, 0.22, 0.10],
        [0.46, 0.20, 0.22, 0.12],
        [0.34, 0.36, 0.24, 0.06],
    ]
)
_DISCOUNTED_BY_CATEGORY = np.array([0.30, 0.55, 0.40, 0.22, 0.42, 0.38, 0.18, 0.36])
_DISCOUNTED_BY_CHANNEL = np.array([0.05, 0.10, -0.10, 0.00])
_CUSTOMER_SPREAD, _PRODUCT_SPREAD = 0.45, 0.35  # standard deviations of the log odds of a return
_BULK = np.array(
    [0.10, 0.35, 0.30, 1.60, 0.45, 0.30, 0.60, 0.55]
)  # by category: mean of quantity - 1, before its heavy tail


@dataclass(frozen=True, slots=True)
class Return:
    """The law of a return: log odds = constant + category + channel + slopes over standardised inputs."""

    constant: float = -2.05
    price: float = 0.45  # per standard deviation of log price within its category
    fashion_price: float = 0.25  # more of it in fashion: dear clothes go back
    discount: float = 2.2  # per unit of discount
    quantity: float = 0.28  # per unit of log quantity
    by_category: tuple[float, ...] = tuple(_RETURN_BY_CATEGORY)
    by_channel: tuple[float, ...] = tuple(_RETURN_BY_CHANNEL)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong between an order and its record (see sales_faults); the order itself is as ever."""

    kind: Literal["unit", "silent", "null", "renamed", "clock", "twice"]
    where: tuple[str, str] | None = None  # only orders with this value, e.g. ("region", "south"); None = all
    share: float = 1.0  # of these
    field: str = ""  # of the record: unit, null, renamed
    size: float = 1.0  # unit: factor on the field; clock: seconds ahead of event time
    value: str = ""  # renamed: what stands in the field


@dataclass(frozen=True)
class World:
    """What is true while a scenario holds. The defaults are `baseline`; a scenario replaces some of them."""

    price_by_category: tuple[float, ...] = (1.0,) * 8  # factor on every price
    category_weight: tuple[float, ...] = (1.0,) * 8
    region_weight: tuple[float, ...] = (1.0,) * 5
    channel_weight: tuple[float, ...] = (1.0,) * 4
    bulk: float = 1.0  # factor on what is bought beyond one piece
    discounted: float = 0.0  # added to the share of discounted orders
    season: float = 0.0  # 0 = none; 1 = evenings and weekends sell other categories, prices follow the season
    law: Return = field(default_factory=Return)
    defects: float = 0.0  # share of records that are damaged on their way
    dataset_defects: bool = False  # whether damage includes what only a rule over the whole dataset sees
    faults: tuple[Fault, ...] = ()  # on the way from the order to its record

    @cached_property
    def customers(self) -> np.ndarray:
        weight = entities().activity * np.array(self.region_weight)[entities().region]
        return _choice_table(weight)

    @cached_property
    def products(self) -> np.ndarray:
        weight = entities().popularity * np.array(self.category_weight)[entities().category]
        return _choice_table(weight)

    @cached_property
    def channel_bounds(self) -> np.ndarray:
        share = _CHANNEL_SHARE * np.array(self.channel_weight)
        return np.cumsum(share / share.sum(axis=1, keepdims=True), axis=1)[:, :3]


@dataclass(frozen=True, slots=True)
class Orders:
    """Columns of orders in event-time order. Indices refer to CATEGORIES, REGIONS, CHANNELS and the customer and product numbers."""

    number: np.ndarray  # running number in the stream
    event_ms: np.ndarray
    customer: np.ndarray
    product: np.ndarray
    category: np.ndarray
    region: np.ndarray
    channel: np.ndarray
    quantity: np.ndarray
    price_cents: np.ndarray
    discount_cents: np.ndarray  # hundredths: 25 is a discount of 0.25
    return_probability: np.ndarray
    returned: np.ndarray
    label_after: np.ndarray  # share of the contract's label delay after which it is known whether the order came back
    defect: np.ndarray  # 0 = sent as it is, otherwise which damage (see sales_defects)
    faults: np.ndarray  # of objects: None, or the faults that hit the order

    def __len__(self) -> int:
        return len(self.number)

    def take(self, rows: slice | np.ndarray) -> Orders:
        return Orders(*(getattr(self, name)[rows] for name in self.__slots__))


def orders(world_at: Mapping[int, World], seed: int, block: int, event_ms: np.ndarray) -> Orders:
    """Block number `block` of the stream, one order for each event time; `world_at` gives the world from an event time on.

    The random numbers of a block do not depend on the world: a scenario changes what they mean, not which they are.
    """
    draws = _draw(seed, block, len(event_ms))
    number = np.arange(len(event_ms), dtype=np.int64) + block * BLOCK_ORDERS
    begins = sorted(world_at)
    phase = np.searchsorted(np.array(begins), event_ms, side="right") - 1
    parts = [(world_at[begins[max(i, 0)]], np.flatnonzero(phase == i)) for i in np.unique(phase)]
    if len(parts) == 1:
        return _realise(parts[0][0], draws, number, event_ms)
    done = [_realise(world, draws.take(rows), number[rows], event_ms[rows]) for world, rows in parts]
    return Orders(*(np.concatenate([getattr(part, name) for part in done]) for name in Orders.__slots__))


def return_log_odds(
    law: Return,
    category: np.ndarray,
    channel: np.ndarray,
    quantity: np.ndarray,
    price: np.ndarray,
    discount: np.ndarray,
    propensity: np.ndarray | float = 0.0,
) -> np.ndarray:
    """True log odds of a return: what the record says, and the propensity, which only the past of its customer and product tells."""
    dear = np.log(price / _MEDIAN_PRICE[category]) / _PRICE_SPREAD[category]
    slope = law.price + law.fashion_price * (category == CATEGORIES.index("fashion"))
    effects = np.array(law.by_category)[category] + np.array(law.by_channel)[channel]
    return (
        law.constant
        + effects
        + slope * np.clip(dear, -3, 3)
        + law.discount * discount
        + law.quantity * np.log(quantity)
        + propensity
    )


def propensity(customer: np.ndarray, product: np.ndarray) -> np.ndarray:
    """Log odds that a customer and a product bring along: fixed for good, so `baseline` is as stationary as without them."""
    return entities().returns[customer] + entities().returned[product]


@dataclass(frozen=True, slots=True)
class _Draws:
    customer: np.ndarray
    product: np.ndarray
    channel: np.ndarray
    price: np.ndarray
    quantity: np.ndarray
    discounted: np.ndarray
    discount: np.ndarray
    season: np.ndarray
    returned: np.ndarray
    delay: np.ndarray
    damaged: np.ndarray
    damage: np.ndarray
    fate: np.ndarray

    def take(self, rows: np.ndarray) -> _Draws:
        return _Draws(*(getattr(self, name)[rows] for name in self.__slots__))


def _draw(seed: int, block: int, size: int) -> _Draws:
    """A whole block is drawn and cut, so that a last, short block begins like a full one."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, block])))
    integers = [rng.integers(0, _TABLE, BLOCK_ORDERS) for _ in range(2)]
    channel = rng.random(BLOCK_ORDERS)
    normal = rng.standard_normal(BLOCK_ORDERS)
    uniforms = [rng.random(BLOCK_ORDERS) for _ in range(9)]
    return _Draws(*(column[:size] for column in (*integers, channel, normal, *uniforms)))


def _realise(world: World, draws: _Draws, number: np.ndarray, event_ms: np.ndarray) -> Orders:
    known = entities()
    customer = world.customers[draws.customer]
    product = world.products[draws.product]
    if world.season:
        product = np.where(
            draws.season < _evening(event_ms) * world.season, _evening_products()[draws.product], product
        )
    category = known.category[product]
    channel = (draws.channel[:, None] > world.channel_bounds[category]).sum(axis=1)
    quantity = _quantity(
        draws.quantity, _BULK[category] * world.bulk * (1 + 0.8 * (channel == CHANNELS.index("partner")))
    )
    discount_cents = _discount(world, draws, category, channel)
    factor = np.array(world.price_by_category)[category] * (1 + 0.12 * world.season * _season(event_ms))
    price = known.base_price[product] * np.exp(_PRICE_NOISE * draws.price) * factor
    price_cents = np.maximum(50, np.rint(price * 100)).astype(np.int64)
    own = propensity(customer, product)
    odds = return_log_odds(world.law, category, channel, quantity, price_cents / 100, discount_cents / 100, own)
    probability = 1 / (1 + np.exp(-odds))
    return Orders(
        number=number,
        event_ms=event_ms,
        customer=customer,
        product=product,
        category=category,
        region=known.region[customer],
        channel=channel,
        quantity=quantity,
        price_cents=price_cents,
        discount_cents=discount_cents,
        return_probability=probability,
        returned=draws.returned < probability,
        label_after=SOONEST_LABEL + draws.delay * (1 - SOONEST_LABEL),
        defect=_defect(world, draws),
        faults=_faults(world, draws, {"category": category, "region": known.region[customer], "channel": channel}),
    )


def _quantity(uniform: np.ndarray, bulk: np.ndarray) -> np.ndarray:
    """One piece and a Lomax-tailed rest with mean about `bulk`: most orders hold one, a few hold dozens."""
    shape = 3.0
    rest = bulk * (shape - 1) * ((1 - uniform) ** (-1 / shape) - 1)
    return np.minimum(MAX_QUANTITY, 1 + np.floor(rest + 0.25)).astype(np.int64)


def _discount(world: World, draws: _Draws, category: np.ndarray, channel: np.ndarray) -> np.ndarray:
    """Hundredths: none for most orders, otherwise 0.01 to 0.50, small ones more often."""
    share = _DISCOUNTED_BY_CATEGORY[category] + _DISCOUNTED_BY_CHANNEL[channel] + world.discounted
    size = 1 + np.floor(MAX_DISCOUNT_CENTS * (1 - np.sqrt(draws.discount))).astype(np.int64)
    return np.where(draws.discounted < share, np.minimum(size, MAX_DISCOUNT_CENTS), 0)


def _defect(world: World, draws: _Draws) -> np.ndarray:
    number = 1 + (draws.damage * ALL_KINDS).astype(np.int64) + (0 if world.dataset_defects else ALL_KINDS)
    return np.where(draws.damaged < world.defects, number, 0)


def _faults(world: World, draws: _Draws, of: Mapping[str, np.ndarray]) -> np.ndarray:
    """By order, those of the world's faults that hit it; each draws its share anew from one uniform number an order."""
    found = np.full(len(draws.fate), None, dtype=object)
    for i, fault in enumerate(world.faults):
        hit = (draws.fate + i * _GOLDEN) % 1.0 < fault.share
        if fault.where:
            column, value = fault.where
            hit &= of[column] == _VALUES[column].index(value)
        for row in np.flatnonzero(hit).tolist():
            found[row] = (*(found[row] or ()), fault)
    return found


def _evening(event_ms: np.ndarray) -> np.ndarray:
    """Share of leisure shopping: high at night and at weekends."""
    hour = (event_ms % DAY_MS) / HOUR_MS
    weekend = ((event_ms - 4 * DAY_MS) % WEEK_MS) >= 5 * DAY_MS
    return 0.25 + 0.25 * np.cos(2 * np.pi * (hour - 21) / 24) + 0.25 * weekend


def _season(event_ms: np.ndarray) -> np.ndarray:
    """From -1 to 1: dear afternoons, and dear months before the new year."""
    return 0.5 * np.sin(2 * np.pi * (event_ms % DAY_MS) / DAY_MS - np.pi / 2) + 0.5 * np.cos(
        2 * np.pi * (event_ms / (365.25 * DAY_MS))
    )


@dataclass(frozen=True, slots=True)
class Entities:
    activity: np.ndarray  # by customer: a few buy very often
    region: np.ndarray
    popularity: np.ndarray  # by product
    category: np.ndarray
    base_price: np.ndarray
    returns: np.ndarray  # by customer: log odds, beside what the order says
    returned: np.ndarray  # by product


@lru_cache(maxsize=1)
def entities() -> Entities:
    rng = np.random.Generator(np.random.PCG64(_ENTITIES_SEED))
    category = rng.choice(len(CATEGORIES), PRODUCTS, p=_CATEGORY_SHARE)
    popularity = rng.pareto(1.6, PRODUCTS).clip(0, 25) + 0.4
    for index, share in enumerate(_CATEGORY_SHARE):
        popularity[category == index] *= share / popularity[category == index].sum()
    return Entities(
        activity=rng.pareto(1.3, CUSTOMERS).clip(0, 300) + 0.1,
        region=rng.choice(len(REGIONS), CUSTOMERS, p=[0.26, 0.22, 0.18, 0.19, 0.15]),
        popularity=popularity,
        category=category,
        base_price=_MEDIAN_PRICE[category] * np.exp(_PRICE_SPREAD[category] * rng.standard_normal(PRODUCTS)),
        returns=_CUSTOMER_SPREAD * rng.standard_normal(CUSTOMERS),
        returned=_PRODUCT_SPREAD * rng.standard_normal(PRODUCTS),
    )


@lru_cache(maxsize=1)
def _evening_products() -> np.ndarray:
    """What sells in leisure time: toys, fashion and books rather than groceries."""
    return _choice_table(
        entities().popularity * np.array([1.0, 1.8, 0.9, 0.3, 2.0, 1.3, 1.7, 1.2])[entities().category]
    )


def _choice_table(weight: np.ndarray) -> np.ndarray:
    """_TABLE entries in which each index stands as often as its weight says, to within one entry."""
    bounds = np.cumsum(weight / weight.sum())
    return np.searchsorted(bounds, (np.arange(_TABLE) + 0.5) / _TABLE).clip(0, len(weight) - 1)
