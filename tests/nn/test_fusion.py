"""`fuse_layers`: the same results from fewer layers, the model itself untouched."""

from __future__ import annotations

import numpy as np
import pytest

import deepseek as ds
from deepseek import nn
from deepseek.errors import ArgumentError

rng = np.random.default_rng(5)


def random(*shape: int) -> ds.Tensor:
    return ds.asarray(rng.standard_normal(shape).astype(np.float32))


def lived(model: nn.Module, x: ds.Tensor) -> nn.Module:
    """A model in evaluation mode whose running statistics, weights and biases are not trivial."""
    for _ in range(3):
        model(x)
    for module in model.modules():
        if hasattr(module, "running_var"):
            shape = module.weight.shape
            state = {"weight": rng.random(shape) + 0.5, "bias": rng.standard_normal(shape)}
            module.load_state_dict(state, strict=False)
    return model.eval()


def stored(norm: nn.Module) -> nn.Module:
    """The norm with running statistics."""
    return type(norm)(norm.num_features, affine=True, track_running_stats=True)


CASES = {
    "linear": (lambda: [nn.Linear(6, 4), nn.BatchNorm1d(4)], (5, 6), "Linear"),
    "linear-relu": (
        lambda: [nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU()],
        (5, 6),
        "LinearActivation",
    ),
    "conv1d": (lambda: [nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4)], (3, 2, 7), "Conv1d"),
    "conv2d-relu": (
        lambda: [nn.Conv2d(2, 4, 3, 2, 1, groups=2, bias=False), nn.BatchNorm2d(4), nn.ReLU()],
        (3, 2, 6, 5),
        "ConvActivation2d",
    ),
    "conv3d-relu": (
        lambda: [nn.Conv3d(2, 3, 2, dilation=2), nn.BatchNorm3d(3), nn.ReLU()],
        (2, 2, 4, 4, 4),
        "ConvActivation3d",
    ),
    "linear-gelu": (lambda: [nn.Linear(6, 4), nn.GELU()], (5, 6), "LinearActivation"),
    "conv-instance-norm": (
        lambda: [nn.Conv2d(2, 4, 3), stored(nn.InstanceNorm2d(4, affine=True)), nn.Hardswish()],
        (3, 2, 6, 5),
        "ConvActivation2d",
    ),
    "transposed": (
        lambda: [
            nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2),
            nn.BatchNorm2d(6),
            nn.LeakyReLU(0.2),
        ],
        (2, 4, 3, 4),
        "ConvTransposeActivation2d",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_fused_layers_compute_the_same(name: str) -> None:
    make, shape, kind = CASES[name]
    x = random(*shape)
    model = lived(nn.Sequential(*make(), nn.Flatten(), nn.Tanh()), x)
    before = {k: v.numpy().copy() for k, v in model.state_dict().items()}
    fused = nn.fuse_layers(model)
    assert type(fused[0]).__name__ == kind
    assert all(isinstance(part, nn.Identity) for part in list(fused)[1:-2])
    assert list(fused.state_dict()) == ["0.weight", "0.bias"]
    np.testing.assert_allclose(fused(x).numpy(), model(x).numpy(), rtol=1e-5, atol=1e-6)
    assert not fused.training and fused[0].weight.requires_grad
    for key, value in model.state_dict().items():
        assert np.array_equal(value.numpy(), before[key]), key


def test_other_keys_stay_and_other_layers_are_left_alone() -> None:
    model = lived(
        nn.Sequential(
            nn.Conv2d(1, 2, 3),
            nn.ReLU(),
            nn.BatchNorm2d(2),
            nn.Conv2d(2, 2, 1),
            nn.BatchNorm2d(2),
            nn.Conv2d(2, 2, 1),
        ),
        random(2, 1, 4, 4),
    )
    fused = nn.fuse_layers(model)
    kinds = ["ConvActivation2d", "Identity", "BatchNorm2d", "Conv2d", "Identity", "Conv2d"]
    assert [type(part).__name__ for part in fused] == kinds
    gone = {k for k in model.state_dict() if k.startswith("4.")}
    assert set(fused.state_dict()) == set(model.state_dict()) - gone


def test_sequentials_inside_other_modules_are_found() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
            self.conv = nn.Conv2d(2, 2, 1)
            self.norm = nn.BatchNorm2d(2)
            self.relu = nn.ReLU()

        def forward(self, x: ds.Tensor) -> ds.Tensor:
            return self.relu(self.norm(self.conv(self.body(x))))

    x = random(2, 1, 4, 4)
    model = lived(Net(), x)
    fused = nn.fuse_layers(model)
    assert isinstance(fused.body[1], nn.Identity) and isinstance(fused.norm, nn.BatchNorm2d)
    fused = nn.fuse_layers(model, [("conv", "norm", "relu")])
    assert isinstance(fused.conv, nn.ConvActivation2d) and isinstance(fused.norm, nn.Identity)
    np.testing.assert_allclose(fused(x).numpy(), model(x).numpy(), rtol=1e-5, atol=1e-6)
    with pytest.raises(ArgumentError, match="wanted a Linear or Conv, the BatchNorm of its rank"):
        nn.fuse_layers(model, [("norm", "conv")])
    with pytest.raises(ArgumentError, match="unknown part of Net 'convolution'"):
        nn.fuse_layers(model, [("convolution", "norm")])


def test_a_layer_used_twice_keeps_its_weights_elsewhere() -> None:
    conv = nn.Conv2d(2, 2, 1)
    model = lived(nn.Sequential(conv, nn.BatchNorm2d(2), conv), random(2, 2, 3, 3))
    fused = nn.fuse_layers(model)
    x = random(2, 2, 3, 3)
    np.testing.assert_allclose(fused(x).numpy(), model(x).numpy(), rtol=1e-5, atol=1e-6)


def test_training_mode_is_refused_with_the_remedy() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    model[1].train()
    with pytest.raises(ArgumentError, match=r"1 is in training mode.*\n.*model.eval\(\)"):
        nn.fuse_layers(model)


def test_what_does_not_fold_is_left() -> None:
    model = nn.Sequential(
        nn.Linear(4, 4),
        nn.Softmax(-1),
        nn.Linear(4, 4),
        nn.LayerNorm(4),
        nn.Linear(4, 4),
        nn.PReLU(),
    ).eval()
    assert [type(part) for part in nn.fuse_layers(model)] == [type(part) for part in model]
    watched = nn.Sequential(nn.Linear(2, 2), nn.ReLU()).eval()
    watched[0].register_forward_hook(lambda *_: None)
    assert type(nn.fuse_layers(watched)[0]) is nn.Linear


def test_batch_norm_without_statistics_is_left() -> None:
    norm = nn.BatchNorm1d(2, track_running_stats=False)
    fused = nn.fuse_layers(nn.Sequential(nn.Linear(2, 2), norm).eval())
    assert isinstance(fused[1], nn.BatchNorm1d)
