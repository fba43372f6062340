"""The sites of an MLP, dense or of experts: what passes there, and what takes its place."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import transformers
from families import (
    FAMILIES,
    IDS,
    LAYERS,
    LLAMA,
    MOE_FAMILIES,
    D,
    E,
    N,
    W,
    logits,
    model_of,
    with_adapter,
)
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from fnsft.architectures import ExpertsBlock, mlp_layers, site_widths, watch_site
from fnsft.architectures.sites import site_places
from fnsft.config.stages import Site
from fnsft.errors import InputError

SITES: tuple[Site, ...] = ("activation", "up", "intermediate", "output")
GPT_OSS = LLAMA | {"head_dim": 8, "num_local_experts": E, "num_experts_per_tok": 2}


@pytest.fixture(scope="module", params=[*FAMILIES, *MOE_FAMILIES])
def model(request: pytest.FixtureRequest) -> Any:
    return model_of(request.param)


def seen_at(model: Any, site: Site) -> list[Tensor]:
    seen: dict[int, Tensor] = {}
    with watch_site(model, site, keep_in(seen)):
        logits(model)
    return [seen[layer] for layer in range(LAYERS)]


def keep_in(seen: dict[int, Tensor]) -> Callable[[int, Tensor], None]:
    return lambda layer, values: seen.__setitem__(layer, values.clone())


@contextlib.contextmanager
def inputs_of(model: Any, paths: list[str]) -> Iterator[dict[str, Tensor]]:
    """Keep what these modules read, as [tokens, D]."""
    inputs: dict[str, Tensor] = {}

    def keep(path: str) -> Any:
        return lambda _, args: inputs.__setitem__(path, args[0].flatten(0, -2))

    handles = [model.get_submodule(path).register_forward_pre_hook(keep(path)) for path in paths]
    yield inputs
    for handle in handles:
        handle.remove()


def rows(weight: Tensor, module: nn.Module) -> Tensor:
    """Return a weight as [out, in], whatever it is in the module."""
    return weight if isinstance(module, nn.Linear) else weight.T


def dense_reference(model: Any, block: Any, x: Tensor) -> dict[Site, Tensor]:
    """From the matrices alone."""

    def project(path: str, x: Tensor) -> Tensor:
        module = model.get_submodule(path)
        bias = 0 if module.bias is None else module.bias
        return x @ rows(module.weight, module).T + bias

    act = model.get_submodule(block.activation)
    up = project(block.up, x)
    if block.gate is None:
        values: dict[Site, Tensor] = {"activation": act(up), "intermediate": act(up)}
    else:
        gate = project(block.gate, x)
        if block.fused:
            gate, up = gate[:, : block.d_mlp], up[:, block.d_mlp :]
        values = {"activation": act(gate), "up": up, "intermediate": act(gate) * up}
    return values | {"output": project(block.down, values["intermediate"])}


def experts_reference(model: Any, block: Any, x: Tensor) -> dict[Site, Tensor]:
    """Token by token and expert by expert."""
    mlp = model.get_submodule(block.mlp)
    _, weights, index = mlp.gate(x[None] if block.shared else x)
    values = {site: torch.zeros(len(x), E * block.d_expert) for site in SITES[:3]}
    output = torch.zeros_like(x)
    for token in range(len(x)):
        for expert, weight in zip(index[token].tolist(), weights[token], strict=True):
            gate, up = (mlp.experts.gate_up_proj[expert] @ x[token]).chunk(2)
            gate = mlp.experts.act_fn(gate)
            channels = slice(expert * block.d_expert, (expert + 1) * block.d_expert)
            of_site = {"activation": gate, "up": up, "intermediate": gate * up}
            for site, value in of_site.items():
                values[site][token, channels] = value
            output[token] += weight * (mlp.experts.down_proj[expert] @ (gate * up))
    if block.shared is not None:
        shared = dense_reference(model, block.shared, x)
        output += shared.pop("output")
        values = {site: torch.cat((values[site], shared[site]), dim=1) for site in values}
    return values | {"output": output}


@torch.no_grad()
def test_every_site_is_what_the_matrices_compute(model: Any) -> None:
    """Experts to which a token is not routed are 0, and shared ones come behind."""
    blocks = mlp_layers(model)
    readers = [block.mlp if isinstance(block, ExpertsBlock) else block.up for block in blocks]
    with inputs_of(model, readers) as inputs:
        logits(model)
    widths = site_widths(model)
    for site in widths:
        for layer, values in enumerate(seen_at(model, site)):
            block, x = blocks[layer], inputs[readers[layer]]
            moe = isinstance(block, ExpertsBlock)
            expected = (experts_reference if moe else dense_reference)(model, block, x)
            assert values.shape == (IDS.numel(), widths[site][layer])
            torch.testing.assert_close(values, expected[site], rtol=1e-4, atol=1e-4)


def test_only_gated_mlps_have_the_site_up(model: Any) -> None:
    gated = all(isinstance(block, ExpertsBlock) or block.gate for block in mlp_layers(model))
    assert tuple(site_widths(model)) == (SITES if gated else ("activation", *SITES[2:]))
    if not gated:
        with pytest.raises(InputError, match="site up: expected gated MLPs, found a plain one"):
            site_places(model, "up")


def test_the_widths_of_experts_are_those_of_all_of_them() -> None:
    """Qwen and DeepSeek begin with a plain MLP; two shared experts are one MLP of DeepSeek."""
    expected = {
        "Mixtral": (E * N, E * N),
        "Qwen3Moe": (N, E * W),
        "DeepseekV3": (N, E * W + 2 * W),
    }
    for family, widths in expected.items():
        assert site_widths(model_of(family)) == {site: widths for site in SITES[:3]} | {
            "output": (D, D)
        }


def test_a_watched_model_computes_what_it_did_and_is_left_as_it_was(model: Any) -> None:
    bare = logits(model)
    before = [dict(vars(module)) for module in model.modules()]
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    for site in site_widths(model):
        with watch_site(model, site, lambda layer, values: None):
            torch.testing.assert_close(logits(model), bare, rtol=1e-5, atol=1e-5)
        with pytest.raises(ZeroDivisionError), watch_site(model, site, lambda *_: 1 / 0):
            logits(model)
    for module, attributes in zip(model.modules(), before, strict=True):
        assert vars(module).keys() == attributes.keys()
    now = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    assert now == hooks
    assert torch.equal(logits(model), bare)


def test_what_the_watcher_returns_takes_the_place_of_the_values(model: Any) -> None:
    """Seen downstream: what is put into the product or the output is what passes there."""
    for site in ("intermediate", "output"):
        new = [torch.randn(IDS.numel(), width) for width in site_widths(model)[site]]
        after: dict[int, Tensor] = {}
        shared = any(getattr(block, "shared", None) for block in mlp_layers(model))
        if site == "intermediate" and shared:
            continue
        with (
            watch_site(model, site, lambda layer, values, new=new: new[layer].clone()),
            watch_site(model, site, keep_in(after)),
        ):
            replaced = logits(model)
        assert not torch.allclose(replaced, logits(model), atol=1e-2)
        for layer, block in enumerate(mlp_layers(model)):
            routed = isinstance(block, ExpertsBlock) and site == "intermediate"
            expected = torch.where(after[layer] == 0, 0, new[layer]) if routed else new[layer]
            torch.testing.assert_close(after[layer], expected)


def test_replaced_values_reach_the_model_through_a_fused_projection() -> None:
    model = model_of("Phi3")
    gate, up = seen_at(model, "activation"), [torch.randn(IDS.numel(), N) for _ in range(LAYERS)]
    product: dict[int, Tensor] = {}
    with (
        watch_site(model, "up", lambda layer, values: up[layer]),
        watch_site(model, "intermediate", keep_in(product)),
    ):
        logits(model)
    torch.testing.assert_close(product[0], gate[0] * up[0])


def test_values_of_shared_experts_cannot_be_replaced_with_those_of_the_routed() -> None:
    model = model_of("DeepseekV3")
    with (
        pytest.raises(InputError, match="layer 1: expected values to be seen alone"),
        watch_site(model, "intermediate", lambda layer, values: values),
    ):
        logits(model)


def test_the_gradients_of_watched_experts_are_those_of_the_library() -> None:
    for family in MOE_FAMILIES:
        gradients = []
        for watched in (False, True):
            model = model_of(family).train()
            with contextlib.ExitStack() as stack:
                if watched:
                    stack.enter_context(watch_site(model, "up", lambda *_: None))
                model(input_ids=IDS, labels=IDS).loss.backward()
            gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_an_adapter_is_part_of_what_is_seen() -> None:
    """At every site as in the model into which it is merged."""
    adapted = with_adapter(model_of("Phi3"), init_lora_weights=False)
    merged = copy.deepcopy(adapted).merge_and_unload()
    for site in SITES:
        for seen, expected in zip(seen_at(adapted, site), seen_at(merged, site), strict=True):
            torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4)


def test_adapters_of_experts_are_part_of_what_is_seen() -> None:
    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    config = LoraConfig(r=3, target_modules=[], target_parameters=names, init_lora_weights=False)
    bare = seen_at(model_of("Mixtral"), "intermediate")
    adapted = get_peft_model(model_of("Mixtral"), config).eval()
    seen, output = seen_at(adapted, "intermediate"), seen_at(adapted, "output")
    merged = adapted.merge_and_unload()
    for layer in range(LAYERS):
        expected = seen_at(merged, "intermediate")[layer], seen_at(merged, "output")[layer]
        torch.testing.assert_close((seen[layer], output[layer]), expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(seen[layer], bare[layer], atol=1e-2)


def test_a_compiled_model_shows_its_values() -> None:
    """Compiled before; a trace of a model without hooks would ignore those that come later."""
    model = model_of("Llama")
    compiled = torch.compile(model, backend="eager")
    logits(compiled)
    expected = seen_at(model, "intermediate")
    torch.testing.assert_close(seen_at(compiled, "intermediate"), expected)


@pytest.mark.parametrize(
    ("family", "config", "found"),
    [
        ("GptOss", GPT_OSS, r"layers\.0\.mlp\.experts: expected .* found GptOssExperts"),
        ("Qwen2Moe", LLAMA, r"layers\.0: expected mlp\.experts alone, found mlp\.shared"),
        ("GraniteMoe", LLAMA, r"layers\.0: expected one MLP, .*experts; add the family to"),
    ],
)
def test_other_experts_are_refused_with_what_to_add(
    family: str, config: dict[str, Any], found: str
) -> None:
    made = getattr(transformers, f"{family}Config")(**config)
    model = transformers.AutoModelForCausalLM.from_config(made)
    with pytest.raises(InputError, match=found):
        site_widths(model)


@pytest.mark.parametrize("changed", ["has_bias", "is_concatenated", "_apply_gate", "packed"])
def test_experts_that_compute_otherwise_are_refused(changed: str) -> None:
    """Though their shapes fit; with rows in another order, another gate, or integers."""
    model = model_of("Mixtral")
    experts = model.model.layers[1].mlp.experts
    if changed == "packed":
        experts.down_proj = nn.Parameter(experts.down_proj.to(torch.int8), False)
    elif changed == "_apply_gate":
        own = {"_apply_gate": lambda self, gate_up: gate_up}
        experts.__class__ = type("OtherExperts", (type(experts),), own)
    else:
        setattr(experts, changed, not getattr(experts, changed))
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.experts: expected experts down\(act"):
        site_widths(model)


def test_experts_whose_forward_pass_is_another_tools_are_refused() -> None:
    model = model_of("Mixtral")
    experts = model.model.layers[1].mlp.experts
    experts.forward = experts.forward
    with (
        pytest.raises(InputError, match="MixtralExperts: expected experts of one device"),
        watch_site(model, "up", lambda *_: None),
    ):
        pass
    assert "forward" not in vars(model.model.layers[0].mlp.experts)
