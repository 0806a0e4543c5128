"""What `inspect_adapter` says is what the whole ΔW would say, though that is never made."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.errors import FormatError
from minilora.experiments.inspect_figure import draw, grid, in_words
from minilora.files.safetensors import read_tensors, write_tensors
from minilora.inspecting import inspect_adapter, product_singular_values
from minilora.peft import LoraConfig, get_peft_model
from minilora.spectra import effective_rank, energy_rank

Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def saved(tiny, tmp_path):
    """saved(r=4, …): a model with an adapter that has learnt something, and its folder."""

    def make(*, learnt=True, **options):
        model = get_peft_model(tiny(), LoraConfig(**{"r": 4, "lora_alpha": 12, **options}))
        rng = np.random.default_rng(0)
        for array in model.adapter_weights().values():
            if learnt and not array.any():
                array[:] = rng.normal(size=array.shape)
        model.save_pretrained(tmp_path / "adapter")
        return model, tmp_path / "adapter"

    return make


def change(folder, **arrays):
    path = folder / "adapter_model.safetensors"
    write_tensors(path, read_tensors(path) | arrays)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 15), st.integers(0, 10**6))
def test_singular_values_of_a_product_without_the_product(n_out, n_in, r, seed):
    rng = np.random.default_rng(seed)
    B, A = rng.normal(size=(n_out, r)), rng.normal(size=(r, n_in))
    s = product_singular_values(B, A)
    whole = np.linalg.svd(B @ A, compute_uv=False)
    np.testing.assert_allclose(s, whole[: len(s)], rtol=0, atol=1e-11 * (1 + whole[0]))
    assert np.all(whole[len(s) :] < 1e-11 * (1 + whole[0]))


def test_nothing_as_large_as_the_matrix_is_made():
    rng = np.random.default_rng(0)
    B, A = rng.normal(size=(2048, 4)), rng.normal(size=(4, 2048))
    tracemalloc.start()
    product_singular_values(B, A)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2048 * 2048 * 8 / 10


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": "all-linear"},
        {"use_rslora": True},
        {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"layers.1.self_attn.q_proj": 30}},
    ],
)
def test_it_agrees_with_the_model(saved, options):
    model, folder = saved(**options)
    matrices = inspect_adapter(folder).matrices
    assert {m.path for m in matrices} == set(model.layers())
    for m in matrices:
        layer = model.layers()[m.path]
        delta = layer.delta("default")
        s = np.linalg.svd(delta, compute_uv=False)
        A, B = (side["default"].weight.data for side in (layer.lora_A, layer.lora_B))
        assert m.shape == delta.shape == layer.base_layer.weight.shape
        assert (m.rank, m.parameters) == (len(A), A.size + B.size)
        own = layer.configs["default"]
        assert (m.alpha, m.scaling) == (own.lora_alpha, own.scaling)
        assert m.norm_a == pytest.approx(np.linalg.norm(A), rel=1e-6)
        assert m.norm_b == pytest.approx(np.linalg.norm(B), rel=1e-6)
        assert m.norm_delta == pytest.approx(np.linalg.norm(delta), rel=1e-9)
        np.testing.assert_allclose(m.singular_values, s[: m.rank], rtol=1e-9)
        assert m.effective_rank == pytest.approx(effective_rank(s[: m.rank]), rel=1e-9)
        assert m.energy_rank == energy_rank(s[: m.rank])
        assert (m.still_zero, m.not_finite) == (False, 0)


def test_patterns_are_told_by_module(saved):
    _, folder = saved(rank_pattern={"v_proj": 2}, alpha_pattern={"v_proj": 5})
    said = {m.path.rsplit(".", 1)[-1]: m for m in inspect_adapter(folder).matrices}
    assert (said["q_proj"].rank, said["q_proj"].alpha, said["q_proj"].scaling) == (4, 12, 3)
    assert (said["v_proj"].rank, said["v_proj"].alpha, said["v_proj"].scaling) == (2, 5, 2.5)


def test_a_fresh_adapter_is_still_zero(saved):
    _, folder = saved(learnt=False)
    for m in inspect_adapter(folder).matrices:
        assert m.still_zero and m.norm_a > 0
        assert (m.norm_b, m.norm_delta, m.effective_rank, m.energy_rank) == (0, 0, 0, 0)


def test_embeddings_of_which_a_starts_at_zero(saved):
    _, folder = saved(learnt=False, target_modules=["embed_tokens", "v_proj"])
    first, *_ = inspect_adapter(folder).matrices
    assert (first.path, first.shape, first.still_zero) == ("model.embed_tokens", (24, 31), True)
    assert (first.norm_a, first.norm_delta) == (0, 0) and first.norm_b > 0


def test_nan_is_counted_and_null_in_json(saved):
    _, folder = saved()
    B = np.ones((24, 4), np.float32)
    B[3, 1], B[4, 2] = np.nan, np.inf
    change(folder, **{f"{Q}.lora_B.weight": B})
    inspection = inspect_adapter(folder)
    bad, *others = inspection.matrices
    assert (bad.not_finite, [m.not_finite for m in others]) == (2, [0, 0, 0])
    said = json.loads(json.dumps(inspection.as_json(), allow_nan=False))
    assert said["matrices"][0]["norm_delta"] is None
    assert said["matrices"][0]["singular_values"] == [None] * 4
    assert said["matrices"][1]["norm_delta"] > 0


def test_what_is_no_pair_is_listed_too(saved):
    _, folder = saved(use_dora=True)
    inspection = inspect_adapter(folder)
    names = [o.name for o in inspection.others]
    assert len(names) == 4 and all("magnitude" in name for name in names)
    every = read_tensors(folder / "adapter_model.safetensors").values()
    assert inspection.parameters == sum(a.size for a in every)


def test_layers_in_the_order_of_the_model(tmp_path, saved):
    _, folder = saved()
    small = {"lora_A": np.ones((4, 3), np.float32), "lora_B": np.ones((3, 4), np.float32)}
    paths = [
        "lm_head",
        *(f"model.layers.{i}.{n}" for i in (10, 2) for n in ("down_proj", "q_proj")),
    ]
    write_tensors(
        folder / "adapter_model.safetensors",
        {f"base_model.model.{p}.{s}.weight": a for p in paths for s, a in small.items()},
    )
    told = [m.path.removeprefix("model.layers.") for m in inspect_adapter(folder).matrices]
    assert told == ["2.q_proj", "2.down_proj", "10.q_proj", "10.down_proj", "lm_head"]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"lora_A": np.ones((24, 4), np.float32)}, ["(24, 4)", "(r, in)", "doctor"]),
        ({"lora_B": np.ones((24, 3), np.float32)}, ["(4, 24)", "(24, 3)"]),
        ({"lora_B": np.ones(24, np.float32)}, ["(24,)"]),
    ],
)
def test_halves_that_do_not_belong_together(saved, arrays, said):
    _, folder = saved()
    change(folder, **{f"{Q}.{side}.weight": array for side, array in arrays.items()})
    with pytest.raises(FormatError) as error:
        inspect_adapter(folder)
    assert all(each in str(error.value) for each in (*said, "layers.0.self_attn.q_proj"))


def test_no_folder_and_damaged_files(saved, tmp_path):
    with pytest.raises(FormatError, match=r"nowhere.*adapter_config\.json"):
        inspect_adapter(tmp_path / "nowhere")
    _, folder = saved()
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(FormatError, match="damaged"):
        inspect_adapter(folder)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # theirs, of themselves
def test_norms_are_those_of_peft(saved, tmp_path, tiny):
    peft = pytest.importorskip("peft", reason="needs the extra parity")
    transformers = pytest.importorskip("transformers", reason="needs the extra parity")
    from minilora.bases import save_base

    _, folder = saved(use_rslora=True, alpha_pattern={"v_proj": 3})
    save_base(tiny(), tmp_path / "base")
    base = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(base, folder)
    for m in inspect_adapter(folder).matrices:
        layer = theirs.get_submodule(f"base_model.model.{m.path}")
        delta = layer.get_delta_weight("default").detach().numpy()
        assert m.norm_delta == pytest.approx(np.linalg.norm(delta), rel=1e-5)
        assert m.scaling == pytest.approx(layer.scaling["default"])


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_figure(saved, tmp_path, ending):
    _, folder = saved(target_modules=["q_proj", "down_proj", "lm_head"])
    change(folder, **{f"{Q}.lora_B.weight": np.full((24, 4), np.nan, np.float32)})
    inspection = inspect_adapter(folder)
    rows, columns, at = grid(inspection.matrices)
    assert (rows, columns) == (["0", "1", "-"], ["q_proj", "down_proj", "lm_head"])
    assert len(at) == 5 and at["-", "lm_head"].path == "lm_head"
    draw(inspection, tmp_path / f"figure.{ending}")
    assert (tmp_path / f"figure.{ending}").stat().st_size > 1000
    words = (tmp_path / "figure.txt").read_text()
    assert words.strip() == in_words(inspection)
    assert f"{at['-', 'lm_head'].norm_delta:.3g}" in words
    assert words.count("NaN in 1.") == 1
