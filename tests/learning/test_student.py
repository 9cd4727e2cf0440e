"""A student learns from recorded answers, is kept whole, and is refused when anything of it was changed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load as from_safetensors
from safetensors.numpy import save as to_safetensors

from support.learning_side import CARD, banking, trained
from upeti.learning.student import DIGEST_FILE, STUDENT_FILE, WEIGHTS_FILE, StudentError, load, save
from upeti.learning.train import keep

REST = banking(labels=CARD)[1][250:]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keep(trained(), tmp_path / "student", {"card.md": b"A card.\n"})
    return tmp_path / "student"


def test_a_student_agrees_with_its_teacher_and_surer_answers_do_more_often() -> None:
    predicted = trained().student.predict([row.text for row in REST])
    agrees = np.array([said == row.values for said, row in zip(predicted.answers, REST, strict=True)])
    assert agrees.mean() > 0.75
    surer = predicted.confidence >= np.median(predicted.confidence)
    assert agrees[surer].mean() > agrees[~surer].mean() + 0.15
    assert predicted.confidence.dtype == np.float32
    assert ((predicted.confidence >= 0) & (predicted.confidence <= 1)).all()
    assert predicted.in_scope.mean() > 0.95


def test_the_encoder_adds_agreement_and_its_student_can_be_kept(tmp_path: Path) -> None:
    texts = [row.text for row in REST[:60]]
    known = [trained(level).student.predict(texts) for level in ("l1", "l2")]
    right = [sum(said == row.values for said, row in zip(one.answers, REST, strict=False)) for one in known]
    assert right[1] > right[0]
    keep(trained("l2"), tmp_path / "l2")
    again = load(tmp_path / "l2").predict(texts[:10])
    assert again.answers == known[1].answers[:10]
    np.testing.assert_allclose(again.confidence, known[1].confidence[:10], atol=2e-6)

    about = json.loads((tmp_path / "l2" / STUDENT_FILE).read_bytes())
    _rewrite(tmp_path / "l2", about | {"encoder": "0" * 64})
    with pytest.raises(StudentError, match=r"another build of all-MiniLM.*train it anew"):
        load(tmp_path / "l2")


def test_what_is_loaded_says_the_same_alone_and_in_a_batch(folder: Path) -> None:
    student = load(folder)
    texts = [row.text for row in REST[:40]]
    together = student.predict(texts)
    fresh = trained().student.predict(texts)
    assert together.answers == fresh.answers
    assert (together.confidence == fresh.confidence).all()
    for place, text in enumerate(texts):
        alone = student.predict([text])
        assert alone.answers[0] == together.answers[place]
        assert abs(alone.confidence[0] - together.confidence[place]) < 5e-6
    assert student.predict([]).answers == []


@pytest.mark.parametrize("text", ["", "\0", "Ⅷ 漢字 \ud800", "zxqv " * 2_000])
def test_a_text_like_no_other_is_out_of_scope(text: str) -> None:
    predicted = trained().student.predict([text])
    assert not predicted.in_scope[0]
    assert len(predicted.answers[0]) == 1


def test_a_folder_is_never_written_over(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StudentError, match="is there already"):
        save(trained().student, folder)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StudentError, match="cannot be written"):
        save(trained().student, tmp_path / "file" / "student")
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_no_byte_of_any_file_can_change(folder: Path) -> None:
    digest = load(folder).digest
    assert digest == hashlib.sha256((folder / STUDENT_FILE).read_bytes()).hexdigest()
    draw = np.random.default_rng(0)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        # The first and last bytes (lengths, headers, ends) and a hundred between them.
        places = {*range(min(16, len(whole))), len(whole) - 1, *draw.integers(0, len(whole), 100).tolist()}
        for place in places:
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
            with pytest.raises(StudentError, match=rf"{path.name}|{DIGEST_FILE}"):
                load(folder)
        for cut in (0, 1, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:cut])
            with pytest.raises(StudentError, match="restore the folder"):
                load(folder)
        path.write_bytes(whole + b"\n")
        with pytest.raises(StudentError, match="restore the folder"):
            load(folder)
        path.unlink()
        with pytest.raises(StudentError, match=f"{path.name} cannot be read"):
            load(folder)
        path.write_bytes(whole)
    assert load(folder, digest=digest).digest == digest


def test_another_student_than_the_one_asked_for_is_refused(folder: Path) -> None:
    with pytest.raises(StudentError, match="is another student"):
        load(folder, digest="0" * 64)


def _rewrite(folder: Path, about: dict[str, object]) -> None:
    """Put other papers into a folder, with hashes that fit: what its maker could do, but not what a mishap does."""
    paper = json.dumps(about).encode()
    (folder / STUDENT_FILE).write_bytes(paper)
    (folder / DIGEST_FILE).write_bytes(hashlib.sha256(paper).hexdigest().encode() + b"\n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "made by a newer Upeti"),
        ({"level": "l3"}, "of level l3 and does not fit its files"),
        ({"level": "l9"}, "is no student"),
        ({"more": 1}, "is no student"),
        ({"labels": [["a"]]}, "no `grams` of shape"),
        ({"labels": []}, "no `grams` of shape"),
        ({"files": {}}, "names no weights"),
    ],
)
def test_papers_that_do_not_fit_are_refused(folder: Path, changes: dict[str, object], message: str) -> None:
    about = json.loads((folder / STUDENT_FILE).read_bytes())
    _rewrite(folder, about | changes)
    with pytest.raises(StudentError, match=message):
        load(folder)


def test_a_file_elsewhere_is_not_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    about = json.loads((folder / STUDENT_FILE).read_bytes())
    about["files"]["../secret"] = hashlib.sha256(b"x").hexdigest()
    _rewrite(folder, about)
    with pytest.raises(StudentError, match="a file elsewhere"):
        load(folder)


@pytest.mark.parametrize("name", ["buckets", "rarity", "grams", "bias", "trust", "label_trust"])
@pytest.mark.parametrize("how", ["missing", "short", "kind", "no number"])
def test_arrays_that_do_not_fit_are_refused(folder: Path, name: str, how: str) -> None:
    arrays = from_safetensors((folder / WEIGHTS_FILE).read_bytes())
    match how:
        case "missing":
            del arrays[name]
        case "short":
            arrays[name] = arrays[name][:-1].copy()
        case "kind":
            arrays[name] = arrays[name].astype(np.float64)
        case _:
            arrays[name][0] = -1 if name == "buckets" else np.nan
    data = to_safetensors(arrays)
    (folder / WEIGHTS_FILE).write_bytes(data)
    about = json.loads((folder / STUDENT_FILE).read_bytes())
    about["files"][WEIGHTS_FILE] = hashlib.sha256(data).hexdigest()
    _rewrite(folder, about)
    with pytest.raises(StudentError, match=WEIGHTS_FILE):
        load(folder)


def test_weights_that_are_no_safetensors_are_refused(folder: Path) -> None:
    about = json.loads((folder / STUDENT_FILE).read_bytes())
    for data in (b"", b"\x80\x04", b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}"):
        (folder / WEIGHTS_FILE).write_bytes(data)
        about["files"][WEIGHTS_FILE] = hashlib.sha256(data).hexdigest()
        _rewrite(folder, about)
        with pytest.raises(StudentError, match="cannot be read"):
            load(folder)


def test_a_student_of_the_first_level_needs_no_machine_learning_library(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from upeti.learning.student import load\n"
        f"load(Path({str(folder)!r})).predict(['where is my card', 'x'])\n"
        "print(sorted({'onnxruntime', 'sklearn', 'tokenizers', 'torch', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_papers_hold_no_text_of_the_examples(folder: Path) -> None:
    about = msgspec.json.decode((folder / STUDENT_FILE).read_bytes())
    assert set(about["labels"][0]) == {f"intent_{name}" for name in CARD}
    everything = b"".join(path.read_bytes() for path in folder.iterdir())
    assert not [row.text for row in banking(labels=CARD)[1] if row.text.encode() in everything]
