"""Any video network: the layer and head that are found, the identity they are proved by, and agreement with peers."""

from __future__ import annotations

import copy
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from networks import CLASSES, NETWORKS, PICTURE_NETWORKS, build, clip_for, randomised, spec
from torch import nn

import workbench as wb
from workbench.models import video_model
from workbench.saliency import explaining, layer_search

LARGE = [name for name, network in NETWORKS.items() if network.slow]
SMALL = [name for name in NETWORKS if name not in LARGE]


@pytest.fixture(autouse=True, scope="module")
def memory_format():
    """Neither measure the faster memory format nor prove the place: other tests do, and it is slow."""

    def without_place(model, x, **options):
        return layer_search.choose_layers(model, x, **{**options, "place": False})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video_model, "faster_channels_last", lambda *_: False)
        patch.setattr(explaining, "choose_layers", without_place)
        yield


def wrap(module, input, **options):
    return wb.wrap_model(module, input, **options)


def built(name):
    network = NETWORKS.get(name) or PICTURE_NETWORKS[name]
    pytest.importorskip(network.needs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries, on import
        module = build(name)
    x = clip_for(network.input, seed=1)
    model = wrap(module, network.input)
    return SimpleNamespace(
        name=name, known=network, module=module, model=model, x=x, ex=wb.explain(model, x)
    )


@pytest.fixture(
    scope="module", params=[*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]
)
def case(request):
    """A network with its explanation; all tests of one network run before the next is built."""
    return built(request.param)


def logits_of(case, module=None):
    """Return the logits (N,) of the plain network, those before its softmax where it has one."""
    kept = []
    module = module or case.module
    handle = module.get_submodule(case.known.before_softmax).register_forward_hook(
        lambda *args: kept.append(args[2])
    )
    try:
        module(case.known.input.arrange(case.x.clone()))
    finally:
        handle.remove()
    return kept[-1].flatten()


def site_of(case, module, layer, change=None):
    """Return the output of a layer, and the logits; `change` may put another in its place."""
    kept = []

    def hook(_module, _inputs, output):
        kept.append(output.detach().clone())
        return None if change is None else change(output)

    handle = module.get_submodule(layer).register_forward_hook(hook)
    try:
        logits = logits_of(case, module)
    finally:
        handle.remove()
    return kept[-1], logits


# Found and proved


def test_layer_grid_and_exactness_are_the_known_ones(case):
    ex, known = case.ex, case.known
    assert (ex.layer, tuple(ex.activations.shape[1:]), ex.exact) == (
        known.layer,
        known.grid,
        known.exact,
    )
    assert np.isnan(ex.residual) if not known.exact else ex.residual < 1e-5


def test_logits_are_those_of_the_plain_network(case):
    with torch.no_grad():
        torch.testing.assert_close(
            case.ex.logits, logits_of(case), rtol=1e-4, atol=1e-4 * float(case.ex.logits.std())
        )
    assert case.ex.logits.shape == (CLASSES,)


def test_mean_of_the_map_plus_bias_is_every_logit_or_the_gradient_says_what_a_map_does(case):
    ex = case.ex
    largest, spread = float(ex.logits.abs().max()), float(ex.logits.std())
    assert spread > 0.02 * largest  # an identity between equal numbers would prove little
    if case.known.exact:
        maps = [ex.tube(number).map for number in range(CLASSES)]
        told = torch.tensor(np.array([each.mean() for each in maps])) + ex.bias
        assert float((told - ex.logits).abs().max()) < 1e-4 * largest
        assert min(each.std() for each in maps) > 1e-3 * spread
        return
    # A class weight is what the logit gains when a whole map is raised: asked of the network by a hook of our own.
    raise_by = torch.zeros(len(ex.activations), requires_grad=True)
    lead = case.known.lead

    def change(output):
        if output.ndim == 5:
            return output + raise_by.view(1, -1, 1, 1, 1)
        return torch.cat([output[:, :lead], output[:, lead:] + raise_by], 1)

    plain, logits = site_of(case, case.module, case.known.layer, change)
    maps = plain[0] if plain.ndim == 5 else plain[0, lead:].T.unflatten(1, case.known.grid)
    torch.testing.assert_close(ex.activations, maps, rtol=1e-4, atol=1e-4)
    for number in range(CLASSES):
        (gain,) = torch.autograd.grad(logits[number], raise_by, retain_graph=True)
        assert float(gain.abs().max()) > 0
        torch.testing.assert_close(
            ex.class_weights(number), gain, rtol=1e-3, atol=1e-4 * float(gain.abs().max())
        )


def test_the_tube_has_the_clip_s_size_and_is_not_flat(case):
    tube = case.ex.tube()
    assert tube.volume.shape == case.x.shape[2:]
    assert np.isfinite(tube.volume).all()
    assert tube.volume.std(axis=(1, 2)).max() > 0
    assert tube.volume.std(axis=0).max() > 0  # it differs over time


# The network is given back as it came


def state(module):
    """Return all that an explanation could leave changed in a network."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    values = (*module.named_parameters(), *module.named_buffers())
    return (
        [
            (name, part.training, *(len(getattr(part, each)) for each in hooks))
            for name, part in module.named_modules()
        ],
        [
            (
                name,
                v.data_ptr(),
                v.stride(),
                v.requires_grad,
                v.grad is None,
                float(v.detach().sum()),
            )
            for name, v in values
        ],
    )


class Stop(Exception):
    pass


def test_the_network_is_given_back_as_it_came(case, monkeypatch):
    for lent in (False, True) if case.x.numel() < 1_000_000 else (False,):
        monkeypatch.setattr(video_model, "faster_channels_last", lambda *_, lent=lent: lent)
        given_back(case)


def given_back(case):
    """Explain a network, also with an error on the way."""
    module, x = case.module, case.x.clone()
    leaves = [
        part for part in module.modules() if isinstance(part, (nn.Conv2d, nn.Conv3d, nn.Linear))
    ]
    first, last = leaves[0], leaves[-1]
    module.train()
    next(module.children()).eval()
    before = state(module)
    model = wrap(module, case.known.input)
    try:
        ex = wb.explain(model, x)
        ex.class_weights(0)
        assert state(module) == before
        assert torch.equal(x, case.x)

        def stop(*_):
            raise Stop

        for part in (last, first):  # in the pass that explains, then in the search
            handle = part.register_forward_hook(stop)
            with pytest.raises(Stop):
                wb.explain(model, x)
            handle.remove()
            layer_search._REMEMBERED.pop(model)
        assert state(module) == before
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
    finally:
        module.eval()
    limit = 1e-3 * float(case.ex.logits.abs().max())
    torch.testing.assert_close(ex.logits, case.ex.logits, rtol=0, atol=limit)
    torch.testing.assert_close(ex.tube(0).map, case.ex.tube(0).map, rtol=0, atol=30 * limit)


def test_gradients_that_were_there_stay():
    case = built("mc3_18")
    case.module(case.x).sum().backward()
    before = [parameter.grad.clone() for parameter in case.module.parameters()]
    wb.explain(case.model, case.x, weights="gradient").tube(1)
    assert all(
        torch.equal(parameter.grad, each)
        for parameter, each in zip(case.module.parameters(), before)
    )


def test_the_place_is_proved_for_the_layer_that_was_found(case):
    if case.x.numel() > 1_000_000:
        pytest.skip("the same architecture is tested at a smaller size")
    (choice,) = layer_search.choose_layers(case.model, case.x).values()
    assert (choice.layer, choice.head is not None) == (case.known.layer, case.known.exact)
    assert max(site.layout.grid for site in choice.sites) == case.known.grid
    # Grids of 2×2 cells that see the whole picture end as unknown, never as something else.
    assert choice.place is None or choice.place >= 0.85
    if min(case.known.grid) >= 4:
        assert choice.place is not None


# By hand


def test_swin_s_tube_is_that_of_permuted_maps():
    case = built("swin3d_t")
    with torch.no_grad():
        output, _ = site_of(case, case.module, "norm")
    assert output.shape == (1, 4, 2, 2, 768)  # channels last
    for number in range(CLASSES):
        by_hand = torch.einsum("thwc,c->thw", output[0], case.module.head.weight[number].detach())
        tube = case.ex.tube(number)
        np.testing.assert_allclose(
            tube.map, by_hand, rtol=0, atol=1e-5 * float(by_hand.abs().max())
        )


@pytest.mark.slow
def test_s3d_s_all_negative_class_gives_a_signed_map():
    name = "s3d"
    module = build(name)
    head = module.classifier[1]
    with torch.no_grad():
        head.weight[2] = -head.weight[2].abs()
        head.bias[2] = -1
    x = clip_for(NETWORKS[name].input, seed=1)
    ex = wb.explain(wrap(module, NETWORKS[name].input), x)
    tube = ex.tube(2)
    assert ex.exact
    assert float(ex.activations.min()) >= 0  # after ReLU: no weighted sum of them can be positive
    assert tube.map.max() < 0
    assert tube.map.std() > 0.01 * abs(tube.map.mean())
    assert float(ex.logits[2]) == pytest.approx(tube.map.mean() - 1, rel=1e-4)
    assert tube.normalized.std() > 0.05
    assert (tube.normalized.min(), tube.normalized.max()) == (0, 1)


class OneLinear(nn.Module):
    """Maps flattened into one linear layer: each voxel has its own weight, and the gradient is all there is to know."""

    def __init__(self, sign=1):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv3d(3, 6, 8, 8), nn.ReLU(inplace=True))
        self.head = nn.Linear(6 * 2 * 4 * 4, 5)
        self.sign = sign

    def forward(self, x):
        return self.sign * self.head(self.stem(x).flatten(1))


def gradient_of(make, input, x):
    """Return (N, C, T', H', W') the gradients by the maps: LayerCAM keeps the positive ones, so ask twice."""
    both = [wb.explain(wrap(make(sign), input), x, weights="layer") for sign in (1, -1)]
    voxels = both[0].activations[0].numel()
    parts = [
        torch.stack([ex.class_weights(i) for i in range(len(ex.logits))]) / voxels for ex in both
    ]
    return both[0], parts[0] - parts[1]


def test_on_a_linear_head_gradient_times_activation_and_bias_is_the_logit():
    input = spec(16, 32)
    ex, gradient = gradient_of(OneLinear, input, clip_for(input))
    told = torch.einsum("ncthw,cthw->n", gradient, ex.activations) + OneLinear().head.bias.detach()
    torch.testing.assert_close(told, ex.logits, rtol=1e-5, atol=1e-6)
    assert (ex.layer, ex.exact) == ("stem", False)
    assert float(gradient.std(dim=(2, 3, 4)).min()) > 0  # of one map, not the same everywhere
    by_gradient = wb.explain(wrap(OneLinear(), input), clip_for(input))
    for number in range(5):
        torch.testing.assert_close(
            by_gradient.class_weights(number), gradient[number].sum((1, 2, 3))
        )


def test_on_x3d_s_head_made_linear_gradient_times_activation_and_bias_is_the_logit():
    pytest.importorskip("pytorchvideo")
    known = NETWORKS["x3d"]
    plain = build("x3d")
    plain.blocks[5].pool.post_act = nn.Identity()
    plain.blocks[5].activation = nn.Identity()
    bias = plain.blocks[5].proj.bias.detach().clone()

    def make(sign):
        module = copy.deepcopy(plain)
        with torch.no_grad():
            for parameter in module.blocks[5].proj.parameters():
                parameter.mul_(sign)
        return module

    ex, gradient = gradient_of(make, known.input, clip_for(known.input, seed=1))
    largest = float(ex.logits.abs().max())
    told = torch.einsum("ncthw,cthw->n", gradient, ex.activations) + bias
    assert float((told - ex.logits).abs().max()) < 1e-4 * largest
    # The pooling makes all voxels alike, and then Grad-CAM's map has the logit for its mean, too.
    by_gradient = wb.explain(wrap(plain, known.input), clip_for(known.input, seed=1))
    for number in range(CLASSES):
        mean = by_gradient.tube(number).map.mean() + float(bias[number])
        assert mean == pytest.approx(float(ex.logits[number]), abs=1e-4 * largest)


# Peers, on r3d_18: the maps before any upsampling


@pytest.fixture(scope="module")
def r3d():
    return built("r3d_18")


def assert_close(one, other, share):
    np.testing.assert_allclose(one, other, rtol=0, atol=share * float(np.abs(other).max()))


def test_tubes_are_torchcam_s_class_activation_maps(r3d):
    methods = pytest.importorskip("torchcam.methods")
    with methods.CAM(r3d.module, "layer4", "fc") as cam, torch.no_grad():
        r3d.module(r3d.x)
        for number in range(CLASSES):
            (theirs,) = cam(number, normalized=False)
            assert_close(r3d.ex.tube(number).map, theirs[0].numpy(), 1e-6)


def test_gradient_weights_are_captum_s_grad_cam(r3d):
    attr = pytest.importorskip("captum.attr")
    by_gradient = wb.explain(r3d.model, r3d.x, weights="gradient")
    for number in (0, 3):
        grad_cam = attr.LayerGradCam(r3d.module, r3d.module.layer4)
        theirs = grad_cam.attribute(r3d.x, number, relu_attributions=False)[0, 0].detach().numpy()
        # Theirs averages the gradient over a map's voxels, where the class weight is its sum.
        for ex in (r3d.ex, by_gradient):
            assert_close(ex.tube(number).map, theirs * theirs.size, 1e-5)


def test_layer_weights_are_torchcam_s_layer_cam(r3d):
    methods = pytest.importorskip("torchcam.methods")
    # Layer 3: between it and the logits lies enough for the gradient to differ from voxel to voxel.
    model = wrap(r3d.module, r3d.known.input, layer="layer3")
    ex = wb.explain(model, r3d.x, weights="layer")
    for number in (0, 3):
        with methods.LayerCAM(r3d.module, "layer3") as cam:
            (theirs,) = cam(number, r3d.module(r3d.x), normalized=False)
        assert_close(ex.tube(number).map, theirs[0].detach().numpy() * theirs[0].numel(), 1e-5)
        assert ex.class_weights(number).shape == ex.activations.shape


def test_gradient_plus_plus_is_equation_19(r3d):
    # Written out here: torchcam 0.5 loses the division (it divides a copy), and sums over the cubes besides.
    model = wrap(r3d.module, r3d.known.input, layer="layer3")
    ex = wb.explain(model, r3d.x, weights="gradient++")
    kept = []
    handle = r3d.module.layer3.register_forward_hook(lambda *args: kept.append(args[2]))
    logits = r3d.module(r3d.x)[0]
    handle.remove()
    for number in (0, 3):
        (g,) = torch.autograd.grad(logits[number], kept[0], retain_graph=True)
        g, a = g[0].double(), kept[0][0].detach().double()
        alpha = torch.nan_to_num(g**2 / (2 * g**2 + g**3 * a.sum((1, 2, 3), keepdim=True)))
        by_hand = (alpha * g.relu()).sum((1, 2, 3)).float()
        torch.testing.assert_close(
            ex.class_weights(number), by_hand, rtol=1e-3, atol=1e-4 * float(by_hand.abs().max())
        )


def test_of_a_pooled_linear_head_all_weights_rise_with_the_class_weight(r3d):
    y = r3d.ex.class_weights(2)
    layer = wb.explain(r3d.model, r3d.x, weights="layer").class_weights(2)
    torch.testing.assert_close(layer.mean((1, 2, 3)), y.relu(), rtol=1e-4, atol=1e-6)
    plus = wb.explain(r3d.model, r3d.x, weights="gradient++").class_weights(2)
    mean = r3d.ex.activations.mean((1, 2, 3))
    torch.testing.assert_close(plus, y.relu() / (2 + y * mean), rtol=1e-3, atol=1e-6)


def test_other_kinds_of_weights_are_refused(r3d):
    with pytest.raises(ValueError, match=r"gradient, gradient\+\+, layer.*'score'"):
        wb.explain(r3d.model, r3d.x, weights="score")


# Two pathways


@pytest.fixture(scope="module")
def slowfast():
    return built("slowfast")


def test_two_pathways_give_two_tubes_and_their_sum(slowfast):
    ex = slowfast.ex
    assert ex.pathways == ("blocks.4.multipathway_blocks.0", "blocks.4.multipathway_blocks.1")
    assert [tuple(maps.shape) for maps in ex.maps] == [(2048, 8, 2, 2), (256, 32, 2, 2)]
    slow, fast, both = (ex.tube(3, pathway=which) for which in (0, 1, None))
    np.testing.assert_allclose(
        slow.volume + fast.volume, both.volume, atol=1e-5 * np.abs(both.volume).max()
    )
    assert slow.volume.shape == fast.volume.shape == both.volume.shape == (32, 64, 64)
    assert slow.map.shape[0] == 8
    weight = slowfast.module.blocks[6].proj.weight[3].detach()
    for tube, maps, part in ((slow, ex.maps[0], weight[:2048]), (fast, ex.maps[1], weight[2048:])):
        assert_close(tube.map, torch.einsum("c,cthw->thw", part, maps).numpy(), 1e-6)
    assert slow.map.mean() + fast.map.mean() + float(ex.bias[3]) == pytest.approx(
        float(ex.logits[3]), abs=1e-4 * float(ex.logits.abs().max())
    )
    assert sorted([*slow.channels, *fast.channels]) == both.channels.tolist() == list(range(2304))
    with pytest.raises(IndexError, match="pathway 2: the network has 2"):
        ex.tube(3, pathway=2)
    with pytest.raises(KeyError, match=r"multipathway_blocks\.1"):
        ex.tube(3, pathway="slow")


def test_slowfast_takes_what_pack_pathway_gives_and_changes_nothing_of_the_caller_s(slowfast):
    arranged = slowfast.known.input.arrange(slowfast.x)
    assert [part.shape[2] for part in arranged] == [8, 32]
    torch.testing.assert_close(arranged[0], slowfast.x[:, :, torch.linspace(0, 31, 8).long()])
    kept = []
    handle = slowfast.module.register_forward_pre_hook(
        lambda _module, inputs: kept.append(list(inputs[0]))
    )
    x = slowfast.x.clone()
    wb.explain(slowfast.model, x)
    handle.remove()
    assert torch.equal(x, slowfast.x)
    for got, sent in zip(kept[0], arranged):
        assert torch.equal(got, sent)  # also after the network put its own outputs into the list


# Pooling windows, zero heads: where the identity holds and yet says little


@pytest.mark.parametrize(
    ("name", "input"), [("slow", spec(4, 96)), ("slowfast", spec(32, 96, pathways=(4, 1)))]
)
@pytest.mark.slow
def test_a_clip_larger_than_the_pooling_window_keeps_the_maps_before_it(name, input):
    # PyTorchVideo's own preprocessing cuts 256 pixels and pools windows of 7×7 of 8×8 maps.
    pytest.importorskip("pytorchvideo")
    ex = wb.explain(wrap(build(name), input), clip_for(input, 1))
    assert ex.layer == NETWORKS[name].layer
    assert tuple(ex.activations.shape[1:]) == (NETWORKS[name].grid[0], 3, 3)


def test_a_head_of_zeros_proves_nothing():
    from torchvision.models import vit_b_16

    module = wb.TSN(
        vit_b_16(image_size=32, num_classes=CLASSES)
    ).eval()  # torchvision begins with zeros
    input = spec(2, 32)
    with pytest.warns(UserWarning, match="all zeros"):
        ex = wb.explain(wrap(module, input), clip_for(input))
    assert not ex.exact  # though mean of the map plus bias is the logit, of any layer
    assert not ex.tube(2).volume.any()


# 2-D networks on frames


@pytest.mark.parametrize("name", PICTURE_NETWORKS)
def test_picture_networks_keep_time(name):
    case = built(name)
    ex, known = case.ex, case.known
    assert (ex.layer, tuple(ex.activations.shape[1:]), ex.exact) == (
        known.layer,
        known.grid,
        known.exact,
    )
    if known.exact:
        told = torch.tensor([float(ex.tube(i).map.mean()) for i in range(CLASSES)]) + ex.bias
        assert float((told - ex.logits).abs().max()) < 1e-4 * float(ex.logits.abs().max())
    # The maps of a frame are those of a clip of this frame alone.
    alone = wb.explain(
        wrap(case.module, spec(1, case.x.shape[-1]), layer=ex.layer), case.x[:, :, 1:2]
    )
    limit = 1e-4 * float(ex.activations.abs().max())
    torch.testing.assert_close(alone.activations[:, 0], ex.activations[:, 1], rtol=1e-3, atol=limit)
    assert ex.tube().map.std() > 0


# What networks return, and what lies around them


class Wrapped(nn.Module):
    """A small network whose output is put into some shape."""

    def __init__(self, say):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv3d(3, 8, 4, 4), nn.BatchNorm3d(8), nn.ReLU(inplace=True))
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.verb, self.noun = nn.Linear(8, 5), nn.Linear(8, 9)
        self.softmax = nn.Softmax(1)
        self.say = say

    def forward(self, x):
        features = self.pool(self.stem(x)).flatten(1)
        return self.say(self, self.verb(features), self.noun(features))


INPUT = spec(8, 32)
X = clip_for(INPUT)


def wrapped(say, **options):
    module = randomised(Wrapped(say).eval(), INPUT)
    return module, wrap(module, INPUT, **options)


@pytest.mark.parametrize(
    ("say", "names"),
    [
        (lambda _, verb, noun: {"verb": verb, "noun": noun}, ("verb", "noun")),
        (lambda _, verb, noun: (verb, noun), ("0", "1")),
        (lambda _, verb, noun: [verb, noun], ("0", "1")),
        (
            lambda _, verb, noun: {"features": verb[:, None], "noun": noun, "logits": verb},
            ("logits", "noun"),
        ),
        (lambda me, verb, noun: {"verb": me.softmax(verb), "noun": noun}, ("verb", "noun")),
    ],
    ids=["dict", "tuple", "list", "logits first", "softmax on one"],
)
def test_several_outputs_are_explained_from_one_pass(say, names):
    module, model = wrapped(say)
    calls = []
    wb.explain(model, X)
    handle = module.register_forward_hook(lambda *_: calls.append(1))
    ex = wb.explain(model, X)
    handle.remove()
    assert len(calls) == 1
    assert ex.outputs == names
    assert ex.output == names[0]
    noun = ex.select(names[1])
    assert noun.output == names[1]
    assert noun.select(names[0]).logits is ex.logits
    for each, head, count in ((ex, module.verb, 5), (noun, module.noun, 9)):
        assert each.exact
        assert each.layer == "stem"
        torch.testing.assert_close(each.weights, head.weight.detach())
        for number in range(count):
            told = each.tube(number).map.mean() + float(each.bias[number])
            assert told == pytest.approx(float(each.logits[number]), abs=1e-4)
    with pytest.raises(KeyError, match=", ".join(names)):
        ex.select("adverb")


def test_class_names_of_several_outputs():
    verbs, nouns = list("abcde"), [f"noun {i}" for i in range(9)]
    _, model = wrapped(
        lambda _, verb, noun: {"verb": verb, "noun": noun}, classes={"verb": verbs, "noun": nouns}
    )
    ex = wb.explain(model, X)
    assert ex.classes == verbs
    assert ex.select("noun").classes == nouns
    _, model = wrapped(lambda _, verb, noun: {"verb": verb, "noun": noun}, output="noun")
    ex = wb.explain(model, X)
    assert (ex.output, len(ex.logits)) == ("noun", 9)
    assert ex.select("verb").tube(2).target == 2


@pytest.mark.parametrize(
    "say",
    [lambda me, verb, _: me.softmax(verb), lambda _, verb, __: verb.softmax(1)],
    ids=["module", "function"],
)
def test_the_logits_behind_a_softmax_are_explained(say):
    module, model = wrapped(say)
    _, plain = wrapped(lambda _, verb, __: verb)
    ex, logits = wb.explain(model, X), wb.explain(plain, X).logits
    assert ex.exact
    torch.testing.assert_close(ex.logits, logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ex.probabilities, module(X)[0].detach())
    told = ex.tube(1).map.mean() + float(ex.bias[1])
    assert told == pytest.approx(float(logits[1]), abs=1e-4)


def test_logarithms_of_probabilities_where_no_layer_gives_logits():
    def halves(me, verb, _):
        return (verb.softmax(1) + me.softmax(verb.flip(1))) / 2

    module, model = wrapped(halves)
    ex = wb.explain(model, X)
    assert not ex.exact
    torch.testing.assert_close(ex.logits, module(X)[0].log().detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "around",
    [nn.DataParallel, torch.compile, lambda module: nn.DataParallel(torch.compile(module))],
    ids=["DataParallel", "compiled", "both"],
)
def test_what_is_put_around_a_network_is_seen_through(around):
    module, plain = wrapped(lambda _, verb, __: verb)
    expected = wb.explain(plain, X)
    ex = wb.explain(wrap(around(module), INPUT, layer="stem", head="verb"), X)
    found = wb.explain(wrap(around(module), INPUT), X)
    for each in (ex, found):
        assert (each.layer, each.exact) == ("stem", True)
        torch.testing.assert_close(each.logits, expected.logits)
        np.testing.assert_allclose(each.tube(1).volume, expected.tube(1).volume, atol=1e-5)


def test_a_module_compiled_in_place_is_explained():
    module, plain = wrapped(lambda _, verb, __: verb)
    expected = wb.explain(plain, X)
    module.compile(backend="eager")
    ex = wb.explain(wrap(module, INPUT), X)
    assert (ex.layer, ex.exact) == ("stem", True)
    torch.testing.assert_close(ex.logits, expected.logits)
    again = wb.explain(wrap(module, INPUT), X, weights="gradient")
    torch.testing.assert_close(
        again.class_weights(1), expected.class_weights(1), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("weights", [None, "gradient"])
def test_explaining_under_no_grad_and_inference_mode(context, weights):
    _, model = wrapped(lambda _, verb, __: verb)
    expected = wb.explain(model, X).tube(1).map
    _, model = wrapped(lambda _, verb, __: verb)
    with context():
        ex = wb.explain(model, X, weights=weights)
        np.testing.assert_allclose(ex.tube(1).map, expected, atol=1e-5)
    np.testing.assert_allclose(ex.tube(1).map, expected, atol=1e-5)


def test_layer_and_head_override_what_would_be_found():
    module, _ = wrapped(lambda _, verb, __: verb)
    ex = wb.explain(wrap(module, INPUT, layer="stem.0"), X)
    assert (ex.layer, ex.exact) == ("stem.0", False)
    ex = wb.explain(wrap(module, INPUT, layer="stem", head="verb"), X)
    assert (ex.layer, ex.exact) == ("stem", True)
    with pytest.raises(KeyError, match=r"no layer 'stam'.*near: stem"):
        wrap(module, INPUT, layer="stam")
    with pytest.raises(KeyError, match=r"no layer 'verbs'.*near: verb"):
        wrap(module, INPUT, head="verbs")
    with pytest.raises(ValueError, match="'noun' has 9 outputs, and the logits are 5"):
        wb.explain(wrap(module, INPUT, head="noun"), X)


# Bad input


def test_a_network_without_a_map_is_refused():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 32 * 32, 6), nn.ReLU(), nn.Linear(6, 4))
    with pytest.raises(
        ValueError, match=r"map on which the logits depend.*\(1, C, T', H', W'\).*layer="
    ):
        wb.explain(wrap(flat, INPUT), X)


def test_nan_in_the_weights_is_said_with_their_name():
    module, model = wrapped(lambda _, verb, __: verb)
    with torch.no_grad():
        module.stem[1].running_var[3] = float("nan")
    with pytest.raises(ValueError, match=r"stem\.1\.running_var holds NaN"):
        wb.explain(model, X)


def test_nan_in_maps_is_said_with_the_first_layer_that_has_one():
    class Root(nn.Module):
        def forward(self, x):
            return x.sqrt()

    module, model = wrapped(lambda _, verb, __: verb)
    module.stem = nn.Sequential(module.stem[0], Root(), module.stem[2])
    for _ in range(
        2
    ):  # before anything is known of the network, and where its layer is known from a good clip
        with pytest.raises(ValueError, match=r"layer 'stem\.1' is the first to give NaN"):
            wb.explain(model, X)
        model = wrap(module, INPUT)
        root, module.stem[1] = module.stem[1], nn.Identity()
        wb.explain(model, X)
        module.stem[1] = root


def test_nan_in_the_input_is_refused():
    _, model = wrapped(lambda _, verb, __: verb)
    x = X.clone()
    x[0, 1, 2, 3, 4] = float("nan")
    with pytest.raises(ValueError, match="input holds NaN"):
        wb.explain(model, x)


def test_the_wrong_number_of_channels_is_refused():
    with pytest.raises(ValueError, match=r"\(1, 3, T, H, W\).*\(1, 4, 8, 32, 32\)"):
        wb.explain(wrapped(lambda _, verb, __: verb)[1], torch.zeros(1, 4, 8, 32, 32))
    grey = nn.Sequential(
        nn.Conv3d(1, 8, 4, 4), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 5)
    )
    with pytest.raises(
        ValueError, match=r"Sequential does not take an input \(1, 3, 8, 32, 32\).*takes 1 channels"
    ):
        wb.explain(wrap(grey, INPUT), X)


def test_a_clip_of_the_wrong_length_is_refused():
    short = wb.Clip(np.zeros((5, 32, 32, 3), np.uint8), 25.0)
    with pytest.raises(ValueError, match="8"):
        wb.explain(wrapped(lambda _, verb, __: verb)[1], short)
    # MViT has a place for each token, and so for each frame.
    x = clip_for(spec(10, 64))
    with pytest.raises(
        ValueError, match=r"does not take an input \(1, 3, 10, 64, 64\).*InputSpec\(frames="
    ):
        wb.explain(wb.wrap_model(build("mvit_v2"), NETWORKS["mvit_v2"].input), x)


def test_class_names_of_the_wrong_count_are_refused():
    with pytest.raises(ValueError, match="5 logits and there are 3 class names"):
        wb.explain(wrapped(lambda _, verb, __: verb, classes=list("abc"))[1], X)


@pytest.mark.parametrize(
    ("say", "told"),
    [
        (lambda *_: "stir", "got str"),
        (lambda *_: None, "got NoneType"),
        (lambda _, verb, __: {"loss": 1.0}, "loss: float"),
        (lambda _, verb, __: verb[0], r"logits: a tensor \(5,\)"),
        (lambda _, verb, __: [], "got nothing"),
    ],
    ids=["text", "None", "dict of a number", "no batch axis", "empty"],
)
def test_an_output_that_is_no_tensor_of_logits_is_refused(say, told):
    with pytest.raises(ValueError, match=rf"logits \(1, N\).*{told}"):
        wb.explain(wrap(Wrapped(say).eval(), INPUT), X)
