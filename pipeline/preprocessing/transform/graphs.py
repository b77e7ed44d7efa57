"""The transform graph of a model: what it was fitted to, as tf.Transform's SavedModel."""

import pathlib
from collections.abc import Mapping

import tensorflow as tf
from tensorflow_transform import impl_helper

from features import preprocessing
from features.preprocessing import Fitted
from features.spec import ResolvedSpec


def directory_of(output: pathlib.Path, model: str) -> pathlib.Path:
    """Returns where the graph of a model lies below an examples directory."""
    return output / "transform_fn" / model


def vocabularies(directory: pathlib.Path, spaces: Mapping[str, str]) -> dict[str, str]:
    """Returns ID space to the file of its vocabulary in a graph's own directory."""
    assets = directory / "transform_fn" / "assets"
    return {space: str(assets / preprocessing.vocabulary_name(space)) for space in spaces}


def write(directory: pathlib.Path, resolved: ResolvedSpec, model: str, fitted: Fitted) -> None:
    """Writes the graph, in the form that ``tft.TFTransformOutput`` reads.

    Args:
        directory: Directory to write.
        resolved: The data set's features.
        model: Name of the model.
        fitted: What its analyzers came to: so no data is needed to trace it.
    """
    raw = preprocessing.raw_feature_spec(resolved, model)
    types = {
        name: tf.SparseTensorSpec([None, None], feature.dtype)
        if isinstance(feature, tf.io.VarLenFeature)
        else tf.TensorSpec([None, *feature.shape], feature.dtype)
        for name, feature in raw.items()
    }
    impl_helper.analyze_in_place(
        preprocessing.make_preprocessing_fn(resolved, model, fitted),
        force_tf_compat_v1=False,
        feature_specs=raw,
        type_specs=types,
        transform_output_path=str(directory),
    )
