import pytest
import torch
from torch import nn
from transformers import Llama4TextConfig, MambaConfig, MambaForCausalLM
from transformers.models.jetmoe.modeling_jetmoe import JetMoeParallelExperts
from transformers.models.llama4.modeling_llama4 import Llama4TextExperts
from transformers.pytorch_utils import Conv1D

from mediant.models import roles
from mediant.models.matrix_form import to_matrix


def by_leaf(network, part):
    return {i.role for n, i in roles.describe(network).items() if part in n}


def test_every_tensor_of_the_state_dict_is_described(architecture, tiny_network):
    network = tiny_network(architecture)
    described = roles.describe(network)
    assert list(described) == list(network.state_dict())
    assert all(described[n].shape == tuple(t.shape) for n, t in network.state_dict().items())


def test_roles_of_a_llama(tiny_network):
    described = {n: (i.role, i.layout, i.layer) for n, i in roles.describe(tiny_network("llama")).items()}
    linear = {
        f"model.layers.{n}.{part}.weight": ("linear", "out_in", n)
        for n in range(2)
        for part in (
            *(f"self_attn.{p}_proj" for p in "qkvo"),
            *(f"mlp.{p}_proj" for p in ("gate", "up", "down")),
        )
    }
    norms = {
        f"model.layers.{n}.{part}_layernorm.weight": ("norm", "none", n)
        for n in range(2)
        for part in ("input", "post_attention")
    }
    assert described == linear | norms | {
        "model.embed_tokens.weight": ("embedding", "out_in", -1),
        "model.norm.weight": ("norm", "none", -1),
        "lm_head.weight": ("head", "out_in", -1),
    }


def test_roles_elsewhere(tiny_network):
    gpt2, oss, bert = tiny_network("gpt2"), tiny_network("gpt_oss"), tiny_network("bert")
    assert by_leaf(gpt2, "wpe.weight") == by_leaf(bert, "token_type_embeddings") == {"embedding"}
    assert by_leaf(gpt2, "c_attn.weight") == {"linear"}
    assert by_leaf(gpt2, "ln_1.weight") == by_leaf(bert, "LayerNorm.weight") == {"norm"}
    assert by_leaf(gpt2, "ln_1.bias") == by_leaf(gpt2, "c_attn.bias") == {"bias"}
    assert by_leaf(oss, "experts.down_proj") == {"expert", "bias"}
    assert by_leaf(oss, "sinks") == by_leaf(oss, "router.weight") == {"other"}


def test_tied_names_are_one_group(tiny_network):
    tied = [g for g in roles.ties(tiny_network("llama_tied")) if len(g) > 1]
    assert tied == [("model.embed_tokens.weight", "lm_head.weight")]
    assert all(len(g) == 1 for g in roles.ties(tiny_network("llama")))


def test_the_first_module_list_on_the_path_counts():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
            self.steps = nn.Sequential(nn.Linear(2, 2))

    modules = dict(nn.ModuleDict({"7": nn.ModuleList([Block(), Block()]), "s": nn.Sequential(Block())}).named_modules())
    assert roles.layer_index("7.1.heads.0", modules) == 1
    assert roles.layer_index("s.0.steps.0", modules) == -1
    assert roles.layer_index("s.0.heads.1", modules) == 1


def dot_error(x, matrix):
    """Bound on the difference of two float64 sums x @ matrix.T + bias, |bias| <= 2: each errs by (n+1) eps."""
    return 2 * (x.shape[1] + 1) * 2**-52 * (abs(x) @ abs(matrix).T + 2)


def test_a_matrix_times_its_input_is_the_forward_pass(architecture, tiny_network):
    network = tiny_network(architecture)
    described, checked = roles.describe(network), 0
    for path, module in network.named_modules():
        if not isinstance(module, nn.Linear | Conv1D):
            continue
        info = described[f"{path}.weight"]
        matrix = to_matrix(module.weight.detach().double().numpy(), info)
        x = torch.randn(3, matrix.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        expected = x.numpy() @ matrix.T + (0 if module.bias is None else module.bias.detach().double().numpy())
        found = module.double()(x).detach().numpy()
        assert (abs(found - expected) <= dot_error(x.numpy(), matrix)).all()
        checked += 1
    assert checked >= 9 or architecture == "gpt2"


def expert_matrices(network, suffix):
    """Expert 1's matrix in layer 0, cut from the stacked matrix form."""
    name, info = next((n, i) for n, i in roles.describe(network).items() if n.endswith(suffix))
    matrix = to_matrix(network.state_dict()[name].double().numpy(), info)
    rows = matrix.shape[0] // info.shape[0]
    return torch.from_numpy(matrix[rows : 2 * rows])


def run_expert_one(network, x):
    """The output of layer 0's experts when every token goes to expert 1 with weight 1."""
    network.set_experts_implementation("eager")
    experts = next(m for m in network.double().modules() if type(m).__name__.endswith("Experts"))
    routes = torch.ones(len(x), 1, dtype=torch.long), torch.ones(len(x), 1, dtype=torch.float64)
    return experts(x, *routes)


def assert_same_but_for_rounding(found, expected):
    """Float64 through two matrices and an activation: at most 256 roundings of the largest value."""
    assert ((found - expected).abs() <= 256 * 2**-52 * expected.abs().max()).all()


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_experts_with_outputs_first(name, tiny_network):
    network = tiny_network(name)
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gate, up = (x @ expert_matrices(network, "gate_up_proj").T).chunk(2, dim=-1)
    expected = (nn.functional.silu(gate) * up) @ expert_matrices(network, "down_proj").T
    assert_same_but_for_rounding(run_expert_one(network, x), expected)


def test_experts_with_inputs_first(tiny_network):
    network = tiny_network("gpt_oss")
    experts = network.model.layers[0].mlp.experts
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    both = x @ expert_matrices(network, "gate_up_proj").T + experts.gate_up_proj_bias[1].double()
    gate, up = both[:, ::2].clamp(max=experts.limit), both[:, 1::2].clamp(-experts.limit, experts.limit)
    inner = (up + 1) * gate * torch.sigmoid(gate * experts.alpha)
    expected = inner @ expert_matrices(network, "down_proj").T + experts.down_proj_bias[1].double()
    assert_same_but_for_rounding(run_expert_one(network, x), expected)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_shapes_alone_give_what_transformers_declares(name, tiny_network):
    for module in tiny_network(name).modules():
        if hasattr(module, "is_transposed"):
            declared = bool(module.is_transposed)
            del module.is_transposed
            assert roles._inputs_first(module) is declared


@pytest.mark.parametrize("width", [16, 24, 32, 48])
def test_experts_that_declare_nothing(width):
    llama4 = Llama4TextExperts(Llama4TextConfig(num_local_experts=2, hidden_size=32, intermediate_size=width))
    jet = JetMoeParallelExperts(2, 32, width)
    head = None
    assert roles.role_and_layout(llama4, "down_proj", llama4.down_proj, head) == ("expert", "experts_in_out")
    assert roles.role_and_layout(jet, "weight", jet.weight, head) == ("expert", "experts_out_in")


def test_an_architecture_without_attention():
    network = MambaForCausalLM(MambaConfig(vocab_size=16, hidden_size=8, state_size=4, num_hidden_layers=1))
    found = {n.rpartition("mixer.")[2]: i.role for n, i in roles.describe(network).items() if "mixer." in n}
    assert found["A_log"] == found["D"] == found["conv1d.weight"] == "other"
    assert found["in_proj.weight"] == found["x_proj.weight"] == "linear"
