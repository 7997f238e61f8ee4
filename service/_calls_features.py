"""What clients ask about features and profiles; as :mod:`sparsight.service._calls`."""

from __future__ import annotations

from collections.abc import Sequence

from sparsight.errors import InvalidArgumentError
from sparsight.service._parts import Steps, call
from sparsight.service.convert import integer, text
from sparsight.service.convert_collections import collection_resource, field_resource
from sparsight.service.convert_features import (
    clusters_from_proto,
    differences_from_proto,
    edits_to_proto,
    families_from_proto,
    feature_from_proto,
    map_from_proto,
    profile_from_proto,
    profile_resource,
    weights_from_proto,
    words_from_proto,
)
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
from sparsight.v1 import features_pb2, profiles_pb2

FIND_SECONDS = 60.0
"""Default deadline of finding features from examples, which may be encoded first."""


def features(collection: str, words: str, field: str, page_size: int, page_token: str) -> Steps[FeaturePage]:
    request = features_pb2.ListFeaturesRequest(
        parent=field_resource(collection, field),
        words=text(words, "words"),
        page_size=integer(page_size, "page_size", bits=32),
        page_token=text(page_token, "page_token"),
    )
    page = yield call("FeatureService", "ListFeatures", request, features_pb2.ListFeaturesResponse)
    return FeaturePage(tuple(map(feature_from_proto, page.features)), page.next_page_token, tuple(page.cosines))


def feature(collection: str, index: int, field: str) -> Steps[Feature]:
    request = features_pb2.GetFeatureRequest(name=_feature_resource(collection, index, field))
    answer = yield call("FeatureService", "GetFeature", request, features_pb2.GetFeatureResponse)
    return feature_from_proto(answer.feature)


def find_features(
    collection: str,
    examples: tuple[Sequence[str], Sequence[str]],
    texts: tuple[Sequence[str], Sequence[str]],
    words: str,
    field: str,
    count: int,
) -> Steps[tuple[FeatureWeight, ...]]:
    """Positives and negatives, by id and as texts, and a description."""
    request = features_pb2.FindFeaturesRequest(
        parent=field_resource(collection, field),
        positives=_texts(examples[0], "positives"),
        negatives=_texts(examples[1], "negatives"),
        positive_texts=_texts(texts[0], "positive_texts"),
        negative_texts=_texts(texts[1], "negative_texts"),
        words=text(words, "words"),
        count=integer(count, "count"),
    )
    response = features_pb2.FindFeaturesResponse
    answer = yield call("FeatureService", "FindFeatures", request, response, FIND_SECONDS)
    return weights_from_proto(answer.features)


def related_features(collection: str, index: int, field: str, count: int) -> Steps[RelatedFeatures]:
    request = features_pb2.FindRelatedFeaturesRequest(
        name=_feature_resource(collection, index, field), count=integer(count, "count")
    )
    answer = yield call("FeatureService", "FindRelatedFeatures", request, features_pb2.FindRelatedFeaturesResponse)
    return RelatedFeatures(weights_from_proto(answer.nearest), weights_from_proto(answer.opposite))


def compare(
    collection: str, ids: tuple[str, str], texts: tuple[str, str], field: str, count: int
) -> Steps[tuple[FeatureDifference, ...]]:
    request = features_pb2.CompareDocumentsRequest(
        parent=field_resource(collection, field), a=text(ids[0], "a"), b=text(ids[1], "b"),
        a_text=text(texts[0], "a_text"), b_text=text(texts[1], "b_text"), count=integer(count, "count"),
    )  # fmt: skip
    answer = yield call("FeatureService", "CompareDocuments", request, features_pb2.CompareDocumentsResponse)
    return differences_from_proto(answer.features)


def families(
    collection: str, feature: int | None, field: str, count: int
) -> Steps[tuple[FeatureFamily, ...]]:
    request = features_pb2.FindFeatureFamiliesRequest(
        parent=field_resource(collection, field), count=integer(count, "count")
    )
    if feature is not None:
        request.feature = integer(feature, "feature")
    response = features_pb2.FindFeatureFamiliesResponse
    answer = yield call("FeatureService", "FindFeatureFamilies", request, response, FIND_SECONDS)
    return families_from_proto(answer.families)


def clusters(collection: str, field: str, count: int) -> Steps[tuple[FeatureCluster, ...]]:
    request = features_pb2.FindFeatureClustersRequest(
        parent=field_resource(collection, field), count=integer(count, "count")
    )
    response = features_pb2.FindFeatureClustersResponse
    answer = yield call("FeatureService", "FindFeatureClusters", request, response, FIND_SECONDS)
    return clusters_from_proto(answer.clusters)


def feature_map(collection: str, field: str) -> Steps[FeatureMap]:
    request = features_pb2.GetFeatureMapRequest(parent=field_resource(collection, field))
    answer = yield call("FeatureService", "GetFeatureMap", request, features_pb2.GetFeatureMapResponse, FIND_SECONDS)
    return map_from_proto(answer)


def words(
    collection: str, id: str, features: Sequence[int], passage: int, field: str, count: int
) -> Steps[tuple[FeatureWords, ...]]:
    if isinstance(features, str):
        raise InvalidArgumentError("expected a list, got a string", field="features")
    request = features_pb2.ExplainFeaturesRequest(
        parent=field_resource(collection, field),
        id=text(id, "id"),
        features=[integer(feature, f"features[{position}]") for position, feature in enumerate(features)],
        passage=integer(passage, "passage"),
        count=integer(count, "count"),
    )
    response = features_pb2.ExplainFeaturesResponse
    answer = yield call("FeatureService", "ExplainFeatures", request, response, FIND_SECONDS)
    return words_from_proto(answer.features)


def rename_feature(collection: str, index: int, label: str, field: str) -> Steps[Feature]:
    request = features_pb2.RenameFeatureRequest(
        name=_feature_resource(collection, index, field), label=text(label, "label")
    )
    answer = yield call("FeatureService", "RenameFeature", request, features_pb2.RenameFeatureResponse)
    return feature_from_proto(answer.feature)


def _feature_resource(collection: str, index: int, field: str) -> str:
    return f"{field_resource(collection, field)}/features/{integer(index, 'index')}"


def _texts(items: Sequence[str], name: str) -> list[str]:
    if isinstance(items, str):
        raise InvalidArgumentError("expected a list, got a string", field=name)
    return [text(item, f"{name}[{position}]") for position, item in enumerate(items)]


# --- profiles ---------------------------------------------------------------------------------------------


def save_profile(collection: str, name: str, edits: Sequence[Edit], note: str) -> Steps[Profile]:
    profile = profiles_pb2.Profile(
        name=profile_resource(collection, name), edits=edits_to_proto(edits), note=text(note, "note")
    )
    request = profiles_pb2.SaveProfileRequest(profile=profile)
    answer = yield call("ProfileService", "SaveProfile", request, profiles_pb2.SaveProfileResponse)
    return profile_from_proto(answer.profile)


def profile(collection: str, name: str, version: int) -> Steps[Profile]:
    request = profiles_pb2.GetProfileRequest(
        name=profile_resource(collection, name), version=integer(version, "version")
    )
    answer = yield call("ProfileService", "GetProfile", request, profiles_pb2.GetProfileResponse)
    return profile_from_proto(answer.profile)


def profiles(collection: str) -> Steps[list[Profile]]:
    found: list[Profile] = []
    token = ""
    while True:
        request = profiles_pb2.ListProfilesRequest(
            parent=collection_resource(collection, "collection"), page_size=1000, page_token=token
        )
        page = yield call("ProfileService", "ListProfiles", request, profiles_pb2.ListProfilesResponse)
        found.extend(map(profile_from_proto, page.profiles))
        if not (token := page.next_page_token):
            return found


def drop_profile(collection: str, name: str) -> Steps[None]:
    request = profiles_pb2.DeleteProfileRequest(name=profile_resource(collection, name))
    yield call("ProfileService", "DeleteProfile", request, profiles_pb2.DeleteProfileResponse)
