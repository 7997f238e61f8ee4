"""Features of SAE fields."""

from __future__ import annotations

from dataclasses import dataclass

from sparsight.types.queries import Edit

__all__ = ["ClusterPoint", "Feature", "FeatureCluster", "FeatureDifference", "FeatureFamily", "FeatureMap",
           "FeaturePage", "FeatureWeight", "FeatureWords", "LabelQuality", "MapLobe", "MapPoint",
           "RelatedFeatures", "WordShare"]


@dataclass(frozen=True, slots=True)
class LabelQuality:
    """How well a label says which passages its feature fires on, by a sparse encoder, on passages that it was not made
    from. None: too few to tell.

    Attributes
    ----------
    detection : float, optional
        Chance that a passage which fires the feature suits the label better than one that does not; 0.5 says nothing.
    strong_detection : float, optional
        The same of passages with more than half of the largest activation.
    correlation : float, optional
        Pearson's, of activations with how much passages suit the label.
    intruder : float, optional
        How often, of four of its strongest passages and one that does not fire it, the latter suits the label least;
        0.2 says nothing.
    """

    detection: float | None = None
    strong_detection: float | None = None
    correlation: float | None = None
    intruder: float | None = None


@dataclass(frozen=True, slots=True)
class Feature:
    """A latent of a collection's SAE with what is known about it.

    Attributes
    ----------
    index : int
    label : str
        Its most telling words.
    density : float
        Share of training passages it fires on.
    scale : float
        90 % quantile of its positive activations, the unit of steering strength.
    examples : tuple of str
        Ids of documents it is strongest on.
    field : str
    history : tuple of str
        Labels that it had before, the one that it came with first.
    label_source : str
        Where the label is from: "contrast" (words of its passages against all others), "matched" (against passages
        that nearly fire it), "expansion" (terms of the sparse encoder), "nearest" (words whose embeddings lie its way),
        "model" (a language model), "user", or "" where nobody knows.
    quality : LabelQuality, optional
        How good the label is; None for a user's, and where nothing judged it.
    histogram : tuple of int
        Passages by activation, in ten equal parts of what lies between 0 and the largest; empty where not known.
    stability : float, optional
        Share of other trainings, of other seeds, that found it again; None where there was one training.
    """

    index: int
    label: str = ""
    density: float = 0.0
    scale: float = 0.0
    examples: tuple[str, ...] = ()
    field: str = "sae"
    history: tuple[str, ...] = ()
    label_source: str = ""
    quality: LabelQuality | None = None
    histogram: tuple[int, ...] = ()
    stability: float | None = None


@dataclass(frozen=True, slots=True)
class FeatureWeight:
    """A feature that was looked for, and how much of it.

    Attributes
    ----------
    feature : Feature
    weight : float
        Of features found from examples: the strength, in units of the feature's own, that it has in a step of length 1
        towards the examples, all of them together. Of features related to another: the cosine of their directions.
    share : float
        Of features found from examples: share of the positives that it is active on.
    """

    feature: Feature
    weight: float
    share: float = 0.0

    def edit(self, step: float) -> Edit:
        """The feature's part in a step of that length towards the examples; 0.3 to 0.5 is a good one for unit rows."""
        return Edit(self.feature.index, "boost", step * self.weight, self.feature.field)


@dataclass(frozen=True, slots=True)
class RelatedFeatures:
    """Features whose directions are most like that of one, and most unlike: weights are cosines, above and below 0."""

    nearest: tuple[FeatureWeight, ...]
    opposite: tuple[FeatureWeight, ...]


@dataclass(frozen=True, slots=True)
class FeatureFamily:
    """A general feature, and those that fire mostly where it does.

    Attributes
    ----------
    parent : Feature
    children : tuple of Feature
        All below it, level by level.
    above : tuple of int
        Index of the feature that each child hangs on: the parent, or an earlier child.
    strength : tuple of float
        Share of the child's passages on which the one above it fires.
    """

    parent: Feature
    children: tuple[Feature, ...]
    above: tuple[int, ...]
    strength: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ClusterPoint:
    """A passage in the plane of a cluster: its document, its place, and the feature of the cluster strongest on it."""

    id: str
    x: float
    y: float
    feature: int


@dataclass(frozen=True, slots=True)
class FeatureCluster:
    """Features that lie near each other, and may together be one of several dimensions, as weekdays on a circle.

    Attributes
    ----------
    features : tuple of Feature
        The most frequent first.
    passages : int
        On which at least one of them fires.
    variance : float
        Share of these passages' variance, as far as the features tell it, that the plane shows.
    separability : float
        Of the plane, in nats: 0 if it is a pair of independent numbers, seen at some angle.
    mixture : float
        Of the plane: the largest share of passages on one line. Near 1 it is several features of one dimension.
    score : float
        ``(1 - mixture) * separability``.
    null_score : float
        The same with each feature's activations shuffled among the passages. At twice that it may be one feature.
    points : tuple of ClusterPoint
        Up to 300 of the passages.
    """

    features: tuple[Feature, ...]
    passages: int
    variance: float
    separability: float
    mixture: float
    score: float
    null_score: float
    points: tuple[ClusterPoint, ...] = ()


@dataclass(frozen=True, slots=True)
class MapPoint:
    """A feature's place on a map.

    Attributes
    ----------
    index : int
    x, y : float
        In [-1, 1]; only distances mean anything, and small ones more than large ones.
    lobe : int
        Its place in the map's ``lobes``; -1 if it fires with no other feature more often than by chance.
    label, density
        As :class:`Feature`.
    """

    index: int
    x: float
    y: float
    lobe: int
    label: str = ""
    density: float = 0.0


@dataclass(frozen=True, slots=True)
class MapLobe:
    """Features that fire together: the words that mark their labels, and how many they are."""

    label: str
    size: int


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """A map of an SAE field's features: near ones have directions alike, those of one lobe fire on the same passages.

    ``points`` are in the order of their features, ``lobes`` the largest first.
    """

    points: tuple[MapPoint, ...]
    lobes: tuple[MapLobe, ...]
    field: str = "sae"


@dataclass(frozen=True, slots=True)
class WordShare:
    """A word, characters ``start`` to ``end`` (the one after its last) of a text, and its part in something."""

    word: str
    start: int
    end: int
    share: float


@dataclass(frozen=True, slots=True)
class FeatureWords:
    """Which words of a passage fired a feature.

    Attributes
    ----------
    feature : Feature
    text : str
        What the encoder read: the title, if there is one, and the passage.
    words : tuple of WordShare
        The most telling first; of the product of the feature's direction with the text's vector.
    total : float
        That product.
    begins : int
        Where in ``text`` the passage begins.
    """

    feature: Feature
    text: str
    words: tuple[WordShare, ...]
    total: float
    begins: int = 0


@dataclass(frozen=True, slots=True)
class FeatureDifference:
    """How strong a feature is in two documents, in units of its own; 0 is not active."""

    feature: Feature
    a: float
    b: float


@dataclass(frozen=True, slots=True)
class FeaturePage:
    """A page of features.

    Attributes
    ----------
    features : tuple of Feature
    next_page_token : str
        "" on the last page.
    cosines : tuple of float
        Of features that were looked for by words: how much the direction of each is that of the words' embedding, less
        the mean of all. With the dictionary that comes along 0.5 and more is about the words ("music" 0.70), and below
        0.3 nothing is ("sarcasm" 0.26: no feature knows of it). Empty without words, or where the field takes no text.
    """

    features: tuple[Feature, ...]
    next_page_token: str = ""
    cosines: tuple[float, ...] = ()
