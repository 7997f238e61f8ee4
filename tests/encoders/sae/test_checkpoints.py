"""Each layout, written as its library writes it, gives the codes and reconstructions that its library would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsight.encoders import read_sae
from sparsight.encoders.sae.checkpoints import SAE_LAYOUTS
from sparsight.encoders.sae.model import SAE
from sparsight.errors import CheckpointError, InvalidArgumentError

torch = pytest.importorskip("torch")

N, D, K = 48, 12, 6
F32 = np.float32
Source = dict[str, Any]


def source(*, norms: str = "unit", seed: int = 0) -> Source:
    """Weights of an autoencoder with rows (N, D), and rows to encode."""
    rng = np.random.default_rng(seed)
    w_dec = rng.normal(size=(N, D))
    w_dec /= np.linalg.norm(w_dec, axis=1, keepdims=True)
    scale = {"unit": np.ones(N), "equal": np.full(N, 0.1), "uneven": rng.uniform(0.5, 2, N)}[norms]
    return {
        "W_enc": (w_dec + 0.2 * rng.normal(size=(N, D))).astype(F32),
        "b_enc": (0.1 * rng.normal(size=N)).astype(F32),
        "W_dec": (w_dec * scale[:, None]).astype(F32),
        "b_dec": (0.2 * rng.normal(size=D)).astype(F32),
        "threshold": rng.uniform(0.3, 1.5, N).astype(F32),
        "x": rng.normal(size=(40, D)).astype(F32),
    }


def expected(
    of: Source, choose: str, *, centred: bool = True, threshold: Any = None, by_norm: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """What the latents contribute, ``z |w|`` (B, N), and reconstructions (B, D), in float64 and as they are defined."""
    w_enc, w_dec, b_dec = (of[name].astype(np.float64) for name in ("W_enc", "W_dec", "b_dec"))
    pre_acts = (of["x"] - centred * b_dec) @ w_enc.T + of["b_enc"]
    norms = np.linalg.norm(w_dec, axis=1)
    if choose == "topk":
        ranked = -np.sort(-(pre_acts * norms if by_norm else pre_acts), axis=1)
        kept = (pre_acts * norms if by_norm else pre_acts) >= ranked[:, K - 1 : K]
    else:
        kept = pre_acts > (of["threshold"] if threshold is None else threshold)
    codes = np.where(kept, np.maximum(pre_acts, 0), 0)
    return codes * norms, codes @ w_dec + b_dec


def assert_encodes(sae: SAE, of: Source, wanted: tuple[np.ndarray, np.ndarray], mode: str = "topk") -> None:
    codes = sae.encode(of["x"])
    assert sae.mode == mode and codes.nnz > 100
    assert ((codes.toarray() > 0) == (wanted[0] > 0)).all()
    np.testing.assert_allclose(codes.toarray(), wanted[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(sae.decode(codes), wanted[1], rtol=1e-4, atol=1e-5)


def write(folder: Path, weights: str, tensors: dict[str, np.ndarray], **configs: Any) -> Path:
    """``weights`` holds the tensors; each other name is a .json."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: np.array(array, order="C") for name, array in tensors.items()}, folder / weights)
    for name, config in configs.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    return folder


def saelens(folder: Path, of: Source, *, threshold: bool = False, **changes: Any) -> Path:
    tensors = {"W_enc": of["W_enc"].T, "b_enc": of["b_enc"], "W_dec": of["W_dec"], "b_dec": of["b_dec"]}
    if threshold:
        tensors["threshold"] = of["threshold"]
    config = {"architecture": "topk", "k": K, "d_in": D, "d_sae": N, "dtype": "float32", "apply_b_dec_to_input": True,
              "normalize_activations": "none", "reshape_activations": "none", "rescale_acts_by_decoder_norm": False,
              "metadata": {"sae_lens_version": "6.54.12"}}  # fmt: skip
    config = {name: value for name, value in (config | changes).items() if value != "absent"}
    return write(folder, "sae_weights.safetensors", tensors, cfg=config)


def sparsify(folder: Path, of: Source, **changes: Any) -> Path:
    tensors = {"encoder.weight": of["W_enc"], "encoder.bias": of["b_enc"], "W_dec": of["W_dec"], "b_dec": of["b_dec"]}
    config = {"activation": "topk", "expansion_factor": 4, "normalize_decoder": True, "num_latents": N, "k": K,
              "multi_topk": False, "skip_connection": False, "transcode": False, "d_in": D}  # fmt: skip
    return write(folder, "sae.safetensors", tensors, cfg=config | changes)


def saerch(folder: Path, of: Source, **config: Any) -> Path:
    tensors = {"encoder.weight": of["W_enc"], "latent_bias": of["b_enc"], "decoder.weight": of["W_dec"].T,
               "pre_bias": of["b_dec"]}  # fmt: skip
    return write(folder, "6_48.safetensors", tensors, **({"about": config} if config else {}))


def dictionary(folder: Path, of: Source, kind: str, *, threshold: Any = None, **changes: Any) -> Path:
    """dictionary_learning: BatchTopK and TopK are linear layers with a scalar, the others are matrices."""
    linear = kind in ("AutoEncoderTopK", "BatchTopKSAE")
    tensors = {"b_dec": of["b_dec"]} | (
        {"encoder.weight": of["W_enc"], "encoder.bias": of["b_enc"], "decoder.weight": of["W_dec"].T} if linear else
        {"W_enc": of["W_enc"].T, "b_enc": of["b_enc"], "W_dec": of["W_dec"]})  # fmt: skip
    trainer = {"dict_class": kind, "activation_dim": D, "dict_size": N, "lr": 1e-4, "layer": 3}
    if kind == "JumpReluAutoEncoder":
        tensors["threshold"], trainer["target_l0"] = of["threshold"], K
    else:
        tensors |= {"threshold": np.array(threshold, F32), "k": np.array(K, np.int32)}
        trainer["k"] = K
    if kind.startswith("Matryoshka"):
        tensors["group_sizes"] = np.array([16, 32], np.int64)
    return write(folder, "ae.safetensors", tensors, config={"trainer": trainer | changes, "buffer": {"ctx_len": 128}})


def csr_module(of: Source, **settings: Any) -> Any:
    """sentence-transformers' own module with these weights; its decoder is its encoder's transpose."""
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    module = SparseAutoEncoder(D, N, K, k_aux=2 * K, **settings)
    with torch.no_grad():
        module.encoder.weight.copy_(torch.from_numpy(of["W_dec"]))
        module.latent_bias.copy_(torch.from_numpy(of["b_enc"]))
        module.pre_bias.copy_(torch.from_numpy(of["b_dec"]))
    return module


def csr(folder: Path, of: Source, **settings: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    csr_module(of, **settings).save(str(folder))
    return folder


# --- what is read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norms", ["unit", "equal"])
@pytest.mark.parametrize("centred", [True, False])
def test_saelens_topk(tmp_path: Path, norms: str, centred: bool) -> None:
    of = source(norms=norms)
    sae = read_sae(saelens(tmp_path, of, apply_b_dec_to_input=centred))
    assert (sae.k, sae.n_latents, sae.d_in) == (K, N, D)
    assert_encodes(sae, of, expected(of, "topk", centred=centred))


def test_saelens_topk_rescaled_by_norms_needs_no_leave(tmp_path: Path) -> None:
    of = source(norms="uneven")
    assert_encodes(
        read_sae(saelens(tmp_path, of, rescale_acts_by_decoder_norm=True)), of, expected(of, "topk", by_norm=True)
    )


@pytest.mark.parametrize(
    "old",
    [
        {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "k": "absent"},
        {"architecture": "topk", "activation_fn": "topk", "activation_fn_kwargs": {"k": K}, "k": "absent"},
        {"architecture": "absent", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K, "other": None}},
    ],
)
def test_saelens_before_6(tmp_path: Path, old: dict[str, Any]) -> None:
    of = source()
    assert_encodes(read_sae(saelens(tmp_path, of, normalize_activations=None, **old)), of, expected(of, "topk"))


@pytest.mark.parametrize("norms", ["unit", "uneven"])
@pytest.mark.parametrize("centred", [True, False])
def test_saelens_jumprelu(tmp_path: Path, norms: str, centred: bool) -> None:
    of = source(norms=norms)
    folder = saelens(tmp_path, of, threshold=True, architecture="jumprelu", k="absent", apply_b_dec_to_input=centred)
    sae = read_sae(folder, k=9)
    assert sae.k == 9
    assert_encodes(sae, of, expected(of, "threshold", centred=centred), "threshold")
    with pytest.raises(CheckpointError, match="k= gives") as raised:
        read_sae(folder)
    assert raised.value.reason == "BAD_CONFIG"


def test_saelens_batchtopk_is_a_jumprelu_with_equal_thresholds(tmp_path: Path) -> None:
    of = source(norms="uneven") | {"threshold": np.full(N, 0.8, F32)}
    metadata = {"training_architecture": "batchtopk", "training_architecture_details": {"k": K}}
    sae = read_sae(saelens(tmp_path, of, threshold=True, architecture="jumprelu", k="absent", metadata=metadata))
    assert sae.k == K
    assert_encodes(sae, of, expected(of, "threshold"), "threshold")
    np.testing.assert_allclose(sae.threshold, 0.8 * np.linalg.norm(of["W_dec"], axis=1), rtol=1e-6)


def test_saelens_relu_is_a_threshold_of_zero(tmp_path: Path) -> None:
    of = source(norms="uneven")
    folder = saelens(tmp_path, of, architecture="standard", activation_fn_str="relu", k="absent")
    assert_encodes(read_sae(folder, k=20), of, expected(of, "threshold", threshold=0), "threshold")


@pytest.mark.parametrize("num_latents", [N, 0])
def test_sparsify(tmp_path: Path, num_latents: int) -> None:
    of = source()
    assert_encodes(read_sae(sparsify(tmp_path, of, num_latents=num_latents)), of, expected(of, "topk"))


@pytest.mark.parametrize("about", [{"k": K}, {"k": K, "n_dirs": N, "d_model": D, "auxk": 12, "multik": 24}])
def test_saerch(tmp_path: Path, about: dict[str, Any]) -> None:
    of = source()
    assert_encodes(read_sae(saerch(tmp_path, of, **about)), of, expected(of, "topk"))


def test_saerch_without_a_description_needs_k(tmp_path: Path) -> None:
    of = source()
    assert_encodes(read_sae(saerch(tmp_path, of), k=K), of, expected(of, "topk"))
    with pytest.raises(CheckpointError):
        read_sae(tmp_path)


@pytest.mark.parametrize("kind", ["BatchTopKSAE", "MatryoshkaBatchTopKSAE"])
@pytest.mark.parametrize("threshold", [0.7, -1.0])
def test_dictionary_learning_batchtopk(tmp_path: Path, kind: str, threshold: float) -> None:
    of = source()
    sae = read_sae(dictionary(tmp_path, of, kind, threshold=threshold))
    assert sae.k == K
    assert_encodes(sae, of, expected(of, "threshold", threshold=threshold), "threshold")  # -1 is its untrained one


def test_dictionary_learning_jumprelu_takes_nothing_from_its_input(tmp_path: Path) -> None:
    of = source(norms="uneven")
    sae = read_sae(dictionary(tmp_path, of, "JumpReluAutoEncoder"))
    assert sae.k == K
    assert_encodes(sae, of, expected(of, "threshold", centred=False), "threshold")


def test_dictionary_learning_topk(tmp_path: Path) -> None:
    of = source()
    assert_encodes(read_sae(dictionary(tmp_path, of, "AutoEncoderTopK", threshold=0.9)), of, expected(of, "topk"))


@pytest.mark.parametrize("norms", ["unit", "equal"])
def test_csr_module_as_sentence_transformers_computes_it(tmp_path: Path, norms: str) -> None:
    of = source(norms=norms)
    module = csr_module(of).eval()
    module.save(str(tmp_path))
    with torch.inference_mode():
        theirs = module({"sentence_embedding": torch.from_numpy(of["x"])})["sentence_embedding"]
        rebuilt = module.decode(theirs).numpy()
    sizes = np.linalg.norm(of["W_dec"], axis=1)
    assert_encodes(read_sae(tmp_path), of, (theirs.numpy() * sizes, rebuilt))


def test_csr_with_uneven_rows_is_folded_on_demand(tmp_path: Path) -> None:
    of = source(norms="uneven")
    with pytest.raises(CheckpointError) as raised:
        read_sae(csr(tmp_path, of))
    assert raised.value.reason == "UNEVEN_NORMS"
    tied = of | {"W_enc": of["W_dec"]}
    assert_encodes(read_sae(tmp_path, uneven_norms="fold"), tied, expected(tied, "topk", by_norm=True))


@pytest.mark.filterwarnings("ignore")
def test_csr_model_from_text_on(tmp_path: Path, dense_folder: Path) -> None:
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    transformer = Transformer(str(dense_folder))
    width = transformer.get_embedding_dimension()
    torch.manual_seed(0)
    module = SparseAutoEncoder(width, 4 * width, k=9, k_aux=18)
    with torch.no_grad():
        module.encoder.weight /= module.encoder.weight.norm(dim=1, keepdim=True)
    model = SparseEncoder(modules=[transformer, Pooling(width), module], device="cpu", max_active_dims=7)
    model.save_pretrained(str(tmp_path))
    texts = ["the cat sat on the mat", "a big dog ran to the old red house", "he was it"]
    with torch.inference_mode():
        dense = model[1](model[0](model.preprocess(texts)))["sentence_embedding"].numpy()
    sae = read_sae(tmp_path)
    assert sae.k == 7  # the model's limit goes before the module's k
    np.testing.assert_allclose(
        sae.encode(dense).toarray(), model.encode(texts, convert_to_sparse_tensor=False).numpy(), rtol=1e-4, atol=1e-6
    )


def test_our_own(tmp_path: Path) -> None:
    of = source()
    sae = SAE(k=K, **{name: of[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")})
    sae.save(tmp_path)
    assert read_sae(tmp_path).fingerprint == sae.fingerprint
    assert read_sae(tmp_path, k=3).k == 3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes_become_float32(tmp_path: Path, dtype: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = sparsify(tmp_path, source(norms="equal"))
    path = folder / "sae.safetensors"
    save_file({name: tensor.to(getattr(torch, dtype)) for name, tensor in load_file(path).items()}, path)
    sae = read_sae(folder)
    assert sae.W_enc.dtype == sae.b_dec.dtype == F32
    np.testing.assert_allclose(sae.b_dec, source(norms="equal")["b_dec"], rtol=1e-2)


def test_k_is_the_argument_or_the_source_s(tmp_path: Path) -> None:
    folder = sparsify(tmp_path, source())
    assert (read_sae(folder).k, read_sae(str(folder), k=11).k) == (K, 11)
    for k in (-1, N + 1):
        with pytest.raises(InvalidArgumentError) as raised:
            read_sae(folder, k=k)
        assert raised.value.field == "k"
    with pytest.raises(InvalidArgumentError):
        read_sae(folder, uneven_norms="ignore")  # type: ignore[arg-type]


# --- what is refused ---------------------------------------------------------------------------------------------

WRITERS: dict[str, Callable[..., Path]] = {
    "saelens": saelens,
    "sparsify": sparsify,
    "csr": csr,
    "saerch": lambda folder, of: saerch(folder, of, k=K),
    "dictionary_learning": lambda folder, of: dictionary(folder, of, "BatchTopKSAE", threshold=0.5),
}


def weights_of(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


def test_every_layout_is_tested() -> None:
    assert set(WRITERS) | {"sparsight"} == set(SAE_LAYOUTS)


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("damage", ["cut", "no weights", "missing", "extra", "shape", "integers", "nan", "zero row"])
def test_damaged_weights(tmp_path: Path, layout: str, damage: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = WRITERS[layout](tmp_path, source())
    read_sae(folder)
    path = weights_of(folder)
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if tensors[name].ndim == 2)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-8])
    elif damage == "no weights":
        path.unlink()
    else:
        if damage == "missing":
            del tensors[name]
        elif damage == "extra":
            tensors["W_skip"] = torch.zeros(D, D)
        elif damage == "shape":
            tensors[name] = tensors[name][:-1].contiguous()
        elif damage == "integers":
            tensors[name] = tensors[name].int()
        elif damage == "nan":
            tensors[name][3, 3] = torch.nan
        else:
            decoder = next(key for key in ("W_dec", "decoder.weight", name) if key in tensors)
            row = tensors[decoder].T if decoder == "decoder.weight" else tensors[decoder]
            row[5] = 0
        save_file(tensors, path)
    with pytest.raises(CheckpointError) as raised:
        read_sae(folder)
    if damage in ("missing", "extra", "shape", "integers"):
        assert raised.value.reason == "WEIGHTS_DO_NOT_FIT"
    elif damage == "no weights":
        assert raised.value.reason == "NO_SAFETENSORS"


@pytest.mark.parametrize("layout", WRITERS)
def test_pickled_weights_are_named_and_not_read(tmp_path: Path, layout: str) -> None:
    folder = WRITERS[layout](tmp_path, source())
    weights_of(folder).rename(folder / "ae.pt")
    with pytest.raises(CheckpointError, match=r"pickled files are not read: ae\.pt") as raised:
        read_sae(folder)
    assert raised.value.reason == "NO_SAFETENSORS"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architecture": "gated"}, "UNSUPPORTED_ACTIVATION"),
        ({"architecture": "batchtopk"}, "UNSUPPORTED_ACTIVATION"),
        ({"architecture": "jumprelu", "activation_fn": "tanh-relu"}, "UNSUPPORTED_ACTIVATION"),
        ({"architecture": "jumprelu"}, "WEIGHTS_DO_NOT_FIT"),  # no thresholds there
        ({"normalize_activations": "layer_norm"}, "UNSUPPORTED_OPTION"),
        ({"normalize_activations": True}, "UNSUPPORTED_OPTION"),
        ({"reshape_activations": "hook_z"}, "UNSUPPORTED_OPTION"),
        ({"activation_fn_kwargs": {"k": K, "postact_fn": "identity"}}, "UNSUPPORTED_OPTION"),
        ({"activation_fn_kwargs": [K], "k": "absent"}, "BAD_CONFIG"),
        ({"k": "absent"}, "BAD_CONFIG"),
        ({"k": 2.5}, "BAD_CONFIG"),
        ({"d_in": 0}, "BAD_CONFIG"),
        ({"d_sae": True}, "BAD_CONFIG"),
        ({"d_sae": N + 1}, "WEIGHTS_DO_NOT_FIT"),
    ],
)
def test_saelens_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(CheckpointError) as raised:
        read_sae(saelens(tmp_path, source(), **changes))
    assert raised.value.reason == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"activation": "groupmax"}, "UNSUPPORTED_ACTIVATION"),
        ({"transcode": True}, "UNSUPPORTED_OPTION"),
        ({"skip_connection": True}, "UNSUPPORTED_OPTION"),
        ({"signed": True}, "UNSUPPORTED_OPTION"),
        ({"whiten": False}, "UNSUPPORTED_OPTION"),
        ({"k": 0}, "BAD_CONFIG"),
        ({"k": N + 1}, "CHECKPOINT"),
    ],
)
def test_sparsify_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(CheckpointError) as raised:
        read_sae(sparsify(tmp_path, source(), **changes))
    assert raised.value.reason == reason


def test_dictionary_learning_refused(tmp_path: Path) -> None:
    for number, (changes, reason) in enumerate(
        [({"dict_class": "GatedAutoEncoder"}, "UNSUPPORTED_ACTIVATION"), ({"k": None}, "BAD_CONFIG")]
    ):
        with pytest.raises(CheckpointError) as raised:
            read_sae(dictionary(tmp_path / str(number), source(), "BatchTopKSAE", threshold=0.5, **changes))
        assert raised.value.reason == reason
    folder = dictionary(tmp_path / "list", source(), "BatchTopKSAE", threshold=0.5)
    (folder / "config.json").write_text('{"trainer": []}')
    with pytest.raises(CheckpointError) as raised:
        read_sae(folder)
    assert raised.value.reason == "UNSUPPORTED_ACTIVATION"


def test_inputs_normalised_by_the_source_are_refused(tmp_path: Path) -> None:
    for number, folder in enumerate([csr(tmp_path / "a", source(), normalize=True), tmp_path / "b"]):
        if number:
            saerch(folder, source(), k=K, normalize=True)
        with pytest.raises(CheckpointError) as raised:
            read_sae(folder)
        assert raised.value.reason == "UNSUPPORTED_OPTION"


def test_statistics_of_openai_s_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = weights_of(saerch(tmp_path, source(), k=K))
    save_file(load_file(path) | {"stats_last_nonzero": torch.zeros(N, dtype=torch.long)}, path)
    with pytest.raises(CheckpointError, match="stats_last_nonzero"):
        read_sae(tmp_path)


def test_uneven_rows_of_any_topk_need_leave(tmp_path: Path) -> None:
    of = source(norms="uneven")
    folders = [saelens(tmp_path / "1", of), sparsify(tmp_path / "2", of), saerch(tmp_path / "3", of, k=K)]
    for folder in [*folders, dictionary(tmp_path / "4", of, "AutoEncoderTopK", threshold=0.1)]:
        with pytest.raises(CheckpointError) as raised:
            read_sae(folder)
        assert raised.value.reason == "UNEVEN_NORMS"
        assert_encodes(read_sae(folder, uneven_norms="fold"), of, expected(of, "topk", by_norm=True))


MODULES = [{"type": "sentence_transformers.models.Transformer", "path": ""},
           {"type": "sentence_transformers.sparse_encoder.models.SparseAutoEncoder", "path": "1_SAE"}]  # fmt: skip


@pytest.mark.parametrize(
    ("modules", "reason"),
    [
        ([MODULES[1], MODULES[0]], "UNSUPPORTED_MODULES"),
        ([MODULES[0]], "UNSUPPORTED_MODULES"),
        ([MODULES[1], MODULES[1]], "UNSUPPORTED_MODULES"),
        ([{"path": "1_SAE"}], "BAD_CONFIG"),
        (7, "BAD_CONFIG"),
        ([MODULES[1] | {"path": "../outside"}], "CHECKPOINT"),
    ],
)
def test_lists_of_modules_refused(tmp_path: Path, modules: Any, reason: str) -> None:
    folder = tmp_path / "model"
    csr(folder / "1_SAE", source())
    csr(tmp_path / "outside", source())
    (folder / "modules.json").write_text(json.dumps(MODULES))
    assert read_sae(folder).k == K
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError) as raised:
        read_sae(folder)
    assert raised.value.reason == reason


def test_folders_that_are_nothing_or_two_things(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as raised:
        read_sae(tmp_path / "nowhere")
    assert raised.value.reason == "MODEL_NOT_FOUND"
    with pytest.raises(CheckpointError, match="SAELens") as raised:
        read_sae(tmp_path)
    assert raised.value.reason == "NO_SAFETENSORS"
    saelens(tmp_path, source())
    sparsify(tmp_path, source())
    with pytest.raises(CheckpointError, match="saelens and sparsify") as raised:
        read_sae(tmp_path)
    assert raised.value.reason == "UNKNOWN_LAYOUT"
    saerch(tmp_path / "two", source(), k=K)
    (tmp_path / "two" / "more.json").write_text("{}")
    with pytest.raises(CheckpointError) as raised:
        read_sae(tmp_path / "two")
    assert raised.value.reason == "UNKNOWN_LAYOUT"


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_descriptions_that_are_none(tmp_path: Path, text: str) -> None:
    folder = sparsify(tmp_path, source())
    (folder / "cfg.json").write_text(text)
    with pytest.raises(CheckpointError):
        read_sae(folder)
