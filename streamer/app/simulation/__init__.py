"""A shop's traffic with a known truth: customers of known personas, day after day, from a seed.

Law: equal options give equal bytes, in the same order, with the same version of this package and of NumPy. No clock is read here.
"""

from __future__ import annotations

from streamer.app.simulation.options import Options
from streamer.app.simulation.personas import PERSONAS, Persona
from streamer.app.simulation.population import truth
from streamer.app.simulation.rhythm import Sale, calendar_sales
from streamer.app.simulation.traffic import Batch, Counts, expected_events, traffic

__all__ = ["PERSONAS", "Batch", "Counts", "Options", "Persona", "Sale", "calendar_sales", "expected_events", "traffic", "truth"]
