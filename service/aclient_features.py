"""Features and steering profiles of a collection over gRPC from asyncio: a part of ``aclient.AsyncCollection``.

What each takes and raises: :class:`sparsight.retrieval.Collection`, which has the same methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsight.service import _calls_features
from sparsight.types import (
    Edit,
    Feature,
    FeatureCluster,
    FeatureDifference,
    FeatureFamily,
    FeatureMap,
    FeaturePage,
    FeatureWeight,
    FeatureWords,
    Profile,
    RelatedFeatures,
)

if TYPE_CHECKING:
    from sparsight.service.aclient import AsyncClient

__all__ = ["AsyncFeatureMethods"]


class AsyncFeatureMethods:
    """Find features, compare by them, name them, and keep edits of them under a name."""

    name: str
    _client: AsyncClient

    # --- features -----------------------------------------------------------------------------------------

    async def features(
        self,
        words: str = "",
        *,
        field: str = "",
        page_size: int = 50,
        page_token: str = "",
        timeout: float | None = None,
    ) -> FeaturePage:
        """Features of an SAE field: the most frequent first, or the best matches for some words."""
        steps = _calls_features.features(self.name, words, field, page_size, page_token)
        return await self._client._run(steps, timeout)

    async def feature(self, index: int, *, field: str = "", timeout: float | None = None) -> Feature:
        """One feature; UnknownFeatureError if there is none of that index."""
        return await self._client._run(_calls_features.feature(self.name, index, field), timeout)

    async def find_features(
        self,
        positives: Sequence[str] = (),
        negatives: Sequence[str] = (),
        *,
        positive_texts: Sequence[str] = (),
        negative_texts: Sequence[str] = (),
        words: str = "",
        field: str = "",
        count: int = 12,
        timeout: float | None = None,
    ) -> tuple[FeatureWeight, ...]:
        """Features that tell some examples, ids of documents or texts, from others, or that words describe."""
        texts = (positive_texts, negative_texts)
        steps = _calls_features.find_features(self.name, (positives, negatives), texts, words, field, count)
        return await self._client._run(steps, timeout)

    async def related_features(
        self, index: int, *, field: str = "", count: int = 10, timeout: float | None = None
    ) -> RelatedFeatures:
        """Features that look most the way of one, and most the other way."""
        return await self._client._run(_calls_features.related_features(self.name, index, field, count), timeout)

    async def compare(
        self, a: str = "", b: str = "", *, a_text: str = "", b_text: str = "", field: str = "", count: int = 64,
        timeout: float | None = None,
    ) -> tuple[FeatureDifference, ...]:  # fmt: skip
        """How strong features are in two documents or texts, the largest differences first, or in one alone."""
        steps = _calls_features.compare(self.name, (a, b), (a_text, b_text), field, count)
        return await self._client._run(steps, timeout)

    async def families(
        self, feature: int | None = None, *, field: str = "", count: int = 20, timeout: float | None = None
    ) -> tuple[FeatureFamily, ...]:
        """The largest families of features, or those that a feature is in; at most 256."""
        return await self._client._run(_calls_features.families(self.name, feature, field, count), timeout)

    async def clusters(
        self, *, field: str = "", count: int = 20, timeout: float | None = None
    ) -> tuple[FeatureCluster, ...]:
        """Features near each other that may together be one of several dimensions; at most 60, by falling score."""
        return await self._client._run(_calls_features.clusters(self.name, field, count), timeout)

    async def feature_map(self, *, field: str = "", timeout: float | None = None) -> FeatureMap:
        """A map of the features that ever fired: near ones point alike, those of one lobe fire together."""
        return await self._client._run(_calls_features.feature_map(self.name, field), timeout)

    async def words(
        self,
        id: str,
        features: Sequence[int],
        *,
        passage: int = 0,
        field: str = "",
        count: int = 10,
        timeout: float | None = None,
    ) -> tuple[FeatureWords, ...]:
        """Which words of a document's passage fired features, the most telling first; at most 64 features."""
        steps = _calls_features.words(self.name, id, features, passage, field, count)
        return await self._client._run(steps, timeout)

    async def rename_feature(
        self, index: int, label: str, *, field: str = "", timeout: float | None = None
    ) -> Feature:
        """Call a feature something else; "" gives it the label back that it came with. What it was called is kept."""
        return await self._client._run(_calls_features.rename_feature(self.name, index, label, field), timeout)

    # --- profiles -----------------------------------------------------------------------------------------

    async def save_profile(
        self, name: str, edits: Sequence[Edit], *, note: str = "", timeout: float | None = None
    ) -> Profile:
        """Keep edits under a name, as a new version of it if there is one; queries use it as ``profile="NAME"``."""
        return await self._client._run(_calls_features.save_profile(self.name, name, edits, note), timeout)

    async def profile(self, name: str, version: int = 0, *, timeout: float | None = None) -> Profile:
        """A version of a profile, the latest if none is given; UnknownProfileError if it is not there."""
        return await self._client._run(_calls_features.profile(self.name, name, version), timeout)

    async def profiles(self, *, timeout: float | None = None) -> list[Profile]:
        """The latest version of every profile, by name."""
        return await self._client._run(_calls_features.profiles(self.name), timeout)

    async def drop_profile(self, name: str, *, timeout: float | None = None) -> None:
        """Forget a profile with all its versions; UnknownProfileError if it is not there."""
        return await self._client._run(_calls_features.drop_profile(self.name, name), timeout)
