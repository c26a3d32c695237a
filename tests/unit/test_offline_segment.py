"""One file in, segments out: a right answer, or an error that says what to mend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import adjusted_rand_score

from offline.cli import main
from streamer.adapters.declaration_file import load as load_declaration
from streamer.adapters.files.load import load
from streamer.adapters.files.mappings import load_mapping
from streamer.app import samples
from tests import oracle
from tests.offlinekit import end_of, shop

if TYPE_CHECKING:
    from collections.abc import Callable

RETAIL_FEATURES = Path(samples.__file__).parent / "retail_features.yaml"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line as its users do: status, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["offline", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        return int(stopped.value.code or 0), said.out, said.err

    return run


def blobs(customers: int = 90) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    centre = np.repeat([[1.0, 100.0], [9.0, 100.0], [5.0, 900.0]], customers // 3, axis=0)
    found = pd.DataFrame(centre + rng.normal(0, [0.3, 9.0], centre.shape), columns=["visits", "spend"])
    return found.assign(customer_id=[f"c{n:03d}" for n in range(len(found))])


def written(directory: Path, frame: pd.DataFrame, name: str = "table.csv") -> Path:
    path = directory / name
    frame.to_csv(path, index=False)
    return path


def test_a_table_of_features_gets_its_true_groups(offline: Any, tmp_path: Path) -> None:
    path = written(tmp_path, blobs())
    status, out, _ = offline("segment", path, "--k", 3)
    assert 0 == status, out
    found = pd.read_csv(tmp_path / "table.csv.segments.csv", dtype=str)
    assert ["customer_id", "segment"] == list(found.columns)
    assert [f"c{n:03d}" for n in range(90)] == found["customer_id"].tolist()
    assert 1.0 == adjusted_rand_score(np.repeat([0, 1, 2], 30), found["segment"])
    assert {"seg_0001", "seg_0002", "seg_0003"} == set(found["segment"])
    assert "high spend" in out


def test_auto_finds_how_many_groups_there_are_and_shows_the_table(offline: Any, tmp_path: Path) -> None:
    path = written(tmp_path, blobs())
    status, out, _ = offline("segment", path, "--k", "auto", "--json", "--out", tmp_path / "x.parquet")
    assert 0 == status
    told = json.loads(out)
    assert 3 == len(told["segments"])
    assert [3] == [row["k"] for row in told["k_table"] if row["chosen"]]
    assert 90 == len(pd.read_parquet(tmp_path / "x.parquet"))
    assert 90 == sum(one["customers"] for one in told["segments"])
    assert "mean rank" in " ".join(offline("segment", path, "--k", "auto")[1].split())


def test_the_same_file_gives_the_same_answer_whatever_the_order_of_its_rows(offline: Any, tmp_path: Path) -> None:
    one, other = written(tmp_path, blobs(), "one.csv"), written(tmp_path, blobs().sample(frac=1.0, random_state=2), "other.csv")
    for path in (one, other):
        assert 0 == offline("segment", path, "--k", 3)[0]
    assert (tmp_path / "one.csv.segments.csv").read_bytes() == (tmp_path / "other.csv.segments.csv").read_bytes()


def test_what_is_missing_counts_as_the_median_and_is_told(offline: Any, tmp_path: Path) -> None:
    frame = blobs()
    frame["spend"] = frame["spend"].astype(object)
    frame.loc[[3, 40], "spend"] = ["", "n/a"]
    status, out, _ = offline("segment", written(tmp_path, frame), "--k", 3, "--json")
    assert 0 == status
    assert ["the column 'spend' has no value in 2 rows: they count as its median"] == json.loads(out)["warnings"]


def test_constant_columns_and_columns_of_text_have_no_weight_and_are_told(offline: Any, tmp_path: Path) -> None:
    status, out, _ = offline("segment", written(tmp_path, blobs().assign(same=7, country="DE")), "--k", 3, "--json")
    assert 0 == status
    assert [
        "the column 'country' has only text, such as 'DE': it is left out",
        "features without variance have no weight: same",
    ] == json.loads(out)["warnings"]
    found = pd.read_csv(tmp_path / "table.csv.segments.csv")
    assert 1.0 == adjusted_rand_score(np.repeat([0, 1, 2], 30), found["segment"])


def test_yes_and_no_and_other_names_of_the_column_of_ids_are_understood(offline: Any, tmp_path: Path) -> None:
    frame = blobs().rename(columns={"customer_id": "Customer"}).assign(member=[True, False] * 45)
    assert 0 == offline("segment", written(tmp_path, frame), "--k", 3)[0]
    assert 0 == offline("segment", written(tmp_path, frame), "--k", 3, "--customer", "Customer", "--without", "member")[0]


def changed(**columns: Any) -> pd.DataFrame:
    frame = blobs().astype(object)
    for name, value in columns.items():
        frame.loc[1, name] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "arguments", "reason"),
    [
        (changed(spend="lots"), (), "the column 'spend' has numbers, and text in 1 rows, the first is row 2: 'lots': mend it, or leave"),
        (changed(spend="inf"), (), "the column 'spend' has numbers, and text in 1 rows, the first is row 2: 'inf'"),
        (changed(customer_id="c000"), (), "1 rows repeat a customer ('c000' in rows 1 and 2): one row a customer"),
        (changed(customer_id=""), (), "1 rows have no customer_id, the first is row 2"),
        (blobs()[:1], (), "1 customer: segments need at least two"),
        (blobs()[:2], (), "2 customers: too few for 3 segments: ask for at most 2"),
        (blobs()[:0], (), "the file has no rows"),
        (blobs().assign(visits=1, spend=2), (), "no feature differs between 90 customers"),
        (blobs()[["customer_id"]], (), "there is no column of numbers besides the customers"),
        (blobs()[["visits", "spend"]], (), "no column is named customer_id: name the column of ids with --customer"),
        (blobs(), ("--customer", "who"), "there is no column 'who'"),
        (pd.concat([blobs()[:2]] * 3).assign(customer_id=list("abcdef")), (), "6 customers, of whom 2 differ: too few for 3 segments"),
        (blobs(), ("--mapping", "online_retail"), "which the file does not have"),
        (blobs(), ("--out", "x.xlsx"), "the name ends in neither .csv nor .parquet"),
        (blobs(), ("--k", "1"), "--k: '1' is neither `auto` nor a whole number from 2 to 256"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_what_to_mend(
    offline: Any, tmp_path: Path, frame: pd.DataFrame, arguments: tuple[str, ...], reason: str
) -> None:
    status, out, err = offline("segment", written(tmp_path, frame), *(() if "--k" in arguments else ("--k", 3)), *arguments)
    assert status in {65, 78}, (out, err)
    assert reason in err
    assert "Traceback" not in err
    assert not (tmp_path / "table.csv.segments.csv").exists()


def test_files_that_are_not_there_or_empty_or_broken_are_refused(offline: Any, tmp_path: Path) -> None:
    assert "there is no such file" in offline("segment", tmp_path / "none.csv", "--k", 3)[2]
    empty = tmp_path / "empty.csv"
    empty.write_bytes(b"")
    assert "the file is empty" in offline("segment", empty, "--k", 3)[2]
    (tmp_path / "broken.csv").write_text("customer_id,spend\na,1\nb,2,3\n")
    assert "row 2 can't be read" in offline("segment", tmp_path / "broken.csv", "--k", 2)[2]
    (tmp_path / "odd.jsonl").write_text('{"customer_id": "\\ud800", "x": 1}\n{"customer_id": "b", "x": 2}\n')
    assert "can't be written as UTF-8" in offline("segment", tmp_path / "odd.jsonl", "--k", 2)[2]
    odd = [f'{{"customer_id": "\\ud800", "event_type": "view", "occurred_at": {1_700_000_000_000 + n}}}' for n in range(3)]
    (tmp_path / "odd.jsonl").write_text("\n".join(odd))
    assert "can't be written as UTF-8" in offline("segment", tmp_path / "odd.jsonl", "--k", 2)[2]
    (tmp_path / "broken.parquet").write_bytes(b"not one")
    assert "not a readable Parquet file" in offline("segment", tmp_path / "broken.parquet", "--k", 2)[2]


def test_events_are_segmented_by_the_stream_s_features(offline: Any, tmp_path: Path) -> None:
    events = shop(40, 60)
    frame = pd.DataFrame(events).drop(columns=["event_id", "category"]).astype({"amount": "Int64"})
    status, out, err = offline("segment", written(tmp_path, frame, "events.csv"), "--k", 3, "--json")
    assert 0 == status, err
    found = pd.read_csv(tmp_path / "events.csv.segments.csv")
    truth = found["customer_id"].str[1:].astype(int) % 3
    assert adjusted_rand_score(truth, found["segment"]) > 0.9
    assert end_of(events) == json.loads(out)["as_of"]


def test_orders_in_a_foreign_currency_keep_their_amounts_and_who_ordered_once_is_new(offline: Any, tmp_path: Path) -> None:
    path = samples.sample_path()
    out_path = tmp_path / "out.csv"
    status, out, err = offline("segment", path, "--k", 4, "-m", "online_retail", "--features", RETAIL_FEATURES, "--out", out_path, "--json")
    assert 0 == status, err
    told = json.loads(out)
    records = [dict(record) for record in load(path, load_mapping("online_retail")).events.records()]
    eligible = oracle.eligible(oracle.frame(records), yaml.safe_load(RETAIL_FEATURES.read_text()))
    found = pd.read_csv(out_path, dtype=str).set_index("customer_id")["segment"]
    assert set(eligible.index) == set(found.index)
    assert (~eligible).sum() == (found == "new").sum() == told["new"]
    assert {customer for customer in eligible.index if not eligible[customer]} == set(found.index[found == "new"])
    assert 0 == offline("segment", path, "--k", 4, "-m", "online_retail", "--out", out_path)[0]  # in pounds, by the packaged declaration
    assert "GBP" not in load_declaration(None).currency


def test_a_day_before_the_last_event_or_no_day_at_all_is_refused(offline: Any, tmp_path: Path) -> None:
    path = written(tmp_path, pd.DataFrame(shop(5, 12)).astype({"amount": "Int64"}), "events.csv")
    assert "after --as-of" in offline("segment", path, "--k", 3, "--as-of", "2024-10-04")[2]
    assert "'tomorrow' is no day such as 2026-03-31" in offline("segment", path, "--k", 3, "--as-of", "tomorrow")[2]
    assert 0 == offline("segment", path, "--k", 3, "--as-of", "2024-10-20")[0]
