"""Masks on the forward pass: the model they give is the one with its weights zeroed."""

import copy
import itertools
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from families import (
    FAMILIES,
    IDS,
    LAYERS,
    MOE_FAMILIES,
    D,
    N,
    logits,
    model_of,
    with_adapter,
)
from models import write_tiny_model
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from fnsft.architectures import ExpertsBlock, mlp_blocks, mlp_layers, site_widths, watch_site
from fnsft.artifacts.forward_masks import FILE, read_forward_mask, write_forward_mask
from fnsft.artifacts.tensors import Header, write_tensors
from fnsft.config.stages import Site
from fnsft.errors import InputError
from fnsft.evaluation.loading import load_model
from fnsft.masks.forward import ForwardMask, attach, fold, forward_mask, masked

MODES = ("lesion", "preserve", "amplify")


@pytest.fixture(scope="module", params=[*FAMILIES, *MOE_FAMILIES])
def model(request: pytest.FixtureRequest) -> Any:
    return model_of(request.param)


def random_mask(model: Any, site: Site, mode: Any = "lesion", **options: Any) -> ForwardMask:
    numbers = np.random.default_rng(0)
    chosen = [numbers.random(width) < 0.4 for width in site_widths(model)[site]]
    return forward_mask(site, chosen, mode, **options)


def logits_with(model: Any, *masks: ForwardMask) -> Tensor:
    attached = [attach(model, mask) for mask in masks]
    found = logits(model)
    for one in attached:
        one.remove()
    return found


@torch.no_grad()
def zeroed(model: Any, site: Site, mask: ForwardMask) -> Any:
    """Return a copy whose weights behind the masked channels are set to zero, one by one."""
    copied = copy.deepcopy(model)
    for block, factors in zip(mlp_layers(copied), mask.factors, strict=True):
        gone = np.flatnonzero(factors == 0)
        shared = block
        if isinstance(block, ExpertsBlock):
            down = copied.get_submodule(block.experts).down_proj
            for expert, weight in enumerate(down):
                first = 0 if site == "output" else expert * block.d_expert
                axis = 0 if site == "output" else 1
                for channel in gone - first:
                    if 0 <= channel < weight.shape[axis]:
                        weight.select(axis, channel).zero_()
            shared, gone = block.shared, gone if site == "output" else gone - block.d_routed
        if shared is not None:
            down = copied.get_submodule(shared.down)
            weight = down.weight if isinstance(down, nn.Linear) else down.weight.T
            for channel in gone[gone >= 0]:
                weight.select(0 if site == "output" else 1, channel).zero_()
                if site == "output" and down.bias is not None:
                    down.bias[channel] = 0
    return copied


def test_a_lesion_is_the_model_with_columns_or_rows_of_down_zeroed(model: Any) -> None:
    for site in ("intermediate", "output"):
        mask = random_mask(model, site)
        expected = logits(zeroed(model, site, mask))
        torch.testing.assert_close(logits_with(model, mask), expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(logits(model), expected, rtol=1e-2, atol=1e-2)


def test_a_folded_mask_is_the_attached_one_at_every_site_in_every_mode(model: Any) -> None:
    for site, mode in itertools.product(site_widths(model), MODES):
        mask = random_mask(model, site, mode, gain=1.5)
        folded = copy.deepcopy(model)
        fold(folded, mask)
        expected = logits_with(model, mask)
        torch.testing.assert_close(logits(folded), expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(logits(model), expected, rtol=1e-2, atol=1e-2)


def test_sites_before_down_are_one_for_a_mask(model: Any) -> None:
    """The product is linear in each of its factors."""
    expected = logits_with(model, random_mask(model, "intermediate", "amplify"))
    for site in set(site_widths(model)) - {"intermediate", "output"}:
        found = logits_with(model, random_mask(model, site, "amplify"))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_preserve_silences_layers_without_any_of_the_chosen(model: Any) -> None:
    """Shared experts too; the bias of down is all that is left."""
    chosen = [np.zeros(width, dtype=bool) for width in site_widths(model)["intermediate"]]
    chosen[0][:5] = True
    output: dict[int, Tensor] = {}
    with (
        masked(model, forward_mask("intermediate", chosen, "preserve")),
        watch_site(model, "output", lambda layer, v: output.__setitem__(layer, v.clone())),
    ):
        logits(model)
    block = mlp_layers(model)[1]
    moe = isinstance(block, ExpertsBlock)
    bias = None if moe else model.get_submodule(block.down).bias
    expected = torch.zeros(D) if bias is None else bias.detach()
    assert torch.equal(output[1], expected.expand(IDS.numel(), D))
    assert not torch.allclose(output[0], expected, atol=1e-2)


def test_a_removed_mask_leaves_nothing_behind(model: Any) -> None:
    bare = logits(model)
    before = [vars(module).keys() for module in model.modules()]
    for site in site_widths(model):
        attached = attach(model, random_mask(model, site))
        assert not torch.equal(logits(model), bare)
        attached.remove()
        attached.remove()
        assert torch.equal(logits(model), bare)
    assert [vars(module).keys() for module in model.modules()] == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not any("forward_mask" in name for name, _ in model.named_buffers())


def test_a_mask_is_not_among_the_weights_and_goes_with_a_copy(model: Any) -> None:
    names = list(model.state_dict())
    mask = random_mask(model, "intermediate")
    with masked(model, mask) as attached:
        assert list(model.state_dict()) == names
        expected = logits(model)
        copied = copy.deepcopy(model)
        attached.set(random_mask(model, "intermediate", "preserve"))
        assert not torch.allclose(logits(model), expected, atol=1e-2)
    assert torch.equal(logits(copied), expected)


def test_setting_a_mask_changes_the_buffers_in_place_and_no_other_mask(model: Any) -> None:
    first, second = (random_mask(model, "intermediate", mode) for mode in ("lesion", "amplify"))
    with masked(model, first) as attached:
        buffers, expected = list(model.buffers()), logits(model)
        attached.set(second)
        assert attached.mask is second
        assert not torch.equal(logits(model), expected)
        attached.set(first)
        assert torch.equal(logits(model), expected)
        assert all(a is b for a, b in zip(model.buffers(), buffers, strict=True))


def test_the_precision_is_the_models(model: Any) -> None:
    """Factors are float32: they must not make float32 of bfloat16, in weights or autocast."""
    low = copy.deepcopy(model).bfloat16()
    dtypes = set()
    for site in site_widths(model):
        with (
            masked(low, random_mask(low, site)),
            watch_site(low, site, lambda _, values: dtypes.add(values.dtype)),
        ):
            assert logits(low).dtype == torch.bfloat16
    assert dtypes == {torch.bfloat16}
    mask = random_mask(model, "intermediate")
    with torch.autocast("cpu", torch.bfloat16):
        bare = logits(model)
        assert logits_with(model, mask).dtype == bare.dtype
        expected = logits(zeroed(model, "intermediate", mask))
        torch.testing.assert_close(logits_with(model, mask), expected, rtol=0.1, atol=0.3)


def test_a_mask_survives_a_cast_of_the_model() -> None:
    model = model_of("Llama")
    mask = random_mask(model, "intermediate", "amplify")
    expected = logits_with(model.bfloat16(), mask)
    model = model_of("Llama")
    attach(model, mask)
    assert torch.equal(logits(model.bfloat16()), expected)


def test_masks_multiply_and_leave_in_any_order(model: Any) -> None:
    lesion = random_mask(model, "intermediate")
    louder = forward_mask("intermediate", [f != 0 for f in lesion.factors], "amplify", gain=3.0)
    product = tuple(a * b for a, b in zip(lesion.factors, louder.factors, strict=True))
    expected = logits_with(model, ForwardMask("intermediate", product, "lesion", False))
    bare, alone = logits(model), logits_with(model, louder)
    first, second = attach(model, lesion), attach(model, louder)
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    first.remove()
    assert torch.equal(logits(model), alone)
    third = attach(model, lesion)
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    second.remove()
    third.remove()
    assert torch.equal(logits(model), bare)


def test_straight_through_masks_values_and_not_gradients() -> None:
    """Of the last layer, behind which the loss is linear: the gradients are those without mask."""
    weights = torch.randn(20, D)

    def gradients(model: Any, mask: ForwardMask | None) -> tuple[Tensor, Tensor, Tensor]:
        model.zero_grad()
        output: dict[int, Tensor] = {}
        masks = [] if mask is None else [attach(model, mask)]
        with watch_site(model, "output", output.__setitem__):
            model(input_ids=IDS)
        (output[1] * weights).sum().backward()
        for attached in masks:
            attached.remove()
        mlp = model.model.layers[1].mlp
        down, up = mlp.down_proj.weight.grad.clone(), mlp.up_proj.weight.grad.clone()
        return output[1].detach(), up, down

    model = model_of("Llama")
    ones = [np.zeros(N, dtype=bool), np.arange(N) < 20]
    _, bare_up, _ = gradients(model, None)
    hard_output, hard_up, hard_down = gradients(model, forward_mask("intermediate", ones, "lesion"))
    mask = forward_mask("intermediate", ones, "lesion", straight_through=True)
    output, up, down = gradients(model, mask)
    assert torch.equal(output, hard_output) and torch.equal(down, hard_down)
    assert torch.equal(up, bare_up) and bare_up[:20].all()
    assert not hard_up[:20].any() and torch.equal(hard_up[20:], bare_up[20:])


def test_a_mask_attached_after_an_adapter_acts_before_it() -> None:
    """As zeroed columns of the merged weights; on the base layer alone it would miss it."""
    for family in ("Llama", "GPT2", "Phi3"):
        adapted = with_adapter(model_of(family), init_lora_weights=False)
        merged = copy.deepcopy(adapted).merge_and_unload()
        for site in ("intermediate", "output"):
            mask = random_mask(merged, site)
            expected = logits(zeroed(merged, site, mask))
            found = logits_with(adapted, mask)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        factors = torch.from_numpy(random_mask(merged, "intermediate").factors[1])
        naive = adapted.get_submodule(mlp_blocks(adapted)[1].down).base_layer
        with masked(adapted, random_mask(merged, "intermediate")) as attached:
            right = logits(adapted)
            ones = tuple(np.ones(len(factors), np.float32) for _ in range(LAYERS))
            attached.set(ForwardMask("intermediate", ones, "lesion", False))
            handle = naive.register_forward_pre_hook(lambda _, x, f=factors: (x[0] * f,))
            assert not torch.allclose(logits(adapted), right, atol=1e-2)
            handle.remove()


def test_adapters_of_experts_are_masked_before_and_after() -> None:
    """One function sees the adapted weights, whenever the mask was attached."""
    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    config = LoraConfig(r=3, target_modules=[], target_parameters=names, init_lora_weights=False)
    model, other = model_of("Mixtral"), model_of("Mixtral")
    mask = random_mask(model, "intermediate")
    attach(model, mask)
    torch.manual_seed(1)
    before = get_peft_model(model, config).eval()
    torch.manual_seed(1)
    after = get_peft_model(other, config).eval()
    attach(after, mask)
    with pytest.raises(InputError, match="without adapters, found .*ParamWrapper of peft; merge"):
        fold(after, mask)
    found = logits(after)
    assert torch.equal(logits(before), found)
    merged = after.merge_and_unload()
    torch.testing.assert_close(logits(merged), found, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits_with(model_of("Mixtral"), mask), found, atol=1e-2)


def test_a_mask_that_an_adapter_slipped_past_is_refused_by_the_next_forward_pass() -> None:
    """Attached before the model was wrapped, or before it was merged."""
    for site in ("activation", "up", "intermediate", "output"):
        model = model_of("Llama")
        attached = attach(model, random_mask(model, site))
        adapted = with_adapter(model)
        if site == "activation":  # which no adapter wraps
            logits(adapted)
            continue
        with pytest.raises(InputError, match=r"mlp\.\w+_proj: expected the forward mask on this"):
            logits(adapted)
        attached.remove()
        attached = attach(adapted, random_mask(adapted, site))
        logits(adapted)
        merged = adapted.merge_and_unload()
        with pytest.raises(InputError, match="after a model is wrapped with adapters or merged"):
            logits(merged)
        attached.remove()
        logits(merged)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_mask_works_on_quantised_weights_with_an_adapter(tmp_path: Path, bits: int) -> None:
    """As zeroed columns of the weights that the packed ones stand for, and of A."""
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes")
    from bitsandbytes.functional import dequantize_4bit

    model_of("Llama", hidden_size=64, intermediate_size=128).save_pretrained(tmp_path)
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    config = nf4 if bits == 4 else BitsAndBytesConfig(load_in_8bit=True)
    packed = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config)
    packed = prepare_model_for_kbit_training(packed, use_gradient_checkpointing=False)
    adapted = with_adapter(packed, init_lora_weights=False).eval()
    assert site_widths(adapted)["intermediate"] == (128, 128)
    mask = random_mask(adapted, "intermediate")
    with pytest.raises(InputError, match="expected a weight without adapters"):
        fold(adapted, mask)
    downs = [adapted.get_submodule(block.down) for block in mlp_blocks(adapted)]
    weights = [down.base_layer.weight for down in downs]
    if bits == 4:  # before the first forward pass, which packs them in another way
        plain = [dequantize_4bit(weight.data, weight.quant_state) for weight in weights]
    bare, found = logits(adapted), logits_with(adapted, mask)
    assert (found - bare).abs().max() > 1
    for layer, (down, factors) in enumerate(zip(downs, mask.factors, strict=True)):
        factor = torch.from_numpy(factors)
        with torch.no_grad():
            down.lora_A.default.weight.mul_(factor)
            if bits == 4:
                down.base_layer = nn.Linear(128, 64, bias=False)
                down.base_layer.weight.copy_(plain[layer] * factor)
            else:
                weights[layer].mul_(factor.to(torch.int8))
    # 4 bits are multiplied in bfloat16 where the CPU can, 8 bits round what they read.
    torch.testing.assert_close(logits(adapted), found, rtol=0, atol=0.1)


@pytest.mark.parametrize("family", ["Llama", "GPT2", "Mixtral"])
@pytest.mark.parametrize("straight_through", [False, True])
def test_gradients_with_checkpoints_are_those_without(family: str, straight_through: bool) -> None:
    """Checkpoints compute everything anew in the backward pass, mask included."""
    found = []
    for reentrant in (None, False, True):
        model = model_of(family).train()
        if reentrant is not None:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        mask = random_mask(model, "intermediate", straight_through=straight_through)
        with masked(model, mask):
            torch.manual_seed(0)
            model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() == found[2].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found[2][name], gradient, rtol=1e-4, atol=1e-6)


def test_a_compiled_model_has_the_mask_that_was_set_last() -> None:
    """One graph, traced with the mask; the factors are its inputs."""
    model = model_of("Llama")
    masks = [random_mask(model, "intermediate", mode) for mode in MODES]
    expected = [logits_with(model, mask) for mask in masks]
    attached = attach(model, masks[0])
    traced = []

    def backend(graph: Any, inputs: Any) -> Any:
        traced.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for mask, logits_expected in zip(masks, expected, strict=True):
        attached.set(mask)
        torch.testing.assert_close(logits(compiled), logits_expected, rtol=1e-4, atol=1e-5)
    assert len(traced) == 1


def test_a_mask_that_comes_or_goes_after_compiling_takes_effect() -> None:
    """Traced without hooks, or with them, a module would stay as it was."""
    model = model_of("Llama")
    mlp, x = model.model.layers[1].mlp, torch.randn(2, 10, D)
    compiled = torch.compile(mlp, backend="eager")
    with torch.no_grad():
        bare = mlp(x)
        torch.testing.assert_close(compiled(x), bare)
        with masked(model, random_mask(model, "up")):
            expected = mlp(x)
            torch.testing.assert_close(compiled(x), expected)
        torch.testing.assert_close(compiled(x), bare)
    assert not torch.allclose(expected, bare, atol=1e-2)


def test_masked_experts_compile_in_several_graphs() -> None:
    model = model_of("Mixtral")
    attach(model, random_mask(model, "intermediate"))
    mlp, x = model.model.layers[0].mlp, torch.randn(2, 10, D)
    with torch.no_grad():
        expected = mlp(x)
        torch.testing.assert_close(torch.compile(mlp, backend="eager")(x), expected)


@pytest.mark.parametrize("family", ["Llama", "GPT2", "OPT", "Mixtral", "DeepseekV3"])
def test_text_generated_with_a_cache_is_that_without_and_of_zeroed_weights(family: str) -> None:
    model = model_of(family)
    mask = random_mask(model, "intermediate")
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    attended = torch.ones_like(IDS)
    bare = model.generate(IDS, attention_mask=attended, **options)
    with masked(model, mask):
        texts = [
            model.generate(IDS, attention_mask=attended, use_cache=cached, **options)
            for cached in (True, False)
        ]
    weights = zeroed(model, "intermediate", mask)
    texts.append(weights.generate(IDS, attention_mask=attended, **options))
    assert torch.equal(texts[0], texts[1]) and torch.equal(texts[0], texts[2])
    assert not torch.equal(texts[0], bare)


def test_a_mask_of_another_model_is_refused_with_the_models_widths() -> None:
    model = model_of("DeepseekV3")
    chosen = [np.zeros(width, dtype=bool) for width in (64, 144)]
    attached = attach(model, forward_mask("up", chosen, "lesion"))
    three = forward_mask("up", [*chosen, chosen[1]], "lesion")
    wide = forward_mask("up", [chosen[0], chosen[0]], "lesion")
    for use in (lambda mask: attach(model, mask), lambda mask: fold(model, mask), attached.set):
        with pytest.raises(InputError, match="expected 2 layers, found 3; the mask is of another"):
            use(three)
        with pytest.raises(InputError, match=r"layer 1: expected 144 channels \(up\), found 64"):
            use(wide)
    with pytest.raises(InputError, match=r"expected site .* \('up', False\), found \('activ"):
        attached.set(forward_mask("activation", chosen, "lesion"))
    with pytest.raises(InputError, match="site up: expected gated MLPs"):
        attach(model_of("GPT2"), forward_mask("up", chosen, "lesion"))


def test_packed_weights_are_not_folded() -> None:
    model = model_of("Llama")
    down = model.model.layers[1].mlp.down_proj
    down.weight = nn.Parameter(torch.zeros(N * D // 2, 1, dtype=torch.uint8), False)
    before = model.model.layers[0].mlp.down_proj.weight.detach().clone()
    with pytest.raises(InputError, match=r"down_proj\.weight: expected floating-point"):
        fold(model, random_mask(model, "intermediate"))
    assert torch.equal(model.model.layers[0].mlp.down_proj.weight, before)


def test_a_stored_mask_is_the_one_that_was_written(tmp_path: Path) -> None:
    assert read_forward_mask(tmp_path) is None
    for site, mode, straight in itertools.product(get_args(Site), MODES, (False, True)):
        mask = random_mask(model_of("DeepseekV3"), site, mode, straight_through=straight)
        write_forward_mask(tmp_path, mask)
        found = read_forward_mask(tmp_path)
        assert found is not None
        assert (found.site, found.mode, found.straight_through) == (site, mode, straight)
        assert len(found.factors) == len(mask.factors)
        assert all(map(np.array_equal, found.factors, mask.factors))


@pytest.mark.parametrize("adapter", [False, True])
def test_a_saved_model_with_its_mask_is_the_same_model_when_loaded(
    tmp_path: Path, adapter: bool
) -> None:
    """Bit for bit, with an adapter as merged; and without the mask where it is switched off."""
    base, folder = tmp_path / "base", tmp_path / "model"
    write_tiny_model(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    if adapter:
        config = LoraConfig(target_modules="all-linear", init_lora_weights=False)
        model = get_peft_model(model, config).eval()
    mask = random_mask(model, "intermediate")
    with masked(model, mask):
        model.save_pretrained(folder)
        write_forward_mask(folder, mask)
        live = logits(model)
    if adapter:
        model = model.merge_and_unload()
    expected = {"on": logits_with(model, mask), "off": logits(model)}
    torch.testing.assert_close(expected["on"], live, rtol=1e-4, atol=1e-5)
    for switch, of_model in expected.items():
        assert torch.equal(logits(load_model(folder, "float32", switch).cpu()), of_model)
    low = logits(load_model(folder, "bfloat16").cpu())
    assert torch.equal(low, logits_with(model.bfloat16(), mask))


def test_a_mask_file_that_is_damaged_or_of_another_model_is_named(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    path = tmp_path / FILE

    def refused(expected: str) -> None:
        with pytest.raises(InputError, match=expected) as caught:
            load_model(tmp_path, "float32")
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)

    wide = np.ones(32, dtype=np.float32), np.ones(64, dtype=np.float32)
    write_forward_mask(tmp_path, ForwardMask("intermediate", wide, "lesion", False))
    refused("layer 0: expected 64 channels .* found 32; the mask is of another model")
    path.write_bytes(path.read_bytes()[:-40])
    refused("truncated or not safetensors")
    write_tensors(path, Header("clusters", 1, ""), {"a": np.zeros(3)})
    refused("expected forward-mask of schema 1, found clusters")
    header = Header("forward-mask", 1, "")
    write_tensors(path, header, {"site": np.array([9]), "a": np.zeros(3)})
    refused("damaged")
    numbers = {name: np.array([0]) for name in ("site", "mode", "straight_through")}
    write_tensors(path, header, numbers | {"layer_001.factors": wide[0]})
    refused("damaged")
    write_tensors(path, header, numbers | {"layer_000.factors": wide[0] * np.nan})
    refused("layer 0: expected finite float32 factors")
    assert logits(load_model(tmp_path, "float32", "off")).isfinite().all()
