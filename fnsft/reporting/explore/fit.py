"""The page of an experiment, as large as it may be and no larger."""

import math
from dataclasses import dataclass
from typing import Any

from fnsft.artifacts.records import Record
from fnsft.errors import InputError
from fnsft.reporting.explore.columns import columns_of
from fnsft.reporting.explore.files import ResultFiles
from fnsft.reporting.explore.gather import Gathered
from fnsft.reporting.explore.metrics import MetricRow, TradeOffPoint, metric_rows, trade_offs
from fnsft.reporting.explore.neurons import home_payload
from fnsft.reporting.explore.overview import overview
from fnsft.reporting.explore.page import page
from fnsft.reporting.labels import MEASURE_LABELS, SOURCE_LABELS

MEGABYTE = 1_000_000
SPARE = 0.95  # of the room that is left, since neurons differ in what they take


@dataclass(frozen=True)
class FittedPage:
    """A page, and how many neurons have one of their own, of all that were measured."""

    text: str
    shown: int
    all: int

    @property
    def megabytes(self) -> float:
        """The page's size."""
        return len(self.text.encode()) / MEGABYTE


def fitted_page(files: ResultFiles, gathered: Gathered, max_megabytes: float) -> FittedPage:
    """Make the page with as many neurons of every layer as fit.

    Raises
    ------
    InputError
        When it is too large with one neuron a layer.
    """
    rest = _rest(files, gathered)
    title = f"{rest['overview']['experiment']}: which neurons may change"
    total = sum(home.n_layers * home.d_mlp for home in gathered.homes)

    def made(per_layer: int) -> FittedPage:
        homes = [home_payload(home, per_layer) for home in gathered.homes]
        text = page(rest | {"homes": homes}, title)
        return FittedPage(text, sum(home["shown"] for home in homes), total)

    per_layer = max((len(order) for h in gathered.homes for order in h.order), default=1)
    fitted = made(per_layer)
    if fitted.megabytes <= max_megabytes:
        return fitted
    least = made(1)
    while fitted.megabytes > max_megabytes and per_layer > 1:
        room = (max_megabytes - least.megabytes) / (fitted.megabytes - least.megabytes)
        per_layer = max(1, min(per_layer - 1, int(per_layer * SPARE * room)))
        fitted = made(per_layer)
    if fitted.megabytes > max_megabytes:
        raise InputError(
            f"max_megabytes: expected at least {math.ceil(100 * least.megabytes) / 100}, which the "
            f"page takes with one neuron a layer, found {max_megabytes:g}; raise it"
        )
    return fitted


def _rest(files: ResultFiles, gathered: Gathered) -> dict[str, Any]:
    """Return what the page holds beside single neurons."""
    shown, refused = [], []
    for place, records in gathered.transfer.items():
        found = _trade_offs(place, records)
        if isinstance(found, str):
            refused.append((place, found))
        else:
            shown += found
    return {
        "overview": overview(files, gathered),
        "metrics": columns_of(metric_rows(gathered.metrics), MetricRow),
        "trade_offs": [one | {"points": columns_of(one["points"], TradeOffPoint)} for one in shown],
        "no_trade_off": refused,
        "labels": {"measures": MEASURE_LABELS, "sources": SOURCE_LABELS},
    }


def _trade_offs(place: str, records: list[Record]) -> list[dict[str, Any]] | str:
    """Return a sequence's trade-offs, or why there are none."""
    try:
        return trade_offs(place.rsplit("/", 1)[-1], records)
    except InputError as error:
        return str(error)
