"""The monitor: notes of calls gathered in windows of each unit, a look at each window that is full.

Rules: a unit is a tenant; a parent with several tenants; or a cluster of keys of several tenants that share a constant
beginning. Windows are disjoint. The reference is a random sample of the unit's earlier windows in which nothing was
found; one in which something was found waits until the case is closed, and is then the past that later ones are compared
with. A cluster that is new is compared with what its keys did before. What is kept is ``MonitorState``, which holds no
texts. Needs numpy. Pure: the clock, the salt and randomness are passed in.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec

from upeti.rights.conduct.drift import drift, moved, own_scale
from upeti.rights.conduct.reading import Shape, Templates, digest_of, read_call, shape_of
from upeti.rights.conduct.signs import Context, Note, contradictions, signs, together
from upeti.rights.conduct.thresholds import Thresholds

DRIFT: Final = "drift"
SIGNS: Final = "signs"
PURPOSE: Final = "purpose"
TEMPLATE_PREFIX: Final = "template:"

_RATIOS_KEPT: Final = 20
_SEEN_MAX: Final = 20_000  # prompts whose digests are kept to count repeats
_LINKS_MAX: Final = 4_096
_LINK_LETTERS: Final = 60  # of a beginning: two templates that differ later are still one family
_LINK_LETTERS_MIN: Final = 12
_KEYS_MAX: Final = 2_000
_KEY_PAST: Final = 64  # calls of each key that a new cluster is compared with
_CLUSTER_PAST_MIN: Final = 1_000
_CALLS_NAMED: Final = 50  # digests of calls in a bundle; whoever has a call's id can tell whether it is one of them
_CALL_DIGITS: Final = 16


class Unit(msgspec.Struct):
    """What is known of one unit."""

    notes: list[Note] = []
    reference: list[Shape] = []
    accepted: int = 0  # calls that the reference is a sample of
    pending: list[Shape] = []  # of windows in which something was found
    ratios: list[float] = []
    looks: int = 0
    seen: list[int] = []
    last: dict[str, Any] = {}  # the last look, for who asks how it stands


class MonitorState(msgspec.Struct):
    """All that is kept, as it goes to the disk."""

    units: dict[str, Unit] = {}
    links: dict[int, dict[str, str]] = {}  # constant beginning → key → tenant
    pasts: dict[str, list[tuple[tuple[int, ...], Shape]]] = {}  # key → what it did lately: constant beginnings, shape


class Call(msgspec.Struct, frozen=True):
    """One call as the monitor takes it."""

    call_id: str
    at_ns: int
    tenant: str
    key: str
    feature: str
    wire: str
    request: bytes


class Finding(msgspec.Struct, frozen=True):
    """What one look at one unit has found: family → evidence; empty when it was unremarkable."""

    unit: str
    tenants: tuple[str, ...]
    families: dict[str, dict[str, Any]]


class Surroundings(msgspec.Struct, frozen=True):
    """What the monitor asks about tenants when it looks."""

    parent_of: Callable[[str], str] = lambda tenant: tenant
    purpose_of: Callable[[str], str] = lambda tenant: ""
    has_case: Callable[[Sequence[str]], bool] = lambda tenants: False
    pairs_taken: Callable[[Sequence[str], int], int] = lambda tenants, since_ns: 0


class Monitor:
    """Takes calls one by one. Used by one thread."""

    def __init__(
        self, limits: Thresholds, salt: bytes, state: MonitorState | None = None, about: Surroundings | None = None
    ) -> None:
        self.state = state or MonitorState()
        self._limits = limits
        self._salt = salt
        self._about = about or Surroundings()
        self._templates = Templates()

    def take(self, call: Call) -> tuple[list[str], list[Finding]]:
        """Note a call; return its units, and the findings of the windows that it filled."""
        note = self.note_of(call)
        if note is None:
            return [], []
        found = []
        units = self._units_of(note)
        for name in units:
            unit = self.state.units.setdefault(name, Unit())
            unit.notes.append(note)
            if len(unit.notes) >= self._limits.windows.calls:
                found.append(self.look(name))
        self._remember(note)
        return units, found

    def note_of(self, call: Call) -> Note | None:
        """Return what is kept of a call; None when it asks for no text, or its template is being learnt."""
        reading = read_call(call.request, call.wire)
        if reading is None:
            return None
        split = self._templates.varying(f"{call.key}\0{call.feature}", reading.user)
        if split is None:
            return None
        varying, constant = split
        links = tuple(
            digest_of(text[:_LINK_LETTERS], self._salt)
            for text in (reading.system, constant)
            if len(text) >= _LINK_LETTERS_MIN
        )
        return Note(
            at_ns=call.at_ns,
            call=sha256(call.call_id.encode()).hexdigest()[:_CALL_DIGITS],
            tenant=call.tenant,
            key=call.key,
            shape=shape_of(varying or reading.user, self._salt),
            marks=int(reading.marks),
            prompt=digest_of(varying, self._salt),
            links=links,
        )

    def look(self, name: str) -> Finding:
        """Look at a unit's window, and begin the next one."""
        unit, limits = self.state.units[name], self._limits
        window, unit.notes = unit.notes, []
        tenants = tuple(sorted({note.tenant for note in window}))
        shapes = [note.shape for note in window]
        unit.looks += 1
        dice = random.Random(f"{name} {unit.looks}")  # noqa: S311 - a sample, not a secret
        if unit.pending and not self._about.has_case(tenants):
            # A person has looked and found it right: this is what later windows are compared with.
            unit.reference, unit.accepted, unit.pending, unit.ratios = unit.pending, len(unit.pending), [], []
        families: dict[str, dict[str, Any]] = {}
        compared = None
        if len(unit.reference) >= limits.windows.calls or len(unit.reference) >= self._needed(name):
            # While there is too little to judge by, it is learnt by how much the unit's own windows differ.
            compared = drift(shapes, unit.reference, seed=dice.getrandbits(63), scale=own_scale(unit.ratios))
            if compared.p <= limits.drift.p_max and len(unit.reference) >= self._needed(name):
                evidence = msgspec.to_builtins(compared) | {"moved": moved(shapes, unit.reference)}
                families[DRIFT] = {"what": "the prompts are unlike the unit's own past", **evidence}
        taken = self._about.pairs_taken(tenants, window[0].at_ns)
        context = Context(frozenset(unit.seen), taken, limits.windows.keys_min)
        found = signs(window, context, limits)
        if together(found, limits):
            families[SIGNS] = {"what": "signs of how calls are made and of what they ask for, together"}
        against = {
            tenant: against
            for tenant in tenants
            if (against := contradictions(self._about.purpose_of(tenant), found, limits))
        }
        if against:
            declared = {tenant: self._about.purpose_of(tenant) for tenant in against}
            families[PURPOSE] = {"what": "not what was declared", "declared": declared, "against": against}
        self._learn(unit, window, shapes, dice, clean=not families)
        if compared is not None and not families:
            unit.ratios = [*unit.ratios, compared.ratio][-_RATIOS_KEPT:]
        p = compared.p if compared is not None else None
        fired = [sign.name for sign in found if sign.fires]
        unit.last = {"at_ns": window[-1].at_ns, "p": p, "signs": fired, "families": sorted(families)}
        shared = _shared_evidence(name, window, msgspec.to_builtins(found))
        return Finding(name, tenants, {family: evidence | shared for family, evidence in families.items()})

    def _needed(self, name: str) -> int:
        calls = self._limits.windows.reference_calls
        return min(_CLUSTER_PAST_MIN, calls) if name.startswith(TEMPLATE_PREFIX) else calls

    def _units_of(self, note: Note) -> list[str]:
        units = [f"tenant:{note.tenant}"]
        parent = self._about.parent_of(note.tenant)
        if parent != note.tenant:
            units.append(f"parent:{parent}")
        for link in note.links:
            keys = self.state.links.pop(link, {})
            self.state.links[link] = keys  # the last one used is the last one forgotten
            joined = note.key not in keys
            if len(keys) < _KEYS_MAX:
                keys[note.key] = note.tenant
            if len(keys) >= self._limits.windows.keys_min and len(set(keys.values())) > 1:
                units.append(self._cluster(link, keys, note.key if joined else ""))
        while len(self.state.links) > _LINKS_MAX:
            del self.state.links[next(iter(self.state.links))]
        return units

    def _cluster(self, link: int, keys: Mapping[str, str], joined: str) -> str:
        """Return the unit of the keys that share ``link``; its past is what they did before they had it."""
        name = f"{TEMPLATE_PREFIX}{link:016x}"
        new = list(keys) if name not in self.state.units else [joined] * bool(joined)
        unit = self.state.units.setdefault(name, Unit())
        room = self._limits.windows.reference_calls - len(unit.reference)
        past = [shape for key in new for links, shape in self.state.pasts.get(key, ()) if link not in links]
        unit.reference += past[: max(0, room)]
        unit.accepted = max(unit.accepted, len(unit.reference))
        return name

    def _remember(self, note: Note) -> None:
        past = self.state.pasts.pop(note.key, [])
        self.state.pasts[note.key] = [*past, (note.links, note.shape)][-_KEY_PAST:]
        if len(self.state.pasts) > _KEYS_MAX:
            del self.state.pasts[next(iter(self.state.pasts))]

    def _learn(self, unit: Unit, window: list[Note], shapes: list[Shape], dice: random.Random, *, clean: bool) -> None:
        if clean:
            self._accept(unit, shapes, dice)
        else:
            unit.pending = [*unit.pending, *shapes][-self._limits.windows.reference_calls :]
        unit.seen = list(dict.fromkeys([*unit.seen, *(note.prompt for note in window)]))[-_SEEN_MAX:]

    def _accept(self, unit: Unit, shapes: Sequence[Shape], dice: random.Random) -> None:
        """Reservoir sampling (Vitter's algorithm R): every call of the accepted past is in it with the same chance."""
        size = self._limits.windows.reference_calls
        for shape in shapes:
            unit.accepted += 1
            if len(unit.reference) < size:
                unit.reference.append(shape)
            elif (place := dice.randrange(unit.accepted)) < size:
                unit.reference[place] = shape


def _shared_evidence(name: str, window: Sequence[Note], found: Any) -> dict[str, Any]:
    """Return what stands in every piece of evidence of a look: whose window it was, its signs, which calls."""
    return {
        "unit": name,
        "calls": len(window),
        "keys": len({note.key for note in window}),
        "first_ns": window[0].at_ns,
        "last_ns": window[-1].at_ns,
        "signs": found,
        "call_digests": [note.call for note in window[:: max(1, len(window) // _CALLS_NAMED)]][:_CALLS_NAMED],
    }
