"""The character-n-gram classifier that the demo model has to beat, given the same training lines."""

from collections.abc import Sequence
from dataclasses import dataclass

from sklearn.base import ClassifierMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import ComplementNB, MultinomialNB
from sklearn.pipeline import Pipeline, make_pipeline

from examples.catbot.data import Line


@dataclass(frozen=True)
class Baseline:
    """One fitted setting and what it guesses."""

    name: str
    guesses: list[str]

    def fit_percent(self, lines: Sequence[Line]) -> float:
        """Share of `lines` whose situation it names, in percent."""
        right = sum(guess == line.situation for guess, line in zip(self.guesses, lines, strict=True))
        return 100 * right / len(lines)


def run_baselines(train: Sequence[Line], evaluated: Sequence[Line]) -> list[Baseline]:
    """Every setting fitted on `train` and asked about `evaluated`, the best first."""
    texts = [line.text for line in train]
    situations = [line.situation for line in train]
    made = []
    for name, pipeline in _settings():
        pipeline.fit(texts, situations)
        made.append(Baseline(name, list(pipeline.predict([line.text for line in evaluated]))))
    return sorted(made, key=lambda one: -one.fit_percent(evaluated))


def _settings() -> list[tuple[str, Pipeline]]:
    classifiers: list[tuple[str, ClassifierMixin]] = [
        *((f"logistic regression C={c}", LogisticRegression(C=c, max_iter=300)) for c in (3, 30)),
        ("multinomial naive Bayes", MultinomialNB(alpha=0.1)),
        ("complement naive Bayes", ComplementNB(alpha=0.1)),
    ]
    return [
        (f"{analyzer} 1-4 {name}", make_pipeline(_features(analyzer), classifier))
        for analyzer in ("char", "char_wb")
        for name, classifier in classifiers
    ]


def _features(analyzer: str) -> TfidfVectorizer:
    return TfidfVectorizer(analyzer=analyzer, ngram_range=(1, 4), sublinear_tf=True)
