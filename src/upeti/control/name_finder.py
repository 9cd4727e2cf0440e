"""Names, places and what else a language model of spaCy's finds in a text, by Presidio: for redaction.

Rules: the model is one that is installed here; none is fetched. What the shipped rules find by its form is theirs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from upeti.core.errors import ConfigError
from upeti.rights.redaction import Finder

_INSTALL: Final = "pip install 'upeti[presidio]'"
_SCORE_MIN: Final = 0.4  # Presidio's own default for what to report is 0, its redaction demos take 0.35 and more
# What says who or where somebody is; the rules find the rest by its form.
_KINDS: Final = {"PERSON": "NAME", "LOCATION": "PLACE", "NRP": "GROUP", "ORGANIZATION": "ORGANIZATION"}


def name_finder(model: str) -> Finder:
    """Return a finder of names and places with a spaCy model. Raises ``ConfigError`` when it cannot be had."""
    try:
        import spacy
        from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
        from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine
        from presidio_analyzer.predefined_recognizers import SpacyRecognizer
    except ImportError as error:
        raise ConfigError(f"[capture] names needs a package that is not installed ({error.name}): {_INSTALL}") from None
    try:
        loaded = spacy.load(model)
    except OSError as error:
        raise ConfigError(f"[capture] names_model = {model!r} is not installed here: {error}") from None

    class Engine(SpacyNlpEngine):  # type: ignore[misc]
        """Presidio would fetch a model that is not there."""

        def load(self) -> None:
            self.nlp = {loaded.lang: loaded}

    engine: Any = Engine(ner_model_configuration=NerModelConfiguration(default_score=0.85))
    engine.load()
    registry = RecognizerRegistry(supported_languages=[loaded.lang])
    registry.add_recognizer(SpacyRecognizer(supported_language=loaded.lang, supported_entities=list(_KINDS)))
    analyzer = AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[loaded.lang])

    def find(text: str) -> Iterable[tuple[int, int, str]]:
        for one in analyzer.analyze(text, language=loaded.lang, entities=list(_KINDS), score_threshold=_SCORE_MIN):
            yield one.start, one.end, _KINDS[one.entity_type]

    return find
