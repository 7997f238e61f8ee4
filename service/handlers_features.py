"""What the methods of features and profiles do; as :mod:`sparsight.service.handlers`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from sparsight.errors import InvalidArgumentError
from sparsight.service.convert_collections import (
    collection_name,
    feature_name,
    field_name,
    operation_to_proto,
    profile_name,
    sae_options_from_proto,
)
from sparsight.service.convert_features import (
    clusters_to_proto,
    differences_to_proto,
    edits_from_proto,
    families_to_proto,
    feature_to_proto,
    map_to_proto,
    profile_to_proto,
    weights_to_proto,
    words_to_proto,
)
from sparsight.service.dispatch import Call
from sparsight.service.paging import page_of, page_size_of
from sparsight.types import SAEField
from sparsight.v1 import features_pb2, profiles_pb2

if TYPE_CHECKING:
    from sparsight.retrieval.engine import Database

__all__ = ["FeatureHandlers"]


class FeatureHandlers:
    """Methods of FeatureService and ProfileService over one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def table(self) -> Mapping[str, tuple[str, Callable[[Any, Call], Message]]]:
        """Class of limits and handler by ``Service/Method``."""
        return {
            "FeatureService/ListFeatures": ("read", self.list_features),
            "FeatureService/GetFeature": ("read", self.get_feature),
            "FeatureService/FindFeatures": ("encode", self.find_features),
            "FeatureService/FindRelatedFeatures": ("read", self.find_related_features),
            "FeatureService/CompareDocuments": ("read", self.compare_documents),
            "FeatureService/FindFeatureFamilies": ("encode", self.find_feature_families),
            "FeatureService/FindFeatureClusters": ("encode", self.find_feature_clusters),
            "FeatureService/GetFeatureMap": ("encode", self.get_feature_map),
            "FeatureService/ExplainFeatures": ("encode", self.explain_features),
            "FeatureService/RenameFeature": ("write", self.rename_feature),
            "FeatureService/TrainSae": ("admin", self.train_sae),
            "FeatureService/NameFeatures": ("admin", self.name_features),
            "ProfileService/SaveProfile": ("write", self.save_profile),
            "ProfileService/GetProfile": ("read", self.get_profile),
            "ProfileService/ListProfiles": ("read", self.list_profiles),
            "ProfileService/DeleteProfile": ("write", self.delete_profile),
        }

    # --- features -----------------------------------------------------------------------------------------

    def list_features(self, request: features_pb2.ListFeaturesRequest, call: Call) -> Message:
        collection, field = field_name(request.parent)
        page = self._database.collection(collection).features(
            request.words, field=field, page_size=page_size_of(request.page_size, 50), page_token=request.page_token
        )
        return features_pb2.ListFeaturesResponse(
            features=[feature_to_proto(item, collection) for item in page.features],
            next_page_token=page.next_page_token,
            cosines=page.cosines,
        )

    def get_feature(self, request: features_pb2.GetFeatureRequest, call: Call) -> Message:
        name = feature_name(request.name)
        feature = self._database.collection(name.collection).feature(name.latent, field=name.field)
        return features_pb2.GetFeatureResponse(feature=feature_to_proto(feature, name.collection))

    def find_features(self, request: features_pb2.FindFeaturesRequest, call: Call) -> Message:
        collection, field = field_name(request.parent)
        found = self._database.collection(collection).find_features(
            list(request.positives),
            list(request.negatives),
            positive_texts=list(request.positive_texts),
            negative_texts=list(request.negative_texts),
            words=request.words,
            field=field,
            count=request.count if request.HasField("count") else 12,
        )
        return features_pb2.FindFeaturesResponse(features=weights_to_proto(found, collection))

    def find_related_features(self, request: features_pb2.FindRelatedFeaturesRequest, call: Call) -> Message:
        name = feature_name(request.name)
        found = self._database.collection(name.collection).related_features(
            name.latent, field=name.field, count=request.count if request.HasField("count") else 10
        )
        nearest, opposite = (weights_to_proto(of, name.collection) for of in (found.nearest, found.opposite))
        return features_pb2.FindRelatedFeaturesResponse(nearest=nearest, opposite=opposite)

    def compare_documents(self, request: features_pb2.CompareDocumentsRequest, call: Call) -> Message:
        collection, field = field_name(request.parent)
        found = self._database.collection(collection).compare(
            request.a,
            request.b,
            a_text=request.a_text,
            b_text=request.b_text,
            field=field,
            count=request.count if request.HasField("count") else 64,
        )
        return features_pb2.CompareDocumentsResponse(features=differences_to_proto(found, collection))

    def find_feature_families(self, request: features_pb2.FindFeatureFamiliesRequest, call: Call) -> Message:
        collection, field = field_name(request.parent)
        found = self._database.collection(collection).families(
            request.feature if request.HasField("feature") else None,
            field=field,
            count=request.count if request.HasField("count") else 20,
        )
        return features_pb2.FindFeatureFamiliesResponse(families=families_to_proto(found, collection))

    def find_feature_clusters(self, request: features_pb2.FindFeatureClustersRequest, call: Call) -> Message:
        collection, field = field_name(request.parent)
        found = self._database.collection(collection).clusters(
            field=field, count=request.count if request.HasField("count") else 20
        )
        return features_pb2.FindFeatureClustersResponse(clusters=clusters_to_proto(found, collection))

    def get_feature_map(self, request: features_pb2.GetFeatureMapRequest, call: Call) -> Message:
        collection, field = field_name(request.parent)
        return map_to_proto(self._database.collection(collection).feature_map(field=field))

    def explain_features(self, request: features_pb2.ExplainFeaturesRequest, call: Call) -> Message:
        collection, field = field_name(request.parent)
        found = self._database.collection(collection).words(
            request.id,
            list(request.features),
            passage=request.passage,
            field=field,
            count=request.count if request.HasField("count") else 10,
        )
        return features_pb2.ExplainFeaturesResponse(features=words_to_proto(found, collection))

    def rename_feature(self, request: features_pb2.RenameFeatureRequest, call: Call) -> Message:
        name = feature_name(request.name)
        collection = self._database.collection(name.collection)
        feature = collection.rename_feature(name.latent, request.label, field=name.field)
        return features_pb2.RenameFeatureResponse(feature=feature_to_proto(feature, name.collection))

    def train_sae(self, request: features_pb2.TrainSaeRequest, call: Call) -> Message:
        collection, field = field_name(request.name, "name")
        operation = self._database.collection(collection).train_sae(
            field or SAEField().name,
            source=request.source or SAEField().source,
            n_latents=request.n_latents,
            k=request.k if request.HasField("k") else 32,
            epochs=request.epochs,
            seed=request.seed,
            seeds=request.seeds or 1,
            **sae_options_from_proto(request),
            wait=False,
        )
        return operation_to_proto(operation)

    def name_features(self, request: features_pb2.NameFeaturesRequest, call: Call) -> Message:
        collection, field = field_name(request.name, "name")
        return operation_to_proto(self._database.collection(collection).name_features(field, wait=False))

    # --- profiles -----------------------------------------------------------------------------------------

    def save_profile(self, request: profiles_pb2.SaveProfileRequest, call: Call) -> Message:
        if not request.HasField("profile"):
            raise InvalidArgumentError("expected a profile, got none", field="profile")
        collection, name = profile_name(request.profile.name, "profile.name")
        edits = edits_from_proto(request.profile.edits)
        saved = self._database.collection(collection).save_profile(name, edits, note=request.profile.note)
        return profiles_pb2.SaveProfileResponse(profile=profile_to_proto(saved, collection))

    def get_profile(self, request: profiles_pb2.GetProfileRequest, call: Call) -> Message:
        collection, name = profile_name(request.name)
        found = self._database.collection(collection).profile(name, request.version)
        return profiles_pb2.GetProfileResponse(profile=profile_to_proto(found, collection))

    def list_profiles(self, request: profiles_pb2.ListProfilesRequest, call: Call) -> Message:
        collection = collection_name(request.parent)
        size = page_size_of(request.page_size, 100)
        found = self._database.collection(collection).profiles()
        page, token = page_of(found, lambda item: item.name, size, request.page_token, f"profiles/{collection}")
        return profiles_pb2.ListProfilesResponse(
            profiles=[profile_to_proto(item, collection) for item in page], next_page_token=token
        )

    def delete_profile(self, request: profiles_pb2.DeleteProfileRequest, call: Call) -> Message:
        collection, name = profile_name(request.name)
        self._database.collection(collection).drop_profile(name)
        return profiles_pb2.DeleteProfileResponse()
