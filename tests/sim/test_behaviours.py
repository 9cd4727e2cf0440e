from __future__ import annotations

from upeti.sim.behaviours import WORDS, behaviour_of


def test_words_and_numbers_are_read_from_a_model_name() -> None:
    found = behaviour_of("gpt-4o-slow300-each")
    assert found.words == {"slow": 300, "each": None}
    assert found.number("slow", 200) == 300
    assert found.number("each", 7) == 7
    assert "cut" not in found


def test_real_model_names_and_ordinary_words_mean_nothing() -> None:
    for name in (
        "gpt-4o-mini",
        "text-embedding-3-small",
        "claude-sonnet-4-5",
        "sign-in-out",
        "slower-eachother",
    ):
        assert behaviour_of(name).words == {}, name


def test_header_and_model_add_up() -> None:
    assert behaviour_of("m", "err429, slow").words == {"err": 429, "slow": None}


def test_every_word_can_be_written() -> None:
    for word in WORDS:
        written = word if word == "http10" else f"{word}5"
        assert word in behaviour_of(f"model-{written}"), word
