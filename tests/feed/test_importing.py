from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.feed_side import NOW_NS, T
from support.shared_data import shared_data
from upeti.feed.importing import ImportingError, from_csv, from_parquet, import_data, movietweetings, ranklens
from upeti.feed.store import FeedStore

ITEMS = """\
item_id,title,genre,published_at,hidden
a,"Heat, again",crime|drama,2026-01-02,
b,Alien,horror,1790000000,true
"""
CLICKS = """\
user_id,item_id,timestamp,value
ana,a,2026-09-01T10:00:00Z,
bo,b,1789000000000,2.5
ana,a,2026-09-01T10:00:00Z,
"""


def files(directory: Path, items: str, feedback: str) -> tuple[Path, Path]:
    (directory / "items.csv").write_text(items)
    (directory / "clicks.csv").write_text(feedback)
    return directory / "items.csv", directory / "clicks.csv"


def test_csv_files_are_imported_once(tmp_path: Path) -> None:
    store = FeedStore(tmp_path)
    for new in (2, 0):
        done = import_data(store, T, from_csv(*files(tmp_path, ITEMS, CLICKS)), NOW_NS)
        assert (done.items, done.feedback, done.feedback_rows, done.left_out) == (2, new, 3, ())
    first, second = store.items(T)
    assert first.labels == {"title": "Heat, again", "genre": ["crime", "drama"]}
    assert (first.at_ns, first.is_hidden) == (1_767_312_000 * 10**9, False)
    assert (second.at_ns, second.is_hidden) == (NOW_NS, True)
    assert [(one.user, one.kind, one.value) for one in store.feedback(T)] == [("ana", "click", 1), ("bo", "click", 2.5)]
    assert store.feedback(T)[1].at_ns == 1_789_000_000 * 10**9


@pytest.mark.parametrize(
    ("items", "clicks", "message"),
    [
        ("title\nHeat\n", "", r"items.csv:2: there is no `item`"),
        ("item\na,b\n", "", r"items.csv:2: more cells"),
        ("item\na\n", "user,item,value\nana,a,many\n", r"clicks.csv:2: the value 'many'"),
        ("item\na\n", "user,item,at\nana,a,soon\n", r"clicks.csv:2: 'soon' is no time"),
        ("item\na\n", "user,item,value\nana,a,nan\n", r"finite.*--skip-bad"),
        ("item\na/b\n", "", r"row 1: ItemId 'a/b' is no id"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, items: str, clicks: str, message: str) -> None:
    with pytest.raises(ImportingError, match=message):
        import_data(FeedStore(tmp_path), T, from_csv(*files(tmp_path, items, clicks)), NOW_NS)


def test_bad_rows_may_be_left_out(tmp_path: Path) -> None:
    store = FeedStore(tmp_path)
    data = from_csv(*files(tmp_path, "item\na/b\na\n", "user,item,value\nana,a,nan\nbo,a,1\n"))
    done = import_data(store, T, data, NOW_NS, left_out=[])
    assert (done.items, done.feedback, len(done.left_out)) == (1, 1, 2)


def test_parquet_files_are_imported(tmp_path: Path) -> None:
    pq.write_table(pa.table({"item": ["a"], "title": ["Heat"], "genre": [["crime"]]}), tmp_path / "items.parquet")
    pq.write_table(pa.table({"user": ["ana"], "item": ["a"], "kind": ["like"]}), tmp_path / "clicks.parquet")
    store = FeedStore(tmp_path)
    done = import_data(store, T, from_parquet(tmp_path / "items.parquet", tmp_path / "clicks.parquet"), NOW_NS)
    assert (done.items, done.feedback) == (1, 1)
    assert store.items(T)[0].labels == {"title": "Heat", "genre": ["crime"]}


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for data in (from_csv(tmp_path / "no.csv", None), from_parquet(tmp_path / "no.parquet", None)):
        with pytest.raises(ImportingError, match="cannot be read"):
            import_data(FeedStore(tmp_path), T, data, NOW_NS)
    with pytest.raises(ImportingError, match="name the folder"):
        movietweetings(tmp_path)
    with pytest.raises(ImportingError, match="name the folder"):
        ranklens(tmp_path)


def test_the_public_data_sets_are_read_whole() -> None:
    films, ratings = movietweetings(shared_data("movietweetings-100k"))
    assert (len(list(films)), len(list(ratings))) == (10_506, 100_000)
    films, clicks = ranklens(shared_data("ranklens"))
    assert (len(list(films)), len(list(clicks))) == (2_512, 46_125)
    golden = next(film for film in films if film.id == "10")
    assert golden.labels["title"] == "GoldenEye"
    assert golden.text.startswith("GoldenEye (1995). adventure, action, thriller. When a powerful satellite")
