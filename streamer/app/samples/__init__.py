"""Sample data that comes with the package, and where the whole of it is looked for.

The sample is 600 of the customers of UCI Online Retail with all their invoice lines, and one in forty of the orders without a customer;
`make_sample.py` drew it. Licence and source: LICENSE-online-retail.md beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from streamer.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = "STREAMER_RETAIL"
WHOLE = Path("shared", "data", "online_retail_2010-12_to_2011-08.parquet")


def sample_path() -> Path:
    """Name the packaged sample."""
    return Path(__file__).parent / "online_retail_sample.parquet"


def retail_path(environ: Mapping[str, str]) -> Path:
    """Name the retail data to use.

    The file that the environment variable STREAMER_RETAIL names; else the whole data set where it lies in `shared/data` beside the
    checkout; else the packaged sample. Raises `BadInput` where the variable names no file.
    """
    given = environ.get(VARIABLE)
    if given:
        path = Path(given)
        if not path.is_file():
            message = f"{VARIABLE} names {given}, and there is no such file: correct it, or unset it to use the packaged sample"
            raise BadInput(message)
        return path
    checkout = Path(__file__).resolve().parents[3]
    whole = checkout.parent / WHOLE
    return whole if whole.is_file() else sample_path()
