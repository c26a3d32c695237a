"""Personas: how a sort of customer behaves, in rates.

Law: a persona is all there is to know about its customers' behaviour, but for chance and each customer's own activity, a factor around 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Persona:
    """Rates of one sort of customer.

    `share` is of the customers at the start. A visit with anything in the cart ends in a purchase with probability `purchase`. Order
    values are log-normal. `categories` is how many categories a customer looks at. `sale_lift` is by how much visits grow during a sale:
    1 doubles them; purchases grow half as much. Where `fade_days` is given, visits halve every so many days; where `arrives_days` is,
    the customer's first visit is in the last so many days of the period. A `machine` comes at any hour, whatever the day or the season.
    """

    name: str
    share: float
    sessions_per_week: float
    views: float  # a visit, at least 1
    cart: float  # probability a view
    purchase: float  # probability a visit with a cart
    order_median: int  # minor units
    order_sigma: float  # of the logarithm
    refund: float  # probability a purchase
    categories: int
    searches: float  # a visit
    sale_lift: float
    gap_s: float  # between two events of a visit
    fade_days: float | None = None
    arrives_days: float | None = None
    machine: bool = False

    def visits(self) -> float:
        """Expect so many visits a day, on an average day without a sale, before any fading."""
        return self.sessions_per_week / 7

    def purchases(self) -> float:
        """Expect so many purchases a visit: views are 1 + Poisson, so E[(1 - cart)^views] is (1 - cart) e^(-cart (views - 1))."""
        none_in_cart = (1 - self.cart) * math.exp(-self.cart * (self.views - 1))
        return self.purchase * (1 - none_in_cart)

    def events(self) -> float:
        """Expect so many events a visit, refunds included."""
        return self.views * (1 + self.cart) + self.searches + self.purchases() * (1 + self.refund)


PERSONAS: Final = (
    Persona("loyal", 0.17, 4.0, 5, 0.25, 0.75, 4_500, 0.30, 0.03, 6, 0.5, 0.3, 40),
    Persona("bargain_hunter", 0.17, 2.5, 8, 0.12, 0.40, 1_200, 0.40, 0.05, 10, 5.0, 2.0, 30),
    Persona("window_shopper", 0.21, 2.5, 11, 0.003, 0.02, 3_500, 0.50, 0.05, 16, 0.4, 0.5, 35),
    Persona("big_basket", 0.10, 1.2, 12, 0.60, 0.95, 30_000, 0.35, 0.03, 8, 0.5, 0.3, 45),
    Persona("returner", 0.09, 2.0, 7, 0.35, 0.80, 8_000, 0.35, 0.75, 4, 0.5, 0.5, 40),
    Persona("lapsing", 0.12, 9.0, 5, 0.20, 0.60, 4_000, 0.30, 0.05, 5, 0.5, 0.2, 40, fade_days=2.5),
    Persona("new", 0.11, 3.5, 4, 0.06, 0.10, 3_000, 0.50, 0.05, 3, 0.8, 0.5, 50, arrives_days=6.0),
    Persona("bot", 0.03, 8.0, 20, 0.0, 0.0, 1_000, 0.10, 0.0, 24, 0.0, 0.0, 3, machine=True),
)
