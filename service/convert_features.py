"""Features and steering profiles across the wire; the rules are those of :mod:`sparsight.service.convert`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from sparsight.service.convert import text
from sparsight.service.convert_collections import collection_resource
from sparsight.service.convert_queries import edit_from_proto, edit_to_proto
from sparsight.types import (
    ClusterPoint,
    Edit,
    Feature,
    FeatureCluster,
    FeatureDifference,
    FeatureFamily,
    FeatureMap,
    FeatureWeight,
    FeatureWords,
    LabelQuality,
    MapLobe,
    MapPoint,
    Profile,
    WordShare,
)
from sparsight.v1 import features_pb2, profiles_pb2, search_pb2

__all__ = [
    "clusters_from_proto",
    "clusters_to_proto",
    "differences_from_proto",
    "differences_to_proto",
    "edits_from_proto",
    "edits_to_proto",
    "families_from_proto",
    "families_to_proto",
    "feature_from_proto",
    "feature_to_proto",
    "map_from_proto",
    "map_to_proto",
    "profile_from_proto",
    "profile_resource",
    "profile_to_proto",
    "weights_from_proto",
    "weights_to_proto",
    "words_from_proto",
    "words_to_proto",
]


_CLUSTER = ("passages", "variance", "separability", "mixture", "score", "null_score")  # figures of a cluster


def feature_to_proto(feature: Feature, collection: str) -> features_pb2.Feature:
    """Message of a feature."""
    return features_pb2.Feature(
        name=f"collections/{collection}/fields/{feature.field}/features/{feature.index}",
        index=feature.index,
        label=feature.label,
        density=feature.density,
        scale=feature.scale,
        examples=feature.examples,
        field=feature.field,
        history=feature.history,
        label_source=feature.label_source,
        quality=None if feature.quality is None else features_pb2.LabelQuality(**dataclasses.asdict(feature.quality)),
        histogram=feature.histogram,
        stability=feature.stability,
    )


def feature_from_proto(message: features_pb2.Feature) -> Feature:
    """Feature of a message."""
    return Feature(
        message.index,
        message.label,
        message.density,
        message.scale,
        tuple(message.examples),
        message.field,
        tuple(message.history),
        message.label_source,
        _quality_from_proto(message.quality) if message.HasField("quality") else None,
        tuple(message.histogram),
        message.stability if message.HasField("stability") else None,
    )


def _quality_from_proto(message: features_pb2.LabelQuality) -> LabelQuality:
    return LabelQuality(**{field.name: value for field, value in message.ListFields()})


def weights_to_proto(found: Iterable[FeatureWeight], collection: str) -> list[features_pb2.FeatureWeight]:
    """Messages of features with weights."""
    return [
        features_pb2.FeatureWeight(
            feature=feature_to_proto(item.feature, collection), weight=item.weight, share=item.share
        )
        for item in found
    ]


def weights_from_proto(messages: Iterable[features_pb2.FeatureWeight]) -> tuple[FeatureWeight, ...]:
    """Features with weights of messages."""
    return tuple(FeatureWeight(feature_from_proto(item.feature), item.weight, item.share) for item in messages)


def differences_to_proto(found: Iterable[FeatureDifference], collection: str) -> list[features_pb2.FeatureDifference]:
    """Messages of differences."""
    return [
        features_pb2.FeatureDifference(feature=feature_to_proto(item.feature, collection), a=item.a, b=item.b)
        for item in found
    ]


def differences_from_proto(messages: Iterable[features_pb2.FeatureDifference]) -> tuple[FeatureDifference, ...]:
    """Differences of messages."""
    return tuple(FeatureDifference(feature_from_proto(item.feature), item.a, item.b) for item in messages)


def families_to_proto(found: Iterable[FeatureFamily], collection: str) -> list[features_pb2.FeatureFamily]:
    """Messages of families."""
    return [
        features_pb2.FeatureFamily(
            parent=feature_to_proto(item.parent, collection),
            members=[
                features_pb2.FamilyMember(
                    feature=feature_to_proto(child, collection), above=above, strength=strength
                )
                for child, above, strength in zip(item.children, item.above, item.strength, strict=True)
            ],
        )
        for item in found
    ]


def families_from_proto(messages: Iterable[features_pb2.FeatureFamily]) -> tuple[FeatureFamily, ...]:
    """Families of messages."""
    return tuple(
        FeatureFamily(
            feature_from_proto(item.parent),
            tuple(feature_from_proto(member.feature) for member in item.members),
            tuple(member.above for member in item.members),
            tuple(member.strength for member in item.members),
        )
        for item in messages
    )


def clusters_to_proto(found: Iterable[FeatureCluster], collection: str) -> list[features_pb2.FeatureCluster]:
    """Messages of clusters."""
    return [
        features_pb2.FeatureCluster(
            features=[feature_to_proto(feature, collection) for feature in item.features],
            points=[features_pb2.ClusterPoint(id=p.id, x=p.x, y=p.y, feature=p.feature) for p in item.points],
            **{name: getattr(item, name) for name in _CLUSTER},
        )
        for item in found
    ]


def clusters_from_proto(messages: Iterable[features_pb2.FeatureCluster]) -> tuple[FeatureCluster, ...]:
    """Clusters of messages."""
    return tuple(
        FeatureCluster(
            features=tuple(map(feature_from_proto, item.features)),
            points=tuple(ClusterPoint(p.id, p.x, p.y, p.feature) for p in item.points),
            **{name: getattr(item, name) for name in _CLUSTER},
        )
        for item in messages
    )


def map_to_proto(found: FeatureMap) -> features_pb2.GetFeatureMapResponse:
    """Message of a map."""
    return features_pb2.GetFeatureMapResponse(
        points=[
            features_pb2.MapPoint(
                index=point.index, x=point.x, y=point.y, lobe=point.lobe, label=point.label, density=point.density
            )
            for point in found.points
        ],
        lobes=[features_pb2.MapLobe(label=lobe.label, size=lobe.size) for lobe in found.lobes],
        field=found.field,
    )


def map_from_proto(message: features_pb2.GetFeatureMapResponse) -> FeatureMap:
    """Map of a message."""
    return FeatureMap(
        tuple(
            MapPoint(point.index, point.x, point.y, point.lobe, point.label, point.density) for point in message.points
        ),
        tuple(MapLobe(lobe.label, lobe.size) for lobe in message.lobes),
        message.field,
    )


def words_to_proto(found: Iterable[FeatureWords], collection: str) -> list[features_pb2.FeatureWords]:
    """Messages of features' words."""
    return [
        features_pb2.FeatureWords(
            feature=feature_to_proto(item.feature, collection),
            text=item.text,
            words=[
                features_pb2.WordShare(word=each.word, start=each.start, end=each.end, share=each.share)
                for each in item.words
            ],
            total=item.total,
            begins=item.begins,
        )
        for item in found
    ]


def words_from_proto(messages: Iterable[features_pb2.FeatureWords]) -> tuple[FeatureWords, ...]:
    """Features' words of messages."""
    return tuple(
        FeatureWords(
            feature_from_proto(item.feature),
            item.text,
            tuple(WordShare(each.word, each.start, each.end, each.share) for each in item.words),
            item.total,
            item.begins,
        )
        for item in messages
    )


# --- profiles ---------------------------------------------------------------------------------------------


def profile_resource(collection: str, name: str) -> str:
    """Resource name of a profile. A name that cannot be one is refused by whoever reads it."""
    return f"{collection_resource(collection, 'collection')}/profiles/{text(name, 'name')}"


def profile_to_proto(profile: Profile, collection: str) -> profiles_pb2.Profile:
    """Message of a profile that was saved."""
    message = profiles_pb2.Profile(
        name=profile_resource(collection, profile.name),
        version=profile.version,
        edits=edits_to_proto(profile.edits),
        note=profile.note,
    )
    message.create_time.FromMicroseconds(round(1e6 * profile.created))
    return message


def profile_from_proto(message: profiles_pb2.Profile) -> Profile:
    """Profile of a message that a server sent."""
    return Profile(
        name=message.name.rpartition("/")[2],
        version=message.version,
        edits=edits_from_proto(message.edits),
        note=message.note,
        created=message.create_time.ToMicroseconds() / 1e6,
    )


def edits_to_proto(edits: Sequence[Edit]) -> list[search_pb2.Edit]:
    """Messages of edits."""
    return [edit_to_proto(edit, f"edits[{position}]") for position, edit in enumerate(edits)]


def edits_from_proto(messages: Iterable[search_pb2.Edit]) -> tuple[Edit, ...]:
    """Edits of messages."""
    return tuple(edit_from_proto(item, f"edits[{position}]") for position, item in enumerate(messages))
