"""What a worker does with its leases while the keeper is away."""

from __future__ import annotations

from upeti.gateway.holds import Holds


class Treasury:
    """A keeper that is there or not, and what it was told."""

    def __init__(self) -> None:
        self.there = True
        self.returned: list[tuple[int, int, bool]] = []

    def ask(self, budget: str, need_pico: int, posted_pico: int) -> bool:
        return self.there

    def give_back(self, budget: str, amount_pico: int, posted_pico: int, *, recalled: bool) -> bool:
        if self.there:
            self.returned.append((amount_pico, posted_pico, recalled))
        return self.there


def test_an_idle_lease_is_kept_while_nobody_can_take_it() -> None:
    treasury = Treasury()
    holds = Holds(treasury)
    holds.granted("b", 100, 0, 100, 0)
    treasury.there = False
    holds.return_idle()
    assert holds.leases() == {"b": (100, 0)}
    treasury.there = True
    holds.return_idle()
    assert holds.leases() == {"b": (0, 0)}
    assert treasury.returned == [(100, 0, False)]


def test_the_answer_to_a_recall_says_so_and_leaves_what_is_held() -> None:
    treasury = Treasury()
    holds = Holds(treasury)
    holds.granted("b", 100, 0, 100, 0)
    assert holds.place(holds.purses_of(("b",)), 30)
    holds.recalled("b")
    assert treasury.returned == [(70, 0, True)]
    assert holds.leases() == {"b": (30, 0)}
